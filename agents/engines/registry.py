"""Which engines this agent knows. A new kind of VE is one line here."""

from agents.engines.oci.engine import OciEngine
from agents.engines.openvz.engine import OpenVzEngine
from agents.engines.port import Engine
from agents.engines.vserver.engine import VserverEngine
from migrator.wire.faults import FaultCode, fault_error


class Registry:
    """The engines, by name, and where a VE is found among them."""

    def __init__(self) -> None:
        engines: tuple[Engine, ...] = (OciEngine(), OpenVzEngine(), VserverEngine())
        self.engines = {engine.name: engine for engine in engines}

    def named(self, name: str) -> Engine:
        """Raises FaultError(ENGINE_MISSING)."""
        if name not in self.engines:
            raise fault_error(FaultCode.ENGINE_MISSING, f"engine {name!r} is not known here")
        return self.engines[name]

    async def holding(self, ve: str) -> Engine:
        """The engine that has this VE here. Raises FaultError(UNKNOWN_VE)."""
        for engine in self.engines.values():
            if await engine.inspect(ve) is not None:
                return engine
        raise fault_error(FaultCode.UNKNOWN_VE, f"there is no VE {ve} on this host")
