"""Answers without an end: each write has to be taken in time, and a client that left is noticed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from madang.api.gate import CUT, VOID

CUT_WAIT_S = 1.0


class Stream(Response):
    """Blocks of bytes from an iterator.

    The stream is cut off, to be resumed elsewhere or later, when the server is leaving; and when
    its caller is revoked.
    A client that takes nothing for `stall_wait_s` is cut off, so what is kept for it is one block
    and the socket's buffers. The iterator is closed when the client leaves or the stream ends.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        media_type: str,
        *,
        stall_wait_s: float,
        leaving: asyncio.Event,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, 200, headers, media_type)
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._blocks = blocks
        self._stall_wait_s = stall_wait_s
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        blocks = self._blocks
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(_left(receive))
        leaving = asyncio.create_task(self._leaving.wait())
        void = asyncio.create_task(scope.get(VOID, _never)())
        tasks = (pump, gone, leaving, void)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() or void.done() or (pump.done() and not pump.result()):
                scope.get(CUT, _nothing)()
                # Until the server has seen it too: else it complains of an unfinished answer.
                await asyncio.wait({gone}, timeout=CUT_WAIT_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(blocks, AsyncGenerator):
                await blocks.aclose()

    async def _pump(self, send: Send) -> bool:
        """Send all blocks. False: the client does not take them."""
        blocks = aiter(self._blocks)
        # The first block before the status: a stream that can't begin is a problem, not a 200.
        first = await anext(blocks, None)
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            if first is not None:
                await self._write(send, first)
                async for block in blocks:
                    await self._write(send, block)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return False
        return True

    async def _write(self, send: Send, block: bytes) -> None:
        async with asyncio.timeout(self._stall_wait_s):
            await send({"type": "http.response.body", "body": block, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    pass


async def _never() -> None:
    await asyncio.Event().wait()
