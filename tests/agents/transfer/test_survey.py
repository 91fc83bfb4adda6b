"""What is in the trees is counted, and compressed in a sample, before anything is copied."""

import os
from pathlib import Path

import pytest

from agents.engines.port import Tree
from agents.transfer.survey import PIECE_BYTES, Survey, survey

MIB = 1 << 20
GIGABIT, SLOW = 119e6, 5e6


def tree_with(tmp_path: Path, files: dict[str, bytes]) -> list[Tree]:
    """One tree."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return [Tree("root", tmp_path)]


class Ticks:
    """A clock that goes on by so much with every look."""

    def __init__(self, step_s: float) -> None:
        self._now_s, self._step_s = 0.0, step_s

    def __call__(self) -> float:
        self._now_s += self._step_s
        return self._now_s


def test_every_file_counts_once(tmp_path: Path) -> None:
    """A file with two names is one; links, pipes and what is empty are none."""
    trees = tree_with(tmp_path, {"a": b"x" * 1000, "deep/er/b": b"y" * 500, "empty": b""})
    os.link(tmp_path / "a", tmp_path / "second")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")

    assert survey(trees).total_bytes == 1500


def test_too_little_is_not_judged(tmp_path: Path) -> None:
    """Some kilobytes: as they are."""
    found = survey(tree_with(tmp_path, {"a": b"x" * 1000}))

    assert found == Survey(1000)
    assert not found.compression_pays(1.0)


@pytest.mark.parametrize(
    ("content", "pays"), [(b"the same words again and again\n" * 40_000, True), (os.urandom(MIB), False)]
)
def test_what_shrinks_is_compressed_on_a_slow_line(tmp_path: Path, content: bytes, pays: bool) -> None:
    """At 40 Mbit/s text is compressed and noise is not; at 1 Gbit/s neither is, when compressing 16 MB takes a second."""
    trees = tree_with(tmp_path, {str(number): content for number in range(64)})
    found = survey(trees, Ticks(32 * PIECE_BYTES / 16e6))

    assert found.total_bytes == 64 * len(content)
    assert (found.share < 0.2) is pays
    assert found.compression_pays(SLOW) is pays
    assert not found.compression_pays(GIGABIT)


def test_the_sample_is_of_what_weighs_most(tmp_path: Path) -> None:
    """Ten thousand small texts beside one large file of noise: it is the noise that takes the line."""
    texts = {f"texts/{number}": b"text " * 10 for number in range(2_000)}
    found = survey(tree_with(tmp_path, {**texts, "noise": os.urandom(4 * MIB)}))

    assert found.share > 0.8
