"""A migration's channel leaves nothing behind, however its SSH processes ended."""

import socket
from pathlib import Path

import pytest

from agents import places
from agents.transfer.channel import Channel


async def test_the_socket_of_a_killed_connection_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of shared connections whose process is gone are removed by close, and nothing else."""
    monkeypatch.setattr(places, "RUN", tmp_path)
    channel = Channel("abc", "127.0.0.1", 22)
    for name in ("ssh-abc", "ssh-abc.Gx7", "ssh-other"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(tmp_path / name))

    await channel.close()

    assert [path.name for path in tmp_path.iterdir()] == ["ssh-other"]
