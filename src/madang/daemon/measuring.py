"""Looks at the sensors now and then, and tells the turn loop how busy jobs keep their GPUs, and
when they were last seen to have saved a checkpoint.

In a thread of its own, so that no turn waits for a sensor; never more than a twentieth of the time,
and at most one window of each running job on its way. What cannot be told is dropped: it is missing
then, and nothing is concluded from what is missing.
"""

import logging
import threading
import time

from madang.daemon.loop import TurnLoop
from madang.engines.base import EngineError
from madang.engines.measuring import Meter

log = logging.getLogger("madang.daemon")

LOOKS_PER_WINDOW = 20
PAUSE_S = (0.05, 30.0)  # least and most between two looks
SHARE = 20  # a look that takes a second is followed by a pause of as many
OFF_PAUSE_S = 30.0  # nothing is measured: see now and then whether that has changed


class Measurer:
    """`open` and `close` it with the loop."""

    def __init__(self, loop: TurnLoop) -> None:
        self._loop = loop
        self._meter = Meter()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="measuring", daemon=True)

    def open(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._leaving.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        pause_s = PAUSE_S[0]
        while not self._leaving.wait(pause_s):
            began_s = time.monotonic()
            window_ms = self._loop.policy.measure_ms
            if window_ms > 0:
                self._look(window_ms)
            took_s = time.monotonic() - began_s
            least_s, most_s = PAUSE_S
            pause_s = min(max(window_ms / 1000 / LOOKS_PER_WINDOW, least_s), most_s)
            pause_s = max(pause_s, took_s * SHARE) if window_ms > 0 else OFF_PAUSE_S

    def _look(self, window_ms: int) -> None:
        try:
            sample = self._loop.engine.sample()
        except EngineError:
            log.exception("the sensors cannot be read")
            return
        now_ms = self._loop.clock()
        measured = self._meter.look(sample, self._loop.allocations(), now_ms, window_ms)
        if measured:
            self._loop.tell(measured)
