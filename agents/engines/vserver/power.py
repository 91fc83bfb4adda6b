"""Start and stop of a guest, believed only when it can be seen.

Rule: `start` ends with 0 when a device, an address or a mount is missing, and `stop` ends with 0 when the guest still
runs; so neither status decides anything. `stop` is never called for a guest that does not run: it would take its
addresses off this host, where by then somebody else may have them.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import trio

from agents import remarks
from agents.engines.vserver import disk, lines, listening, live_mounts, output, tools
from agents.engines.vserver.clashes import lock_name
from agents.engines.vserver.guest import Guest
from agents.engines.vserver.maps import Maps
from agents.engines.vserver.notes import Notes, Stopping
from agents.engines.vserver.site import Site
from agents.network import aliases
from agents.shell import Ran, failed, tail
from migrator.wire.faults import FaultCode, fault_error

LOCKS = Path("/var/lock")
SYNC_TIMEOUT = "apps/vshelper/sync-timeout"
DEFAULT_SYNC_S = 30
LOCK_WAIT_S = 3.0


class Power:
    """Guests of one host, on and off."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._locks: dict[str, IO[str]] = {}

    # --- the tools' own lock ----------------------------------------------------------------------

    async def lock(self, ve: str) -> None:
        """Hold the guest's start-up lock, so that nobody else starts it. Raises FaultError(CONFLICT)."""
        if ve in self._locks:
            return
        path = LOCKS / f"vserver.{lock_name(str(await self._site.directory(ve)))}.startup"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        with trio.move_on_after(LOCK_WAIT_S):
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._locks[ve] = file
                    return
                except OSError:
                    await trio.sleep(0.05)
        file.close()
        reason = f"{ve} is being started by process {_holder(path)}, which holds {path}"
        raise fault_error(FaultCode.CONFLICT, reason, step="lock")

    def unlock(self, ve: str) -> None:
        """Let it go; not held: nothing."""
        if (file := self._locks.pop(ve, None)) is not None:
            file.close()

    # --- start ------------------------------------------------------------------------------------

    async def start(self, ve: str, maps: Maps, *, strict: bool) -> None:
        """Start it. `strict`: anything missing means that it is stopped again and FaultError raised.

        Otherwise what is missing is put right where that can be done, and remarked on: at home a guest that runs with
        something missing is better than one that does not run.
        """
        await self._mend(ve)
        guest, notes = await self._site.guest(ve), Notes(ve)
        if await self._site.running(ve):
            await self._look_over(guest, maps, strict=False)
            return
        if guest.nid is not None and await self._site.network_exists(guest.nid):
            reason = f"network context {guest.nid} is in use here: {ve} joins it and its addresses without a word"
            if strict:
                raise fault_error(FaultCode.CONFLICT, reason, step="start")
            remarks.add(ve, reason)
        held = ve in self._locks
        await self.lock(ve)
        self.unlock(ve)  # nobody is starting it: now it is ours to start
        before = aliases.on_host()
        lines.bring_up(guest, maps)
        for each in notes.taken_off:
            aliases.add(each)
        ran = await tools.run("vserver", ve, "start", limit_s=maps.start_limit_s)
        try:
            await self._believe(guest, maps, ran, strict=strict)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._start_undone(guest, maps, before)
                if held:
                    await self.lock(ve)
            raise
        notes.taken_off = ()

    async def _believe(self, guest: Guest, maps: Maps, ran: Ran, *, strict: bool) -> None:
        if not await self._site.running(guest.name):
            reason = f"{guest.name} does not run after `vserver {guest.name} start`, which ended with {ran.status}"
            log = tail(ran.stderr + ran.stdout)
            raise fault_error(FaultCode.TOOL_FAILED, reason, step="start", tool="vserver", log_tail=log)
        if ran.status != 0:
            if strict:
                raise failed(ran, "start", ran.stderr + ran.stdout)
            remarks.add(guest.name, f"`vserver {guest.name} start` ended with {ran.status}: {tail(ran.stderr)}")
        await self._look_over(guest, maps, strict=strict, said=ran.stderr)

    async def _look_over(self, guest: Guest, maps: Maps, *, strict: bool, said: str = "") -> None:
        """Addresses, mounts, and that no other guest shares its network context."""
        problems = []
        for address in lines.missing(guest):
            problems.append(f"{address.with_prefix} is not on {address.device}")
            if not strict:
                with contextlib.suppress(LookupError):
                    aliases.add(lines.alias(address))
        xid = await self._site.context(guest.name)
        if xid is None:
            raise fault_error(FaultCode.TOOL_FAILED, f"{guest.name} runs in no context", step="start")
        root = os.path.realpath((await self._site.directory(guest.name)) / "vdir")
        mounts = live_mounts.missing(await self._site.mountinfo(xid), root, guest.mounts)
        problems += [f"{mount.source} is not mounted at {mount.target}" for mount in mounts]
        problems += await self._services(guest, maps, xid) if strict else []
        if problems and strict:
            reason = f"{guest.name} started, but {'; '.join(problems)}"
            raise fault_error(FaultCode.TOOL_FAILED, reason, step="start", tool="vserver", log_tail=tail(said))
        for problem in problems:
            remarks.add(guest.name, problem)

    async def _services(self, guest: Guest, maps: Maps, xid: int) -> list[str]:
        """Ports it listened on before that somebody else here has; what is only slow is remarked on."""
        carried = Notes(guest.name).carried
        wanted = carried.ports if carried is not None else ()
        with trio.move_on_after(maps.service_limit_s):
            while wanted:
                pids = await self._site.processes(xid)
                own = [(each.address, each.port) for each in listening.of_processes(pids)]
                wanted = tuple(
                    (address, port)
                    for address, port in wanted
                    if not any(at in (address, *listening.ANY) and number == port for at, number in own)
                )
                if taken := listening.taken(wanted, pids):
                    return [f"another program of this host listens at {host} port {port}" for host, port in taken]
                await trio.sleep(0.1)
        for host, port in wanted:
            remarks.add(guest.name, f"it does not listen at {host} port {port} yet, as it did before")
        return []

    async def _start_undone(self, guest: Guest, maps: Maps, before: Sequence[aliases.Alias]) -> None:
        """After a start that failed: no process, no address, no device more than before."""
        if await self._site.running(guest.name):
            await self._end(guest, maps)
        had = {(each.device, each.ip) for each in before}
        lines.take_off(each for each in lines.present(guest) if (each.device, each.ip) not in had)
        aliases.put_back(before, [address.ip for address in guest.addresses])
        lines.let_down(guest, maps, await self._site.running_guests())

    # --- stop -------------------------------------------------------------------------------------

    async def stop(self, ve: str, maps: Maps) -> None:
        """Stop it, and see that it has. Not running: nothing is done. Raises FaultError when it cannot be stopped."""
        await self._mend(ve)
        if not await self._site.running(ve):
            return
        guest, notes = await self._site.guest(ve), Notes(ve)
        xid = await self._site.context(ve)
        if notes.carried is not None and xid is not None:
            await self._remember(guest, xid)
        said = await self._end(guest, maps)
        lines.let_down(guest, maps, await self._site.running_guests())
        if output.TIMEOUT_TEXT in said:
            text = f"{ve} did not end in time when it was stopped, and was killed"
            remarks.add(ve, text)
            if notes.carried is not None and maps.unclean_stop == "abort":
                raise fault_error(FaultCode.TOOL_FAILED, text, step="stop", tool="vserver", log_tail=tail(said))

    async def _remember(self, guest: Guest, xid: int) -> None:
        """What is lost when it stops: mounts made by hand, and where it listens."""
        root = os.path.realpath((await self._site.directory(guest.name)) / "vdir")
        host = Path("/proc/self/mountinfo").read_text()
        by_hand = live_mounts.by_hand(await self._site.mountinfo(xid), host, root, guest.mounts)
        ports = listening.ports(await self._site.processes(xid), [address.ip for address in guest.addresses])
        Notes(guest.name).carry_on(live_mounts=by_hand, ports=ports)

    async def _end(self, guest: Guest, maps: Maps) -> str:
        """What `stop` said. Raises FaultError when processes are left after everything."""
        notes, xid = Notes(guest.name), await self._site.context(guest.name)
        before = aliases.on_host()
        pids = _roots(await self._site.processes(xid)) if xid is not None else ()
        limit_s = await self._raise_sync_timeout(guest.name, maps, pids, before)
        try:
            with aliases.promoting(guest.devices):
                ran = await tools.run("vserver", guest.name, "stop", limit_s=limit_s)
                if await self._site.running(guest.name):
                    await self._kill(guest.name, xid, maps, ran)
        finally:
            with trio.CancelScope(shield=True):
                await self._lower_sync_timeout(guest.name)
        lines.take_off(each for each in lines.present(guest) if each not in lines.host_owned(guest))
        aliases.put_back(before, [address.ip for address in guest.addresses])
        notes.stopping = None
        return ran.stderr

    async def _kill(self, ve: str, xid: int | None, maps: Maps, ran: Ran) -> None:
        """SIGKILL to the whole context; FaultError with what does not end even so."""
        with trio.move_on_after(maps.kill_limit_s):
            while xid is not None and await self._site.running(ve):
                await tools.run("vkill", "-c", str(xid), "-s", "9")
                await trio.sleep(0.1)
        if await self._site.running(ve):
            left = await self._site.processes(xid) if xid is not None else {}
            named = ", ".join(f"{pid} ({command})" for pid, command in sorted(left.items())) or "unknown"
            reason = f"{ve} does not stop: process {named} does not end, even by SIGKILL; nothing has moved"
            raise fault_error(FaultCode.TOOL_FAILED, reason, step="stop", tool="vserver", log_tail=tail(ran.stderr))

    async def _raise_sync_timeout(
        self, ve: str, maps: Maps, pids: Sequence[int], before: Sequence[aliases.Alias]
    ) -> float:
        """Give it longer to end than the tools do, for this once; how long `stop` may take by that."""
        path = (await self._site.directory(ve)) / SYNC_TIMEOUT
        own = path.read_text() if path.exists() else None
        seconds = int(own) if own is not None and own.strip().isdigit() else DEFAULT_SYNC_S
        Notes(ve).stopping = Stopping(own, tuple(pids), tuple(before))
        if own is None or seconds < maps.sync_timeout_s:
            seconds = max(seconds, maps.sync_timeout_s) if own is None else maps.sync_timeout_s
            disk.put(path, f"{seconds}\n".encode())
        return seconds + maps.stop_margin_s

    async def _lower_sync_timeout(self, ve: str) -> None:
        """As it was before `_raise_sync_timeout`."""
        stopping, directory = Notes(ve).stopping, await self._site.directory(ve)
        if stopping is None or not directory.is_dir():
            return
        path = directory / SYNC_TIMEOUT
        if stopping.sync_timeout is None:
            disk.remove(path)
        else:
            disk.put(path, stopping.sync_timeout.encode())

    async def _mend(self, ve: str) -> None:
        """After an agent that died in the middle of a stop: its timeout, and neighbours' addresses."""
        notes = Notes(ve)
        if (stopping := notes.stopping) is None:
            return
        await self._lower_sync_timeout(ve)
        if (await self._site.directory(ve)).is_dir() and not await self._site.running(ve):
            guest = await self._site.guest(ve)
            others = {address.ip for other in await self._site.running_guests() for address in other.addresses}
            own = [address.ip for address in guest.addresses]
            aliases.put_back([each for each in stopping.addresses if each.ip in others], own)
        notes.stopping = None

    # --- neither ----------------------------------------------------------------------------------

    async def go_on(self, ve: str, maps: Maps) -> None:
        """A guest that was being stopped and still runs: whole again, or FaultError says what it is instead."""
        stopping, notes = Notes(ve).stopping, Notes(ve)
        xid = await self._site.context(ve)
        now = await self._site.processes(xid) if xid is not None else {}
        if stopping is None or (now and set(stopping.pids) <= set(now)):
            await self._lower_sync_timeout(ve)
            notes.stopping = None
            await self._look_over(await self._site.guest(ve), maps, strict=False)
            return
        # Some of it has ended already: no half guest. If the rest ends too, it is started afresh.
        await self._kill(ve, xid, maps, Ran(("vserver", ve, "stop"), None, "", ""))
        await self.start(ve, maps, strict=False)


def _roots(pids: Iterable[int]) -> tuple[int, ...]:
    """Those whose parent is not among them: a guest's services; what comes and goes below them, or has gone, does not count."""
    among = frozenset(pids)
    parents = {pid: _parent(pid) for pid in sorted(among)}
    return tuple(pid for pid, parent in parents.items() if parent is not None and parent not in among)


def _parent(pid: int) -> int | None:
    """None: it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def _holder(path: Path) -> str:
    """Process id of who holds a lock on the file; `unknown` when the kernel does not say."""
    try:
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] != "->" and words[5].endswith(f":{inode}"):
                return words[4]
    except OSError:
        return "unknown"
    return "unknown"
