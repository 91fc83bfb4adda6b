"""Making a machine a host: nothing is changed where something is missing, and an agent that is busy is not replaced."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from migrator.app import hosts
from migrator.wire.facts import Claim, Record
from migrator.wire.faults import FaultCode, FaultError
from migrator.wire.messages import HostInspected, InspectHost, VesListed
from tests.app.made_up import Agent
from tests.stories import ALPHA, LOST, VE

PROGRAM = ("migrator-agent-0123.pyz", b"program")
Ran = tuple[int | None, str, str]


@dataclass
class Shell:
    """See `migrator.ports.agents.HostShell`: a machine's answers by a word of the command."""

    python: Ran = (0, "3 11\n", "")
    current: str = ""
    push: Ran = (0, "", "")
    install: Ran = (0, "", "")
    ran: list[str] = field(default_factory=list)
    pushed: bytes = b""

    async def run(self, command: str, stdin: bytes = b"") -> Ran:
        """By what the command is for."""
        if "version_info" in command:
            return self.python
        if command.startswith("readlink"):
            return (0, f"{self.current}\n", "") if self.current else (1, "", "")
        self.ran.append(command)
        if "cat >" in command:
            self.pushed = stdin
            return self.push
        return self.install


def now() -> float:
    """A clock that goes with trio's."""
    return 1e9 + trio.current_time()


def busy(claim: Claim) -> Agent:
    """An agent with a record of the VE."""
    return Agent(ALPHA, ListVes=VesListed((VE,), (Record("web", claim, 3, "m1"),)))


async def add(shell: Shell, agent: Agent) -> hosts.HostState:
    """Add it."""
    return await hosts.add("alpha", shell, agent, PROGRAM, now)


async def test_new_host_gets_the_program_and_starts_it() -> None:
    """The program arrives whole under its own name, becomes the current one, and is started; the host says what it can do."""
    shell = Shell()
    state = await add(shell, Agent(ALPHA))

    assert shell.pushed == b"program"
    assert "migrator-agent-0123.pyz" in shell.ran[0]
    assert shell.ran[1].endswith("current install")
    assert state.facts.engines == ALPHA.engines


async def test_same_program_is_only_started() -> None:
    """A host that has it is not sent it again, even while a migration holds a VE there."""
    shell = Shell(current=PROGRAM[0])
    await add(shell, busy(Claim.LEAVING))

    assert [command.split()[-1] for command in shell.ran] == ["install"]


@pytest.mark.parametrize("claim", [Claim.LEAVING, Claim.GIVEN, Claim.ARRIVING])
@pytest.mark.parametrize("verb", ["add", "remove"])
async def test_agent_that_holds_a_migration_stays(claim: Claim, verb: str) -> None:
    """It is neither replaced nor removed; the fault names the VE and the next command."""
    shell, agent = Shell(current="migrator-agent-old.pyz"), busy(claim)
    with pytest.raises(FaultError, match=r"web.*migrator status") as caught:
        await (add(shell, agent) if verb == "add" else hosts.remove("alpha", shell, agent, now))

    assert caught.value.fault.code is FaultCode.CONFLICT
    assert shell.ran == []


@pytest.mark.parametrize("claim", [Claim.HOME, Claim.OWNER, Claim.GONE, Claim.REFUSED])
async def test_agent_at_rest_is_replaced(claim: Claim) -> None:
    """Records of what is over hold nothing up."""
    shell = Shell(current="migrator-agent-old.pyz")
    await add(shell, busy(claim))

    assert shell.pushed == b"program"


@pytest.mark.parametrize(
    ("python", "says"),
    [((0, "3 9\n", ""), "has Python 3.9"), ((127, "", "not found"), "no python3"), ((None, "", ""), "no python3"),
     ((0, "3 4\n", ""), "3.11 or newer")],
)  # fmt: skip
async def test_host_without_a_python_is_not_changed(python: Ran, says: str) -> None:
    """Nothing is sent to a host that could not run it."""
    shell = Shell(python=python)
    with pytest.raises(FaultError, match=says):
        await add(shell, Agent(ALPHA))

    assert shell.ran == []


@pytest.mark.parametrize("step", ["push", "install"])
@pytest.mark.parametrize("ended", [(1, "", "cat: write error: No space left on device"), (None, "", "")])
async def test_step_that_fails_is_named(step: str, ended: Ran) -> None:
    """Which step, how it ended (without a status is not failed but unknown), and the host's own words."""
    one: dict[str, Any] = {step: ended}
    shell = Shell(**one)
    with pytest.raises(FaultError) as caught:
        await add(shell, Agent(ALPHA))

    fault = caught.value.fault
    assert fault.step == {"push": "bring the agent", "install": "start the agent"}[step]
    assert ("without a status" in fault.message) == (ended[0] is None)
    assert fault.log_tail == ended[2]


async def test_agent_that_takes_its_time(quick_clock: MockClock) -> None:
    """It is asked until it answers."""
    tries: list[Any] = [LOST, LOST, LOST, HostInspected(ALPHA)]

    async def at_last(_: InspectHost) -> Any:
        return tries.pop(0) if len(tries) > 1 else tries[0]

    state = await add(Shell(), Agent(ALPHA, InspectHost=at_last))

    assert state.facts == ALPHA


async def test_agent_that_never_answers(quick_clock: MockClock) -> None:
    """After its time, what was heard last is the fault."""
    with pytest.raises(FaultError, match="no answer") as caught, trio.fail_after(10 * hosts.START_LIMIT_S):
        await add(Shell(), Agent(ALPHA, InspectHost=LOST))

    assert caught.value.fault.code is FaultCode.UNREACHABLE


async def test_other_fault_is_not_waited_out(quick_clock: MockClock) -> None:
    """Another version, a key that changed: no waiting makes these better."""
    began_s = trio.current_time()
    with pytest.raises(FaultError):
        await add(Shell(), Agent(ALPHA, InspectHost=replace(LOST, code=FaultCode.VERSION)))

    assert trio.current_time() - began_s < hosts.START_LIMIT_S / 2


async def test_remove_takes_the_agent_away() -> None:
    """Its own `remove`, then its directory; a host that never had one is left alone."""
    there, never = Shell(current=PROGRAM[0]), Shell()
    await hosts.remove("alpha", there, Agent(ALPHA), now)
    await hosts.remove("alpha", never, Agent(ALPHA, InspectHost=LOST), now)

    assert len(there.ran) == 1
    assert "current remove" in there.ran[0]
    assert never.ran == []


async def test_skew_is_what_cannot_be_right() -> None:
    """A clock is off only by what no time of asking explains."""
    assert hosts.clock_skew_s(100.0, 99.0, 101.0) == 0
    assert hosts.clock_skew_s(105.0, 99.0, 101.0) == 4
    assert hosts.clock_skew_s(90.0, 99.0, 101.0) == -9
