"""A dump that is given up before CRIU has its order: the last pass of the files has failed beside it, say."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from agents.engines.oci import checkpoints, criu, engine
from agents.engines.oci.engine import OciEngine
from agents.engines.oci.waiting import Call, Waiting
from migrator.wire.faults import FaultCode, FaultError, fault_error

LIMIT_S = 20.0


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Waiting]:
    """Every runtime that is started. It says that it waits only if a file `may-wait` is there, and does so for ever."""
    begun: list[Waiting] = []
    runtime = f"[ ! -e {tmp_path}/may-wait ] || touch {tmp_path}/door/ready; exec sleep 1000"
    call = Call(("sh", "-c", runtime), tmp_path / "config")
    begin = Waiting.begin

    async def noted(*args: object) -> Waiting:
        begun.append(await begin(*args))  # type: ignore[arg-type]
        return begun[-1]

    monkeypatch.setattr(Waiting, "begin", noted)
    monkeypatch.setattr(checkpoints, "Bundle", lambda _: SimpleNamespace(runtime=None))
    monkeypatch.setattr(criu, "dump_call", lambda *_: call)
    for module in (checkpoints, engine):
        monkeypatch.setattr(module, "work_of", lambda _: tmp_path)
    return begun


async def test_while_the_runtime_starts(tmp_path: Path, begun: list[Waiting]) -> None:
    """The runtime ends with the dump."""
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(OciEngine().dump, "ve", tmp_path / "images")
            while not begun:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    assert not begun[0].alive


async def test_before_the_order(tmp_path: Path, begun: list[Waiting], monkeypatch: pytest.MonkeyPatch) -> None:
    """So does one that waits already."""
    (tmp_path / "may-wait").touch()
    made = OciEngine()

    async def fails(_: str) -> None:
        raise fault_error(FaultCode.TOOL_FAILED, "a process cannot be noted")

    monkeypatch.setattr(made, "note_frozen", fails)
    with trio.fail_after(LIMIT_S), pytest.raises(FaultError, match="cannot be noted"):
        await made.dump("ve", tmp_path / "images")

    assert not begun[0].alive
