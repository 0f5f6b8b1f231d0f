"""One clock and one encoding for everyone who watches.

While anybody watches, a thread of its own looks at the yard once a tick; what changed is written
once and every client is sent the same bytes. A client owns only the number of the tick it has. It
is given the next message when it has taken the last one: one that reads slowly skips to the newest
moment, nothing is ever queued for it, and it costs the others nothing. While nobody watches,
nothing runs but a look a minute, which is kept for replay.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from madang.api.live.board import Board
from madang.api.live.chronicle import Chronicle
from madang.api.live.frames import Picture, Ring
from madang.api.live.schema import FIELDS
from madang.api.live.sensors import Sensors
from madang.api.readers import Readers
from madang.api.yard import Yard

log = logging.getLogger("madang.api")

TICK_S = 1.0
REST_FACTOR = 3  # a look that took 500 ms is followed by 1.5 s of rest at least
HEARTBEAT_S = 5.0  # nothing changes: a client still hears that this is so
KEPT_S = 180.0  # the ring outlives its last client, who may only have lost the line
RETRY_S = 2.0
WAITING_MAX = 1_024
KEEP_LOOK_S = 10.0  # how often it is asked whether a moment is due

Key = tuple[tuple[int, ...], int]
Message = tuple[bytes, int]


@dataclass(slots=True)
class Watcher:
    """A client: which fields it wants, and the tick it has (-1: none)."""

    fields: tuple[int, ...]
    tick: int = -1


class Hub:
    """See the module's docstring. Used on the event loop; `_look` and `_message` in its thread."""

    def __init__(
        self, yard: Yard, sensors: Sensors, now_ms: Callable[[], int], chronicle: Chronicle
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self._yard = yard
        self._now_ms = now_ms
        self._board = Board(sensors)
        self._chronicle = chronicle
        self._keeper: asyncio.Task[None] | None = None
        self._ring = Ring()
        self._thread = Readers("live", 1, WAITING_MAX)
        self._watchers: list[Watcher] = []
        self._newest = 0
        self._news = asyncio.Event()
        self._made: dict[Key, asyncio.Task[Message]] = {}
        self._task: asyncio.Task[None] | None = None
        self._forget: asyncio.TimerHandle | None = None
        self._told_s = 0.0

    @property
    def count(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def hello(self) -> dict[str, Any]:
        """What a client is told first."""
        return {
            "type": "hello",
            "epoch": self.epoch,
            "tick": self._newest,
            "tick_ms": int(TICK_S * 1000),
            "heartbeat_ms": int(HEARTBEAT_S * 1000),
            "now_ms": self._now_ms(),
            "schema": [field.view() for field in FIELDS],
        }

    def join(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)
        if self._forget is not None:
            self._forget.cancel()
            self._forget = None
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="madang-live")

    def leave(self, watcher: Watcher) -> None:
        self._watchers.remove(watcher)
        if self._watchers or self._task is None:
            return
        self._task.cancel()
        self._task = None
        self._forget = asyncio.get_running_loop().call_later(KEPT_S, self._rest)

    def choose(self, watcher: Watcher, fields: tuple[int, ...]) -> None:
        """Other columns from now on: a snapshot of all of them. Seldom, and never wrong."""
        watcher.fields, watcher.tick = fields, -1
        self._stir()

    def open(self) -> None:
        """Begin to keep moments for replay."""
        if self._chronicle.keeps:
            self._keeper = asyncio.create_task(self._keep(), name="madang-live-keeper")

    async def history(self, from_ms: int, to_ms: int) -> dict[str, Any]:
        """See Chronicle.between."""
        return await self._thread.read(self._chronicle.between, from_ms, to_ms)

    async def moment(self, at_ms: int) -> bytes:
        """See Chronicle.at; raises LookupError."""
        return await self._thread.read(self._chronicle.at, at_ms)

    def close(self) -> None:
        for task in (self._task, self._keeper):
            if task is not None:
                task.cancel()
        if self._forget is not None:
            self._forget.cancel()
        self._thread.close()

    async def next(self, watcher: Watcher) -> Message:
        """What the client needs to be at the newest tick, as soon as it is not there."""
        # Ahead of it is one who was sent a moment that was kept for replay between two looks.
        while watcher.tick >= self._newest or not self._newest:
            await self._news.wait()
        key = (watcher.fields, watcher.tick)
        making = self._made.get(key)
        if making is None:
            making = asyncio.create_task(self._make(key))
            self._made[key] = making
        # Shared with others: it must not end because this one leaves.
        return await asyncio.shield(making)

    async def _make(self, key: Key) -> Message:
        try:
            return await self._thread.read(self._ring.message, *key)
        except BaseException:
            self._made.pop(key, None)
            raise

    # -- the clock ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                tick = await self._thread.read(self._look, began_s)
            except Exception:
                log.exception("cannot look at the yard for live pages")
                await asyncio.sleep(RETRY_S)
                continue
            if tick != self._newest:
                self._newest = tick
                self._made.clear()
                self._stir()
            took_s = loop.time() - began_s
            await asyncio.sleep(max(TICK_S - took_s, REST_FACTOR * took_s))

    async def _keep(self) -> None:
        while True:
            try:
                await self._thread.read(self._keep_moment)
            except Exception:
                log.exception("cannot keep a moment for replay")
            await asyncio.sleep(KEEP_LOOK_S)

    def _stir(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _rest(self) -> None:
        """Nobody came back: what was kept for them goes. The next client finds a new epoch."""
        self._forget = None
        self.epoch = secrets.token_hex(8)
        self._ring = Ring()
        self._newest = 0
        self._made.clear()

    # -- in the thread -----------------------------------------------------------------------------

    def _look(self, now_s: float) -> int:
        """The number of the newest tick, after a look at the yard."""
        seq = self._yard.last_seq
        picture = self._board.look(self._yard.snapshot, seq, self._now_ms())
        if picture is not None or self._beats(now_s):
            self._told_s = now_s
            return self._ring.take(picture or self._again())
        return self._ring.tick

    def _keep_moment(self) -> None:
        now_ms = self._now_ms()
        if not self._chronicle.due(now_ms, self._board.count):
            return
        seq = self._yard.last_seq
        picture = self._board.look(self._yard.snapshot, seq, now_ms)
        if picture is not None and self._ring.tick:
            self._ring.take(picture)  # looked at once: watchers must not miss it
        if self._board.count:
            self._chronicle.keep(picture or self._board.again(now_ms))

    def _beats(self, now_s: float) -> bool:
        return self._ring.tick > 0 and now_s - self._told_s >= HEARTBEAT_S

    def _again(self) -> Picture:
        return self._board.again(self._now_ms())
