"""VictoriaMetrics and Prometheus on ports of their own, for tests and benchmarks.

Both keep what they have in a folder given by the caller, so that one that is stopped or killed goes
on with it when it is started again. Nothing listens on anything but loopback.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

READY_S = 30.0
LOOK_S = 0.05


class MonitorError(Exception):
    """It did not start, or does not answer; the text has its own words."""


class _Monitor:
    """A program with a folder and a port, started and stopped as often as one likes."""

    ready_path = "/health"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._program: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Returns once it answers."""
        assert self._program is None, "it runs already"
        with open(self.folder / "log", "ab") as log:
            self._program = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        until_s = time.monotonic() + READY_S
        while time.monotonic() < until_s:
            if self._program.poll() is not None:
                raise MonitorError(f"it ended: {self.log()}")
            try:
                self.get(self.ready_path)
                return
            except (OSError, MonitorError):
                time.sleep(LOOK_S)
        raise MonitorError(f"not ready after {READY_S:g} s: {self.log()}")

    def stop(self) -> None:
        """In order: what it has goes to disk."""
        if self._program is not None:
            self._program.terminate()
            self._program.wait(60)
            self._program = None

    def kill(self) -> None:
        """kill -9."""
        if self._program is not None:
            self._program.kill()
            self._program.wait()
            self._program = None

    def __enter__(self) -> "Any":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def get(self, path: str, **query: str | Sequence[str]) -> bytes:
        """The body of a good answer.

        Raises:
            MonitorError: it refuses.
            OSError: it does not answer.
        """
        asked = urllib.parse.urlencode(query, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{asked}", timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as refused:
            raise MonitorError(f"{path}: {refused.code} {refused.read()[:500]!r}") from refused

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query."""
        more = {} if at_s is None else {"time": f"{at_s:.3f}"}
        answer = json.loads(self.get("/api/v1/query", query=expression, nocache="1", **more))
        return list(answer["data"]["result"])

    def log(self) -> str:
        """The end of what it said."""
        return (self.folder / "log").read_text(errors="replace")[-2_000:]

    @property
    def size_bytes(self) -> int:
        """What its folder takes on disk."""
        return sum(
            os.stat(Path(top, name)).st_blocks * 512
            for top, _, names in os.walk(self.folder / "kept")
            for name in names
        )


class VictoriaMetrics(_Monitor):
    """Leaves out samples that come twice, as a receiver of remote write should be told to."""

    @property
    def command(self) -> list[str]:
        return [
            program("victoria-metrics"),
            f"-storageDataPath={self.folder / 'kept'}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-retentionPeriod=100y",
            "-dedup.minScrapeInterval=1ms",
            "-memory.allowedPercent=10",
            "-search.latencyOffset=0s",
        ]

    def flush(self) -> None:
        """What it has taken can be asked for from here on."""
        self.get("/internal/force_flush")

    def samples(self, match: str) -> dict[str, list[tuple[int, float]]]:
        """(ms, value) by series, as they are stored, in order of time."""
        self.flush()
        found: dict[str, list[tuple[int, float]]] = {}
        for line in self.get("/api/v1/export", **{"match[]": match}).splitlines():
            row = json.loads(line)
            values = [float("nan") if one is None else one for one in row["values"]]
            pairs = zip(row["timestamps"], values, strict=True)
            found.setdefault(json.dumps(row["metric"], sort_keys=True), []).extend(pairs)
        return {series: sorted(pairs) for series, pairs in found.items()}

    def count(self, match: str) -> tuple[int, int]:
        """How many samples are stored, and how many of them stand for the same moment twice."""
        stored = twice = 0
        for pairs in self.samples(match).values():
            stored += len(pairs)
            twice += len(pairs) - len({at_ms for at_ms, _ in pairs})
        return stored, twice


class Prometheus(_Monitor):
    """With a configuration, and open to remote write."""

    ready_path = "/-/ready"

    def __init__(self, folder: Path, config: str = "", options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self._options = tuple(options)
        (folder / "prometheus.yml").write_text(config or "global: {}\n")

    @property
    def command(self) -> list[str]:
        return [
            program("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'kept'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
            *self._options,
        ]


def program(name: str) -> str:
    """Where a program is.

    Raises:
        MonitorError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        package = "victoria-metrics" if name.startswith("v") else "prometheus"
        raise MonitorError(f"there is no {name} here: apt-get install {package}")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
