"""What it costs to send the fleet's metrics on, and to be scraped.

    python -m benchmarks.telemetry_out              encoding, scrapes
    python -m benchmarks.telemetry_out --peers      beside Prometheus' agent and vmagent, too

Encoding: samples a second of each step of the way, in one thread, and bytes a sample in the queue
and on the wire. Scrapes: CPU seconds and size of /metrics by our writer and by prometheus-client
with the same values. Peers: Prometheus in agent mode and vmagent scrape 2,000 GPUs × 20 metrics and
send to the same receiver as we do; compared are bytes a sample on the wire, and on disk while the
receiver is away. docs/benchmarks/out.md has the figures.
"""

import argparse
import gzip
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest

from benchmarks.measuring import machine
from madang.telemetry.frames import Column, Frame, Subject
from madang.telemetry.metrics import METRICS
from madang.telemetry.out.blocks import Block, Packer, Unpacker
from madang.telemetry.out.exposition import Sensors, Text
from madang.telemetry.out.names import family_of
from madang.telemetry.out.protobuf import Encoder
from madang.telemetry.out.settings import Destination, OutSettings
from madang.telemetry.out.totals import Totals
from madang.telemetry.out.writer import Writer
from madang.telemetry.store import Store
from madang.telemetry.taps import Taken
from madang.testing.monitors import program

GPUS = 8
SENT = tuple(one for one in METRICS.values() if one.subject is Subject.GPU)[:20]
KEYS = tuple(map(str, range(GPUS)))
BEGIN_MS = 1_790_000_040_000
ROUNDS = 5
PEER_NODES, PEER_SCRAPES = 250, 12


class Fleet:
    """Frames of nodes whose sensors wander as real ones do: a little each time."""

    def __init__(self, nodes: int, seed: int = 1) -> None:
        self._chance = np.random.default_rng(seed)
        self._nodes = [f"node-{n:05d}" for n in range(nodes)]
        shape = (nodes, len(SENT), GPUS)
        self._levels = self._chance.uniform(10, 90, shape)
        self._seq = 0

    def tick(self) -> list[Taken]:
        """A frame of each node, ten seconds after the last."""
        self._seq += 1
        self._levels += self._chance.normal(0, 2, self._levels.shape)
        self._levels = np.clip(self._levels, 0, 100)
        values = np.rint(self._levels).astype(np.float32)
        at_ms = BEGIN_MS + 10_000 * self._seq
        taken = []
        for row, node in enumerate(self._nodes):
            columns = tuple(
                Column(metric.name, metric.subject, KEYS, values[row, at])
                for at, metric in enumerate(SENT)
            )
            frame = Frame(node, 7, self._seq, at_ms + row, 10_000, columns)
            taken.append(Taken(frame, at_ms + row, values[row].ravel()))
        return taken


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds, the median of some rounds: what other work on the machine does not change."""
    found = []
    for _ in range(ROUNDS):
        began_s = time.thread_time()
        call()
        found.append(time.thread_time() - began_s)
    return sorted(found)[ROUNDS // 2]


def encoding(nodes: int = 1250) -> dict[str, Any]:
    """Samples a second of each step, and bytes a sample."""
    fleet, totals = Fleet(nodes), Totals()
    ticks = [fleet.tick() for _ in range(ROUNDS + 1)]
    totals.take(ticks[0])
    turns = iter(ticks[1:])
    samples = nodes * GPUS * len(SENT)
    to_totals_s = seconds(lambda: totals.take(next(turns)))
    measured = totals.take(fleet.tick())
    packer = Packer()
    packer.frames(measured)
    records = packer.frames(measured)
    to_disk_s = seconds(lambda: packer.frames(measured))
    unpacker = Unpacker()
    first = Packer().frames(measured)
    blocks = [
        one for kind, payload, _ in first for one in unpacker.read(kind, payload)
        if isinstance(one, Block)
    ]  # fmt: skip
    _, payload, _ = first[-1]
    from_disk_s = seconds(lambda: unpacker.read(first[-1][0], payload))
    encoder = Encoder({"cluster": "yard-1"})
    groups = ["h100"] * nodes
    plain = encoder.block(blocks[0], groups)
    to_protobuf_s = seconds(lambda: encoder.block(blocks[0], groups))
    packed = bytes(cramjam.snappy.compress_raw(plain))
    to_snappy_s = seconds(lambda: cramjam.snappy.compress_raw(plain))
    whole_s = to_totals_s + to_disk_s + from_disk_s + to_protobuf_s + to_snappy_s
    return {
        "samples": samples,
        "totals_samples_per_s": round(samples / to_totals_s),
        "to_queue_samples_per_s": round(samples / to_disk_s),
        "from_queue_samples_per_s": round(samples / from_disk_s),
        "protobuf_samples_per_s": round(samples / to_protobuf_s),
        "snappy_samples_per_s": round(samples / to_snappy_s),
        "whole_way_samples_per_s": round(samples / whole_s),
        "core_share_at_20000_per_s": round(20_000 * whole_s / samples, 4),
        "queue_bytes_per_sample": round(sum(len(one[1]) for one in records) / samples, 2),
        "wire_bytes_per_sample": round(len(packed) / samples, 2),
    }


# -- scrapes ---------------------------------------------------------------------------------------


class Client:
    """The same families by prometheus-client's own classes."""

    def __init__(self, store: Store, totals: Totals) -> None:
        self._store = store
        self._totals = totals

    def collect(self) -> Iterator[Any]:
        """What a registry asks for."""
        for metric in SENT:
            its = family_of(metric)
            made = (CounterMetricFamily if its.form == "counter" else GaugeMetricFamily)(
                its.name, its.text, labels=("node", "gpu"), unit=its.unit
            )
            keys, values = self._store.ring.latest(metric.name)
            for (node, key), value in zip(keys, values.tolist(), strict=True):
                made.add_metric((node, key), value)
            yield made


def scrapes(gpus: int, folder: Path, *, each: bool, client: bool) -> dict[str, Any]:
    """Seconds and bytes of a scrape. `each`: every GPU, however many; else nodes beyond 20,000."""
    store, totals = Store(folder), Totals()
    store.taps.append(lambda taken: _count(totals, taken))
    now_ms = BEGIN_MS + 10_000
    for taken in Fleet(gpus // GPUS).tick():
        store.take([taken.frame], now_ms)
    store.advance(now_ms + 8_000)
    sensors = Sensors(store.ring, totals, 10**9 if each else 20_000, lambda node: "h100")
    text = b""

    def ours() -> None:
        nonlocal text
        made = Text(open_metrics=True)
        sensors.write(made)
        text = made.done()

    ours()
    found: dict[str, Any] = {
        "gpus": gpus,
        "each_gpu": each,
        "lines": text.count(b"\n"),
        "seconds": round(seconds(ours), 3),
        "mib": round(len(text) / (1 << 20), 2),
        "gzip_mib": round(len(gzip.compress(text, 1)) / (1 << 20), 2),
    }
    if client:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Client(store, totals))
        began_s = time.thread_time()
        theirs = generate_latest(registry)  # type: ignore[no-untyped-call]
        found["client_seconds"] = round(time.thread_time() - began_s, 3)
        found["client_mib"] = round(len(theirs) / (1 << 20), 2)
    store.close()
    return found


def _count(totals: Totals, taken: Sequence[Taken]) -> None:
    totals.take(taken)


# -- peers -----------------------------------------------------------------------------------------


class Sink(ThreadingHTTPServer):
    """Takes remote write and counts it, and shows a /metrics that changes with each scrape."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.daemon_threads = True
        self.bytes = self.samples = self.scrapes = 0
        self.takes = True
        self.news = threading.Condition()
        self._fleet = Fleet(PEER_NODES)
        self._totals = Totals()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def page(self) -> bytes:
        """The next scrape, in the classic form."""
        lines = []
        for one in self._totals.take(self._fleet.tick()):
            values = iter(one.values.tolist())
            for part in one.parts:
                name = family_of(METRICS[part.metric]).sample
                lines += [f'{name}{{node="{one.node}",gpu="{key}"}} {next(values):g}'
                          for key in part.keys]  # fmt: skip
        return ("\n".join(lines) + "\n").encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sink

    def do_GET(self) -> None:
        page = self.server.page()
        with self.server.news:
            self.server.scrapes += 1
            self.server.news.notify_all()
        self._answer(200, page)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.takes:
            self._answer(503, b"")
            return
        plain = bytes(cramjam.snappy.decompress_raw(body))
        count = plain.count(b"madang_gpu_")
        with self.server.news:
            if count:
                self.server.bytes += len(body)
                self.server.samples += count  # one sample a series and request, in all of them
            self.server.news.notify_all()
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def sinking() -> Iterator[Sink]:
    """A sink that listens until the block ends."""
    sink = Sink()
    thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield sink
    finally:
        sink.shutdown()
        sink.server_close()
        thread.join()


SCRAPING = """
global: {{scrape_interval: 2s, scrape_timeout: 2s}}
scrape_configs:
  - job_name: fleet
    honor_labels: true
    static_configs: [{{targets: ["{target}"]}}]
"""
SENDING = """
remote_write:
  - url: {url}/api/v1/write
    send_exemplars: false
    metadata_config: {{send: false}}
"""


def peer(name: str, folder: Path, *, is_away: bool) -> dict[str, Any]:
    """Bytes a sample of a program that scrapes and sends on."""
    with sinking() as sink:
        sink.takes = not is_away
        config = folder / "config.yml"
        kept = folder / "kept"
        text = SCRAPING.format(target=sink.url.removeprefix("http://"))
        if name == "prometheus":
            config.write_text(text + SENDING.format(url=sink.url))
            command = [program(name), "--enable-feature=agent", f"--storage.agent.path={kept}"]
            command += [f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]
        else:
            config.write_text(text)
            command = [program(name), f"-promscrape.config={config}"]
            command += [f"-remoteWrite.url={sink.url}/api/v1/write", "-httpListenAddr=127.0.0.1:0"]
            command += [f"-remoteWrite.tmpDataPath={kept}"]
        with open(folder / "log", "wb") as log:
            running = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            with sink.news:
                enough = sink.news.wait_for(lambda: sink.scrapes >= PEER_SCRAPES, 120)
            assert enough, (folder / "log").read_text()[-2000:]
            time.sleep(6)  # the last batch has its deadline
            samples = sink.scrapes * PEER_NODES * GPUS * len(SENT)
            disk = sum(one.stat().st_size for one in kept.rglob("*") if one.is_file())
            with sink.news:
                wire = sink.bytes / max(1, sink.samples)
        finally:
            running.kill()  # in order, it would wait for the receiver
            running.wait(30)
    return {"wire": round(wire, 2), "disk": round(disk / samples, 2), "samples": samples}


def ours(folder: Path, *, is_away: bool) -> dict[str, Any]:
    """The same fleet through our queue."""
    with sinking() as sink:
        sink.takes = not is_away
        settings = OutSettings(
            destinations=(Destination("sink", f"{sink.url}/api/v1/write"),), figures_every_s=1e9
        )
        writer = Writer(folder, settings, Totals())
        writer.open()
        fleet = Fleet(PEER_NODES)
        samples = 0
        for _ in range(PEER_SCRAPES):
            taken = fleet.tick()
            for begin in range(0, len(taken), 25):
                writer.take(taken[begin : begin + 25])
            samples += PEER_NODES * GPUS * len(SENT)
            time.sleep(0.2)
        disk = writer.spool.size_bytes
        if not is_away:
            with sink.news:
                assert sink.news.wait_for(lambda: sink.samples >= samples, 60), sink.samples
            disk = 0
        writer.close()
        wire = sink.bytes / max(1, sink.samples)
    return {"wire": round(wire, 2), "disk": round(disk / samples, 2), "samples": samples}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--no-scrapes", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "encoding": encoding()}
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        folder = Path(made)
        if not asked.no_scrapes:
            sizes = (
                (1_000, True),
                (10_000, True),
                (20_000, True),
                (100_000, False),
                (100_000, True),
            )
            found["scrapes"] = [
                scrapes(gpus, folder / f"{gpus}-{each}", each=each, client=gpus <= 20_000)
                for gpus, each in sizes
            ]
        if asked.peers:
            found["peers"] = {}
            for name in ("ours", "prometheus", "vmagent"):
                for is_away in (False, True):
                    place = folder / f"{name}-{is_away}"
                    place.mkdir()
                    did = (
                        ours(place, is_away=is_away)
                        if name == "ours"
                        else peer(name, place, is_away=is_away)
                    )
                    found["peers"][f"{name}, receiver {'away' if is_away else 'there'}"] = did
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
