"""What every device does, live over a WebSocket, and what it did in the last day."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.live.hub import Hub, Watcher
from madang.api.live.schema import BY_NAME, fields_of
from madang.api.problems import Problem, busy, invalid
from madang.wire import views as wire

QUERY_CHARS_MAX = 512
WORDS_CHARS_MAX = 4_096
RETRY_AFTER_S = 10
LAST_MS = 1 << 53
STANDARD = "state,job,idle,util"
SLOW, MISTAKE, LEAVING = 1013, 1008, 1012  # close codes: try again later; policy; restart


class Live:
    """GET /v1/live, upgraded; and the last day, for replay."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._hub = desk.live

    async def watch(
        self, socket: WebSocket, fields: str = STANDARD, epoch: str = "", since: int = -1
    ) -> None:
        """The columns of all devices, and then their changes; see docs/live.md.

        `fields` is what to watch, separated by commas; a text frame `{"fields": [...]}` changes it.
        `epoch` and `since` name the last tick a client has: it then gets only what it missed.
        """
        wanted = _named(fields.split(",") if len(fields) <= QUERY_CHARS_MAX else [fields])
        limit = self._desk.settings.limits.live_max
        if self._hub.count >= limit:
            raise busy(f"{self._hub.count} clients watch already", RETRY_AFTER_S)
        known = since if epoch == self._hub.epoch else -1
        watcher = Watcher(wanted, known)
        self._hub.join(watcher)
        try:
            await socket.accept()
            await self._serve(socket, watcher)
        finally:
            self._hub.leave(watcher)

    async def history(
        self,
        from_ms: Annotated[int, Query(alias="from", ge=0)] = 0,
        to_ms: Annotated[int, Query(alias="to", ge=0, le=LAST_MS)] = LAST_MS,
    ) -> Response:
        """How many devices were in which state in the last day, a moment a minute or five.

        What is at one of the times is told by /v1/live/moment.
        """
        return answer(wire.LiveHistoryView(**await self._hub.history(from_ms, to_ms)))

    async def moment(self, at: Annotated[int, Query(ge=0, le=LAST_MS)]) -> Response:
        """The last moment of the past day that is not after `at` (Unix ms), or the first kept.

        One message of /v1/live, as somebody who comes new is sent: see docs/live.md.
        """
        try:
            body = await self._hub.moment(at)
        except LookupError as error:
            raise Problem(
                404,
                "no_such_moment",
                f"there is nothing to replay: {error}",
                given=at,
                tries=["GET /v1/live/history tells which moments there are"],
            ) from None
        return Response(body, media_type="application/octet-stream")

    async def _serve(self, socket: WebSocket, watcher: Watcher) -> None:
        """Until the client leaves, stalls, errs, or the server leaves."""
        pump = asyncio.create_task(self._pump(socket, watcher))
        listen = asyncio.create_task(_listen(socket, self._hub, watcher))
        leaving = asyncio.create_task(self._desk.leaving.wait())
        tasks = (pump, listen, leaving)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        code, reason = _end(*ends)
        if code:
            try:
                async with asyncio.timeout(1.0):  # one that stalls would not take this either
                    await socket.close(code, reason)
            except (WebSocketDisconnect, RuntimeError, TimeoutError):
                pass

    async def _pump(self, socket: WebSocket, watcher: Watcher) -> None:
        stall_wait_s = self._desk.settings.limits.stall_wait_s
        await socket.send_text(json.dumps(self._hub.hello(), ensure_ascii=False))
        while True:
            message, tick = await self._hub.next(watcher)
            fields = watcher.fields
            async with asyncio.timeout(stall_wait_s):
                await socket.send_bytes(message)
            if watcher.fields == fields:  # else it has chosen others meanwhile
                watcher.tick = tick


async def _listen(socket: WebSocket, hub: Hub, watcher: Watcher) -> str:
    """Take the client's words until it leaves ("") or says what cannot be understood (why)."""
    while True:
        frame = await socket.receive()
        if frame["type"] != "websocket.receive":
            return ""
        text = frame.get("text") or ""
        try:
            if len(text) > WORDS_CHARS_MAX:
                raise ValueError(f"more than {WORDS_CHARS_MAX} characters")
            names = json.loads(text)["fields"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("fields is not a list of names")
            hub.choose(watcher, fields_of(names))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return f'not {{"fields": [...]}} of known names: {error}'[:120]


def _end(pump: Any, listen: Any, leaving: Any) -> tuple[int, str]:
    """The close code and reason; 0 where nobody is there to hear it."""
    if leaving is True:
        return LEAVING, "the daemon stops; try again soon"
    if isinstance(listen, str):
        return (MISTAKE, listen) if listen else (0, "")
    if isinstance(pump, TimeoutError):
        return SLOW, "nothing was read for too long"
    if isinstance(pump, Exception) and not isinstance(pump, WebSocketDisconnect | RuntimeError):
        raise pump
    return 0, ""


def _named(names: Sequence[str]) -> tuple[int, ...]:
    try:
        return fields_of([name.strip() for name in names if name.strip()])
    except KeyError as error:
        raise invalid(
            [
                {
                    "type": "value_error",
                    "loc": ("query", "fields"),
                    "msg": f"there is no field {str(error)[:60]}; there are {', '.join(BY_NAME)}",
                    "input": ",".join(names)[:200],
                }
            ],
            {},
        ) from None


def live_router(desk: Desk) -> APIRouter:
    """The one WebSocket, and what it would have told."""
    live = Live(desk)
    binary = "application/octet-stream"
    router = router_of(
        "live",
        [
            Route("GET", "/v1/live/history", live.history, wire.LiveHistoryView),
            Route("GET", "/v1/live/moment", live.moment, None, 200, (404, 422), binary),
        ],
    )
    router.add_api_websocket_route("/v1/live", live.watch)
    return router
