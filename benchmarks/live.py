"""Live columns before a real daemon over a virtual fleet: bytes a second, and what clients cost.

    python -m benchmarks.live [--fleets mixed-5120 large-102400] [--clients 50] [--seconds 60]

Clients are a process of their own and read all columns that a person can choose on the map. They
count bytes by column. The daemon's CPU is that of its process: with nobody watching, with one
client, and with all of them, in turn and the round repeated, so that what else the daemon does
(sensors, jobs that end) cancels out. "One" holds looking and encoding, "all" less "one" is what
sending to the others costs.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from websockets.asyncio.client import connect

from madang.api.live import frames
from madang.api.live.schema import BY_ID, FIELDS, JOBS_TABLE, NEWS_TABLE, NODES_TABLE
from tests.browser.staged import Staged

FLEETS = Path(__file__).parents[1] / "examples" / "fleets"
WATCHED = "state,job,idle,util,memory,temperature,power"
TABLES = {NODES_TABLE: "nodes", JOBS_TABLE: "jobs", NEWS_TABLE: "news"}
WARM_S = 25.0  # sensors and jobs have begun
SETTLE_S = 3.0
KINDS = {frames.WHOLE: "whole", frames.TABLE: "whole", frames.TICK: "ticks"}


@dataclass
class Counts:
    """What the clients of a process got: bytes by (kind, column), ticks, messages."""

    sizes: Counter[tuple[str, str]]
    ticks: int = 0
    messages: int = 0
    fresh: int = 0  # snapshots after the first: somebody was too slow
    first_bytes: int = 0


def watch(url: str, token: str, clients: int, line: Connection) -> None:
    """In a process of its own: watch until told to stop, then say what came."""
    asyncio.run(_watch(url, token, clients, line))


async def _watch(url: str, token: str, clients: int, line: Connection) -> None:
    counts = Counts(Counter())
    tasks = [asyncio.create_task(_one(url, token, counts, n == 0)) for n in range(clients)]
    while not line.poll():
        await asyncio.sleep(0.1)
        for task in tasks:
            if task.done():
                task.result()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    line.send(counts)


async def _one(url: str, token: str, counts: Counts, counting: bool) -> None:
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
            if not counting:
                continue
            counts.messages += 1
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
        counts.fresh += one.kind == frames.TABLE and one.field == NODES_TABLE


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measured(yard: Staged, clients: int, seconds: float) -> tuple[float, Counts]:
    """The daemon's CPU in percent of a core while so many watch, and what they got."""
    assert yard.daemon is not None
    process = psutil.Process(yard.daemon.pid)
    ours, theirs = mp.Pipe()
    watcher = mp.get_context("spawn").Process(
        target=watch, args=(yard.url, yard.token(), clients, theirs)
    )
    watcher.start()
    time.sleep(SETTLE_S + clients / 20)
    before, began = cpu_s(process), time.monotonic()
    time.sleep(seconds)
    used = (cpu_s(process) - before) / (time.monotonic() - began) * 100
    ours.send("stop")
    counts: Counts = ours.recv()
    watcher.join(20)
    return used, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", nargs="*", default=["mixed-5120", "large-102400"])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    for fleet in words.fleets:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            yard = Staged(Path(place) / "state", FLEETS / f"{fleet}.yaml")
            with yard:
                yard.fill()
                time.sleep(WARM_S)
                report(yard, fleet, words)


def report(yard: Staged, fleet: str, words: argparse.Namespace) -> None:
    gpus = yard.gpus()
    cpu: dict[int, list[float]] = {0: [], 1: [], words.clients: []}
    for _ in range(words.rounds):
        for clients, found in cpu.items():
            used, counts = measured(yard, clients, words.seconds)
            found.append(used)
    idle, one, many = (statistics.median(found) for found in cpu.values())
    spans = SETTLE_S + words.clients / 20 + words.seconds
    print(f"{fleet}: {gpus:,} GPUs; first message {counts.first_bytes:,} bytes")
    print(f"  {counts.ticks} ticks in {spans:.0f} s, {counts.fresh} snapshots after the first")
    total = 0.0
    metrics = {field.name for field in FIELDS if field.metric}
    for (kind, name), size in sorted(counts.sizes.items(), key=lambda one: -one[1]):
        per_s = size / spans
        total += per_s
        each = f"  {per_s / gpus:.4f} bytes a GPU and second" if name in metrics else ""
        print(f"  {kind:>7} {name:<12} {per_s:>9,.0f} bytes/s{each}")
    print(f"  in all  {total:>22,.0f} bytes/s a client")
    print(
        f"  daemon CPU, percent of a core: nobody {idle:.2f}, 1 client {one:.2f}, "
        f"{words.clients} clients {many:.2f} (medians of {words.rounds})"
    )
    for clients, found in cpu.items():
        print(f"    {clients:>3}: {' '.join(f'{used:.2f}' for used in found)}")


if __name__ == "__main__":
    main()
