"""The inbox: what users ask, waiting for the next turn. Bounded; full means a clear refusal."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from madang.api.yard import Busy
from madang.core.events import Fact
from madang.engines.base import Arrival
from madang.wire.jobs import JobRequest

ASKS_MAX = 20_000  # about a second of commits; beyond that it is kinder to say so


@dataclass(frozen=True, slots=True)
class Submit:
    """A job to be acknowledged. Its future resolves to Accepted or Refused, after the commit.

    With an `arrival` it is the engine's, and nobody awaits the future.
    """

    request: JobRequest
    owner: str
    idempotency_key: str = ""
    arrival: Arrival | None = None
    answer: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Ask:
    """A fact from a user. Its future resolves to None, after the commit."""

    fact: Fact
    answer: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Note:
    """A memo for a job. Its future resolves to None, after the commit."""

    job: str
    memo: str
    answer: "Future[Any]" = field(default_factory=Future)


Request = Submit | Ask | Note


class Inbox:
    """Many threads put, the turn loop takes."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._requests: deque[Request] = deque()
        self._wake = wake
        self._closed = ""

    def put(self, requests: list[Request]) -> None:
        """Queue them all, or none.

        Raises:
            Busy: there is no room, or the daemon is leaving.
        """
        with self._lock:
            if self._closed:
                raise Busy(self._closed)
            if len(self._requests) + len(requests) > ASKS_MAX:
                raise Busy(f"{len(self._requests)} requests wait already (at most {ASKS_MAX})")
            self._requests.extend(requests)
        self._wake()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._requests)

    def take(self, requests_max: int) -> list[Request]:
        """The oldest requests."""
        with self._lock:
            count = min(requests_max, len(self._requests))
            return [self._requests.popleft() for _ in range(count)]

    def close(self, why: str) -> None:
        """Refuse all that waits and all that comes."""
        with self._lock:
            self._closed = why
            refused, self._requests = list(self._requests), deque()
        for request in refused:
            request.answer.set_exception(Busy(why))
