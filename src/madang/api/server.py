"""The HTTP server, within limits: uvicorn, with a protocol that lets nobody hold the daemon up.

- A connection that is slow with its request's head is closed; an endless head is answered 431.
- Of too many connections the longest idle one makes room for the newest; if none is idle, the new
  one is told 503. So ten thousand silent connections lock nobody out and cost a bounded sum.
- What remains of a refused body is read and dropped, for so long, that the client sees the answer.
- A client that reads nothing can be cut off: the scope carries the means.
"""

import asyncio
import resource
import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from madang.api.gate import CUT
from madang.api.problems import Problem
from madang.api.settings import ApiSettings, Limits

FILES_RESERVED = 512  # for the ledger, the engine, logs and terminals, beside connections
CONNECTIONS_MIN = 64
BACKLOG = 1_024
SHUTDOWN_WAIT_S = 3  # then streams are cut; their clients resume with the next daemon
WEBSOCKET_BYTES_MAX = 1 << 20
DISCARD_WAIT_S = 30.0


def make_server(
    app: FastAPI, settings: ApiSettings, on_ready: Callable[[], object] = bool
) -> uvicorn.Server:
    """A server for `server.run(sockets=[…])`; it calls `on_ready` once it listens."""
    limits = settings.limits
    crowd = Crowd(limits, connections_allowed(limits.connections_max))
    config = uvicorn.Config(
        app,
        http=partial(BoundedProtocol, crowd=crowd),  # type: ignore[arg-type]
        ws="websockets-sansio",
        ws_max_size=WEBSOCKET_BYTES_MAX,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,  # it would write login links into a log
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(limits.idle_wait_s),
        timeout_graceful_shutdown=SHUTDOWN_WAIT_S,
    )
    return TellingServer(config, on_ready)


class TellingServer(uvicorn.Server):
    """Tells its maker when it listens, and the application that it leaves before it waits for the
    requests in hand.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert isinstance(self.config.app, FastAPI), f"made by make_server: {self.config.app}"
        self.config.app.state.leave()
        await super().shutdown(sockets)


def connections_allowed(connections_max: int) -> int:
    """As many as asked, but so that the process keeps files enough for all else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections_max
    return min(connections_max, max(CONNECTIONS_MIN, soft - FILES_RESERVED))


class Crowd:
    """All connections, and which of them are idle, the longest idle first."""

    def __init__(self, limits: Limits, connections_max: int) -> None:
        self.limits = limits
        self.connections_max = connections_max
        self.count = 0
        self.idle: OrderedDict[BoundedProtocol, None] = OrderedDict()

    def make_room(self) -> bool:
        """True iff one more connection may stay."""
        if self.count < self.connections_max:
            return True
        if not self.idle:
            return False
        longest, _ = self.idle.popitem(last=False)
        longest.transport.abort()
        return True


def _raw(status: str, problem: Problem) -> bytes:
    """A whole answer for a connection that has no request yet."""
    response = problem.response()
    head = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in response.raw_headers)
    return f"HTTP/1.1 {status}\r\n{head}connection: close\r\n\r\n".encode() + bytes(response.body)


CROWDED = _raw(
    "503 Service Unavailable",
    Problem(
        503,
        "busy",
        "there are too many connections, and none of them is idle",
        tries=["again in 2 s"],
        headers={"retry-after": "2"},
    ),
)
LONG_HEAD = _raw(
    "431 Request Header Fields Too Large",
    Problem(431, "bad_request", "the request's headers are too large", allowed="64 KiB"),
)


class BoundedProtocol(HttpToolsProtocol):
    """One connection; see the module's docstring."""

    def __init__(self, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._counted = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._discarded_bytes = 0
        self._discard_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        room = self._crowd.make_room()
        super().connection_made(transport)
        self._crowd.count += 1
        self._counted = True
        if not room:
            transport.write(CROWDED)
            transport.close()
            return
        self._crowd.idle[self] = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self._crowd.count -= 1
        self._crowd.idle.pop(self, None)
        for timer in (self._head_timer, self._discard_timer):
            if timer is not None:
                timer.cancel()

    def _await_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        if self._head_timer is None:
            wait_s = self._crowd.limits.head_wait_s
            self._head_timer = self.loop.call_later(wait_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # Counted after parsing: the bytes may have ended the head.
        if self._in_head and self._head_bytes > self._crowd.limits.head_bytes_max:
            self.transport.write(LONG_HEAD)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CUT] = self.transport.abort  # type: ignore[literal-required]
        self._await_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._crowd.idle.pop(self, None)
        self._discarded_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def _discard(self, count: int) -> None:
        """Of a body that nobody wants any more: bounded in bytes and in time."""
        self._discarded_bytes += count
        if self._discarded_bytes > self._crowd.limits.discard_bytes_max:
            self.transport.abort()
        elif self._discard_timer is None:
            self._discard_timer = self.loop.call_later(DISCARD_WAIT_S, self.transport.abort)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
            # The answer went out long ago: only now is the connection idle.
            self._idle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._idle()

    def _idle(self) -> None:
        self._crowd.idle[self] = None
        self._crowd.idle.move_to_end(self)
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def handle_websocket_upgrade(self) -> None:
        self._leave()
        super().handle_websocket_upgrade()
