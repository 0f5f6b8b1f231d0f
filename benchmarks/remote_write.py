"""Remote write through a receiver's absence: is every sample that was acknowledged delivered?

    python -m benchmarks.remote_write                     five minutes away, at 10,000 GPUs
    python -m benchmarks.remote_write --kill              the daemon killed (kill -9) in the middle
    python -m benchmarks.remote_write --nodes 125 --outage 20

Real processes: `madang up`, VictoriaMetrics, and here the agents: each node sends a frame of 8 GPUs
× 20 metrics every 10 s over HTTP, keeps it until it is acknowledged, and sends it again if it is
not, as `madang agent` does. VictoriaMetrics is stopped for the outage and started again; with
--kill the daemon is killed in the middle of it and started again five seconds later. In the end the
samples that the agents were acknowledged are compared with those that VictoriaMetrics has: counted
over all series, and one by one (time and value) for some. docs/benchmarks/out.md has the figures.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measuring import machine
from madang.telemetry.frames import Column, Frame, Subject, pack
from madang.telemetry.metrics import METRICS
from madang.testing.monitors import VictoriaMetrics

GPUS = 8
METRICS_SENT = tuple(one for one in METRICS.values() if one.subject is Subject.GPU)[:20]
INTERVAL_MS = 10_000
BODIES_PER_INTERVAL = 50  # agents do not all come at once
RESTART_S = 5.0  # what a service manager takes
READY_S = 60.0
KEPT_BODIES_MAX = 2_000
SERIES_COMPARED = 40
KEYS = tuple(map(str, range(GPUS)))


@dataclass(slots=True)
class Acknowledged:
    """What the daemon has said that it took."""

    frames: int = 0
    samples: int = 0
    refused: int = 0
    values: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)


class Agents:
    """All nodes' agents: a thread that makes frames in time, and one that sends them in order."""

    def __init__(self, nodes: int, port: int, token: str) -> None:
        self.acknowledged = Acknowledged()
        self._nodes = [f"node-{n:05d}" for n in range(nodes)]
        self._port = port
        self._token = token
        self._boot = time.time_ns() & ((1 << 62) - 1)
        self._chance = np.random.default_rng(1)
        self._watched = set(self._nodes[:: max(1, nodes // SERIES_COMPARED)])
        self._bodies: deque[tuple[list[Frame], bytes]] = deque()
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._make, name="make", daemon=True),
            threading.Thread(target=self._send, name="send", daemon=True),
        ]
        self.backlog_max = 0
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Make no more frames, and send all there are."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _make(self) -> None:
        share = -(-len(self._nodes) // BODIES_PER_INTERVAL)
        slices = [self._nodes[at : at + share] for at in range(0, len(self._nodes), share)]
        pause_s = INTERVAL_MS / 1000 / len(slices)
        due_s = time.monotonic()
        seq = 0
        while not self._stopping.is_set():
            seq += 1
            for nodes in slices:
                due_s += pause_s
                frames = [self._frame(node, seq) for node in nodes]
                with self._news:
                    self._bodies.append((frames, pack(frames)))
                    self.backlog_max = max(self.backlog_max, len(self._bodies))
                    self._news.notify()
                time.sleep(max(0.0, due_s - time.monotonic()))
                if self._stopping.is_set():
                    break
        with self._news:
            self._news.notify()

    def _frame(self, node: str, seq: int) -> Frame:
        values = np.rint(self._chance.uniform(0, 100, (len(METRICS_SENT), GPUS))).astype(np.float32)
        columns = tuple(
            Column(metric.name, metric.subject, KEYS, np.minimum(row, metric.range[1]))
            for metric, row in zip(METRICS_SENT, values, strict=True)
        )
        at_ms = time.time_ns() // 1_000_000
        return Frame(node, self._boot, seq, at_ms, INTERVAL_MS, columns)

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while True:
            with self._news:
                self._news.wait_for(lambda: self._bodies or self._stopping.is_set())
                if not self._bodies:
                    connection.close()
                    return
                frames, body = self._bodies[0]
            try:
                headers = {
                    "Authorization": f"Bearer {self._token}",
                    "Content-Type": "application/vnd.madang.frames",
                }
                connection.request("POST", "/v1/frames", body, headers)
                answer = connection.getresponse()
                stated = json.loads(answer.read())
            except (OSError, ValueError, http.client.HTTPException):
                connection.close()  # the next request opens it again
                time.sleep(0.2)  # it is away; everything is kept
                continue
            if answer.status != 200:
                time.sleep(0.5)
                continue
            self._bodies.popleft()
            self._note(frames, stated)

    def _note(self, frames: list[Frame], stated: dict[str, Any]) -> None:
        taken = int(stated["taken"]) + int(stated["known"])
        self.acknowledged.refused += int(stated["refused_count"])
        assert taken == len(frames), stated
        for frame in frames:
            self.acknowledged.frames += 1
            self.acknowledged.samples += sum(len(column.keys) for column in frame.columns)
            if frame.node in self._watched:
                column = frame.columns[0]
                for key, value in zip(column.keys, column.values.tolist(), strict=True):
                    told = self.acknowledged.values.setdefault((frame.node, key), [])
                    told.append((frame.at_ms, value))


class Daemon:
    """`madang up` with a destination."""

    def __init__(self, folder: Path, write_url: str) -> None:
        self.state = folder / "state"
        self.config = folder / "out.toml"
        self.config.write_text(
            f'[scrape]\nloopback_open = true\n[[destination]]\nname = "vm"\nurl = "{write_url}"\n'
        )
        self.log = folder / "daemon.log"
        self.port = 0
        self._program: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it is ready; the second time it listens where it did the first time."""
        words = [sys.executable, "-m", "madang", "up", "--state", str(self.state)]
        words += ["--devices", "1", "--port", str(self.port), "--telemetry-out", str(self.config)]
        with open(self.log, "ab") as log:
            self._program = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until_s = time.monotonic() + READY_S
        while time.monotonic() < until_s:
            assert self._program.poll() is None, self.log.read_text()[-2000:]
            try:
                stated = json.loads((self.state / "daemon.json").read_text())
                self.port = int(stated["url"].rpartition(":")[2])
                if stated["pid"] == self._program.pid and self.figures():
                    return
            except (OSError, ValueError):
                time.sleep(0.05)
        raise AssertionError(f"the daemon is not ready: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """kill -9."""
        assert self._program is not None
        self._program.kill()
        self._program.wait()

    def stop(self) -> None:
        """SIGTERM."""
        if self._program is not None and self._program.poll() is None:
            self._program.terminate()
            self._program.wait(60)

    @property
    def token(self) -> str:
        return str(json.loads((self.state / "client.json").read_text())["token"])

    @property
    def cpu_s(self) -> float:
        """CPU time of this daemon so far."""
        assert self._program is not None
        times = psutil.Process(self._program.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def memory_mib(self) -> float:
        assert self._program is not None
        return float(psutil.Process(self._program.pid).memory_info().rss) / (1 << 20)

    def figures(self) -> dict[str, float]:
        """What /metrics says of what goes out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        pairs = (line.rpartition(" ") for line in lines if line.startswith("madang_out_"))
        return {name: float(value) for name, _, value in pairs}


@dataclass(slots=True)
class Outcome:
    """What was measured; `stored` and `acknowledged` must be equal, and nothing else differ."""

    nodes: int
    gpus: int
    outage_s: float
    killed: bool
    acknowledged: int = 0
    stored: int = 0
    stored_twice: int = 0
    series_compared: int = 0
    series_different: int = 0
    refused: int = 0
    overrun: int = 0
    load_samples_per_s: float = 0.0
    queue_mib: float = 0.0  # at the end of the outage
    queue_bytes_per_sample: float = 0.0
    wire_bytes_per_sample: float = 0.0
    caught_up_s: float = 0.0  # after VictoriaMetrics is back
    caught_up_samples_per_s: float = 0.0
    daemon_cpu_share: float = 0.0  # of a core, before the outage
    daemon_mib: float = 0.0
    agents_backlog_bodies: int = 0

    @property
    def is_whole(self) -> bool:
        """True iff all that was acknowledged has arrived, as it was sent."""
        lost = self.refused + self.overrun + self.series_different
        return self.acknowledged == self.stored > 0 and self.stored_twice == 0 and lost == 0


@contextmanager
def _running(folder: Path) -> Iterator[tuple[VictoriaMetrics, Daemon]]:
    remote = VictoriaMetrics(folder / "vm")
    remote.start()
    daemon = Daemon(folder, f"{remote.url}/api/v1/write")
    try:
        daemon.start()
        yield remote, daemon
    finally:
        daemon.stop()
        remote.stop()


def run(folder: Path, nodes: int, outage_s: float, steady_s: float, *, kill: bool) -> Outcome:
    """One outage, and what came of it."""
    outcome = Outcome(nodes, nodes * GPUS, outage_s, kill)
    with _running(folder) as (remote, daemon):
        agents = Agents(nodes, daemon.port, daemon.token)
        cpu_s, began_s = daemon.cpu_s, time.monotonic()
        time.sleep(steady_s)
        outcome.daemon_cpu_share = round((daemon.cpu_s - cpu_s) / steady_s, 3)
        remote.stop()
        if kill:
            time.sleep(outage_s / 2)
            daemon.kill()
            time.sleep(RESTART_S)
            daemon.start()
            time.sleep(max(0.0, outage_s / 2 - RESTART_S))
        else:
            time.sleep(outage_s)
        _measure_queue(outcome, daemon, outage_s)
        before = daemon.figures()
        remote.start()
        back_s = time.monotonic()
        _wait_until_behind(daemon, int(outcome.queue_mib * (1 << 20) / 20))
        outcome.caught_up_s = max(0.1, round(time.monotonic() - back_s, 1))
        after = daemon.figures()
        sent = after[SENT] - before[SENT]
        outcome.caught_up_samples_per_s = round(sent / outcome.caught_up_s)
        outcome.wire_bytes_per_sample = round((after[BYTES] - before[BYTES]) / max(sent, 1), 2)
        time.sleep(steady_s)
        agents.stop()
        elapsed_s = time.monotonic() - began_s
        _wait_until_behind(daemon, 64 << 10)  # figures of its own go on, frames have ended
        _compare(outcome, agents, remote, daemon)
        outcome.load_samples_per_s = round(outcome.acknowledged / elapsed_s)
        outcome.agents_backlog_bodies = agents.backlog_max
    return outcome


SENT = 'madang_out_samples_total{destination="vm",result="sent"}'
BYTES = 'madang_out_sent_bytes_total{destination="vm"}'
LAG = 'madang_out_lag_bytes{destination="vm"}'


def _measure_queue(outcome: Outcome, daemon: Daemon, outage_s: float) -> None:
    figures = daemon.figures()
    waiting = outcome.nodes * GPUS * len(METRICS_SENT) * outage_s * 1000 / INTERVAL_MS
    outcome.queue_mib = round(figures[LAG] / (1 << 20), 3)
    outcome.queue_bytes_per_sample = round(figures[LAG] / waiting, 2)
    outcome.daemon_mib = round(daemon.memory_mib, 1)


def _wait_until_behind(daemon: Daemon, bytes_max: int, seconds: float = 300.0) -> None:
    """Until no more than so much of the queue waits."""
    until_s = time.monotonic() + seconds
    while (lag := daemon.figures()[LAG]) > bytes_max:
        assert time.monotonic() < until_s, f"{lag:,.0f} bytes still wait: {daemon.figures()}"
        time.sleep(0.1)


def _compare(outcome: Outcome, agents: Agents, remote: VictoriaMetrics, daemon: Daemon) -> None:
    outcome.acknowledged = agents.acknowledged.samples
    outcome.refused = agents.acknowledged.refused
    until_s = time.monotonic() + 60
    while True:
        remote.flush()
        stored = 'sum(count_over_time({__name__=~"madang_gpu_.*",node=~"node-.*"}[3h]))'
        found = remote.query(stored)
        outcome.stored = int(float(found[0]["value"][1])) if found else 0
        if outcome.stored >= outcome.acknowledged or time.monotonic() > until_s:
            break
        time.sleep(0.5)
    name = f"madang_{METRICS_SENT[0].name}"
    for (node, gpu), told in agents.acknowledged.values.items():
        series = remote.samples(f'{name}{{node="{node}",gpu="{gpu}"}}')
        stored_pairs = [pair for pairs in series.values() for pair in pairs]
        outcome.series_compared += 1
        outcome.series_different += sorted(told) != sorted(stored_pairs)
        outcome.stored_twice += len(stored_pairs) - len({at_ms for at_ms, _ in stored_pairs})
    figures = daemon.figures()
    outcome.refused += int(figures['madang_out_samples_total{destination="vm",result="refused"}'])
    outcome.overrun = int(figures['madang_out_samples_total{destination="vm",result="overrun"}'])


def main() -> int:
    """Run and print; the exit status is 1 if a sample is missing or there twice."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1250, help="of 8 GPUs")
    parser.add_argument("--outage", type=float, default=300.0, help="seconds")
    parser.add_argument("--steady", type=float, default=30.0, help="seconds before and after")
    parser.add_argument("--kill", action="store_true", help="kill -9 the daemon in the middle")
    parser.add_argument("--keep", default="", help="a folder to leave everything in")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        folder = Path(asked.keep or made)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(folder, asked.nodes, asked.outage, asked.steady, kill=asked.kill)
        log = (folder / "daemon.log").read_text()
    record = {"machine": machine(), **asdict(outcome), "whole": outcome.is_whole}
    print(json.dumps(record, indent=2))
    print("\n".join(line for line in log.splitlines() if "telemetry.out" in line)[-2000:])
    return 0 if outcome.is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
