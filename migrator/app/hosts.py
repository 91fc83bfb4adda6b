"""Makes a machine a host of the fleet: checks it, brings the agent, starts it, and says what the host can do.

Rule: nothing is changed on a host that lacks what the agent needs; an agent that holds a migration is not replaced.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import trio

from migrator.ports.agents import AgentLink, HostShell
from migrator.wire.facts import Claim, HostFacts, VeFacts
from migrator.wire.faults import Fault, FaultCode, FaultError, fault_error
from migrator.wire.messages import HostInspected, InspectHost, ListVes, VesListed

DIRECTORY = "/var/lib/migrator/agent"
PYTHON_MIN = (3, 11)
START_LIMIT_S = 90.0
ASK_LIMIT_S = 30.0
ASK_AGAIN_S = 0.2
BUSY = frozenset({Claim.LEAVING, Claim.GIVEN, Claim.ARRIVING})


@dataclass(frozen=True, slots=True)
class HostState:
    """What a host says of itself."""

    facts: HostFacts
    ves: tuple[VeFacts, ...]
    busy: tuple[str, ...]
    """VEs that a migration holds."""
    clock_skew_s: float
    """The host's clock less the controller's."""


Clock = Callable[[], float]


def clock_skew_s(clock_unix_s: float, before_unix_s: float, after_unix_s: float) -> float:
    """How far a host's clock is from ours, which it was asked between: 0 as long as the two can be equal."""
    return max(0.0, clock_unix_s - after_unix_s) - max(0.0, before_unix_s - clock_unix_s)


async def add(name: str, shell: HostShell, link: AgentLink, program: tuple[str, bytes], now: Clock) -> HostState:
    """Bring the agent to a host and start it; the same agent again is only started. Raises FaultError."""
    await _need_python(name, shell)
    file, data = program
    if await _current(shell) != file:
        before = await _agent_before(link, now)
        if before is not None and before.busy:
            busy = ", ".join(before.busy)
            raise fault_error(
                FaultCode.CONFLICT,
                f"the agent on {name} holds a migration of {busy}; it is not replaced. Next: migrator status",
                host=name,
            )
        await _push(name, shell, file, data)
    await _must(name, shell, f"python3 -I {DIRECTORY}/current install", "start the agent")
    return await _until_up(link, now)


async def check(link: AgentLink, now: Clock) -> HostState:
    """What the host says now. Raises FaultError."""
    began_unix_s = now()
    host = await link.ask(InspectHost(), ASK_LIMIT_S)
    ended_unix_s = now()
    ves = await link.ask(ListVes(), ASK_LIMIT_S)
    for reply in (host, ves):
        if isinstance(reply, Fault):
            raise FaultError(reply)
    assert isinstance(host, HostInspected)
    assert isinstance(ves, VesListed)
    busy = tuple(record.ve for record in ves.records if record.claim in BUSY)
    return HostState(host.facts, ves.ves, busy, clock_skew_s(host.facts.clock_unix_s, began_unix_s, ended_unix_s))


async def remove(name: str, shell: HostShell, link: AgentLink, now: Clock) -> None:
    """Take the agent away; VEs and the ownership records stay. Raises FaultError while a migration holds a VE."""
    before = await _agent_before(link, now)
    if before is not None and before.busy:
        busy = ", ".join(before.busy)
        said = f"a migration holds {busy} on {name}; the agent stays. Next: migrator status"
        raise fault_error(FaultCode.CONFLICT, said, host=name)
    if await _current(shell):
        await _must(name, shell, f"python3 -I {DIRECTORY}/current remove && rm -r {DIRECTORY}", "remove the agent")


async def _need_python(name: str, shell: HostShell) -> None:
    status, output, _ = await shell.run("python3 -c 'import sys; print(*sys.version_info[:2])'")
    found = tuple(int(word) for word in output.split()) if status == 0 else ()
    if found < PYTHON_MIN:
        has = f"Python {'.'.join(map(str, found))}" if found else "no python3"
        raise fault_error(
            FaultCode.TOOL_FAILED,
            f"{name} has {has}; the agent needs Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer (apt install python3)",
            host=name,
            step="check the host",
        )


async def _current(shell: HostShell) -> str:
    """The name of the program file in use; empty: none."""
    status, output, _ = await shell.run(f"readlink {DIRECTORY}/current")
    return output.strip() if status == 0 else ""


async def _agent_before(link: AgentLink, now: Clock) -> HostState | None:
    try:
        return await check(link, now)
    except FaultError:
        return None


async def _push(name: str, shell: HostShell, file: str, data: bytes) -> None:
    at = shlex.quote(f"{DIRECTORY}/{file}")
    command = (
        f"set -e; umask 077; mkdir -p {DIRECTORY}; cat > {at}.part; "
        f'[ "$(wc -c < {at}.part)" = {len(data)} ]; mv {at}.part {at}; '
        f"ln -s {file} {DIRECTORY}/current.new; mv -T {DIRECTORY}/current.new {DIRECTORY}/current; "
        f"find {DIRECTORY} -maxdepth 1 -name '*.pyz*' ! -name {file} -delete"
    )
    await _must(name, shell, command, "bring the agent", data)


async def _must(name: str, shell: HostShell, command: str, step: str, stdin: bytes = b"") -> None:
    status, output, errors = await shell.run(command, stdin)
    if status != 0:
        ended = "without a status" if status is None else f"with {status}"
        raise fault_error(
            FaultCode.TOOL_FAILED,
            f"the command ended {ended}",
            host=name,
            step=step,
            tool="ssh",
            log_tail=(errors or output)[-1500:],
        )


async def _until_up(link: AgentLink, now: Clock) -> HostState:
    """The agent was started; it answers within START_LIMIT_S or what it says last is raised."""
    began_s = trio.current_time()
    while True:
        waited_s = trio.current_time() - began_s
        try:
            return await check(link, now)
        except FaultError as error:
            if error.fault.code is not FaultCode.UNREACHABLE or waited_s > START_LIMIT_S:
                raise
        await trio.sleep(ASK_AGAIN_S)
