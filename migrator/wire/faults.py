"""PURE. Why something did not happen, as a value both sides understand.

Rule: every fault says whether it is *definite* (it did not happen and will not) or *indefinite* (it may have
happened, or may still): only a definite fault may be acted on; after an indefinite one the host is asked.
"""

from dataclasses import dataclass
from enum import StrEnum


class FaultCode(StrEnum):
    """The kind of a fault; stable, for scripts and exit codes."""

    BAD_REQUEST = "bad-request"
    """The message could not be understood, or asks for something this host cannot be asked."""
    VERSION = "version"
    """The other side speaks another version of the protocol."""
    UNKNOWN_VE = "unknown-ve"
    ENGINE_MISSING = "engine-missing"
    CONFLICT = "conflict"
    """Something that has to be free is taken: an id, an address, a directory, a lock."""
    STALE_ORDER = "stale-order"
    """The host has obeyed this order or a newer one for this VE, and does nothing now; what came of it is unknown."""
    TOO_LATE = "too-late"
    """The point of no return is passed; only forward from here."""
    TOOL_FAILED = "tool-failed"
    """A tool (criu, crun, rsync, ssh, vzctl, ...) ended with an error."""
    NO_SPACE = "no-space"
    DEADLINE = "deadline"
    """A time limit passed on the host, and the host undid what was under way."""
    PEER_LOST = "peer-lost"
    """The connection between source and target broke."""
    CORRUPT = "corrupt"
    """A checksum does not match what arrived."""
    UNREACHABLE = "unreachable"
    """The host did not answer; what happened there is unknown."""
    NOT_TRUSTED = "not-trusted"
    """The host's SSH key is not the one that is known, or the host does not let us in; nothing was sent."""
    UNCERTAIN = "uncertain"
    """It failed on the host, and the host cannot tell whether it took effect."""
    ABORTED = "aborted"
    """The operator wanted it undone."""
    OVER_BUDGET = "over-budget"
    """The blackout would have been longer than the operator allows."""
    INTERNAL = "internal"
    """A mistake in our own program."""


INDEFINITE = frozenset(
    {FaultCode.UNREACHABLE, FaultCode.PEER_LOST, FaultCode.INTERNAL, FaultCode.STALE_ORDER, FaultCode.UNCERTAIN}
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure: where, doing what, why, and the end of the tool's own log."""

    code: FaultCode
    message: str
    """A sentence for a person."""
    host: str = ""
    step: str = ""
    tool: str = ""
    log_tail: str = ""
    """The last lines of the tool's log that matter (CRIU's `Error` lines first); may be empty."""

    @property
    def definite(self) -> bool:
        """Whether the thing asked for certainly did not happen and will not."""
        return self.code not in INDEFINITE

    def sentence(self) -> str:
        """The fault in one line: step, host, reason."""
        where = " ".join(part for part in (self.step and f"{self.step}", self.host and f"on {self.host}") if part)
        by = f" ({self.tool})" if self.tool else ""
        return f"{where}{by}: {self.message}" if where else f"{self.message}{by}"


class FaultError(Exception):
    """Carries a Fault up to the boundary that answers or reports it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.sentence())
        self.fault = fault


def fault_error(
    code: FaultCode, message: str, *, host: str = "", step: str = "", tool: str = "", log_tail: str = ""
) -> FaultError:
    """A FaultError from its parts."""
    return FaultError(Fault(code, message, host=host, step=step, tool=tool, log_tail=log_tail))
