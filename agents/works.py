"""The acts of one VE on this host, whichever way it moves, as the keeper asks for them.

Rule: this file knows whose act it is, and nothing else. In every act the record says which way the VE moves (live or stop-copy)
and in which state it is to rest.
"""

from agents.arriving import Arriving
from agents.engines.port import Engine
from agents.handover.vocabulary import Act, PeerOrder
from agents.leaving import Leaving
from migrator.wire.facts import Record, VeState
from migrator.wire.messages import Confirm, HandedOver, PeerRestore, PreCopy, Reply, Reserve

AT_THE_TARGET = frozenset({Act.ACCEPT, Act.HOLD, Act.RUN, Act.HALT, Act.ANNOUNCE, Act.DROP, Act.FORBID, Act.LIFT})


class VeWorks:
    """See `agents.keeper.Works`."""

    def __init__(self, ve: str, engine: Engine) -> None:
        self._ve, self._engine = ve, engine
        self.leaving, self.arriving = Leaving(ve, engine), Arriving(ve, engine)

    async def look(self) -> VeState:
        """The state now."""
        state = await self._engine.look(self._ve)
        self.arriving.held = self.arriving.held or state is VeState.FROZEN
        return state

    async def act(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        """Carry out one act. Raises FaultError."""
        side = self.arriving if act in AT_THE_TARGET else self.leaving
        return await side.act(act, record)

    def expect(self, order: Reserve | PeerRestore | PreCopy | Confirm) -> None:
        """What the next act needs to know of an order that is being obeyed."""
        match order:
            case Reserve():
                self.arriving.reservation = order
            case PreCopy():
                self.leaving.round = order
            case PeerRestore():
                self.arriving.manifest = order.manifest
            case Confirm():
                self.arriving.alone = order.alone

    async def tell_peer(self, message: PeerOrder) -> Reply:
        """Ask the other agent. Raises FaultError(PEER_LOST) when it does not answer."""
        return await self.leaving.tell_peer(message)

    def measured(self) -> HandedOver:
        """What the blackout was made of; called when the target has said that the VE runs."""
        return self.leaving.measured()
