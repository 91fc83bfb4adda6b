"""What the watcher lists is enough: a pass over its list alone makes the copy equal to the tree, whatever happened."""

import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agents.transfer.changes.watcher import Watcher
from agents.transfer.files import LISTED, WHOLE
from scenarios.lab import root as lab_root

pytestmark = pytest.mark.lab  # it asks the kernel for every change on a file system: root only
PROGRAM = (sys.executable, "-m", "agents")
ROUNDS = 6
CHANGES = 40


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with some files, directories, hard links and odd names."""
    if os.geteuid() != 0:
        pytest.skip("fanotify needs root")
    lab_root.need({"rsync": "rsync"})
    root = tmp_path / "tree"
    for number in range(30):
        place = root / f"d{number % 5}" / f"e{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(os.urandom(100))
    os.link(root / "d0/e0/f0", root / "d1/linked")
    (root / "-n\n\xff ame").write_text("odd")
    (root / "link").symlink_to("d0")
    return root


@pytest.fixture
async def watcher(tree: Path) -> AsyncIterator[Watcher]:
    """A watcher of the tree, in a process of its own."""
    made = await Watcher.start(tree, PROGRAM)
    yield made
    await made.close()


def contents(root: Path) -> dict[str, object]:
    """Everything about every path that a copy must have."""
    found: dict[str, object] = {}
    names: dict[int, list[str]] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files, "."):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            key = os.path.relpath(path, root)
            names.setdefault(status.st_ino, []).append(key)
            data = (
                Path(path).read_bytes()
                if stat.S_ISREG(status.st_mode)
                else os.readlink(path)
                if stat.S_ISLNK(status.st_mode)
                else b""
            )
            extra = {
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
            }
            found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, data, extra)
    linked = sorted(sorted(set(each)) for each in names.values() if len(set(each)) > 1)
    return {**found, **{f"linked {each[0]}": each for each in linked}}


def differences(left: dict[str, object], right: dict[str, object]) -> list[tuple[str, object, object]]:
    """(path, there, here) of everything that is not the same."""
    return [(key, left.get(key), right.get(key)) for key in sorted({*left, *right}) if left.get(key) != right.get(key)]


def pick(chance: random.Random, root: Path, good: Callable[[Path], bool]) -> Path | None:
    """Some path below root that is good."""
    paths = sorted(path for path in root.rglob("*") if good(path))
    return chance.choice(paths) if paths else None


def change(chance: random.Random, root: Path) -> None:
    """One thing that can happen in a file system."""
    file = pick(chance, root, lambda path: path.is_file() and not path.is_symlink())
    directory = pick(chance, root, lambda path: path.is_dir() and not path.is_symlink()) or root
    fresh = directory / f"new{chance.randrange(10**9)}"
    match chance.randrange(14):
        case 0:
            fresh.write_bytes(chance.randbytes(chance.randrange(5000)))
        case 1 if file:
            with file.open("r+b") as open_file:
                open_file.seek(chance.randrange(50))
                open_file.write(b"changed")
        case 2 if file:
            os.truncate(file, chance.randrange(50))
        case 3 if file:
            file.rename(fresh)
        case 4 if directory != root:
            directory.rename(root / fresh.name)
        case 5 if file:
            file.unlink()
        case 6 if directory != root and chance.random() < 0.3:
            shutil.rmtree(directory)
        case 7 if file:
            os.link(file, fresh)
        case 8:
            fresh.symlink_to("somewhere")
        case 9 if file:
            file.chmod(chance.choice((0o600, 0o644, 0o755)))
        case 10 if file:
            os.chown(file, chance.randrange(1000), chance.randrange(1000))
        case 11 if file:
            os.setxattr(file, "user.note", chance.randbytes(5))
        case 12:
            (fresh / "deep/er").mkdir(parents=True)
            (fresh / "deep/er/file").write_text("in a new directory")
        case 13 if file:
            file.unlink()
            file.mkdir()
        case _:
            os.mkfifo(fresh)


def copy(tree: Path, place: Path, listed: bytes | None) -> None:
    """One pass as the agent makes it, here from directory to directory."""
    options = WHOLE if listed is None else LISTED
    subprocess.run(["rsync", *options, f"{tree}/", f"{place}/"], input=listed or b"", check=True, capture_output=True)


@pytest.mark.parametrize("seed", range(12))
async def test_listed_passes_make_the_copy_equal(seed: int, tree: Path, watcher: Watcher, tmp_path: Path) -> None:
    """After rounds of changes, each followed by a pass over the list alone, tree and copy are the same in everything."""
    chance, place = random.Random(seed), tmp_path / "copy"
    copy(tree, place, None)
    for _ in range(ROUNDS):
        for _ in range(CHANGES):
            change(chance, tree)
        changed = await watcher.take()
        copy(tree, place, None if changed.scan else changed.paths)

    assert differences(contents(tree), contents(place)) == [], f"repeat with: pytest {__file__} -k '[{seed}]'"


async def test_quiet_tree_lists_nothing(tree: Path, watcher: Watcher) -> None:
    """What did not change is not listed."""
    assert (await watcher.take()).count == 0


async def test_only_what_changed_is_listed(tree: Path, watcher: Watcher) -> None:
    """A list is as long as what changed, not as the tree."""
    (tree / "d2/e2/f2").write_text("other")

    changed = await watcher.take()

    assert changed.paths.split(b"\0")[:-1] == [b"d2/e2/f2"]
    assert changed.scan == ""


async def test_files_open_for_writing_are_always_listed(tree: Path, watcher: Watcher) -> None:
    """A file that a process holds open for writing is listed although no event told of it."""
    with (tree / "d2/e2/f2").open("ab"):
        changed = await watcher.take([os.getpid()])

    assert b"d2/e2/f2" in changed.paths.split(b"\0")


async def test_dead_watcher_asks_for_a_scan(tree: Path, watcher: Watcher) -> None:
    """A watcher that has died cannot be trusted: the whole tree is looked at."""
    watcher._process.kill()

    assert (await watcher.take()).scan


async def test_unknown_link_asks_for_a_scan(tree: Path, watcher: Watcher, tmp_path: Path) -> None:
    """A changed file that has a name outside of the tree cannot be listed with all its names."""
    os.link(tree / "d2/e2/f2", tmp_path / "outside")
    (tree / "d2/e2/f2").write_text("other")

    assert "not all names" in (await watcher.take()).scan
