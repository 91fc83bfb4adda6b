"""What the watcher lists is enough: a pass over its list alone makes the copy equal to the tree, whatever happened."""

import mmap
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import pytest
import trio

from agents.transfer.changes import scanning
from agents.transfer.changes.fanotify import Watch
from agents.transfer.changes.listing import Names, sorted_out
from agents.transfer.changes.scanning import Scan
from agents.transfer.changes.watcher import SIFTED_AT, Changed, Watcher
from agents.transfer.files import OPTIONS, Kind
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


def change(chance: random.Random, root: Path, elsewhere: Path) -> None:
    """One thing that can happen in a file system, of which the root is a part and another directory as well."""
    file = pick(chance, root, lambda path: path.is_file() and not path.is_symlink())
    directory = pick(chance, root, lambda path: path.is_dir() and not path.is_symlink()) or root
    fresh = directory / f"new{chance.randrange(10**9)}"
    kind = chance.randrange(23)
    if kind < 6:
        change_directory(chance, kind, directory, root, elsewhere)
    elif file is None or kind < 10:
        make(chance, kind, fresh, elsewhere)
    elif kind < 15:
        change_names(chance, kind, file, fresh, elsewhere)
    else:
        change_file(chance, kind, file, fresh)


def change_directory(chance: random.Random, kind: int, directory: Path, root: Path, elsewhere: Path) -> None:
    """Something happens to a directory; to the root itself only what can."""
    aside = elsewhere / f"aside{chance.randrange(10**9)}"
    other = pick(chance, root, lambda path: path.is_dir() and not path.is_symlink()) or root
    match kind:
        case 0 if directory != root:
            directory.rename(root / aside.name)
        case 1 if directory != root and chance.random() < 0.3:
            shutil.rmtree(directory)
        case 2 if directory != root and chance.random() < 0.3:
            directory.rename(aside)
        case 3 if directory != root:  # out and in again, and not as it was
            directory.rename(aside)
            for path in aside.iterdir():
                if not path.is_dir() or path.is_symlink():
                    path.unlink()
            (aside / aside.name).touch()
            aside.rename(directory)
        case 4 if directory not in (other, *other.parents) and other not in directory.parents:
            directory.rename(aside)  # each has the other's name
            other.rename(directory)
            aside.rename(other)
        case _:
            directory.chmod(chance.choice((0o700, 0o755)))


def make(chance: random.Random, kind: int, fresh: Path, elsewhere: Path) -> None:
    """Something comes."""
    away = pick(chance, elsewhere, lambda path: True)
    match kind:
        case 6:
            fresh.symlink_to("somewhere")
        case 7:
            (fresh / "deep/er").mkdir(parents=True)
            (fresh / "deep/er/file").write_text("in a new directory")
        case 8 if away:
            away.rename(fresh)
        case _:
            os.mkfifo(fresh)


def change_names(chance: random.Random, kind: int, file: Path, fresh: Path, elsewhere: Path) -> None:
    """A file gets another name, loses one, or gives it to another file."""
    match kind:
        case 10:
            file.rename(fresh)
        case 11:
            file.unlink()
            if chance.random() < 0.3:
                file.mkdir()
        case 12:
            os.link(file, fresh if chance.random() < 0.5 else elsewhere / fresh.name)
        case 13:
            shutil.copy2(file, fresh)  # a file of its own from now on, with the time and the size that it had
            fresh.rename(file)
        case _:
            away = pick(chance, elsewhere, lambda path: path.is_file() and not path.is_symlink()) or file
            away.write_bytes(chance.randbytes(50))
            if chance.random() < 0.5:
                away.unlink()


def change_file(chance: random.Random, kind: int, file: Path, fresh: Path) -> None:
    """A file becomes another, under its name."""
    match kind:
        case 15:
            fresh.write_bytes(chance.randbytes(chance.randrange(5000)))
        case 16:
            os.truncate(file, chance.randrange(50))
        case 17:
            file.chmod(chance.choice((0o600, 0o644, 0o755)))
        case 18:
            os.chown(file, chance.randrange(1000), chance.randrange(1000))
        case 19:
            os.setxattr(file, "user.note", chance.randbytes(5))
        case 20:
            os.utime(file, ns=(chance.randrange(10), chance.randrange(10)))
        case _:
            with file.open("r+b") as open_file:
                open_file.seek(chance.randrange(50))
                open_file.write(b"changed")


def make_noise(elsewhere: Path) -> None:
    """So much happens elsewhere that the watcher sifts what it has seen."""
    for number in range(SIFTED_AT + 1):
        (elsewhere / f"noise{number}").touch()
    for number in range(SIFTED_AT + 1):
        (elsewhere / f"noise{number}").unlink()


def copy(tree: Path, place: Path, kind: Kind, paths: Iterable[bytes] = ()) -> None:
    """One pass as the agent makes it, here from directory to directory."""
    argv = ["rsync", *OPTIONS[kind], f"{tree}/", f"{place}/"]
    subprocess.run(argv, input=b"".join(path + b"\0" for path in paths), check=True, capture_output=True)


def copy_changed(tree: Path, place: Path, changed: Changed) -> None:
    """The passes for what a watcher told."""
    if changed.scan:
        copy(tree, place, Kind.WHOLE)
    copy(tree, place, Kind.IN_PLACE, changed.in_place)
    copy(tree, place, Kind.CHANGED, changed.changed - {b"."})
    copy(tree, place, Kind.KEPT, changed.kept - {b"."})
    copy(tree, place, Kind.ROOT, [b"."])


@pytest.mark.parametrize("seed", range(16))
async def test_listed_passes_make_the_copy_equal(seed: int, tree: Path, watcher: Watcher, tmp_path: Path) -> None:
    """After rounds of changes, each followed by a pass over the list alone, tree and copy are the same in everything."""
    await check_rounds(random.Random(seed), tree, tmp_path, watcher.take, f"-k 'listed and {seed}'")


@pytest.mark.parametrize("seed", range(8))
async def test_so_do_passes_over_what_a_walk_lists(
    seed: int, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the kernel tells nothing and the tree is walked through instead."""
    monkeypatch.setattr(scanning, "COARSE_NS", 20_000_000)  # two ticks: else everything here would be listed each time
    take = taker(tree)
    await check_rounds(random.Random(seed), tree, tmp_path, take, f"-k 'walk and {seed}'")


def taker(tree: Path) -> Callable[[], Awaitable[Changed]]:
    """What the watcher's process does, where it has to walk."""
    names = Names(os.fsencode(tree))
    scan = Scan(os.fsencode(tree), names)

    async def take() -> Changed:
        lists = sorted_out(scan.take(last=False), os.fsencode(tree), names)
        return Changed(frozenset(lists.changed), frozenset(lists.in_place), frozenset(lists.kept))

    return take


async def check_rounds(
    chance: random.Random, tree: Path, tmp_path: Path, take: Callable[[], Awaitable[Changed]], repeat: str
) -> None:
    """Rounds of changes with a pass each, and the comparison."""
    place = tmp_path / "copy"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy(tree, place, Kind.WHOLE)
    for _ in range(ROUNDS):
        for _ in range(chance.choice((3, CHANGES))):
            change(chance, tree, elsewhere)
            if chance.random() < 0.04:
                make_noise(elsewhere)
        copy_changed(tree, place, await take())

    assert differences(contents(tree), contents(place)) == [], f"repeat with: pytest {__file__} {repeat}"


async def test_a_walk_lists_only_what_changed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is as long as what changed, once the clock has moved on."""
    monkeypatch.setattr(scanning, "COARSE_NS", 20_000_000)
    take = taker(tree)
    (tree / "d2/e2/f2").write_text("other")
    await trio.sleep(0.1)  # not awaited: it is the file system's clock that has to move
    await take()
    assert await take() == Changed()
    (tree / "d2/e2/f2").unlink()

    assert await take() == Changed(changed=frozenset([b"d2/e2", b"d2/e2/f2"]))


async def test_a_write_through_a_mapping_is_seen_by_a_walk(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write to a page moves the time of its file again, if there was a walk between."""
    monkeypatch.setattr(scanning, "COARSE_NS", 20_000_000)
    file = tree / "d2/e2/f2"
    file.write_bytes(bytes(1 << 20))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 1 << 20) as mapping:
        mapping[:5] = b"first"
        take = taker(tree)
        await trio.sleep(0.1)
        await take()
        mapping[:6] = b"second"

        assert b"d2/e2/f2" in (await take()).changed


async def test_quiet_tree_lists_nothing(tree: Path, watcher: Watcher) -> None:
    """What did not change is not listed."""
    assert await watcher.take() == Changed()


async def test_only_what_changed_is_listed(tree: Path, watcher: Watcher) -> None:
    """A list is as long as what changed, not as the tree."""
    (tree / "d2/e2/f2").write_text("other")

    changed = await watcher.take()

    assert changed == Changed(in_place=frozenset([b"d2/e2/f2"]))


async def test_files_open_for_writing_are_always_listed(tree: Path, watcher: Watcher) -> None:
    """A file that a process holds open for writing is listed although no event told of it."""
    with (tree / "d2/e2/f2").open("ab"):
        changed = await watcher.take([os.getpid()])

    assert b"d2/e2/f2" in changed.in_place


async def test_a_large_file_that_is_only_open_is_not_sent_again(tree: Path, watcher: Watcher) -> None:
    """It is listed as always, but its size and time decide; as they do when only its attributes have changed."""
    large = tree / "d2/e2/f2"
    large.write_bytes(bytes(1 << 20))
    with large.open("ab"):
        await watcher.take()
        assert await watcher.take([os.getpid()]) == Changed(kept=frozenset([b"d2/e2/f2"]))
        large.chmod(0o600)
        assert await watcher.take() == Changed(kept=frozenset([b"d2/e2/f2"]))


async def test_a_write_through_a_mapping_arrives(tree: Path, watcher: Watcher, tmp_path: Path) -> None:
    """The second write to a page that is dirty already changes neither size nor time of its file, and is no event."""
    file, place = tree / "d2/e2/f2", tmp_path / "copy"
    file.write_bytes(bytes(1 << 20))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 1 << 20) as mapping:
        mapping[:5] = b"first"
        copy(tree, place, Kind.WHOLE)
        copy_changed(tree, place, await watcher.take())
        before = file.stat()
        mapping[:6] = b"second"
        assert file.stat() == before

        copy_changed(tree, place, await watcher.take([os.getpid()]))

        assert (place / "d2/e2/f2").read_bytes()[:6] == b"second"


async def test_a_time_that_was_set_back(tree: Path, watcher: Watcher, tmp_path: Path) -> None:
    """Other content of the same size under the old time arrives, whether written into the file or put in its place."""
    place, written, replaced = tmp_path / "copy", tree / "d2/e2/f2", tree / "d3/e0/f3"
    copy(tree, place, Kind.WHOLE)
    for file in (written, replaced):
        before = file.stat()
        target = file if file == written else tree / "aside"
        target.write_bytes(b"other".ljust(before.st_size))
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        target.rename(file)

    copy_changed(tree, place, await watcher.take())

    assert differences(contents(tree), contents(place)) == []


def test_what_happens_elsewhere_is_forgotten(tree: Path, tmp_path: Path) -> None:
    """Of a busy file system only the changes here are kept, and those of files that have a name here, or may have one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.link(tree / "d2/e2/f2", elsewhere / "linked")
    (elsewhere / "known").touch()
    known = (elsewhere / "known").stat().st_ino
    watch = Watch(tree)
    make_noise(elsewhere)
    (tree / "d0/e0/f0").write_text("here")
    (elsewhere / "linked").write_text("there and here")
    (elsewhere / "known").write_text("had a name here")
    while watch.read():
        pass
    watch.sift(lambda path: path.startswith(os.fsencode(tree)), lambda found: found.st_ino == known)

    assert watch.fresh == 0
    seen = watch.take()
    inodes = {found.st_ino for file in seen.files if (found := watch.status(file)) is not None}
    paths = [(watch.path(directory), name) for directory, name in seen.changes]
    watch.close()
    assert [name for path, name in paths if path and path.startswith(os.fsencode(tmp_path))] == [b"f0"]
    mine = [tree / "d0/e0/f0", tree / "d2/e2/f2", elsewhere / "known"]
    assert {path.stat().st_ino for path in mine} <= inodes


async def test_dead_watcher_asks_for_a_scan(tree: Path, watcher: Watcher) -> None:
    """A watcher that has died cannot be trusted: the whole tree is looked at."""
    watcher._process.kill()

    assert (await watcher.take()).scan


async def test_unknown_link_asks_for_a_scan(tree: Path, watcher: Watcher, tmp_path: Path) -> None:
    """A changed file that has a name outside of the tree cannot be listed with all its names."""
    os.link(tree / "d2/e2/f2", tmp_path / "outside")
    (tree / "d2/e2/f2").write_text("other")

    assert "not all names" in (await watcher.take()).scan
