"""The live line of the stand-in: an invented yard as columns, over a WebSocket, and its last day.

The columns and messages are written by the daemon's own code (madang.api.live); only what is in
them is invented. One thread looks once a second, or at once when the yard tells news, while anyone
watches.
"""

import base64
import hashlib
import json
import math
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import socket
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from madang.api.live.frames import Picture, Ring
from madang.api.live.schema import (
    BY_NAME,
    FIELDS,
    JOBS_TABLE,
    MISSING,
    NEWS_TABLE,
    NODES_TABLE,
    STATE_CODE,
    STATES,
    fields_of,
    planes,
    quantised,
)
from madang.api.live.sensors import board_w
from tests.browser.invented import Job, Yard

MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
IDLE_AFTER_MS = 60_000
HEARTBEAT_TICKS = 5
STEP_MS = 300_000  # of the last day
DAY_MS = 24 * 3_600_000
ALL = fields_of([one.name for one in FIELDS])


@dataclass(slots=True)
class Line:
    """Who watches is given the same messages. A test may change `every_s`."""

    yard: Yard
    every_s: float = 1.0
    epoch: str = "invented"
    ring: Ring = field(default_factory=Ring)
    told: int = 0  # events of the yard that a tick has told
    last: Picture | None = None
    since_told: int = 0
    watchers: int = 0
    slots: dict[str, int] = field(default_factory=dict)
    ticks: threading.Condition = field(default_factory=threading.Condition)
    _runs: bool = False

    # -- one who watches -------------------------------------------------------------------------

    def serve(self, key: str, connection: socket, query: dict[str, str]) -> None:
        """The handshake, and messages until the other side leaves or the yard cuts the line."""
        accept = base64.b64encode(hashlib.sha1(key.encode() + MAGIC).digest()).decode()
        connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        wanted = {"fields": fields_of(query.get("fields", "state,job,idle,util").split(","))}
        mine = {"after": int(query["since"]) if query.get("epoch") == self.epoch else -1}
        gone = threading.Event()

        def listen() -> None:
            try:
                while (text := _read(connection)) is not None:
                    with self.ticks:
                        wanted["fields"] = fields_of(json.loads(text)["fields"])
                        mine["after"] = -1
                        self.ticks.notify_all()
            except (OSError, ValueError, KeyError):
                pass
            gone.set()
            with self.ticks:
                self.ticks.notify_all()

        threading.Thread(target=listen, daemon=True).start()
        cut = self.yard.cut
        self.join()
        try:
            connection.sendall(_framed(1, json.dumps(self.hello()).encode()))
            while not gone.is_set() and self.yard.cut == cut:
                with self.ticks:
                    if mine["after"] == self.ring.tick or not self.ring.tick:
                        self.ticks.wait(0.5)
                        continue
                    message, tick = self.ring.message(wanted["fields"], mine["after"])
                    mine["after"] = tick
                connection.sendall(_framed(2, message))
        except OSError:
            pass
        finally:
            self.watchers -= 1

    def hello(self) -> dict[str, Any]:
        return {
            "type": "hello",
            "epoch": self.epoch,
            "tick": self.ring.tick,
            "tick_ms": int(self.every_s * 1000),
            "heartbeat_ms": 5_000,
            "now_ms": self.yard.clock(),
            "schema": [one.view() for one in FIELDS],
        }

    def join(self) -> None:
        self.watchers += 1
        if not self._runs:
            self._runs = True
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        yard = self.yard
        while True:
            if self.watchers > 0:
                with yard.news:
                    picture = self.picture()
                with self.ticks:
                    self._take(picture)
                    self.ticks.notify_all()
            with yard.news:
                if len(yard.events) <= self.told:
                    yard.news.wait(self.every_s)

    def _take(self, picture: Picture) -> None:
        same = self.last is not None and not any(picture.patches.values())
        if same and self.last is not None:
            before = self.last.columns
            same = all((picture.columns[one] == before[one]).all() for one in ALL)
        self.since_told += 1
        if same and self.since_told < HEARTBEAT_TICKS:
            return
        self.since_told = 0
        self.last = picture
        self.ring.take(picture)

    # -- what there is ---------------------------------------------------------------------------

    def picture(self, at_ms: int = 0) -> Picture:
        """The yard now. Call with its lock held."""
        yard = self.yard
        now_ms = at_ms or yard.clock()
        patches: dict[int, dict[str, Any]] = {}
        news = {e["body"]["job"]["id"] for e in yard.events[self.told :] if "job" in e["body"]}
        moved = any("node" in e["body"] for e in yard.events[self.told :])
        others = any("job" not in e["body"] for e in yard.events[self.told :])
        self.told = len(yard.events)
        dropped, added = self._follow_jobs()
        columns, jobs = self._columns(now_ms)
        if self.last is not None:
            if news or others:
                patches[NEWS_TABLE] = {"jobs": sorted(news), "others": others}
            patches[JOBS_TABLE] = {"set": added, "drop": dropped} if added or dropped else {}
            codes = ("ready", "cordoned", "lost")
            states = [[row, codes.index(node["state"])] for row, node in enumerate(yard.nodes)]
            patches[NODES_TABLE] = {"state": states} if moved else {}
        tables: dict[int, Callable[[], dict[str, Any]]] = {
            NODES_TABLE: self._nodes_table,
            JOBS_TABLE: lambda: {"set": jobs},
        }
        return Picture(1, now_ms, len(yard.events), columns, tables, patches)

    def _follow_jobs(self) -> tuple[list[int], list[list[Any]]]:
        held = {held["job"] for n in self.yard.nodes for g in n["gpus"] for held in g["jobs"]}
        dropped = [self.slots.pop(id) for id in list(self.slots) if id not in held]
        added = []
        for id in sorted(held - self.slots.keys()):
            used = set(self.slots.values())
            self.slots[id] = next(slot for slot in range(1, len(used) + 2) if slot not in used)
            added.append(self._entry(self.yard.jobs[id]))
        return dropped, added

    def _entry(self, job: Job) -> list[Any]:
        slot = self.slots[job["id"]]
        names = ("id", "project", "owner", "n", "members", "category")
        return [slot, *(job[name] for name in names)]

    def _columns(self, now_ms: int) -> tuple[dict[int, NDArray[np.uint8]], list[list[Any]]]:
        yard = self.yard
        state, job, idle = [], [], []
        read: dict[str, list[float]] = {"util": [], "memory": [], "temperature": [], "power": []}
        beat = now_ms / 1000
        for at, node in enumerate(yard.nodes):
            for gpu in node["gpus"]:
                held = gpu["jobs"][0]["job"] if gpu["jobs"] else ""
                code, minutes = _state(yard, node, gpu, held, now_ms)
                state.append(STATE_CODE[code])
                job.append(self.slots.get(held, 0))
                idle.append(minutes)
                one = yard._reading(at, gpu, beat) if node["state"] != "lost" else {}
                known = {key: _number(one.get(key)) for key in _KEYS}
                read["util"].append(known["util_percent"])
                whole = max(1, gpu["memory_mib"])
                read["memory"].append(100 * known["memory_used_mib"] / whole)
                read["temperature"].append(known["temperature_c"])
                limit = board_w(node["model"]) or 700
                read["power"].append(100 * known["power_w"] / limit)
        count = len(state)
        columns = {one.id: np.full(count * one.width, MISSING, np.uint8) for one in FIELDS}
        columns[BY_NAME["state"].id] = np.array(state, np.uint8)
        columns[BY_NAME["job"].id] = planes(np.array(job, np.int32), BY_NAME["job"].width)
        columns[BY_NAME["idle"].id] = np.array(idle, np.uint8)
        for name, values in read.items():
            field_of = BY_NAME[name]
            columns[field_of.id] = quantised(field_of, np.array(values, np.float32))
        return columns, [self._entry(yard.jobs[id]) for id in self.slots]

    def _nodes_table(self) -> dict[str, Any]:
        nodes = self.yard.nodes
        states = ("ready", "cordoned", "lost")
        models = sorted({node["model"] for node in nodes})
        paths = sorted({tuple(node["domains"]) for node in nodes})
        return {
            "version": 1,
            "states": list(states),
            "id": [node["id"] for node in nodes],
            "gpus": [len(node["gpus"]) for node in nodes],
            "state": [states.index(node["state"]) for node in nodes],
            "models": models,
            "model": [models.index(node["model"]) for node in nodes],
            "groups": ["default"],
            "group": [0] * len(nodes),
            "paths": [list(path) for path in paths],
            "path": [paths.index(tuple(node["domains"])) for node in nodes],
            "cpus": [node["cpus"] for node in nodes],
            "memory_mib": [node["memory_mib"] for node in nodes],
            "gpu_memory_mib": [node["gpus"][0]["memory_mib"] for node in nodes],
            "limit_w": [board_w(node["model"]) for node in nodes],
        }

    # -- the last day ----------------------------------------------------------------------------

    def history(self, from_ms: int) -> dict[str, Any]:
        """How many devices were in which state: a night with less work, and a bad hour."""
        total = sum(len(node["gpus"]) for node in self.yard.nodes)
        end_ms = self.yard.made_ms
        # A yard without jobs has no past either.
        from_ms = end_ms - STEP_MS if self.yard.calm else max(from_ms, end_ms - DAY_MS)
        first_ms = math.ceil(from_ms / STEP_MS) * STEP_MS
        times = list(range(first_ms, end_ms, STEP_MS))
        counts: dict[str, list[int]] = {name: [] for name in STATES}
        for at_ms in times:
            ago_h = (end_ms - at_ms) / 3_600_000
            bad = total // 33 if 9 < ago_h < 10.5 else total // 640
            night = 0.5 + 0.5 * math.sin((ago_h - 4) / 24 * 2 * math.pi)
            idle = int(total * (0.01 + 0.02 * night))
            free = int(total * (0.02 + 0.05 * night)) + (total // 12 if 17 < ago_h < 18.4 else 0)
            rest = {"idle": idle, "free": free, "faulty": bad, "draining": total // 128}
            rest["running"] = total - sum(rest.values())
            for name in STATES:
                counts[name].append(rest.get(name, 0))
        util = [round(82 - 9 * (free / max(1, total)), 1) for free in counts["free"]]
        return {"times": times, "states": list(STATES), "counts": counts, "util": util}

    def moment(self, at_ms: int) -> bytes:
        """As it would have been read then: the same jobs, other readings."""
        ring = Ring()
        with self.yard.news:
            told, last, self.last = self.told, self.last, None
            ring.take(self.picture(at_ms))
            self.told, self.last = told, last
        return ring.message(ALL, -1)[0]


_KEYS = ("util_percent", "memory_used_mib", "temperature_c", "power_w")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _state(
    yard: Yard, node: dict[str, Any], gpu: dict[str, Any], held: str, now_ms: int
) -> tuple[str, int]:
    """Its state, and for how many minutes it has been idle."""
    if node["state"] == "lost":
        return "lost", MISSING
    if not gpu["healthy"]:
        return "faulty", MISSING
    if node["state"] == "cordoned":
        return "draining", MISSING
    if not held:
        return "free", MISSING
    job = yard.jobs[held]
    if job["phase"] != "running":
        return "draining" if job["phase"] == "stopping" else "starting", MISSING
    quiet_ms = min(now_ms - job["running_ms"], 52 * 60_000)
    if yard.sensors and yard.kinds[held] == "idle" and quiet_ms >= IDLE_AFTER_MS:
        return "idle", quiet_ms // 60_000
    return "running", MISSING


def _framed(opcode: int, body: bytes) -> bytes:
    head = bytes([0x80 | opcode])
    if len(body) < 126:
        return head + bytes([len(body)]) + body
    if len(body) < 1 << 16:
        return head + b"\x7e" + struct.pack(">H", len(body)) + body
    return head + b"\x7f" + struct.pack(">Q", len(body)) + body


def _read(connection: socket) -> str | None:
    """The next text of the client; None when it leaves."""

    def take(count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = connection.recv(count - len(found))
            if not part:
                raise OSError("the client left")
            found += part
        return found

    while True:
        first, second = take(2)
        length = second & 127
        if length >= 126:
            length = int.from_bytes(take(2 if length == 126 else 8))
        mask = take(4)
        body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(take(length)))
        if first & 15 == 8:
            return None
        if first & 15 == 1:
            return body.decode()
