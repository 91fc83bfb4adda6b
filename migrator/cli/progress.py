"""Shows migrations under way: moving bars on a terminal, plain lines elsewhere. An Observer."""

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from migrator.cli.render import duration, size
from migrator.core.phases import Phase
from migrator.core.story import Story
from migrator.core.vocabulary import Command, Event, Replied
from migrator.wire.messages import Copied
from migrator.wire.messages import Progress as Notice

WORDS = {
    Phase.INSPECTING: "looking at both hosts",
    Phase.RESERVING: "making room on the target",
    Phase.COPYING: "copying while it runs",
    Phase.WAITING: "waiting for the time of the blackout",
    Phase.HANDING_OVER: "handing over",
    Phase.VERIFYING: "making sure that it runs on the target",
    Phase.RETIRING: "cleaning the source",
    Phase.UNDOING: "undoing",
    Phase.SETTLING: "asking both hosts where it is",
    Phase.BLOCKED: "waiting for a host that does not answer, or is not done",
    Phase.NEEDS_OPERATOR: "waiting for your decision: what the hosts say leaves nothing safe to do",
}


def lines_of(story: Story, event: Event) -> list[str]:
    """What an event has to say to a person; empty: nothing new."""
    machine, ve, lines = story.machine, story.request.ve, []
    if isinstance(event, Replied) and isinstance(event.reply, Copied):
        done = event.reply
        memory = f", {size(done.memory_bytes)} of memory" if done.memory_bytes else ""
        predicted = f"; predicted blackout {duration(machine.prediction.blackout_s)}" if machine.prediction else ""
        moved = f"{size(done.file_bytes)} of files{memory} in {duration(done.duration_s)}"
        lines.append(f"{ve}: round {done.round}: {moved}{predicted}")
    if len(story.passages) > 1 and story.passages[-1].from_unix_s == event.at_unix_s and not story.ended:
        lines.append(f"{ve}: {WORDS.get(machine.phase, str(machine.phase))}")
    return lines


class PlainLines:
    """One line per phase and round, on standard error."""

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """See Observer."""
        for line in lines_of(story, event):
            click.echo(line, err=True)

    def progressed(self, story: Story, progress: Notice) -> None:
        """Nothing: lines are for what has happened."""

    def close(self) -> None:
        """Nothing is held."""


class Bars:
    """A bar per migration that moves, lines of what happened above them."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def told(self, story: Story, event: Event, commands: list[Command]) -> None:
        """See Observer."""
        name, machine = story.request.migration, story.machine
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(story.request.ve, total=None, detail="")
        for line in lines_of(story, event):
            self._progress.console.print(line, markup=False, highlight=False)
        if story.ended:
            self._progress.remove_task(self._tasks.pop(name))
            return
        predicted = f", predicted blackout {duration(machine.prediction.blackout_s)}" if machine.prediction else ""
        words = f"{WORDS.get(machine.phase, '')}{predicted}"
        self._progress.update(self._tasks[name], total=None, completed=0, detail=words)

    def progressed(self, story: Story, progress: Notice) -> None:
        """See Observer."""
        task = self._tasks.get(story.request.migration)
        if task is None:
            return
        left = progress.bytes_total - progress.bytes_done
        eta = f", {duration(left / progress.rate_bytes_per_s)} left" if progress.rate_bytes_per_s and left > 0 else ""
        total = f" of {size(progress.bytes_total)}" if progress.bytes_total else ""
        rate = f", {size(progress.rate_bytes_per_s)}/s" if progress.rate_bytes_per_s else ""
        self._progress.update(
            task,
            total=progress.bytes_total or None,
            completed=progress.bytes_done,
            detail=f"{progress.step}: {size(progress.bytes_done)}{total}{rate}{eta}",
        )

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
