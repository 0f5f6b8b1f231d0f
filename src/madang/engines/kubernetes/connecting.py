"""Connections of an HTTP session that end when it does.

aiohttp forgets a TLS connection as soon as it has begun to close it: a watch that is left half way
waits for the server's farewell, which takes as long as the server is busy, and an event loop that
ends meanwhile leaves a socket open. Here whatever is not closed by then is aborted.
"""

import asyncio
from ssl import SSLContext
from weakref import WeakSet

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

TURNS = 8  # of the loop; a transport that was aborted has closed its socket after two


class Connector(TCPConnector):
    """Knows its transports until they are gone."""

    def __init__(self, *, limit: int, ssl: SSLContext | bool) -> None:
        super().__init__(limit=limit, ssl=ssl)
        self._made: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's own verb
    ) -> ResponseHandler:
        made = await super()._create_connection(req, traces, timeout)
        if made.transport is not None:
            self._made.add(made.transport)
        return made

    def abort(self) -> None:
        """End what has not ended; without a farewell."""
        for transport in list(self._made):
            assert isinstance(transport, asyncio.Transport), f"a stream was asked for: {transport}"
            transport.abort()


async def settled() -> None:
    """The loop has had the turns that transports take to end."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
