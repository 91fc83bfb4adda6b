"""What the source measures of one blackout.

Rule: one clock, the source's own monotonic one; parts may overlap, the whole is not their sum.
"""

from dataclasses import dataclass, field

from agents.handover.vocabulary import Act
from migrator.wire.messages import HandedOver


@dataclass(slots=True)
class Blackout:
    """What the source measures of one blackout, on its own monotonic clock."""

    began_s: float = 0.0
    ended_s: float = 0.0
    parts_s: dict[str, float] = field(default_factory=dict)
    image_bytes: int = 0
    file_bytes: int = 0
    memory_bytes: int = 0
    owed_bytes: int = 0
    criu_s: float = 0.0

    @property
    def waited_for_wire_s(self) -> float:
        """How long nothing else was left to be done than to send the rest of the memory."""
        beside = max(self.parts_s.get("checkpoint", 0.0), self.parts_s.get("last file pass", 0.0))
        return max(0.0, self.parts_s.get("memory sent", 0.0) - beside)

    def handed_over(self) -> HandedOver:
        """As the controller is told."""
        if not self.began_s:
            return HandedOver(0.0)  # an earlier process of this agent measured it, and is gone
        return HandedOver(
            max(0.0, self.ended_s - self.began_s),
            dict(self.parts_s),
            self.image_bytes,
            self.file_bytes,
            self.memory_bytes,
            owed_bytes=self.owed_bytes,
            criu_s=self.criu_s,
            wire_s=self.parts_s.get(str(Act.SEND), 0.0) + self.waited_for_wire_s,
        )
