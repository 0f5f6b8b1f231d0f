"""Remote write as a whole: what comes in is in the disk queue before the call returns; a thread a
destination sends it on.

`take` is for frames that the store has taken. It writes, and does not wait for the disk: what was
taken survives the death of the daemon at once, and a power cut after a second. The daemon's own
figures, and who holds which GPU, are added by themselves every `figures_every_s`.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from madang.telemetry.out.blocks import Fact, Packer
from madang.telemetry.out.destination import Sender
from madang.telemetry.out.names import GroupOf, no_group
from madang.telemetry.out.settings import OutSettings
from madang.telemetry.out.spool import Spool
from madang.telemetry.out.totals import Totals
from madang.telemetry.taps import Taken

log = logging.getLogger("madang.telemetry.out")

SYNC_EVERY_S = 1.0
FRAMES_PER_RECORD_MAX = 256  # a record stays small: a reader takes some at once

Facts = Callable[[], Sequence[Fact]]  # the daemon's own figures now


class Writer:
    """`open` before the first `take`; `close` after the last."""

    def __init__(
        self,
        folder: Path,
        settings: OutSettings,
        totals: Totals,
        group_of: GroupOf = no_group,
        facts: Facts | None = None,
    ) -> None:
        """`folder` is the queue's own; `totals` may be shared with /metrics.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._settings = settings
        self._totals = totals
        self._facts = facts
        self._lock = threading.Lock()
        self.spool = Spool(folder / "queue", settings.queue_bytes_max)
        self._packer = Packer()
        self._is_torn = False
        self.queued = 0  # samples, since the start
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], None] = {}
        labels = dict(settings.labels)
        self.senders = [Sender(one, labels, self.spool, group_of) for one in settings.destinations]
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="out", daemon=True)

    def open(self) -> None:
        """Begin to send."""
        for sender in self.senders:
            sender.open()
        self._thread.start()

    def take(self, taken: Sequence[Taken]) -> None:
        """Queue what these frames say. Any thread; the order of calls is the order of samples."""
        with self._lock:
            measured = self._totals.take(taken)
            for begin in range(0, len(measured), FRAMES_PER_RECORD_MAX):
                part = measured[begin : begin + FRAMES_PER_RECORD_MAX]
                if self._has_segment(samples := sum(len(one.values) for one in part)):
                    self._append(self._packer.frames(part), samples)

    def take_facts(self, facts: Sequence[Fact]) -> None:
        """Queue samples of anything else."""
        with self._lock:
            if facts and self._has_segment(len(facts)):
                self._append(self._packer.facts(facts), len(facts))

    def close(self) -> None:
        """Stop; what is not delivered stays in the queue."""
        self._leaving.set()
        self._thread.join(SYNC_EVERY_S * 5)
        for sender in self.senders:
            sender.close()
        self.spool.close()

    def _has_segment(self, samples: int) -> bool:
        """Whether there is one to write to, in which all names are known that the packer knows."""
        if self._is_torn or self.spool.is_full():
            try:
                self.spool.roll()
            except OSError as failure:
                self.spool.lose(samples, failure)
                return False
            self._packer, self._is_torn = Packer(), False
        return True

    def _append(self, records: Sequence[tuple[int, bytes, int]], samples: int) -> None:
        if self.spool.append(records):
            self.queued += samples
        else:
            self._is_torn = True  # names may be missing from it

    def _with_ends(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts, and NaN for the series that were there last time and are no more: or a GPU
        would seem to be held by two jobs for some minutes.
        """
        now = {(one.name, one.labels): None for one in facts}
        at_ms = max((one.at_ms for one in facts), default=0)
        ended = [Fact(*series, at_ms, math.nan) for series in self._series if series not in now]
        self._series = now
        return [*facts, *ended]

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._leaving.wait(SYNC_EVERY_S):
            try:
                self.spool.sync()
                if self.senders:
                    self.spool.trim(min(sender.committed for sender in self.senders))
                if self._facts is not None and time.monotonic() >= due_s:
                    due_s = time.monotonic() + self._settings.figures_every_s
                    self.take_facts(self._with_ends(self._facts()))
            except OSError as failure:
                log.error("the queue in %s: %s", self.spool.path, failure)
            except Exception:
                log.exception("the daemon's own figures could not be taken")
