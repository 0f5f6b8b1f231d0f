"""Live columns of a virtual fleet in use: bytes a second, and the server's CPU for many clients.

    python -m benchmarks.live [--fleets mixed-5120 large-102400] [--clients 50] [--seconds 60]

All of the daemon runs in this process (turn loop, virtual fleet, telemetry, HTTP), and each of its
threads has a clock of its own: `look` is the thread that looks and encodes, `send` the event loop
with all sockets. Nothing else that the daemon does is in these figures. Clients are a process of
their own and read all columns that a person can choose on the map; one of them counts bytes.

Measured over whole ticks of the sensors: CPU is what a tick takes, as a share of the time between
two. What the virtual fleet's sensors read goes into the telemetry's ring directly: taking in frames
has a benchmark of its own, and needs more of a core than a busy machine may have left.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import socket
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect

from madang.api import ApiSettings, create_app, make_server
from madang.api.identity import digest_of
from madang.api.live import frames
from madang.api.live.schema import BY_ID, FIELDS, JOBS_TABLE, NEWS_TABLE, NODES_TABLE, UTIL
from madang.core.events import ProjectSet
from madang.core.model import Project
from madang.daemon.clock import WallClock
from madang.daemon.loop import TurnLoop
from madang.daemon.main import _read_fleet
from madang.daemon.telemetry import tick_ms_of
from madang.daemon.yard import DaemonYard
from madang.engines.code_store import CodeStore
from madang.engines.virtual import open_fleet
from madang.engines.virtual.engine import VirtualEngine
from madang.ledger import open_ledger
from madang.telemetry.metrics import METRICS
from madang.telemetry.ring import TICKS, Ring
from madang.telemetry.store import Settings, Store
from madang.wire.access import Role
from tests.browser.staged import Staged

FLEETS = Path(__file__).parents[1] / "examples" / "fleets"
WATCHED = "state,job,idle,util,memory,temperature,power"
TABLES = {NODES_TABLE: "nodes", JOBS_TABLE: "jobs", NEWS_TABLE: "news"}
FED = (
    "gpu_util_percent",
    "gpu_memory_used_percent",
    "gpu_temperature_c",
    "gpu_power_w",
    "gpu_power_limit_w",
)
WARM_S = 25.0  # sensors and jobs have begun
TOKEN = "a-token-of-the-benchmark"
KINDS = {frames.WHOLE: "whole", frames.TABLE: "whole", frames.TICK: "ticks"}


@dataclass
class Counts:
    """What the clients of a process got: bytes by (kind, column), ticks."""

    sizes: Counter[tuple[str, str]]
    ticks: int = 0
    moved: int = 0  # ticks with new readings
    fresh: int = 0  # snapshots after the first: somebody was too slow
    first_bytes: int = 0


def watch(url: str, token: str, clients: int, line: Connection) -> None:
    """In a process of its own: watch until told to stop, then say what came."""
    asyncio.run(_watch(url, token, clients, line))


async def _watch(url: str, token: str, clients: int, line: Connection) -> None:
    counts = Counts(Counter())
    begun = [asyncio.Event() for _ in range(clients)]
    tasks = [
        asyncio.create_task(_one(url, token, counts if n == 0 else None, begun[n]))
        for n in range(clients)
    ]
    await asyncio.gather(*(one.wait() for one in begun))
    line.send("watching")
    while not line.poll():
        await asyncio.sleep(0.1)
        for task in tasks:
            if task.done():
                task.result()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    line.send(counts)


async def _one(url: str, token: str, counts: Counts | None, begun: asyncio.Event) -> None:
    address = f"{url.replace('http', 'ws', 1)}/v1/live?fields={WATCHED}"
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        address, additional_headers=headers, max_size=None, compression=None, proxy=None
    ) as wire:
        json.loads(await wire.recv())
        seen = 0
        async for message in wire:
            assert isinstance(message, bytes)
            seen += 1
            begun.set()
            if counts is not None:
                _count(message, counts, first=seen == 1)


def _count(message: bytes, counts: Counts, *, first: bool) -> None:
    if first:
        counts.first_bytes = len(message)
        return
    for one in frames.frames_in(message):
        kind = KINDS.get(one.kind, "change")
        name = BY_ID[one.field].name if one.field in BY_ID else TABLES[one.field]
        counts.sizes[kind, "tick" if kind == "ticks" else name] += len(one.body) + 10
        counts.ticks += one.kind == frames.TICK
        counts.moved += one.kind == frames.DELTA and one.field == UTIL.id
        counts.fresh += one.kind == frames.TABLE and one.field == NODES_TABLE


class Feed(threading.Thread):
    """Writes what all sensors of the fleet say now into the ring, once a tick."""

    def __init__(self, engine: VirtualEngine, ring: Ring) -> None:
        super().__init__(name="feed", daemon=True)
        self.engine, self.ring = engine, ring
        self.leaving = threading.Event()
        self.ticks = 0

    def run(self) -> None:
        columns: np.ndarray[Any, Any] | None = None
        while not self.leaving.wait(self._pause_s()):
            blocks = [
                (one.node, block)
                for one in self.engine.readings()
                for block in one.blocks
                if block.subject == "gpu"
            ]
            if columns is None or len(columns) != sum(len(block.keys) for _, block in blocks):
                keys = [(node, key, "") for node, block in blocks for key in block.keys]
                columns = np.array([self.ring.column_for("gpu", key) for key in keys], np.int64)
            tick = self.ring.tick_of(int(time.time() * 1000))
            self.ring.begin(tick)
            for name in FED:
                values = np.concatenate(
                    [block.values[block.metrics.index(name)] for _, block in blocks]
                )
                plane = self.ring.plane_for("gpu", METRICS[name])
                plane.array[tick % TICKS, columns] = plane.encoded(values)
            self.ring.tick = tick
            self.ticks += 1

    def _pause_s(self) -> float:
        tick_s = self.ring.tick_ms / 1000
        return tick_s - time.time() % tick_s


class Here(Staged):
    """A daemon in this process, so that its threads can be told apart."""

    def start(self) -> None:
        self.state.mkdir()
        engine = open_fleet(_read_fleet(self.fleet), self.state)
        self.ledger = open_ledger(f"sqlite:///{self.state}/madang.db")
        self.ledger.add_token("bench", digest_of(TOKEN), 1, Role.OWNER)
        self.loop = TurnLoop(self.ledger, engine, WallClock(), "bench", lambda: None)
        store = Store(self.state / "telemetry", Settings(tick_ms_of(engine)))
        yard = DaemonYard(self.loop, CodeStore(self.state / "code"), self.url, store)
        settings = ApiSettings(port=self.port)
        ready = threading.Event()
        self.server = make_server(create_app(yard, settings), settings, ready.set)
        self.loop.open([ProjectSet(Project("default"))])
        self.ring = store.ring
        self.feed = Feed(engine, store.ring)
        self.feed.start()
        door = socket.create_server(("127.0.0.1", self.port))
        run = partial(self.server.run, sockets=[door])
        self.http = threading.Thread(target=run, name="http")
        self.http.start()
        assert ready.wait(30), "the server did not start"

    def stop(self) -> int:
        self.server.should_exit = True
        self.http.join(20)
        self.feed.leaving.set()
        self.feed.join(30)
        self.loop.close()
        self.ledger.close()
        return 0

    def token(self) -> str:
        return TOKEN

    def __exit__(self, *_: object) -> None:
        self.stop()


def cpu_s() -> dict[str, float]:
    """Seconds of CPU that the two threads of live data have used."""
    found = {"look": 0.0, "send": 0.0}
    for thread in threading.enumerate():
        assert thread.ident is not None
        if thread.name == "http" or thread.name.startswith("madang-live"):
            clock = time.pthread_getcpuclockid(thread.ident)
            found["send" if thread.name == "http" else "look"] += time.clock_gettime(clock)
    return found


def measured(yard: Here, clients: int, ticks: int) -> tuple[dict[str, float], Counts]:
    """CPU ms of each thread in a tick of the sensors, and what one client got."""
    ours, theirs = mp.Pipe()
    watcher = mp.get_context("spawn").Process(
        target=watch, args=(yard.url, yard.token(), clients, theirs)
    )
    watcher.start()
    assert ours.poll(60), "the clients did not begin"
    assert ours.recv() == "watching"
    first, before = yard.feed.ticks, cpu_s()
    while yard.feed.ticks < first + ticks:
        time.sleep(0.2)
    time.sleep(1.5)  # the last of them is sent, too
    used = {name: (now - before[name]) / ticks * 1000 for name, now in cpu_s().items()}
    ours.send("stop")
    counts: Counts = ours.recv()
    watcher.join(20)
    return used, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", nargs="*", default=["mixed-5120", "large-102400"])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--ticks", type=int, default=0, help="of the sensors (30 or 8)")
    words = parser.parse_args()
    for fleet in words.fleets:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            yard = Here(Path(place) / "state", FLEETS / f"{fleet}.yaml")
            with yard:
                yard.fill()
                time.sleep(WARM_S)
                report(yard, fleet, words)


def report(yard: Here, fleet: str, words: argparse.Namespace) -> None:
    gpus, tick_s = yard.gpus(), yard.ring.tick_ms / 1000
    ticks = words.ticks or (30 if tick_s < 5 else 8)
    for clients in (1, words.clients):
        used, counts = measured(yard, clients, ticks)
        both = sum(used.values())
        print(
            f"{fleet}: {gpus:,} GPUs, a tick is {tick_s:g} s, {clients} clients: look "
            f"{used['look']:.1f} + send {used['send']:.1f} = {both:.1f} ms a tick, "
            f"{both / tick_s / 10:.2f} % of a core; {counts.ticks} ticks came, "
            f"{counts.moved} with readings, {counts.fresh} snapshots after the first",
            flush=True,
        )
    held = yard.ask("GET", "/v1/overview")["gpus"]["held"]
    print(f"  {held:,.0f} GPUs held; first message {counts.first_bytes:,} bytes; a tick is")
    total = 0.0
    metrics = {field.name for field in FIELDS if field.metric}
    for (kind, name), size in sorted(counts.sizes.items(), key=lambda one: -one[1]):
        each = size / max(counts.moved, 1)
        total += each
        per = f"  {each / gpus:.3f} bytes a GPU" if name in metrics else ""
        print(f"  {kind:>7} {name:<12} {each:>9,.0f} bytes{per}")
    print(f"  in all  {total:>22,.0f} bytes, {total / tick_s:,.0f} bytes/s a client")


if __name__ == "__main__":
    main()
