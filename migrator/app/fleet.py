"""Many migrations at once: at most so many from or to a host, and so many altogether.

Rule: who waits for a place waits for both of its hosts in the order of their names, so that no two wait for each other. Other
controllers of the same journal count as well: the journal takes a migration in only while its hosts have a place.
"""

from collections.abc import Callable, Mapping, Sequence

import trio

from migrator.app.driver import Driver, Surroundings, first_fault
from migrator.core.story import Story
from migrator.core.vocabulary import MigrationRequest
from migrator.ports.journal import LeaseLost, NoPlace
from migrator.wire.faults import FaultCode, FaultError, fault_error

ASK_AGAIN_S = 1.0


class Fleet:
    """Runs migrations within the limits of their hosts."""

    def __init__(
        self,
        around: Surroundings,
        per_host: Mapping[str, int],
        parallel: int,
        waits: Callable[[MigrationRequest, str], None] = lambda request, why: None,
    ) -> None:
        """`waits` hears once of each migration that waits for another controller's to end, and why."""
        self._around, self._per_host, self._waits = around, per_host, waits
        self._places = {host: trio.CapacityLimiter(number) for host, number in per_host.items()}
        self._all = trio.CapacityLimiter(parallel)
        self.drivers: dict[str, Driver] = {}
        self._aborting = ""

    async def run(
        self, requests: Sequence[MigrationRequest], ended: Callable[[MigrationRequest, Story | FaultError], None]
    ) -> None:
        """All of them, each to its end; `ended` hears how. One that fails does not stop the others."""

        async def one(request: MigrationRequest) -> None:
            first, second = sorted((request.source, request.target))
            async with self._all, self._places[first], self._places[second]:
                ended(request, await self._drive(request))

        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(one, request)

    async def _drive(self, request: MigrationRequest) -> Story | FaultError:
        """One of them. Lost to another controller, it is that one's: the story is told as far as it is known here."""
        driver = await self._begin(request)
        if isinstance(driver, FaultError):
            return driver
        self.drivers[request.migration] = driver
        outcome: Story | FaultError = driver.story
        try:
            await driver.run()
        except* FaultError as group:
            outcome = first_fault(group)
        except* LeaseLost:
            pass
        finally:
            del self.drivers[request.migration]
        return outcome

    async def _begin(self, request: MigrationRequest) -> Driver | FaultError:
        """As soon as both hosts have a place."""
        told = False
        while not self._aborting:
            try:
                return await Driver.begin(request, self._around, self._per_host)
            except NoPlace as busy:
                if not told:
                    self._waits(request, str(busy))
                told = True
                await trio.sleep(ASK_AGAIN_S)
        return fault_error(FaultCode.ABORTED, f"aborted by {self._aborting} before it began")

    def abort(self, who: str) -> None:
        """Undo all that can be undone; what has not begun does not begin."""
        self._aborting = who
        for driver in self.drivers.values():
            driver.abort(who)
