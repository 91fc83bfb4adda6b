"""Two made-up hosts, a VE, and what they say to each other when a migration goes well: for tests of what reads stories."""

from collections.abc import Sequence
from dataclasses import replace

from migrator.core.story import Story
from migrator.core.vocabulary import Event, MigrationRequest, Policy, Replied, Role, Started
from migrator.ports.observer import Observer
from migrator.wire.facts import Claim, HostFacts, Interface, MemoryMethod, Record, Standing, VeFacts, VeState
from migrator.wire.faults import Fault, FaultCode
from migrator.wire.messages import Copied, Departing, HandedOver, Reply, Reserved, Stands

GIB8 = 1 << 33
LINK = Interface("eth0", "02:00:00:00:00:01", "ve-web", "br0", 1500, ("10.0.0.9/24",))
VE = VeFacts("web", "oci", VeState.RUNNING, runtime="crun", memory_bytes=1 << 20, interfaces=(LINK,))
ALPHA = HostFacts(
    "alpha", "6.12", "x86_64", "boot-a", "3.11", 0.0, 2, ("sse2",), GIB8, GIB8, GIB8, GIB8, ("br0",), (), (), ("oci/crun",)
)  # fmt: skip
BETA = replace(ALPHA, host="beta", boot_id="boot-b")
REQUEST = MigrationRequest("m1", "web", "alpha", "beta", "10.0.0.2")
BEGAN_S = 1000.0
STARTED = Started(BEGAN_S + 1, ALPHA, BETA, (VE,), (), 4)
BROKEN = Fault(FaultCode.TOOL_FAILED, "criu ended with 1", "alpha", "dump", "criu", "Error (criu/sk-inet.c:1): no")
LOST = Fault(FaultCode.UNREACHABLE, "no answer from root@10.0.0.1:22 within 30 s", "alpha")
PARTS_S = {"dump": 0.1, "checkpoint": 0.07, "memory sent": 0.15, "last file pass": 0.11, "send": 0.2}
HANDED = HandedOver(0.4, PARTS_S, 3000, 20, 500, criu_s=0.15, wire_s=0.2)


def stands(claim: Claim, migration: str = "m1", order: int = 9) -> Stands:
    """A host's word on the VE, with nothing left to do there."""
    return Stands(Standing(Record("web", claim, order, migration, settled=True), VeState.RUNNING, False))


def good(migration: str = "m1") -> tuple[tuple[Role, Reply], ...]:
    """The replies of a live migration in which nothing goes wrong."""
    return (
        (Role.SOURCE, Departing("key")),
        (Role.TARGET, Reserved(("host key",))),
        (Role.SOURCE, Copied(1, 1.0, 1000, 0.1, 600, 0.1, memory_method=MemoryMethod.TRACKED)),
        (Role.SOURCE, Copied(2, 0.1, 50, 0.1, 60, 0.1, 2000.0, memory_method=MemoryMethod.TRACKED)),
        (Role.SOURCE, HANDED),
        (Role.TARGET, stands(Claim.OWNER, migration)),
        (Role.SOURCE, stands(Claim.GONE, migration)),
    )


GOOD = good()


def said(replies: Sequence[tuple[Role, Reply]], from_s: float = BEGAN_S + 2) -> list[Event]:
    """These replies as events, one second apart."""
    return [Replied(from_s + at, role, reply) for at, (role, reply) in enumerate(replies)]


def undone() -> list[tuple[Role, Reply]]:
    """Both hosts' words that nothing of the migration is left."""
    return [(Role.SOURCE, stands(Claim.HOME)), (Role.TARGET, stands(Claim.REFUSED))]


def tell(
    events: Sequence[Event],
    observers: Sequence[Observer] = (),
    request: MigrationRequest = REQUEST,
    started: Started | None = STARTED,
) -> Story:
    """A story of these events, after `started`, with observers told of each."""
    story = Story(request, BEGAN_S)
    for event in ([started] if started else []) + list(events):
        commands = story.tell(event)
        for observer in observers:
            observer.told(story, event, commands)
    return story


def request(
    migration: str = "m1", source: str = "alpha", target: str = "beta", policy: Policy | None = None
) -> MigrationRequest:
    """Another migration of the same VE."""
    return replace(REQUEST, migration=migration, source=source, target=target, policy=policy or Policy())
