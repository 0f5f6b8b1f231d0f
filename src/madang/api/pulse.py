"""One wait for the journal, shared by all who wait: streams, followed logs, the event feed."""

import asyncio
import logging

from madang.api.yard import Yard

log = logging.getLogger("madang.api")
RETRY_S = 1.0


class Pulse:
    """Wakes everybody when the journal has grown. Waits only while somebody does."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard
        self._seq = -1
        self._grown = asyncio.Event()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    async def beat(self, after: int, wait_s: float) -> int:
        """The last committed sequence, once it is above `after` or the time is over."""
        if self._task is None or self._task.done():
            self._seq = await self._yard.wait_for_events(-1)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._follow(), name="madang-pulse")
        if self._seq > after:
            return self._seq
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._grown.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
        return self._seq

    async def _follow(self) -> None:
        """Ends by itself when the journal grows and nobody waits for it any more."""
        while True:
            try:
                self._seq = await self._yard.wait_for_events(self._seq)
            except Exception:
                log.exception("cannot wait for events")
                await asyncio.sleep(RETRY_S)
            if not self._waiting:
                return
            self._grown.set()
            self._grown = asyncio.Event()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
