"""The configuration directory as a value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.engines.vserver.tree import Directory, File, Link, Node, Tree, unpack

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
NODES: st.SearchStrategy[Node] = st.one_of(
    st.builds(File, st.binary(max_size=40), st.sampled_from([0o600, 0o755]), st.integers(0, 9), st.integers(0, 9)),
    st.builds(Link, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)),
    st.builds(Directory, st.sampled_from([0o700, 0o755])),
)


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(NAMES, NODES, max_size=6))
def test_packing_and_unpacking_changes_nothing(nodes: dict[str, Node]) -> None:
    """Any tree of files, links and directories comes out of its packed form byte for byte."""
    tree = Tree(nodes)

    packed = tree.pack()

    assert unpack(packed) == tree
    assert unpack(packed).pack() == packed


def test_a_name_that_is_no_utf8_survives() -> None:
    """A file name of any bytes is kept."""
    tree = Tree({b"na\xefve".decode("utf-8", "surrogateescape"): File(b"\xff\n")})

    assert unpack(tree.pack()) == tree


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b"])
def test_a_packed_tree_cannot_reach_outside(name: str) -> None:
    """Packed bytes that name a path outside the directory are refused."""
    packed = Tree({name: File(b"")}).pack()

    with pytest.raises(ValueError, match="may not contain"):
        unpack(packed)


def test_garbage_is_refused() -> None:
    """Bytes that are no archive are a ValueError, not a crash."""
    with pytest.raises(ValueError, match="not a packed"):
        unpack(b"nonsense" * 200)


def test_a_changed_value_keeps_what_follows_and_the_missing_newline() -> None:
    """Only the first line changes; a file without a final newline stays without one."""
    tree = Tree({"a": File(b"1\n# why\n", 0o600), "b": File(b"2")})

    after = tree.with_value("a", "5").with_value("b", "6")

    assert after.nodes == {"a": File(b"5\n# why\n", 0o600), "b": File(b"6")}


def test_entries_are_walked_in_numerical_order() -> None:
    """Entry 10 comes after entry 9, words after numbers."""
    tree = Tree({f"interfaces/{name}/ip": File(b"") for name in ("10", "9", "x")})

    assert list(tree.under("interfaces")) == ["9", "10", "x"]
