"""A migration's key opens four things and nothing else."""

import shlex

import pytest

from agents.gate import permitted_rsync, permitted_stream

PLACE = "/var/lib/migrator/ve/shop"


@pytest.mark.parametrize(
    "sent",
    [
        f"rsync --server -lHogDtpAXrSe.LsfxCIvu --delete --force --stats -@-1 --numeric-ids . {PLACE}/",
        f"rsync --server -ldHogDtpAXRxSe.LsfxCIvu --no-r --delete --force --stats -@-1 --numeric-ids . {PLACE}/",
    ],
    ids=["whole tree", "list of what changed"],
)
def test_both_kinds_of_pass_are_let_in(sent: str) -> None:
    """What rsync 3.4 and 3.5 send for our two kinds of pass is permitted."""
    assert permitted_rsync(shlex.split(sent), "m", [PLACE])


@pytest.mark.parametrize(
    "sent",
    [
        f"rsync --server --sender -lHogDtpAXrSe.LsfxCIvu . {PLACE}/",
        "rsync --server -lHogDtpAXrSe.LsfxCIvu . /etc/",
        f"rsync --server -lHogDtpAXrSe.LsfxCIvu --rsync-path=/bin/sh . {PLACE}/",
        f"rsync --server -lHogDtpAXrSe.LsfxCIvu --files-from=/etc/shadow . {PLACE}/",
        f"rsync --server -lHogDtpAXrSe.LsfxCIvu --temp-dir=/etc . {PLACE}/",
        f"rsync --server -lHogDtpAXrSe.LsfxCIvu --partial-dir=/etc . {PLACE}/",
        f"rsync --server -lHogDtpAXrSe.LsfxCIvu --partial-dir /etc . {PLACE}/",
        "sh -c id",
    ],
)
def test_everything_else_is_refused(sent: str) -> None:
    """Reading, other places, options that reach elsewhere and other programs are refused."""
    assert not permitted_rsync(shlex.split(sent), "m", [PLACE])


def test_several_connections_are_for_the_same() -> None:
    """An rsync whose input comes over several connections may do what it may over one, and its name reaches no other place."""
    rsync = f"rsync --server -lHogDtpAXrSe.LsfxCIvu . {PLACE}/"
    assert permitted_stream(shlex.split(f"rsync-stream 0a1b {rsync}"), "m", [PLACE])
    for sent in (
        f"rsync-stream ../other {rsync}",
        f"rsync-stream a/b {rsync}",
        f"rsync-stream '' {rsync}",
        f"rsync-stream {rsync}",
        "rsync-stream 0a1b sh -c id",
        "rsync-stream 0a1b",
        "rsync-stream",
        "rsync-stream 0a1b rsync --server -lHogDtpAXrSe.LsfxCIvu . /etc/",
    ):
        assert not permitted_stream(shlex.split(sent), "m", [PLACE])
