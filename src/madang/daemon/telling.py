"""Tells the engine, of work that arrived there and waits, why it waits.

In a thread of its own: explaining costs milliseconds a job, and no turn waits for it. It takes at
most a twentieth of the time, and goes round when there is more than one look can explain. Only what
has changed is told.
"""

import logging
import threading
import time
from typing import cast

from madang.core import explain
from madang.core.model import Phase
from madang.daemon.loop import TurnLoop
from madang.engines.base import Receives

log = logging.getLogger("madang.daemon")

PAUSE_S = 2.0
SHARE = 20  # a look that takes a second is followed by a pause of as many
JOBS_PER_LOOK_MAX = 128


class Teller:
    """`open` and `close` it with the loop; for an engine without arrivals it does nothing."""

    def __init__(self, loop: TurnLoop) -> None:
        self._loop = loop
        self._told: dict[str, str] = {}
        self._next = 0
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)

    def open(self) -> None:
        """Begin to look."""
        if hasattr(self._loop.engine, "explain"):
            self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._leaving.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        pause_s = PAUSE_S
        while not self._leaving.wait(pause_s):
            began_s = time.monotonic()
            try:
                self.look()
            except Exception:
                log.exception("reasons are told with the next look")
            pause_s = max(PAUSE_S, (time.monotonic() - began_s) * SHARE)

    def look(self) -> None:
        """Explain some of those that wait, the next ones the next time."""
        waiting = self._loop.arriving.waiting()
        if not waiting:
            self._told.clear()
            return
        snapshot = self._loop.snapshot()
        found = [
            (key, job)
            for key, job in waiting.items()
            if job in snapshot.jobs and snapshot.jobs[job].standing.phase is Phase.WAITING
        ]
        some = _some(found, self._next)
        self._next += len(some)
        engine = cast(Receives, self._loop.engine)
        for key, job in some:
            text = explain.why(snapshot, job).text
            if self._told.get(key) != text:
                self._told[key] = text
                engine.explain(key, text)
        still = {key for key, _ in found}
        self._told = {key: text for key, text in self._told.items() if key in still}


def _some(found: list[tuple[str, str]], begin: int) -> list[tuple[str, str]]:
    """As many as one look may explain, from where the last one ended."""
    if len(found) <= JOBS_PER_LOOK_MAX:
        return found
    begin %= len(found)
    return (found[begin:] + found[:begin])[:JOBS_PER_LOOK_MAX]
