"""All passes of one copy with real rsync and a real watcher, from directory to directory of this machine."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents import places
from agents.engines.port import Tree
from agents.failures import fault_of
from agents.transfer import receivers
from agents.transfer.channel import Channel
from agents.transfer.file_copy import FileCopy
from agents.transfer.files import WHILE_IT_RUNS
from migrator.wire.faults import FaultCode
from scenarios.lab import root as lab_root

pytestmark = pytest.mark.lab  # the watcher needs root


SHELL = """#!/bin/sh
while :; do case "$1" in rsync | rsync-stream) break;; *) shift;; esac; done
SSH_ORIGINAL_COMMAND="$*" {gate}
status=$?
[ ! -e {after} ] || . {after}
exit $status
"""
"""What the target's sshd does with a migration's key; and what a test wants done after it."""


@dataclass(frozen=True, slots=True)
class Here(Channel):
    """A channel that leads back to this machine."""

    shell: str = ""

    def ssh(self, *command: str, shared: bool = True) -> tuple[str, ...]:
        return (self.shell, f"root@{self.address}", *command)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is copied; its copy is beside it."""
    if os.geteuid() != 0:
        pytest.skip("fanotify needs root")
    lab_root.need({"rsync": "rsync"})
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two", "three"):
        (tree / name).write_text(f"{name} as it was")
    (tmp_path / "copy").mkdir()
    return tree


@pytest.fixture
async def copy(tree: Path, agent: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileCopy]:
    """A copy to a target that has nothing yet; it has had a round."""
    made = await begun(tree, agent, monkeypatch)
    yield made
    await ended(made)


async def begun(tree: Path, agent: Path, monkeypatch: pytest.MonkeyPatch) -> FileCopy:
    """See `copy`."""
    migration, target = f"test-{os.getpid()}", tree.with_name("copy")
    shell = tree.with_name("shell")
    shell.write_text(SHELL.format(gate=f"{sys.executable} -I {agent} gate {migration}", after=tree.with_name("after")))
    shell.chmod(0o755)
    places.permit(migration, [target])
    places.RUN.mkdir(parents=True, exist_ok=True, mode=0o700)
    monkeypatch.setattr(sys, "argv", [str(agent)])  # what the agent runs from, and so the watcher
    made = FileCopy(Here(migration, "192.0.2.1", 22, str(shell)), [Tree("t", tree)], {"t": str(target)}, fresh=True)
    await made.round()
    return made


async def ended(copy: FileCopy) -> None:
    """Nothing of it is left on this machine."""
    migration = copy.channel.migration
    await copy.close()
    await copy.channel.close()
    places.forbid(migration)
    receivers.end(migration)
    places.forget_partial(migration)


async def last(copy: FileCopy) -> int:
    """The pass in the blackout, confirmed."""
    sent_bytes = await copy.last([])
    await copy.confirm()
    return sent_bytes


@pytest.fixture
def silent(tree: Path) -> Iterator[Path]:
    """The tree on a file system of which the kernel does not tell what changes."""
    subprocess.run(["mount", "-t", "ramfs", "none", tree], check=True)
    for name in ("one", "two", "three"):
        (tree / name).write_text(f"{name} as it was")
    yield tree
    subprocess.run(["umount", "--lazy", tree], check=True)


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Nobody can write to this file, nor put another in its place."""
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


def there(tree: Path, name: str) -> Path:
    """The copy of a file."""
    return tree.with_name("copy") / name


async def test_rounds_and_the_last_pass(tree: Path, copy: FileCopy) -> None:
    """What changes between passes, in any way, is at the target when the last has ended; what does not change is not sent."""
    (tree / "one").write_text("one as it is")
    (tree / "two").unlink()
    (tree / "four").write_text("new")
    await copy.round()
    inode = there(tree, "three").stat().st_ino
    (tree / "three").write_text("three as it is")
    sent_bytes = await last(copy)

    names = ["four", "one", "three"]
    assert sorted(path.name for path in there(tree, ".").iterdir()) == names
    assert [there(tree, name).read_text() for name in names] == [(tree / name).read_text() for name in names]
    assert there(tree, "three").stat().st_ino == inode, "it was not written in place"
    assert sent_bytes < 1000
    assert copy.notes == []


async def test_where_the_kernel_does_not_tell(silent: Path, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's tree is walked through instead, the passes still look at a list, and the operator is told."""
    copy = await begun(silent, agent, monkeypatch)
    (silent / "one").write_text("one as it is")
    await copy.round()
    (silent / "two").unlink()
    there(silent, "known to nobody").touch()

    await last(copy)
    await ended(copy)

    names = sorted(path.name for path in there(silent, ".").iterdir())
    assert names == ["known to nobody", "one", "three"], "a pass over everything would have removed it"
    assert there(silent, "one").read_text() == "one as it is"
    [note] = copy.notes
    assert "walking through it" in note


async def test_what_the_target_refuses_is_owed(tree: Path, copy: FileCopy) -> None:
    """A file that could not be written while the VE runs is tried again in every later pass, and told of; it is not forgotten
    because nothing happens to it any more."""
    (tree / "one").write_text("one as it is")
    with refused(there(tree, "one")):
        await copy.round()
    assert there(tree, "one").read_text() == "one as it was"
    [note] = copy.notes
    assert "Operation not permitted" in note

    await last(copy)

    assert there(tree, "one").read_text() == "one as it is"


async def test_what_the_target_refuses_in_the_last_pass(tree: Path, copy: FileCopy) -> None:
    """There is no later pass: it is a fault, by the time at which the VE might be let go."""
    (tree / "one").write_text("one as it is")
    with refused(there(tree, "one")), pytest.raises(ExceptionGroup) as caught:
        await last(copy)

    fault = fault_of(caught.value)
    assert fault.code is FaultCode.TOOL_FAILED
    assert "Operation not permitted" in fault.log_tail


async def test_a_line_that_broke(tree: Path, copy: FileCopy) -> None:
    """What changed before it broke and after is at the target in the end; and nothing is written in place any more, because
    nobody knows how far the target's files are those of this copy."""
    (tree / "one").write_text("one as it is")
    await copy.go_on(copy.channel)
    (tree / "two").write_text("two as it is")
    await copy.round()
    inode = there(tree, "three").stat().st_ino
    (tree / "three").write_text("three as it is")

    await last(copy)

    assert [there(tree, name).read_text() for name in ("one", "two", "three")] == [
        f"{name} as it is" for name in ("one", "two", "three")
    ]
    assert there(tree, "three").stat().st_ino != inode


@pytest.mark.parametrize(
    ("does", "said"), [("status=12", "rsync ended with 12"), ("kill -9 $PPID", "without a status")]
)
async def test_an_end_at_the_target_that_is_not_well(tree: Path, copy: FileCopy, does: str, said: str) -> None:
    """All was done as far as this end can tell, and the other ended badly, or nobody can tell how: that is not taken for well."""
    (tree / "one").write_text("one as it is")
    tree.with_name("after").write_text(does)
    await copy.last([])
    assert there(tree, "one").read_text() == "one as it is"

    with pytest.raises(ExceptionGroup) as caught:
        await copy.confirm()

    assert said in fault_of(caught.value).message


@pytest.mark.parametrize(
    ("line", "explained"),
    [
        ('file has vanished: "/private/1/a"', True),
        ('rsync: [sender] link_stat "/private/1/a" failed: No such file or directory (2)', True),
        ('rsync: link_stat "/private/1/a" failed: No such file or directory (2)', True),
        ('rsync: [sender] read errors mapping "/private/1/a": No data available (61)', True),
        ("WARNING: private/1/a failed verification -- update discarded (will try again).", True),
        ('rsync: [receiver] mkstemp "/private/1/.a.x" failed: No such file or directory (2)', False),
        ('rsync: [receiver] mkstemp "/private/1/.a.x" failed: Operation not permitted (1)', False),
        ('rsync: [sender] read errors mapping "/private/1/a": Input/output error (5)', False),
        ("ERROR: private/1/a failed verification -- update discarded.", False),
        ("something else", False),
    ],
)
def test_what_a_running_ve_explains(line: str, explained: bool) -> None:
    """Files that go, shrink or change while they are read; everything else is tried again and told."""
    assert bool(WHILE_IT_RUNS.match(line)) is explained
