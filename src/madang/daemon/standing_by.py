"""A replica that does not lead: it answers for its health, and waits for its turn.

Until the engine leads, the door is answered here: `GET /v1/health` as a standby, everything else by
503 and when to come again. Whoever is not answered yet when this process begins to lead is answered
by the API. An engine without a lease leads at once. Promises: a slow or large request costs one
task and some kilobytes, for seconds.
"""

import asyncio
import importlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from madang import __version__
from madang.core.scoring import compiles
from madang.engines.base import Engine

log = logging.getLogger("madang.daemon")

REQUEST_BYTES_MAX = 16 * 1024
REQUEST_S = 5.0
CONNECTIONS_MAX = 256
RETRY_AFTER_S = 2
LOOK_S = 1.0


class Leads(Protocol):
    """The verbs of an engine of which several processes may be open, and one leads."""

    def warm(self) -> None: ...
    def lead(self, leaving: threading.Event, lost: Callable[[], None]) -> bool: ...
    def nodes_known(self) -> int: ...
    def close(self) -> None: ...


def stand_by(engine: Engine, door: socket.socket) -> None:
    """Return when this process leads. When it leads no more it ends, to stand by anew.

    Raises:
        EngineError: what it runs on cannot be reached.
    """
    if not hasattr(engine, "lead"):
        return
    leads = cast(Leads, engine)
    leads.warm()
    # The next leader has what takes seconds behind it: what is imported, and compiled.
    answerer = _Answerer(door, lambda: compiles(leads.nodes_known()))
    answerer.open()
    log.info("version %s stands by, process %d", __version__, os.getpid())
    try:
        importlib.import_module("madang.api")
        leads.lead(threading.Event(), _step_down)
    except BaseException:
        leads.close()
        raise
    finally:
        answerer.close()
    log.info("process %d leads", os.getpid())


def _step_down() -> None:
    log.critical("another process leads, or may: this one ends, and stands by once it is restarted")
    os.kill(os.getpid(), signal.SIGTERM)


class _Answerer:
    """A thread with a loop of its own that answers the door, and calls `beside` now and then."""

    def __init__(self, door: socket.socket, beside: Callable[[], object]) -> None:
        self._door = door.dup()
        self._beside = beside
        self._loop = asyncio.new_event_loop()
        self._open = 0
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
        self._leaving = asyncio.Event()

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join(2 * REQUEST_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._answer, sock=self._door, limit=REQUEST_BYTES_MAX, backlog=CONNECTIONS_MAX
        )
        async with server:
            while not self._leaving.is_set():
                self._beside()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), LOOK_S)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(answer(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who does not ask is not answered
        finally:
            self._open -= 1
            writer.close()


def answer(head: bytes) -> bytes:
    """The whole answer to a request with this head."""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    path = words[1].partition(b"?")[0] if len(words) == 3 else b""
    if words[0] in (b"GET", b"HEAD") and path == b"/v1/health":
        status, more = "200 OK", ""
        said: dict[str, object] = {"status": "ok", "version": __version__, "role": "standby"}
    else:
        status, more = "503 Service Unavailable", f"Retry-After: {RETRY_AFTER_S}\r\n"
        said = {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "code": "standby",
            "detail": "this replica stands by; another one leads",
        }
    body = json.dumps(said).encode()
    kind = "application/json" if status.startswith("200") else "application/problem+json"
    lines = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\n{more}Connection: close\r\n\r\n"
    )
    return lines.encode() + (b"" if words[0] == b"HEAD" else body)
