"""What a migration's key may do, asked of the very words that our own rsync sends to the other side."""

import subprocess
from pathlib import Path

import pytest

from agents.engines.port import Tree
from agents.gate import permitted_rsync
from agents.transfer.channel import Channel
from agents.transfer.files import Kind, Pass
from scenarios.lab.root import need

PLACE = Path("/vservers/web1")


@pytest.fixture(scope="module", autouse=True)
def _rsync() -> None:
    """The words are those of the rsync that this machine's Debian has; a new machine has none yet."""
    need({"rsync": "rsync"})


def server_words(tmp_path: Path, kind: Kind, *, bandwidth_bytes_per_s: int = 0, compressed: bool = False) -> list[str]:
    """What rsync asks the remote shell to run for one of our passes."""
    tree = tmp_path / "tree"
    tree.mkdir()
    heard = tmp_path / "heard"
    shell = tmp_path / "shell"
    shell.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done > {heard}\nexit 1\n')
    shell.chmod(0o755)
    channel, source = Channel("m", "192.0.2.1", 22), Tree("root", tree, ("/a b",))
    one = Pass(channel, source, PLACE, bandwidth_bytes_per_s, compressed)
    argv = one.argv(kind)
    argv[argv.index("-e") + 1] = str(shell)
    subprocess.run(argv, input=b"x\0", capture_output=True, check=False)
    words = heard.read_bytes().decode().split("\0")[:-1]
    return words[words.index("rsync") :]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("limit", [0, 1 << 20])
@pytest.mark.parametrize("compressed", [False, True])
def test_our_own_passes_are_let_in(tmp_path: Path, kind: Kind, limit: int, compressed: bool) -> None:
    """A pass of every kind, with and without a limit, compressed or not: each may write to its place."""
    words = server_words(tmp_path, kind, bandwidth_bytes_per_s=limit, compressed=compressed)

    assert permitted_rsync(words, "m", [str(PLACE)])
    assert not permitted_rsync(words, "m", ["/vservers/web2", "/vservers/web", str(PLACE / "etc")])


@pytest.mark.parametrize("option", ["--sender", "--rsync-path=sh", "--files-from=/etc/shadow", "--no-relative-x", "x"])
def test_words_that_reach_elsewhere_are_not(tmp_path: Path, option: str) -> None:
    """One option more, and the key lets nobody in."""
    words = server_words(tmp_path, Kind.CHANGED)

    assert not permitted_rsync([*words[:-2], option, *words[-2:]], "m", [str(PLACE)])


def test_parts_lie_nowhere_else(tmp_path: Path) -> None:
    """What comes in part may lie beside the tree, under this migration's name, and in no other place."""
    words = server_words(tmp_path, Kind.CHANGED)
    at = words.index("--partial-dir") + 1

    assert words[at] == "/vservers/.m.partial"
    for elsewhere in ("/etc", "/vservers/.other.partial", "/vservers/web1", ".m.partial"):
        assert not permitted_rsync([*words[:at], elsewhere, *words[at + 1 :]], "m", [str(PLACE)])
    assert not permitted_rsync([*words[:-2], "--partial-dir", *words[-2:]], "m", [str(PLACE)])
