"""One guest's move by the engine's acts alone, step by step, as two agents would do it; files go by rsync on this machine.

Rule: the order of acts is that of the hand-over; a test may stop anywhere, break something, and go either way from there.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.engines.port import Coming, Tree
from agents.transfer.files import OPTIONS, VANISHED, Kind
from migrator.wire.facts import Mode, Objection, VeFacts
from scenarios.lab.acts import Acts
from scenarios.lab.hosts import Host
from scenarios.lab.programs import ProgramError, run

SHELL = ["sh", "-c", 'eval "$@"', "sh"]
"""What sshd does with the words it is sent; the first, a host's name for rsync, is the program `env` here."""


@dataclass
class Move:
    """From one host to another."""

    source: Host
    target: Host
    leaving: Acts
    arriving: Acts
    ve: str
    names: Mapping[str, str] = field(default_factory=dict)
    target_ve: str = ""
    facts: VeFacts | None = None
    places: dict[str, Tree] = field(default_factory=dict)

    @property
    def there(self) -> str:
        """Its name on the target."""
        return self.target_ve or self.ve

    def coming(self) -> Coming:
        """As the target is told of it: seen now, or when it was prepared."""
        facts = self.facts or self.leaving.inspect(self.ve)
        return Coming(facts, self.there, Mode.STOP_COPY, dict(self.names))

    def vet(self) -> tuple[Objection, ...]:
        """What the target has against it."""
        objections: tuple[Objection, ...] = tuple(self.arriving.vet(self.coming()))
        return objections

    def against(self) -> dict[str, str]:
        """Name of an objection -> its evidence."""
        return {each.name: each.evidence for each in self.vet()}

    def prepare(self) -> None:
        """Fence, room on the target, and a first pass over the files."""
        self.facts = self.leaving.inspect(self.ve)
        self.leaving.fence(self.ve)
        self.places = {tree.name: tree for tree in self.arriving.accept(self.coming())}
        self.copy(running=True)

    def copy(self, *, running: bool = False) -> None:
        """One pass over all trees that the target takes; while it runs, a file may change or go under rsync's hands.

        The receiving rsync runs inside the target: since 3.5.0 it refuses a destination that lies under another mount
        namespace's /proc/PID/root.
        """
        for tree in self.leaving.trees(self.ve):
            if tree.name in self.places:
                excluded = [f"--exclude={path}" for path in tree.excluded]
                source = f"{self.source.path(str(tree.path))}/"
                into = ["-e", shlex.join(self.target.argv(SHELL)), f"env:{self.places[tree.name].path}/"]
                argv = ["rsync", *OPTIONS[Kind.WHOLE], *excluded, source, *into]
                ran = run(argv, check=False)
                if ran.returncode and not (running and ran.returncode in VANISHED):
                    raise ProgramError(argv, ran.returncode, ran.stderr or ran.stdout)

    def stop(self) -> None:
        """Stopped, written down, last pass."""
        self.leaving.stop(self.ve)
        self.leaving.note(self.ve)
        self.copy()

    def finish(self) -> None:
        """Everything on the target, then clean up the source."""
        self.arriving.arrange(self.there)
        self.arriving.start(self.there)
        self.leaving.discard(self.ve)
        self.arriving.announce(self.there)
        self.arriving.unfence(self.there)
        self.leaving.destroy(self.ve)

    def undo(self) -> None:
        """Back on the source, nothing left on the target."""
        if self.leaving.look(self.ve) == "stopped":
            self.leaving.start(self.ve)
        else:
            self.leaving.thaw(self.ve)
        self.leaving.unfence(self.ve)
        self.arriving.drop(self.there)

    def all(self) -> None:
        """The whole of it."""
        self.prepare()
        self.stop()
        self.finish()
