"""Talking to the agents of the hosts."""

from collections.abc import Callable
from typing import Protocol

from migrator.wire.messages import Progress, Reply, Request


class AgentLink(Protocol):
    """One host's agent.

    `ask` never raises for what the host or the network does: a connection that cannot be made or that breaks, and a
    `limit_s` that passes, give a Fault UNREACHABLE, which is indefinite: the request may have been carried out. After
    that the link may be used again and dials anew. Several requests may be under way at once.
    """

    async def ask(self, request: Request, limit_s: float, progress: Callable[[Progress], None] | None = None) -> Reply:
        """The agent's answer, or Fault UNREACHABLE."""
        ...

    async def close(self) -> None:
        """Hang up. The agent goes on with what it was told."""
        ...


class HostShell(Protocol):
    """Plain commands on a host, for the little that is done before there is an agent."""

    async def run(self, command: str, stdin: bytes = b"") -> tuple[int | None, str, str]:
        """(exit status, output, errors) of a shell command; status None means unknown.

        Raises FaultError: UNREACHABLE, or NOT_TRUSTED for another host key or a login that is refused.
        """
        ...
