"""Runs one VE's hand-over machine: gives it events, carries out its commands.

Rule: events of one VE are handled one at a time, in the order they came; a record is on disk before what follows it;
an act that is under way when the machine wants to undo is cancelled first.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from agents import log
from agents.failures import fault_of
from agents.handover import roles
from agents.handover.source import Source
from agents.handover.target import Target
from agents.handover.vocabulary import (
    Act,
    Answer,
    Arm,
    Booted,
    Command,
    DeadlinePassed,
    Did,
    DidNot,
    Do,
    Event,
    Ordered,
    PeerOrder,
    PeerSaid,
    TellPeer,
    Write,
)
from agents.handover.vocabulary import Order as ControllerOrder
from agents.records import Records
from migrator.wire.facts import Record, Standing, VeState
from migrator.wire.faults import Fault, FaultCode, FaultError
from migrator.wire.messages import Confirm, Depart, HandedOver, PeerRestore, PreCopy, Reply, Reserve, Stands

IN_BACKGROUND = frozenset({Act.ANNOUNCE})
"""Acts beside which the machine goes on; they are never given up."""
UNDOING = frozenset({Act.THAW, Act.UNPREPARE, Act.HALT, Act.DROP, Act.FORBID})
"""Acts that are carried to their end whatever happens."""


class Works(Protocol):
    """What the keeper needs done; `agents.works` does it with the engine, the network and the channel."""

    async def act(self, act: Act, record: Record) -> Reply | dict[str, str] | None:
        """Carry out one act. Raises FaultError."""
        ...

    def expect(self, order: Reserve | PeerRestore | PreCopy | Confirm) -> None:
        """What the next act needs to know of an order that is being obeyed."""
        ...

    async def tell_peer(self, message: PeerOrder) -> Reply:
        """Ask the other agent. Raises FaultError(UNREACHABLE or PEER_LOST) when it does not answer."""
        ...

    async def look(self) -> VeState:
        """The VE's state, asked now."""
        ...

    def measured(self) -> HandedOver:
        """What the last blackout was made of."""
        ...


class Keeper:
    """One VE on this host."""

    def __init__(self, record: Record, records: Records, works: Works, nursery: trio.Nursery) -> None:
        self.machine: Source | Target = roles.machine_for(record)
        self._records, self._works, self._nursery = records, works, nursery
        self._turn = trio.Lock()
        self._waiting: dict[int, trio.MemorySendChannel[Reply | None]] = {}
        self._tickets = 0
        self._act_scope: trio.CancelScope | None = None
        self._told = 0
        self._deadline = trio.CancelScope()

    @property
    def works(self) -> Works:
        """What does the acts."""
        return self._works

    async def standing(self) -> Stands:
        """Where the VE stands here now."""
        working = self.machine.stage != roles.IDLE
        return Stands(Standing(self.machine.record, await self._works.look(), working))

    async def order(self, order: ControllerOrder | PeerOrder) -> Reply:
        """Give an order and wait for its answer."""
        send, receive = trio.open_memory_channel[Reply | None](1)
        async with self._turn:
            if isinstance(order, Depart | Reserve):
                self.machine = roles.machine_after(self.machine, order, await self._works.look())
            self._tickets += 1
            self._waiting[self._tickets] = send
            await self._handle(Ordered(order, self._tickets))
        reply = await receive.receive()
        return await self.standing() if reply is None else reply

    async def booted(self, *, rebooted: bool) -> None:
        """The agent has just started; `rebooted`: and so has the host, since the record was written."""
        await self.feed(Booted(await self._works.look(), rebooted))

    async def feed(self, event: Event) -> None:
        """Let the machine handle an event, and carry out what it wants."""
        async with self._turn:
            await self._handle(event)

    async def _handle(self, event: Event) -> None:
        commands = self.machine.handle(event)
        log.told(self.machine.record, self.machine.stage, event, commands)
        for command in commands:
            await self._carry_out(command)
        if self._act_scope is not None and roles.undoing(self.machine):
            self._act_scope.cancel()

    async def _carry_out(self, command: Command) -> None:
        match command:
            case Write(record=record):
                self._write(record)
            case Do(act=act, order=order):
                if order is not None:
                    self._works.expect(order)
                self._nursery.start_soon(self._act, act)
            case TellPeer(message=message, delay_s=delay_s):
                self._told += 1
                self._nursery.start_soon(self._tell, message, delay_s, self._told)
            case Arm(limit_s=limit_s):
                self._deadline.cancel()
                if limit_s is not None:
                    self._deadline = trio.CancelScope()
                    self._nursery.start_soon(self._watch, self._deadline, limit_s)
            case Answer(ticket=ticket, reply=reply):
                if channel := self._waiting.pop(ticket, None):
                    # The machine knows that it was handed over; what it took is known where it was done.
                    channel.send_nowait(self._works.measured() if isinstance(reply, HandedOver) else reply)

    def _write(self, record: Record) -> None:
        try:
            self._records.write(record)
        except OSError as error:
            # The machine is ahead of the disk now. Whoever starts the agent again starts it from the disk.
            raise SystemExit(f"the record of {record.ve} cannot be written: {error}") from error

    async def _act(self, act: Act) -> None:
        await self.feed(await self._outcome(act, lambda: self._works.act(act, self.machine.record)))

    async def _outcome(self, act: Act, work: Callable[[], Awaitable[Reply | dict[str, str] | None]]) -> Event:
        scope = trio.CancelScope(shield=act in UNDOING)
        if act not in UNDOING | IN_BACKGROUND:
            self._act_scope = scope
            if roles.undoing(self.machine):
                scope.cancel()  # decided before the act had begun
        try:
            with scope:
                return Did(act, await work())
        except Exception as error:  # a mistake of ours must not take the daemon, and others' VEs, with it
            return DidNot(act, fault_of(error, str(act)))
        finally:
            if self._act_scope is scope:
                self._act_scope = None
        return DidNot(act, Fault(FaultCode.CONFLICT, "given up because the move is undone", step=str(act)))

    async def _tell(self, message: PeerOrder, delay_s: float, number: int) -> None:
        await trio.sleep(delay_s)
        if number != self._told:
            return  # something else was said meanwhile
        try:
            reply = await self._works.tell_peer(message)
        except FaultError as error:
            reply = error.fault
        await self.feed(PeerSaid(reply, message))

    async def _watch(self, scope: trio.CancelScope, limit_s: float) -> None:
        with scope:
            await trio.sleep(limit_s)
            await self.feed(DeadlinePassed())
