"""Brings frames from the buffer to the daemon, oldest first, and no faster than it wants them.

A frame leaves the buffer when the daemon has taken it, or has said why it never will. 429 and 503
are waited for as long as Retry-After says, an answer's `pause_ms` before the next body; a daemon
that does not answer is asked again after 1, 2, 4 … 60 s, each a little differently on each node, so
that a fleet does not come back at one moment. The token is in a header, and in no log.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from madang import __version__
from madang.agent.buffer import Buffer
from madang.agent.http import Answer, HttpError, Line, Place
from madang.telemetry.frames import PACKED_BYTES_MAX, pack_encoded

_log = logging.getLogger(__name__)

PATH = "/v1/frames"
FRAMES_MAX = 1_000  # of one body: some seconds of the daemon's time, at the very most
BYTES_MAX = 4 << 20  # unpacked; packed it is a third of that
TIMEOUT_S = 30.0
WAIT_S = (1.0, 60.0)  # least and most between two tries
REST_S_MAX = 300.0  # of what Retry-After may ask for
REFUSED_TOLD_MAX = 5  # reasons of one answer that are logged


@dataclass(slots=True)
class Counts:
    """What became of frames."""

    taken: int = 0
    refused: int = 0
    tries: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one body: how many of its frames are done with, and how long to rest."""

    done: int
    rest_s: float
    ok: bool


@dataclass(slots=True)
class Pusher:
    """One thread of its own between `open` and `close`. `lock` guards the buffer."""

    place: Place
    token: Callable[[], str]
    buffer: Buffer
    lock: threading.Lock
    counts: Counts = field(default_factory=Counts)
    _line: Line | None = None
    _news: threading.Event = field(default_factory=threading.Event)
    _leaving: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _tries: int = 0
    _frames_max: int = FRAMES_MAX
    _was_up: bool = True

    def open(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="agent-push", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a new frame."""
        self._news.set()

    def close(self, wait_s: float = 5.0) -> None:
        """Stop; what is on its way may arrive."""
        self._leaving.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=wait_s)
        if self._line is not None:
            self._line.close()

    def _run(self) -> None:
        while not self._leaving.is_set():
            self._news.clear()
            rest_s = self.turn()
            if rest_s is None:
                self._news.wait()
            elif rest_s > 0 and self._leaving.wait(rest_s):
                return

    def turn(self) -> float | None:
        """Send one body. How long to rest until the next; None: there is nothing to send."""
        with self.lock:
            first = self.buffer.head
            frames = self.buffer.peek(self._frames_max, BYTES_MAX)
        if not frames:
            return None
        verdict = self._sent(frames)
        if verdict.done:
            with self.lock:
                self.buffer.delivered(first + verdict.done)
        if verdict.ok:
            self._tries = 0
            return verdict.rest_s
        self._tries += 1
        self.counts.failed += 1
        return max(verdict.rest_s, self._backoff_s())

    def _backoff_s(self) -> float:
        least_s, most_s = WAIT_S
        span_s = min(most_s, least_s * 2.0 ** min(self._tries - 1, 16))
        return span_s * random.uniform(0.5, 1.0)

    def _sent(self, frames: list[bytes]) -> Verdict:
        body = pack_encoded(frames)
        if len(body) > PACKED_BYTES_MAX and len(frames) > 1:
            self._frames_max = len(frames) // 2
            return Verdict(0, 0.0, ok=True)
        self.counts.tries += 1
        self._line = self._line or Line(self.place, TIMEOUT_S)
        headers = {
            "Content-Type": "application/vnd.madang.frames",
            "User-Agent": f"madang-agent/{__version__}",
            "Madang-Sent-Ms": str(time.time_ns() // 1_000_000),
        }
        token = self.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            path = self.place.path + PATH
            answer = self._line.ask("POST", path, headers, body)
        except HttpError as error:
            self._tell_down(str(error))
            return Verdict(0, 0.0, ok=False)
        return self._judged(answer, len(frames))

    def _judged(self, answer: Answer, count: int) -> Verdict:
        said = _document(answer.body)
        if answer.status == 200 and type(said.get("taken")) is int:
            self._tell_up()
            self._frames_max = FRAMES_MAX
            return self._taken(said, count)
        reason = _reason(answer)
        if answer.status in (400, 413, 422):
            if count > 1:  # find the one that is wrong
                self._frames_max = max(1, count // 2)
                return Verdict(0, 0.0, ok=True)
            self.counts.refused += 1
            _log.error("a frame is refused (%d): %s", answer.status, reason)
            return Verdict(1, 0.0, ok=True)
        self._tell_down(f"status {answer.status}: {reason}")
        return Verdict(0, _rest_s(answer.headers), ok=False)

    def _taken(self, said: Mapping[str, Any], count: int) -> Verdict:
        refused = said.get("refused")
        refused = refused if isinstance(refused, list) else []
        total = int(_number(said.get("refused_count"), len(refused)))
        self.counts.refused += total
        self.counts.taken += max(0, count - total)
        for one in refused[:REFUSED_TOLD_MAX]:
            if isinstance(one, dict):
                _log.warning("frame %s is refused: %s", one.get("seq"), one.get("reason"))
        if total > REFUSED_TOLD_MAX:
            _log.warning("… and %d more frames", total - REFUSED_TOLD_MAX)
        pause_s = _number(said.get("pause_ms"), 0) / 1000
        return Verdict(count, min(max(pause_s, 0.0), REST_S_MAX), ok=True)

    def _tell_down(self, why: str) -> None:
        if self._was_up:
            _log.warning("%s does not take frames (%s); they wait", self.place.url, why)
        self._was_up = False

    def _tell_up(self) -> None:
        if not self._was_up:
            with self.lock:
                waiting = len(self.buffer)
            _log.warning("%s takes frames again; %d wait", self.place.url, waiting)
        self._was_up = True


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _number(value: Any, default: float) -> float:
    return float(value) if type(value) in (int, float) else default


def _reason(answer: Answer) -> str:
    said = _document(answer.body)
    if answer.status == 200:
        return "this is no answer of a daemon"  # a proxy's page of its own
    for name in ("detail", "title", "message"):
        if isinstance(said.get(name), str):
            return str(said[name])[:300]
    return "no reason given"


def _rest_s(headers: Mapping[str, str]) -> float:
    """Retry-After in seconds; a date is not ours."""
    said = headers.get("retry-after", "")
    return min(float(said), REST_S_MAX) if said.isdecimal() else 0.0
