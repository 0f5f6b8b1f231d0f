"""A shell or a command beside a running member, as a terminal over a WebSocket."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from madang.api.desk import Desk
from madang.api.problems import Problem, busy, invalid
from madang.api.pty import Terminal
from madang.core.model import Allocation

COMMAND_CHARS_MAX = 65_536
ARGUMENTS_MAX = 1_024
SIDE_MAX = 10_000  # rows and columns of a terminal
EXITED = 1000
SHELL = '["sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"]'


class Terminals:
    """One handler: GET /v1/jobs/{id}/exec, upgraded."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open = 0

    async def exec_command(
        self,
        socket: WebSocket,
        id: str,
        member: int = 0,
        command: Annotated[str, Query(max_length=COMMAND_CHARS_MAX)] = SHELL,
        rows: int = 24,
        cols: int = 80,
    ) -> None:
        """A command on a terminal beside a running member.

        Binary frames are the terminal's bytes, both ways; a text frame `{"resize": [rows, cols]}`
        resizes it. The last text frame is `{"exit": code}`. What still runs ends with the socket.
        """
        limit = self._desk.settings.limits.exec_max
        if self._open >= limit:
            raise busy(f"{self._open} terminals are open already", retry_after_s=10)
        self._open += 1
        try:
            argv = _command(command)
            size = (_side(rows, "rows"), _side(cols, "cols"))
            allocation = await self._running(socket, id, member)
            spawn = await self._desk.files.read(
                self._desk.yard.exec_command, allocation.id, member, argv
            )
            terminal = await Terminal.open(spawn, size)
            try:
                await socket.accept()
                await _serve(socket, terminal)
            finally:
                await terminal.close()
        finally:
            self._open -= 1

    async def _running(self, socket: WebSocket, id: str, member: int) -> Allocation:
        record = await self._desk.job(id)
        self._desk.check_own(socket, record, "open a terminal beside it")
        newest = record.newest
        if newest is None or record.standing.phase.is_final:
            raise Problem(
                409,
                "conflict",
                f"{record.job.id} does not run: it is {record.standing.phase.value}",
                given=record.standing.phase.value,
                allowed=["running"],
            )
        self._desk.check_member(newest, max(member, 0))
        if member < 0 or not newest.started >> member & 1 or not newest.holds(member):
            state = "has ended" if not newest.holds(max(member, 0)) else "has not started yet"
            raise Problem(
                409, "conflict", f"member {member} of {record.job.id} {state}", given=member
            )
        return newest


async def _serve(socket: WebSocket, terminal: Terminal) -> None:
    """Both directions until the command ends or the client leaves."""
    typed = asyncio.create_task(_take_input(socket, terminal))
    shown = asyncio.create_task(_send_output(socket, terminal))
    try:
        await asyncio.wait({typed, shown}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (typed, shown):
            task.cancel()
        await asyncio.gather(typed, shown, return_exceptions=True)
    if shown.cancelled() or socket.client_state is not WebSocketState.CONNECTED:
        return
    try:
        await socket.send_text(json.dumps({"exit": await terminal.exit_code()}))
        await socket.close(EXITED)
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client left at the same moment


async def _send_output(socket: WebSocket, terminal: Terminal) -> None:
    while block := await terminal.read():
        await socket.send_bytes(block)


async def _take_input(socket: WebSocket, terminal: Terminal) -> None:
    while True:
        frame = await socket.receive()
        if frame["type"] != "websocket.receive":
            return
        if frame.get("bytes") is not None:
            await terminal.write(frame["bytes"])
        elif (size := _resize(frame.get("text") or "")) is not None:
            terminal.resize(*size)


def _resize(text: str) -> tuple[int, int] | None:
    """(rows, columns) of a resize frame; None for anything else, which is ignored."""
    try:
        rows, cols = json.loads(text)["resize"]
        return _side(rows, "rows"), _side(cols, "cols")
    except (ValueError, TypeError, KeyError, RecursionError, Problem):
        return None


def _side(value: Any, name: str) -> int:
    if isinstance(value, int) and 1 <= value <= SIDE_MAX:
        return value
    raise _mistake(name, value, f"a number from 1 to {SIDE_MAX:,}")


def _command(text: str) -> list[str]:
    """The program and its arguments: a JSON list of texts, which no shell ever sees."""
    allowed = 'a JSON list of texts, such as ["bash","-l"]'
    try:
        argv = json.loads(text)
    except (ValueError, RecursionError):
        raise _mistake("command", text, allowed) from None
    if not isinstance(argv, list) or not 1 <= len(argv) <= ARGUMENTS_MAX:
        raise _mistake("command", text, allowed)
    if not all(isinstance(part, str) and "\0" not in part for part in argv) or not argv[0]:
        raise _mistake("command", text, allowed)
    return argv


def _mistake(name: str, given: Any, allowed: str) -> Problem:
    return invalid(
        [
            {
                "type": "value_error",
                "loc": ("query", name),
                "msg": f"it must be {allowed}",
                "input": given,
            }
        ],
        {},
    )


def terminal_router(desk: Desk) -> APIRouter:
    """The one WebSocket."""
    router = APIRouter(tags=["jobs"])
    router.add_api_websocket_route("/v1/jobs/{id}/exec", Terminals(desk).exec_command)
    return router
