"""Ingest, memory and queries of the telemetry store, beside others in the same run.

    python -m benchmarks.telemetry [--gpus 10000] [--ticks 400] [--only ingest]

Frames are those of nodes with eight GPUs and twenty metrics, values as sensors say them: integers,
watts with a decimal, counters. They come as bodies of HTTP, one per node and tick, and go through
all that a daemon does with them: unpacked, decoded, judged, journal, ring, quantiles of jobs of 8,
history and the state on disk. CPU seconds are those of the process, with all its threads.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from madang.telemetry.frames import Column, Frame, Subject, decode, pack, split
from madang.telemetry.history import History, Retention
from madang.telemetry.metrics import METRICS
from madang.telemetry.queries import Query, stepped
from madang.telemetry.rollups import Rows, Stat
from madang.telemetry.stays import Held
from madang.telemetry.store import Store

GPUS_A_NODE = 8
TICK_MS = 10_000
BEGIN_MS = 1_795_219_200_000
NAMES = (
    "gpu_util_percent",
    "gpu_memory_used_percent",
    "gpu_sm_active_percent",
    "gpu_tensor_active_percent",
    "gpu_dram_active_percent",
    "gpu_memory_used_mib",
    "gpu_power_w",
    "gpu_temperature_c",
    "gpu_memory_temperature_c",
    "gpu_sm_clock_mhz",
    "gpu_memory_clock_mhz",
    "gpu_throttle_bits",
    "gpu_pcie_rx_bytes",
    "gpu_pcie_tx_bytes",
    "gpu_nvlink_rx_bytes",
    "gpu_nvlink_tx_bytes",
    "gpu_ecc_corrected",
    "gpu_ecc_uncorrected",
    "gpu_pcie_replays",
    "gpu_remapped_rows",
)
KEYS = tuple(str(gpu) for gpu in range(GPUS_A_NODE))


def node_name(node: int) -> str:
    return f"gpu-{node:05d}"


class Fleet:
    """Plausible values of every GPU at a tick, (metrics, GPUs), from a seed."""

    def __init__(self, gpus: int, seed: int = 1) -> None:
        self.gpus = gpus
        self._rng = np.random.default_rng(seed)
        self._busy = self._rng.uniform(0.3, 1.0, gpus)

    def values(self) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        rng, gpus = self._rng, self.gpus
        busy = np.clip(self._busy + rng.normal(0, 0.05, gpus), 0, 1)
        rows = []
        for name in NAMES:
            metric = METRICS[name]
            if metric.percent:
                rows.append(np.rint(100 * busy))
            elif name.endswith("percent"):
                rows.append(np.round(100 * busy * rng.uniform(0.6, 1, gpus), 2))
            elif name == "gpu_power_w":
                rows.append(np.round(70 + 620 * busy, 1))
            elif name.endswith("_c"):
                rows.append(np.rint(31 + 45 * busy))
            elif name.endswith("_mhz"):
                rows.append(np.where(busy > 0.5, 1980.0, 1755.0))
            elif name.endswith("_bytes"):
                rows.append(np.rint(busy * 2e9 * rng.uniform(0.5, 1, gpus)))
            elif name == "gpu_memory_used_mib":
                rows.append(np.rint(busy * 70_000))
            else:
                rows.append(np.where(rng.random(gpus) < 1e-4, 1.0, 0.0))
        return np.array(rows, np.float32)


def bodies(fleet: Fleet, tick: int) -> Iterator[bytes]:
    """One body of HTTP per node."""
    values = fleet.values()
    for node in range(fleet.gpus // GPUS_A_NODE):
        at = node * GPUS_A_NODE
        columns = tuple(
            Column(name, Subject.GPU, KEYS, values[row, at : at + GPUS_A_NODE])
            for row, name in enumerate(NAMES)
        )
        at_ms = BEGIN_MS + tick * TICK_MS + node % 900
        yield pack([Frame(node_name(node), 1 + node, tick, at_ms, TICK_MS, columns)])


def rss_mib() -> float:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def held_of(gpus: int) -> list[Held]:
    """Jobs of a node each; one of 1,024 GPUs (or a fifth) on nodes here and there."""
    nodes = gpus // GPUS_A_NODE
    large = min(128, nodes // 5)
    step = nodes // large
    scattered = [node * step for node in range(large)]
    taken = set(scattered)
    groups = [scattered, *([node] for node in range(nodes) if node not in taken)]
    return [
        Held(
            f"job-{n}.1",
            f"job-{n}",
            "vision",
            "batch",
            "default",
            tuple((node_name(node), gpu) for node in group for gpu in range(GPUS_A_NODE)),
            BEGIN_MS,
        )
        for n, group in enumerate(groups)
    ]


def ingest(gpus: int, ticks: int, place: Path) -> dict[str, object]:
    """A fleet's ticks through a store; what it took."""
    base_mib = rss_mib()
    store = Store(place)
    store.open(BEGIN_MS)
    held = held_of(gpus)
    store.hold(held)
    fleet = Fleet(gpus)
    took_s = keep_s = 0.0
    keeps_s: list[float] = []
    peak_mib = 0.0
    for tick in range(ticks):
        made = list(bodies(fleet, tick))
        now_ms = BEGIN_MS + tick * TICK_MS + 1000
        began_s = time.process_time()
        for body in made:
            frames = [decode(one) for one in split(body)]
            verdicts = store.receive(body, frames, now_ms, now_ms)
            assert verdicts[0].taken, verdicts
            assert not verdicts[0].marks, verdicts
        store.advance(now_ms + 6_000)
        here_s = time.process_time()
        store.keep(now_ms + 6_000)
        ended_s = time.process_time()
        keeps_s.append(ended_s - here_s)
        keep_s += ended_s - here_s
        took_s += ended_s - began_s
        peak_mib = max(peak_mib, rss_mib())
    samples = ticks * gpus * len(NAMES)
    for one in held:
        store.quantiles(one.allocation, "gpu_util_percent")
    grown_mib = rss_mib() - base_mib
    result: dict[str, object] = {
        "gpus": gpus,
        "ticks": ticks,
        "samples": samples,
        "samples_per_cpu_s": round(samples / took_s),
        "core_percent": round(100 * took_s / (ticks * TICK_MS / 1000), 2),
        "of_which_keeping_percent": round(100 * keep_s / (ticks * TICK_MS / 1000), 2),
        "longest_keep_ms": round(1000 * max(keeps_s)),
        "rss_grown_mib": round(grown_mib),
        "rss_peak_mib": round(peak_mib),
        "ring_laid_out_mib": round(store.ring.laid_out_bytes / (1 << 20)),
        "on_disk_mib": round(_size(place) / (1 << 20)),
        "history_mib": round(store.history_bytes / (1 << 20)),
    }
    began_s = time.monotonic()
    store.close()
    result["close_s"] = round(time.monotonic() - began_s, 2)
    began_s = time.monotonic()
    again = Store(place)
    again.open(BEGIN_MS + ticks * TICK_MS)
    result["open_s"] = round(time.monotonic() - began_s, 2)
    return result


def query(gpus: int, place: Path, hours: int = 24) -> dict[str, object]:
    """One metric of a 1,024-GPU job over a day: of history as the store writes it."""
    history = History(place, Retention())
    history.open(None)
    fleet = Fleet(gpus)
    keys = [(node_name(gpu // GPUS_A_NODE), str(gpu % GPUS_A_NODE), "") for gpu in range(gpus)]
    merged_s = 0.0
    minutes = 10  # as often as history of so many is written
    for part in range(hours * 60 // minutes):
        values = [fleet.values() for _ in range(minutes)]
        begin_ms = BEGIN_MS + part * minutes * 60_000
        stats = {
            name: _stat(np.array([one[row] for one in values]).T.ravel())
            for row, name in enumerate(NAMES)
        }
        rows = Rows(
            "gpu",
            keys,
            np.repeat(np.arange(gpus), minutes),
            np.tile(begin_ms + np.arange(minutes) * 60_000, gpus),
            stats,
        )
        history.write("1m", rows, part + 1)
        began_s = time.process_time()
        history.merge()
        merged_s += time.process_time() - began_s
    result: dict[str, object] = {"files": len(list(place.rglob("*.parquet")))}
    result["mib"] = round(_size(place) / (1 << 20))
    result["merging_core_percent"] = round(100 * merged_s / (hours * 3600), 2)
    result["rss_mib"] = round(rss_mib())
    job = held_of(gpus)[0].devices
    for label, step_ms in (("1m", 60_000), ("5m", 300_000)):
        asked = Query(
            "gpu_util_percent",
            Subject.GPU,
            tuple((node, str(gpu)) for node, gpu in job),
            BEGIN_MS,
            BEGIN_MS + hours * 3_600_000,
            step_ms,
        )
        walls, cpus = [], []
        for _ in range(9):
            began_s, cpu_s = time.monotonic(), time.process_time()
            found = stepped(asked, (points for _, points in history.points(asked, asked.to_ms)))
            walls.append(time.monotonic() - began_s)
            cpus.append(time.process_time() - cpu_s)
            assert found.values.shape[1] == len(job)
            assert not np.isnan(found.values).any()
        result[f"step_{label}_ms"] = [round(1000 * one) for one in sorted(walls)[::4]]
        result[f"step_{label}_cpu_ms"] = round(1000 * sorted(cpus)[4])
    return result


def _stat(values: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> Stat:
    high = values * np.float32(1.02)
    low = values * np.float32(0.98)
    return Stat(values, low, high, np.full(len(values), 6, np.uint32))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def victoria(gpus: int, ticks: int, place: Path) -> dict[str, object]:
    """The same values into VictoriaMetrics by its own shortest form (Influx lines of 20 fields),
    one request per node and tick.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            "victoria-metrics",
            f"-storageDataPath={place}",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-retentionPeriod=100y",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        door = _connected(port)
        fleet = Fleet(gpus)
        before_s = _cpu_s(server.pid)
        sent = 0
        for tick in range(ticks):
            values = fleet.values()
            at_ns = (BEGIN_MS + tick * TICK_MS) * 1_000_000
            for node in range(gpus // GPUS_A_NODE):
                lines = []
                for gpu in range(GPUS_A_NODE):
                    row = values[:, node * GPUS_A_NODE + gpu].tolist()
                    fields = ",".join(f"{n}={v:g}" for n, v in zip(NAMES, row, strict=True))
                    lines.append(f"m,node={node_name(node)},gpu={gpu} {fields} {at_ns}")
                body = "\n".join(lines).encode()
                sent += len(body)
                door.request("POST", "/write", body)
                answer = door.getresponse()
                answer.read()
                assert answer.status == 204, answer.status
        took_s = _cpu_s(server.pid) - before_s
        with open(f"/proc/{server.pid}/status") as status:
            rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        samples = ticks * gpus * len(NAMES)
        return {
            "samples_per_cpu_s": round(samples / took_s),
            "core_percent": round(100 * took_s / (ticks * TICK_MS / 1000), 2),
            "rss_mib": rss // 1024,
            "sent_bytes_per_sample": round(sent / samples, 1),  # not packed
        }
    finally:
        server.terminate()
        server.wait()


def _connected(port: int) -> http.client.HTTPConnection:
    until_s = time.monotonic() + 30
    while True:
        door = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            door.request("GET", "/health")
            if door.getresponse().read() == b"OK":
                return door
        except OSError:
            assert time.monotonic() < until_s, "VictoriaMetrics does not answer"
            time.sleep(0.1)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def appends(gpus: int, ticks: int, place: Path) -> dict[str, object]:
    """The same values appended to a DuckDB table, a row each, tick by tick."""
    import duckdb

    base = duckdb.connect(str(place / "raw.duckdb"), config={"threads": 1})
    base.execute("CREATE TABLE raw (at_ms BIGINT, unit INTEGER, metric UTINYINT, value FLOAT)")
    fleet = Fleet(gpus)
    took_s = 0.0
    for tick in range(ticks):
        values = fleet.values()
        began_s = time.process_time()
        base.register(
            "here",
            {
                "at_ms": np.full(values.size, BEGIN_MS + tick * TICK_MS),
                "unit": np.tile(np.arange(gpus, dtype=np.int32), len(NAMES)),
                "metric": np.repeat(np.arange(len(NAMES), dtype=np.uint8), gpus),
                "value": values.ravel(),
            },
        )
        base.execute("INSERT INTO raw SELECT * FROM here")
        took_s += time.process_time() - began_s
    base.close()
    samples = ticks * gpus * len(NAMES)
    return {"samples_per_cpu_s": round(samples / took_s), "on_disk_mib": _size(place) >> 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, default=10_000)
    parser.add_argument("--ticks", type=int, default=400)
    parser.add_argument("--hours", type=int, default=24, help="of history that is asked")
    parser.add_argument("--peer-ticks", type=int, default=40)
    parser.add_argument("--only", choices=("ingest", "query", "victoria", "duckdb"))
    options = parser.parse_args()
    runs: dict[str, Callable[[Path], dict[str, object]]] = {
        "ingest": lambda place: ingest(options.gpus, options.ticks, place),
        "query": lambda place: query(options.gpus, place, options.hours),
        "duckdb": lambda place: appends(options.gpus, options.peer_ticks, place),
    }
    if shutil.which("victoria-metrics"):
        runs["victoria"] = lambda place: victoria(options.gpus, options.peer_ticks, place)
    for name, run in runs.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as place:
                print(json.dumps({name: run(Path(place))}, indent=1), flush=True)


if __name__ == "__main__":
    main()
