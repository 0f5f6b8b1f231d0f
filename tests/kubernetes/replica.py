"""`madang up --engine kubernetes` as a process, that tests may kill and stop."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import madang
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.role import madang_kubeconfig
from tests.kubernetes.yard import until


class Replica:
    """One process, with the rights that the chart gives; `database` is shared by those that take
    turns."""

    def __init__(self, cluster: Cluster, folder: Path, database: Path, **more: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        namespace = str(more.pop("namespace"))
        kubeconfig = madang_kubeconfig(cluster, namespace)
        if server := str(more.pop("server", "")):  # a door before the real one
            text = Path(kubeconfig).read_text().replace(cluster.url, server)
            kubeconfig = folder / "kubeconfig"
            kubeconfig.write_text(text)
        self.argv = [
            sys.executable, "-m", "madang", "up", "--port", str(more.pop("port", 0)),
            "--engine", "kubernetes", "--kubeconfig", str(kubeconfig),
            "--namespace", namespace, "--database", f"sqlite:///{database}",
        ]  # fmt: skip
        self.env = {
            **os.environ,
            "PYTHONPATH": str(Path(madang.__file__).parents[1]),
            "MADANG_STATE": str(folder / "state"),
            "MADANG_LEASE_S": str(more.pop("lease_s", 2)),
            "MADANG_IMAGE": "any",
            "MADANG_LOG": "info",
        }
        assert not more, more
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._running = subprocess.Popen(
                self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else "it was never started"

    @property
    def is_over(self) -> bool:
        return self._running is None or self._running.poll() is not None

    def signal(self, number: int) -> None:
        assert self._running is not None, "not started"
        os.kill(self._running.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            self._running = None

    def end(self) -> int:
        """SIGTERM, and its exit code."""
        assert self._running is not None, "not started"
        self._running.send_signal(signal.SIGTERM)
        code = self._running.wait(30)
        self._running = None
        return code

    @property
    def leads(self) -> bool:
        """It says so in the file by which `madang down` finds it."""
        return not self.is_over and bool(self._said())

    def _said(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "state/daemon.json").read_text())
        except (OSError, ValueError):
            return {}
        assert self._running is not None, "not started"
        return found if found["pid"] == self._running.pid else {}

    def wait_leads(self) -> None:
        until(lambda: self.leads or self.is_over, "it leads", 60)
        assert not self.is_over, self.log

    def ask(self, path: str) -> str:
        """What the API answers to the owner."""
        said = json.loads((self.folder / "state/client.json").read_text())
        request = urllib.request.Request(said["url"] + path)
        request.add_header("Authorization", f"Bearer {said['token']}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as failure:
        return failure.code, json.load(failure)
