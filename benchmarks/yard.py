"""Madang as a pool under test: a daemon of its own in a temporary state directory."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measuring import PoolError

ANSWER_S_MAX = 120.0
BATCH_JOBS_MAX = 1000  # what POST /v1/jobs:batch takes at once
LIVE_PHASES = ("waiting", "starting", "running", "stopping")


def madang(*words: str, state: Path, folder: Path | None = None) -> str:
    """What `madang WORDS…` prints, as its user would run it.

    Raises:
        PoolError: it ended badly; the message has its words.
    """
    done = subprocess.run(
        [*program(), *words],
        env=environment(state),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        words_said = (done.stderr or done.stdout).strip()[-800:]
        raise PoolError(f"madang {' '.join(words)} ended with {done.returncode}: {words_said}")
    return done.stdout


def program() -> list[str]:
    """The installed command; in a checkout that is not installed, the module."""
    installed = Path(sys.executable).parent / "madang"
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "madang"]


def environment(state: Path) -> dict[str, str]:
    """This program's, with the state directory and this checkout's sources in it.

    An installed Madang is compiled once, not at each start: so is this one, at its first.
    """
    sources = str(Path(__file__).resolve().parents[1] / "src")
    ours = {**os.environ, "MADANG_STATE": str(state), "PYTHONPATH": sources}
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours


class Yard:
    """`with Yard(slots=2) as yard:` — a daemon with so many devices, gone after."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.folder = Path(tempfile.mkdtemp(prefix="yard-"))
        self.state = self.folder / "state"
        self.work = self.folder / "empty"  # what a job's code snapshot is taken of
        self.work.mkdir()
        self.submitted = 0

    def __enter__(self) -> "Yard":
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the daemon; returns when it is ready."""
        port = str(free_port())
        where = ("--state", str(self.state), "--port", port, "--devices", str(self.slots))
        madang("up", "--detach", *where, state=self.state)
        client = json.loads((self.state / "client.json").read_text())
        address = str(client["url"]).removeprefix("http://")
        self.headers = {"Authorization": f"Bearer {client['token']}"}
        self.connection = http.client.HTTPConnection(address, timeout=ANSWER_S_MAX)

    def stop(self) -> None:
        """Stop the daemon."""
        self.connection.close()
        madang("down", "--state", str(self.state), state=self.state)

    def ask(self, verb: str, path: str, body: object = None) -> Any:
        """The JSON answer, over a connection that stays open.

        Raises:
            PoolError: the daemon refused; the message has its words.
        """
        text = None if body is None else json.dumps(body)
        headers = {**self.headers, "Content-Type": "application/json"}
        if verb == "GET":  # a server closes a connection that is idle; a question may be repeated
            self.connection.close()
        self.connection.request(verb, path, text, headers)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status >= 400:
            raise PoolError(f"{verb} {path}: {answer.status} {said[-800:].decode()}")
        return json.loads(said)

    def ended(self) -> int:
        """Jobs ended since the daemon started: those submitted less those alive."""
        counts = self.ask("GET", "/v1/overview")["counts"]
        return self.submitted - sum(int(counts.get(phase, 0)) for phase in LIVE_PHASES)

    def check_all_succeeded(self) -> None:
        """Read every job back once; PoolError if one did not succeed."""
        before, seen = "", 0
        while True:
            page = self.ask("GET", f"/v1/jobs?limit=1000{before}")
            for job in page["jobs"]:
                seen += 1
                if job["phase"] != "succeeded":
                    raise PoolError(f"Madang: {job['id']} {job['phase']}: {job['reason']}")
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
        if seen != self.submitted:
            raise PoolError(f"Madang: {seen} jobs on record where {self.submitted} were submitted")


class YardByHttp:
    """Jobs by `POST /v1/jobs` on one open connection, as the SDK does it."""

    name = "Madang, HTTP"

    def __init__(self, yard: Yard) -> None:
        self.yard = yard

    def submit(self, command: Sequence[str]) -> None:
        """One POST, answered after its commit."""
        self.yard.submitted += 1
        self.yard.ask("POST", "/v1/jobs", {"command": list(command)})

    def submit_batch(self, command: Sequence[str], count: int) -> None:
        """POSTs of up to 1,000 jobs."""
        left = count
        while left:
            now = min(left, BATCH_JOBS_MAX)
            self.yard.submitted += now
            jobs = [{"command": list(command)}] * now
            answers = self.yard.ask("POST", "/v1/jobs:batch", {"jobs": jobs})["jobs"]
            refused = [answer for answer in answers if "id" not in answer]
            if refused:
                raise PoolError(f"Madang: {len(refused)} jobs of a batch refused: {refused[0]}")
            left -= now

    def ended(self) -> int:
        """Jobs ended since the daemon started."""
        return self.yard.ended()


class YardByCommand(YardByHttp):
    """Jobs by `madang run`, one process each, as a person does it."""

    name = "Madang, CLI"

    def submit(self, command: Sequence[str]) -> None:
        """One `madang run --json -- …`."""
        self.yard.submitted += 1
        said = madang("run", "--json", "--", *command, state=self.yard.state, folder=self.yard.work)
        if not json.loads(said).get("id"):
            raise PoolError(f"madang run printed no id: {said[-800:]}")


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
