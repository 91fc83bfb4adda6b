"""Values as text for a person. PURE: strings in, strings out; no terminal is touched here.

Rule: plain words first, detail after; every failure names the host, the step, where the VE is, and the next command.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from migrator.app.hosts import HostState
from migrator.core.memory import MemoryPlan
from migrator.core.plan import Plan
from migrator.core.report import BlackoutReport, Report
from migrator.core.vocabulary import MigrationRequest
from migrator.wire.facts import HostFacts, MemoryMethod, Objection, VeFacts, VeState
from migrator.wire.faults import Fault

SKEW_WARN_S = 2.0
METHODS = {
    MemoryMethod.TRACKED: "ahead, then what is written meanwhile",
    MemoryMethod.SOFT_DIRTY: "ahead, then what is written meanwhile",
    MemoryMethod.CONTENT: "ahead, then what differs from what was sent",
    MemoryMethod.DUMP: "all of it in the blackout",
}


def size(count: float) -> str:
    """Bytes for people: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """A time for people: 340 ms, 2.1 s, 3 min 20 s."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def when(unix_s: float) -> str:
    """Local time."""
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(rows: Iterable[Sequence[str]], heads: Sequence[str]) -> str:
    """Columns, left aligned, as wide as they need."""
    lines = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def fault(found: Fault) -> str:
    """What went wrong, and the end of the tool's own log."""
    tail = f"\n  the end of {found.tool or 'the'} log:\n" + _indented(found.log_tail, "    ") if found.log_tail else ""
    return found.sentence() + tail


def objections(found: Sequence[Objection]) -> str:
    """Every reason, with what to do."""
    return "\n".join(
        f"  {each.name}: {each.evidence}\n    -> {each.remedy}" + (f", or --waive {each.name}" if each.waivable else "")
        for each in found
    )


def plan(request: MigrationRequest, made: Plan) -> str:
    """What `migrator plan` says."""
    where = f"{request.ve} from {request.source} to {request.target}"
    if made.refusals:
        return f"{where} is refused:\n{objections(made.refusals)}"
    forecast = made.forecast
    lines = [
        f"{where}: {made.mode}, because {made.reason}",
        f"  to copy: {size(forecast.file_bytes)} of files, {size(forecast.memory_bytes)} of memory",
        f"  predicted: blackout {duration(forecast.blackout_s)}, all in all {duration(forecast.total_s)}",
    ]
    if made.memory is not None:
        lines.append(f"  memory: {_memory(made.memory, request.source)}")
    lines += [f"  waived: {each.name}: {each.evidence}" for each in made.waived]
    lines += [f"  note: {note}" for note in made.notes]
    return "\n".join(lines)


def _memory(chosen: MemoryPlan, source: str) -> str:
    cost = (
        f"; what was sent is remembered in {size(chosen.cost_bytes)} of {source}'s memory, {size(chosen.compare_bytes)} at most"
        if chosen.compare_bytes
        else ""
    )
    return f"{METHODS[chosen.method]} ({chosen.method}), because {chosen.reason}{cost}"


def report(found: Report) -> str:
    """What a migration did, for the end of `migrate` and for `show`."""
    head = f"migration {found.migration}: {found.ve} from {found.source} to {found.target}, {found.mode}: {found.phase}"
    lines = [head, f"  {found.outcome}"]
    if found.fault is not None and found.phase != "done":
        lines.append(_indented(f"why: {fault(found.fault)}", "  "))
    if found.refusals:
        lines.append(objections(found.refusals))
    if found.blackout is not None:
        lines += _blackout(found.blackout)
    lines += _work(found)
    lines += [f"  note: {note}" for note in found.notes]
    if found.next_command:
        lines.append(f"  next: {found.next_command}")
    return "\n".join(lines)


def _blackout(found: BlackoutReport) -> list[str]:
    lines = [f"  blackout {found.blackout_ms:.0f} ms (predicted {found.predicted_ms:.0f} ms)"]
    if found.criu_ms:  # a VE that is stopped and started takes what its own services take
        lines.append(
            f"    CRIU {found.criu_ms:.0f} ms, on the wire {found.wire_ms:.0f} ms, our own overhead {found.overhead_ms:.0f} ms"
        )
    if found.compared_ms:
        compared = ", ".join(
            f"{name} {part.predicted_ms:.0f}/{part.actual_ms:.0f}" for name, part in found.compared_ms.items()
        )
        lines.append(f"    predicted/actual (ms): {compared}")
    parts = ", ".join(f"{name} {took:.0f}" for name, took in found.parts_ms.items() if took >= 1)
    return [*lines, f"    parts (ms, may overlap): {parts}"]


def _work(found: Report) -> list[str]:
    if not found.rounds:
        return []
    rounds = f"{len(found.rounds)} round{'s' if len(found.rounds) > 1 else ''}"
    after = f", {size(found.owed_bytes)} of that by post-copy" if found.owed_bytes else ""
    memory = f", {size(found.memory_bytes)} of memory ({found.memory_method}{after})" if found.memory_bytes else ""
    image = f", {size(found.image_bytes)} of checkpoint" if found.image_bytes else ""
    phases = ", ".join(f"{name} {duration(took)}" for name, took in found.phases_s.items())
    return [
        f"  copied: {size(found.file_bytes)} of files{memory}{image} in {rounds}",
        f"  time: {duration(found.total_s)} ({phases})",
    ]


def host(name: str, state: HostState) -> str:
    """What a host can do, and what is missing."""
    facts = state.facts
    lines = [
        f"{name}: Linux {facts.kernel} {facts.machine}, Python {facts.python}, {facts.cpus} CPUs, "
        f"memory {size(facts.memory_free_bytes)} free of {size(facts.memory_total_bytes)}, "
        f"disk {size(facts.disk_free_bytes)} free",
        f"  engines: {', '.join(facts.engines) or 'none is usable'}",
        f"  VEs: {len(state.ves)}" + (f"; held by a migration: {', '.join(state.busy)}" if state.busy else ""),
    ]
    return "\n".join([*lines, *(f"  {line}" for line in shortcomings(facts, state.clock_skew_s))])


def shortcomings(facts: HostFacts, clock_skew_s: float) -> list[str]:
    """What a host lacks and how to get it; empty: nothing."""
    found = []
    for tool in facts.tools:
        remedy = f" -> {tool.remedy}" if tool.remedy else ""
        if not tool.version:
            found.append(f"missing: {tool.name}{remedy or f' -> apt install {tool.name}'}")
        elif tool.problem:
            found.append(f"{tool.name} {tool.version} cannot be used: {tool.problem}{remedy}")
    if abs(clock_skew_s) > SKEW_WARN_S:
        found.append(f"clock: {clock_skew_s:+.1f} s from this machine's -> run NTP on both")
    return found


def ves(found: Iterable[tuple[str, VeFacts]]) -> str:
    """All VEs of the fleet."""
    rows = [
        (
            each.ve,
            where,
            str(each.state),
            f"{each.engine}/{each.runtime}" if each.runtime else each.engine,
            size(each.memory_bytes) if each.state is VeState.RUNNING else "-",
            size(each.disk_bytes),
            " ".join(address.split("/")[0] for address in each.addresses) or "-",
        )
        for where, each in sorted(found, key=lambda pair: (pair[1].ve, pair[0]))
    ]
    return table(rows, ("VE", "HOST", "STATE", "ENGINE", "MEMORY", "DISK", "ADDRESSES"))


def ve(where: str, each: VeFacts) -> str:
    """One VE in full."""
    lines = [
        f"{each.ve} on {where}: {each.state}, {each.engine}{f'/{each.runtime}' if each.runtime else ''}",
        f"  at {each.root}, {size(each.disk_bytes)} on disk, {size(each.memory_bytes)} of memory, {each.processes} processes",
        f"  starts with its host: {'yes' if each.autostart else 'no'}",
    ]
    for link in each.interfaces:
        name = f"{link.name} ({link.mac})" if link.mac else link.name
        bridge = f" on {link.bridge}" if link.bridge else ""
        lines.append(f"  {name}: {' '.join(link.addresses)}, host side {link.host_name}{bridge}")
    lines += [f"  mounted from the host: {mount}" for mount in each.foreign_mounts]
    lines += [f"  a checkpoint would be refused: {blocker}" for blocker in each.blockers]
    lines += [f"  note: {note}" for note in each.notes]
    return "\n".join(lines)


def _indented(text: str, by: str) -> str:
    return "\n".join(by + line for line in text.splitlines())
