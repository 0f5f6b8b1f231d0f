"""A real daemon in a process of its own, for tests that need the whole thing."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY_S = 30.0
REPOSITORY = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Unreachable(Exception):
    """The daemon did not answer: it may or may not have heard."""


class LiveYard:
    """`madang up` in a state directory of its own. Started by `start` or by `with`."""

    def __init__(
        self,
        state: Path,
        *,
        devices: int = 4,
        arguments: tuple[str, ...] = (),
        log: Path | None = None,
    ) -> None:
        self.state = state
        self.log_path = log or state.parent / f"{state.name}.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.arguments = ("--devices", str(devices), *arguments)
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        log = open(self.log_path, "ab")  # noqa: SIM115
        command = [sys.executable, "-m", "madang", "up", "--state", str(self.state)]
        self.daemon = subprocess.Popen(
            [*command, "--port", str(self.port), *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment(),
        )
        log.close()
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            assert self.daemon.poll() is None, f"the daemon ended: {self.log()}"
            try:
                self.ask("GET", "/v1/health")
                return
            except Unreachable:
                time.sleep(0.01)
        raise AssertionError(f"not ready after {READY_S} s: {self.log()}")

    def log(self) -> str:
        return self.log_path.read_text()[-4000:]

    def kill(self) -> None:
        """kill -9, as the night does it."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(30)

    def ask(
        self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Any:
        """The JSON answer.

        Raises:
            Unreachable: no answer came.
            urllib.error.HTTPError: the daemon refused.
        """
        request = urllib.request.Request(self.url + path, method=verb, headers=headers or {})
        request.add_header("Authorization", f"Bearer {self.token()}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as failure:
            raise Unreachable(str(failure)) from failure

    def text(self, path: str) -> str:
        """The body of a plain-text answer."""
        request = urllib.request.Request(self.url + path)
        request.add_header("Authorization", f"Bearer {self.token()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))

    def cli(self, *words: str) -> Any:
        """`madang …` against this daemon; its one JSON document."""
        done = subprocess.run(
            [sys.executable, "-m", "madang", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.environment(), "MADANG_STATE": str(self.state)},
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def environment(self) -> dict[str, str]:
        """The tests' own, with the sources on the path and no other daemon named."""
        # The last: or each daemon compiles all it imports.
        dropped = {"MADANG_STATE", "MADANG_URL", "MADANG_TOKEN", "PYTHONDONTWRITEBYTECODE"}
        kept = {k: v for k, v in os.environ.items() if k not in dropped}
        kept["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", "")))
        paths = (str(REPOSITORY / "src"), kept.get("PYTHONPATH", ""))
        return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def token(self) -> str:
        try:
            return str(json.loads((self.state / "client.json").read_text())["token"])
        except (OSError, ValueError):
            return ""

    def wait_running(self, job: str, seconds: float = 30.0) -> None:
        """Return once the job runs."""
        until = time.monotonic() + seconds
        while (phase := self.ask("GET", f"/v1/jobs/{job}")["phase"]) != "running":
            assert time.monotonic() < until, f"{job} is {phase}: {self.log()}"
            time.sleep(0.02)

    def wait_until(self, holds: Callable[[], bool], seconds: float = 60.0) -> None:
        """Until what no event tells of holds."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"did not come: {self.log()}"
            time.sleep(0.05)

    def wait_ended(self, jobs: list[str], seconds: float = 60.0) -> dict[str, Any]:
        """Views of the jobs by id, once all have ended."""
        until = time.monotonic() + seconds
        while True:
            listed = self.ask("GET", "/v1/jobs?limit=1000")["jobs"]
            views = {view["id"]: view for view in listed if view["id"] in set(jobs)}
            if all(views[id]["ended_ms"] for id in jobs):
                return views
            left = [(id, views[id]["phase"]) for id in jobs if not views[id]["ended_ms"]]
            assert time.monotonic() < until, f"not ended: {left} {self.log()}"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            try:
                for view in self.ask("GET", "/v1/jobs?phase=live&limit=1000")["jobs"]:
                    self.ask("POST", f"/v1/jobs/{view['id']}/stop", {"grace": "0s"})
            except (Unreachable, urllib.error.HTTPError):
                pass  # it is going away all the same
            self.kill()
