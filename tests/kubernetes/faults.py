"""A door before the API server that fails on purpose, by a seed.

It speaks plain HTTP on loopback and passes requests on to the real server. What it may do instead:
answer 409, 429 or 500 and pass nothing on; pass a request on and *lose the answer* (the hardest: it
was done, and nobody is told); hold a request back for a while; cut a watch after some events. Which
requests are hit is drawn from the seed; `counts` says what was done, so that a test can insist that
something was.
"""

import asyncio
import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import web

from madang.engines.kubernetes.config import Access, Token
from madang.engines.kubernetes.connecting import Connector, settled
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.podprocess import end_server

PATIENCE_S = 30.0
HOP_BY_HOP = frozenset({"transfer-encoding", "content-encoding", "content-length", "connection"})

_SAID = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of requests, 0 to 1; a watch is cut after at most `watch_lines` events (0: never)."""

    conflict: float = 0.0
    too_many: float = 0.0
    broken: float = 0.0  # 500, and nothing was done
    lost: float = 0.0  # it was done, and the connection is cut before the answer
    delay_s: float = 0.0  # the longest that a request is held back
    hold_s: float = 0.0  # so long each one is, and then passed on, whoever still waits for it
    watch_lines: int = 0


ROUGH = Faults(conflict=0.06, too_many=0.05, broken=0.06, lost=0.06, delay_s=0.02, watch_lines=40)
CALM = Faults()


def everything(verb: str, path: str) -> bool:
    return True


class FaultyDoor:
    """`with FaultyDoor(cluster, seed, ROUGH) as door: Client(door.access)`; `faults` may be
    changed at any time, from any thread. `hits` limits the faults to some requests."""

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        faults: Faults = ROUGH,
        hits: Callable[[str, str], bool] = everything,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.faults = faults
        self._hits = hits
        self._cluster = cluster
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *failure: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    @property
    def access(self) -> Access:
        """As the cluster's administrator, through this door."""
        return Access(server=self.url, token=Token(fixed=self._cluster.token))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """End every connection that is open now, watches above all."""

        async def now() -> None:
            for transport in list(self._open_ones):
                transport.abort()
            self.counts["cut"] += 1

        self._call(now())

    # -- the thread ----------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _open(self) -> None:
        self._open_ones: set[asyncio.Transport] = set()
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        self._connector = Connector(limit=0, ssl=trusting)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 20,
        )
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = int(self._runner.addresses[0][1])

    async def _close(self) -> None:
        await end_server(self._runner)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # of connections that were cut
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._session.close()
        self._connector.abort()
        await settled()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._open_ones.add(transport)
        try:
            return await self._faulty(request, transport)
        except aiohttp.ClientError:
            transport.abort()  # the server is away: so are we
            return web.Response(status=502)
        finally:
            self._open_ones.discard(transport)

    async def _faulty(
        self, request: web.Request, transport: asyncio.Transport
    ) -> web.StreamResponse:
        faults, draw = self.faults, self._random
        hit = self._hits(request.method, request.path)
        if "watch" in request.query:
            return await self._watched(request, transport, faults.watch_lines if hit else 0)
        if not hit:
            return await self._passed_on(request)
        await request.read()  # it is passed on also when who asked has gone meanwhile
        self.counts["held"] += bool(faults.hold_s)
        await asyncio.sleep(faults.hold_s + draw.uniform(0, faults.delay_s))
        chances = {409: faults.conflict, 429: faults.too_many, 500: faults.broken}
        if request.method == "GET":
            chances[409] = 0.0  # nothing can conflict with it
        drawn = draw.random()
        for status, chance in chances.items():
            drawn -= chance
            if drawn < 0:
                return self._refusal(status)
        answer = await self._passed_on(request)
        if drawn < faults.lost:
            self.counts["lost"] += 1
            transport.abort()
        return answer

    def _refusal(self, status: int) -> web.Response:
        self.counts[str(status)] += 1
        said = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": status,
            "reason": _SAID[status],
            "message": "on purpose",
            "details": {"retryAfterSeconds": 1} if status == 429 else {},
        }
        body = orjson.dumps(said)
        return web.Response(status=status, body=body, content_type="application/json")

    async def _passed_on(self, request: web.Request) -> web.Response:
        async with self._asked(request, await request.read()) as answer:
            body = await answer.read()
            return web.Response(status=answer.status, body=body, headers=_kept(answer))

    async def _watched(
        self, request: web.Request, transport: asyncio.Transport, lines_max: int
    ) -> web.StreamResponse:
        left = self._random.randint(1, lines_max) if lines_max else 0
        async with self._asked(request, None) as answer:
            stream = web.StreamResponse(status=answer.status, headers=_kept(answer))
            await stream.prepare(request)
            with suppress(ConnectionError):
                async for piece in answer.content.iter_any():
                    await stream.write(piece)
                    if lines_max:
                        left -= piece.count(b"\n")
                        if left <= 0:
                            self.counts["watch"] += 1
                            transport.abort()
                            break
            return stream

    def _asked(self, request: web.Request, body: bytes | None) -> Any:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        headers.pop("Host", None)
        url = self._cluster.url + str(request.rel_url)
        return self._session.request(request.method, url, data=body or None, headers=headers)


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
