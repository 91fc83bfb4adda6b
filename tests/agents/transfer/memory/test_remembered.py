"""What was sent is remembered exactly, in one way or the other, and never in more memory than was granted."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.transfer.memory.extents import PAGE_BYTES, Extents, normalised
from agents.transfer.memory.remembered import Budget, Remembered

BASE = 1 << 30
PAGES = 300
LARGE, SMALL, NONE = PAGES * PAGE_BYTES, 16 * PAGE_BYTES, 0
"""Room for copies of everything; for a few copies and all hashes; for nothing."""


def page(number: int, version: int) -> bytes:
    """Content of a page: two versions of one differ in a single byte, its last."""
    return bytes([number % 251]) * (PAGE_BYTES - 1) + bytes([version % 251])


def data_of(first: int, versions: list[int]) -> tuple[tuple[int, int], memoryview]:
    """Consecutive pages, at their addresses."""
    start = BASE + first * PAGE_BYTES
    data = bytearray(b"".join(page(first + at, version) for at, version in enumerate(versions)))
    return (start, start + len(data)), memoryview(data)


def numbers(extents: Extents) -> set[int]:
    """Which pages these are."""
    return {(at - BASE) // PAGE_BYTES for start, end in extents for at in range(start, end, PAGE_BYTES)}


def taken_bytes(sent: Remembered) -> int:
    """What its files take of this host's memory."""
    return sum(os.fstat(fd).st_blocks * 512 for fd in (sent._copies, sent._hashes))


@pytest.fixture(params=[LARGE, SMALL])
def sent(request: pytest.FixtureRequest) -> Iterator[Remembered]:
    """Nothing yet."""
    made = Remembered(Budget(request.param))
    made.expect(PAGES * PAGE_BYTES)
    yield made
    made.close()


def test_a_single_byte_is_found(sent: Remembered) -> None:
    """By either way of remembering, all pages that differ in their last byte are named and no others."""
    sent.keep(*data_of(0, [0] * PAGES))
    changed = {0, 1, 15, 16, 17, 128, 255, PAGES - 1}

    found = sent.differing(*data_of(0, [int(number in changed) for number in range(PAGES)]))

    assert numbers(found) == changed
    assert sent.differing(*data_of(0, [0] * PAGES)) == []


def test_what_does_not_fit_is_different() -> None:
    """Without room nothing is remembered, so that all of it is sent again."""
    sent = Remembered(Budget(NONE))
    sent.expect(PAGES * PAGE_BYTES)
    sent.keep(*data_of(0, [0] * PAGES))

    assert numbers(sent.differing(*data_of(0, [0] * PAGES))) == set(range(PAGES))
    assert taken_bytes(sent) == 0


def test_two_processes_share_one_budget() -> None:
    """The second finds room for its hashes although the first came with more than fits; what ends gives its room back."""
    budget = Budget(SMALL)
    first, second = Remembered(budget), Remembered(budget)
    for each in (first, second):
        each.expect(PAGES * PAGE_BYTES)
    for each in (first, second):
        each.keep(*data_of(0, [0] * PAGES))
    assert second.differing(*data_of(0, [0] * PAGES)) == []
    assert taken_bytes(first) + taken_bytes(second) <= budget.spent_bytes <= budget.cap_bytes

    first.close()
    second.close()

    assert budget.spent_bytes == 0


ACT = st.tuples(
    st.sampled_from(["keep", "forget", "only"]), st.integers(0, PAGES - 40), st.lists(st.integers(0, 2), max_size=40)
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([LARGE, SMALL, 3 * PAGE_BYTES]), st.lists(ACT, max_size=12))
def test_never_equal_by_mistake(cap_bytes: int, acts: list[tuple[str, int, list[int]]]) -> None:
    """After any acts: what it calls equal was kept just so, it keeps to its cap, and tells what it takes."""
    budget = Budget(cap_bytes)
    sent = Remembered(budget)
    sent.expect(PAGES * PAGE_BYTES)
    model: dict[int, int] = {}
    for act, first, versions in acts:
        kept = dict(enumerate(versions, first))
        extent = data_of(first, versions)[0]
        if act == "keep" and versions:
            sent.keep(*data_of(first, versions))
            model |= kept
        elif act == "forget":
            sent.forget(normalised([extent]))
            model = {number: version for number, version in model.items() if number not in kept}
        elif act == "only":
            sent.only(normalised([extent]))
            model = {number: version for number, version in model.items() if number in kept}
        assert taken_bytes(sent) <= budget.spent_bytes <= cap_bytes
    for version in range(3):
        same = set(range(PAGES)) - numbers(sent.differing(*data_of(0, [version] * PAGES)))
        right = {number for number, known in model.items() if known == version}
        assert same <= right
        assert same == right or cap_bytes != LARGE
    sent.close()
