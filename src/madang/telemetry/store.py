"""The store: frames in, everything else out. The only door of this room.

Promises: a frame is taken once, in parts if parts of it are wrong, and its verdict says which; what
was taken is in the ring at once, in quantiles and history soon, and outlives a kill (keeping.py
says how much of it). One lock; who reads holds it for some milliseconds at most, and queries of
history hold none. Where nothing can be kept (a full disk) it goes on in memory, and says so.

Four threads at most: whoever takes frames, `advance` (time), `keep` (files) and readers.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madang.telemetry import keeping
from madang.telemetry.frames import Frame, FrameError, decode, split
from madang.telemetry.history import DAY_MS, History, Retention
from madang.telemetry.intake import Counts, Intake, Verdict
from madang.telemetry.keeper import Keeper
from madang.telemetry.quantiles import Quantiles
from madang.telemetry.queries import HistoryAway, Points, Query, Series, spread, stepped
from madang.telemetry.reporters import Reporter
from madang.telemetry.ring import TICK_MS, Floats, Ring
from madang.telemetry.rollups import MINUTE_MS
from madang.telemetry.signals import SignalRecord
from madang.telemetry.stays import FOLD_TICKS, Held, Stay, Stays
from madang.telemetry.taps import Taken, Tap

log = logging.getLogger("madang.telemetry")

LAG_MS = 1_000  # what is said of a tick is here by then, mostly
SILENT_TICKS = 6  # a node that is silent for longer is not waited for
FOLDS_LATE = 6  # half of the ring
TICKS_TOLD_MAX = 6  # after a pause the watchers hear of so many, not of all that passed
KEEP_MS = 10_000  # what is newer is in the journal, or lost with a kill
LATE_MAX = 100_000  # frames that wait for history; beyond it senders are told to wait
STAYS_ENDED_MAX = 64  # whose quantiles are at hand without a file
SIGNALS_FOUND_MAX = 50_000

Watcher = Callable[[int], None]
# The query, and to when: (the length in ms that each point stands for, points).
Remote = Callable[[Query, int], Iterator[tuple[int, Points]]]


class StoreBusy(Exception):
    """Too much waits to be kept: nothing was taken, and may be sent again later."""


@dataclass(frozen=True, slots=True)
class MarkView:
    """What was wrong with a node's frames, how often, when last, and in which words then."""

    kind: str
    count: int
    at_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """How a node reports. `dropped` are frames that its agent lost, as it says itself."""

    node: str
    seen_ms: int
    at_ms: int
    taken: int
    refused: int
    dropped: int
    clock_offset_ms: int
    marks: tuple[MarkView, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """`tick_ms` is the length of a tick; a fleet of `speed` 10 has ticks of a second."""

    tick_ms: int = TICK_MS
    retention: Retention = field(default_factory=Retention)


class Store:
    """See the module. `path` is the directory of its own in the state directory; `remote` answers
    queries in place of history here, where one is configured.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings = Settings(),
        remote: Remote | None = None,
    ) -> None:
        self.path = path
        self.settings = settings
        self.remote = remote
        self.ring = Ring(settings.tick_ms)
        self.watchers: list[Watcher] = []
        self.taps: list[Tap] = []
        self._lock = threading.RLock()
        self._stays = Stays(self.ring)
        self._intake = Intake(self.ring, self._stays)
        self._history = History(path / "history", settings.retention)
        self._keeper = Keeper(path, self._intake, self._history, self._lock)
        self._ended: dict[str, Stay] = {}
        self._is_open = False
        self._began_ms = 0  # a ring that began empty does not answer for what was before it
        self._kept_ms = 0
        self._swept_tick = -1

    # -- life --------------------------------------------------------------------------------------

    def open(self, now_ms: int) -> None:
        """Take up what a run before has left. Whatever else is called first opens it, too."""
        with self._lock:
            if self._is_open:
                return
            self._is_open = True
            if self.remote is not None and not (self.path / "state.json").exists():
                self._began_ms = -(-now_ms // MINUTE_MS) * MINUTE_MS
            try:
                self._keeper.open(now_ms, self._replay)
            except OSError as error:
                self._keeper.trouble = f"nothing can be kept: {error}"
                log.exception("telemetry cannot use %s", self.path)

    def _replay(self, body: bytes, came_ms: int, sent_ms: int | None) -> None:
        frames = []
        try:
            for encoded in split(body):
                try:
                    frames.append(decode(encoded))
                except FrameError:
                    pass  # it was refused then, too
        except FrameError:
            return
        self._intake.take(frames, came_ms, sent_ms)

    def close(self) -> None:
        """Keep what there is, and stop."""
        if self._is_open:
            try:
                self._keeper.round(now_ms(), last=True)
            except OSError:
                log.exception("the newest telemetry could not be kept")
        self._keeper.journal.close()

    # -- in ----------------------------------------------------------------------------------------

    def take(
        self, frames: Iterable[Frame], now_ms: int, sent_ms: int | None = None
    ) -> list[Verdict]:
        """Take in frames, oldest first. `sent_ms` is the sender's clock as it sent them.

        Raises:
            StoreBusy: nothing was taken.
        """
        batch = list(frames)
        with self._lock:
            self.open(now_ms)
            if len(self._intake.late) >= LATE_MAX:
                raise StoreBusy(f"{len(self._intake.late)} late frames wait to be written")
            self._intake.tapped = [] if self.taps else None
            verdicts = self._intake.take(batch, now_ms, sent_ms)
            self._tell_taps(self._intake.tapped or ())
            return verdicts

    def _tell_taps(self, taken: Sequence[Taken]) -> None:
        """Hand on what was taken, in its order: before it is acknowledged, so that what was
        acknowledged is in the queue of what goes out, too.
        """
        for tap in self.taps if taken else ():
            try:
                tap(taken)
            except Exception:
                log.exception("frames could not be handed on")

    def receive(
        self, body: bytes, frames: Iterable[Frame], now_ms: int, sent_ms: int | None
    ) -> list[Verdict]:
        """Take in the frames of one body of HTTP; a kill loses nothing of what was received.

        Raises:
            StoreBusy: nothing was taken.
        """
        with self._lock:
            verdicts = self.take(frames, now_ms, sent_ms)
            if any(one.taken for one in verdicts):
                try:
                    self._keeper.journal.add(body, now_ms, sent_ms)
                except OSError as error:
                    self._keeper.trouble = f"frames are held in memory only: {error}"
            return verdicts

    # -- time --------------------------------------------------------------------------------------

    def advance(self, now_ms: int) -> None:
        """Complete the ticks that are due and call the watchers. Called several times a tick."""
        done: range = range(0)
        with self._lock:
            self.open(now_ms)
            due = self._due_tick(now_ms)
            if due > self.ring.tick:
                done = range(max(self.ring.tick + 1, due - TICKS_TOLD_MAX + 1), due + 1)
                self.ring.begin(due)
                self.ring.tick = due
                heard = self._intake.heard
                self._intake.heard = {tick: n for tick, n in heard.items() if tick > due}
                if due - self._swept_tick >= FOLD_TICKS:
                    self._swept_tick = due
                    self.ring.sweep()
                    # The keeper folds as it keeps; where it can not, nothing is lost yet.
                    self._stays.fold_older_than(due - FOLDS_LATE * FOLD_TICKS)
        for tick in done:
            for watcher in list(self.watchers):
                try:
                    watcher(tick)
                except Exception:
                    log.exception("a watcher of ticks failed")

    def _due_tick(self, now_ms: int) -> int:
        """The newest tick that is over, or that everyone has told of."""
        tick_ms = self.ring.tick_ms
        lag_ms = min(LAG_MS, tick_ms // 4)
        due = (now_ms - lag_ms - tick_ms // 2) // tick_ms
        after = due + 1
        if self.ring.time_ms(after) <= now_ms and after <= self.ring.newest:
            since_ms = now_ms - SILENT_TICKS * tick_ms
            reporters = self._intake.reporters.values()
            alive = sum(one.seen_ms >= since_ms for one in reporters)
            if self._intake.heard.get(after, 0) >= alive > 0:
                return after
        return due

    def keep(self, now_ms: int) -> None:
        """Write what is new to files, now and then. Called every second or so, by one thread."""
        if not self._is_open or (now_ms - self._kept_ms < KEEP_MS and not self._keeper.is_urgent):
            return
        self._kept_ms = now_ms
        try:
            self._keeper.round(now_ms)
        except OSError:
            log.exception("telemetry could not be kept")

    def hold(self, held: Sequence[Held]) -> None:
        """Who holds what now."""
        with self._lock:
            self.open(now_ms())
            gone = self._stays.hold(held)
            self._keeper.ended += gone
            for stay in gone:
                self._ended[stay.held.allocation] = stay
                while len(self._ended) > STAYS_ENDED_MAX:
                    del self._ended[next(iter(self._ended))]

    # -- out ---------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """Of frames and samples, since the start."""
        return self._intake.counts

    @property
    def trouble(self) -> str:
        """Why nothing can be kept; "" while all is well."""
        return self._keeper.trouble

    @property
    def history_bytes(self) -> int:
        """What history takes on disk."""
        return self._history.size_bytes

    def held(self, allocation: str) -> Held | None:
        """Who and where, while it is live or not long ended."""
        with self._lock:
            stay = self._stays.live.get(allocation) or self._ended.get(allocation)
            return stay.held if stay else None

    def query(self, query: Query) -> Series:
        """See queries.py. The last hour is the ring's, what is older history's.

        Raises:
            BadQuery: it asks for nothing, or for too much at once.
        """
        query.check()
        notices: list[str] = []
        series = stepped(query, self._sources(query, notices))
        return replace(series, notice=" ".join(notices))

    def _sources(self, query: Query, notices: list[str]) -> Iterator[Points]:
        with self._lock:
            self.open(now_ms())
            # Whole minutes only: the one that the ring's end cuts is in history.
            oldest_ms = self.ring.time_ms(self.ring.oldest)
            seam_ms = max(-(-oldest_ms // MINUTE_MS) * MINUTE_MS, self._keeper.since_ms)
            seam_ms = max(seam_ms, self._began_ms)
            ring = self._ring_points(query, max(seam_ms, query.from_ms))
        yield ring
        if query.from_ms < seam_ms:
            for length_ms, points in self._older(query, min(seam_ms, query.to_ms), notices):
                yield spread(points, length_ms, query.step_ms)

    def _older(self, query: Query, to_ms: int, notices: list[str]) -> Iterable[tuple[int, Points]]:
        """From the remote store where there is one; while that is away, from what is here."""
        if self.remote is not None:
            try:
                return list(self.remote(query, to_ms))
            except HistoryAway as away:
                log.warning("history is asked here: %s", away)
                notices.append(f"{away}; this is what is kept here")
        return self.history(query, to_ms)

    @contextmanager
    def looking(self) -> Iterator[Stays]:
        """Who holds what, and the ring under it, while nobody writes: for some milliseconds."""
        with self._lock:
            self.open(now_ms())
            yield self._stays

    def stays_since(self, since_ms: int) -> Iterator[tuple[Stay, bool]]:
        """Allocations that are live (True), folded to now, and those that ended since then, newest
        first. What is given does not change any more.
        """
        with self._lock:
            self.open(now_ms())
            live = list(self._stays.live)
            ended = dict(reversed(self._ended.items()))
        for id in reversed(live):
            with self._lock:
                stay = self._stays.live.get(id)
                if stay is not None:
                    self._stays.fold([stay])
                    stay = stay.copied()
            if stay is not None:
                yield stay, True
        for stay in ended.values():
            if (stay.folded + 1) * self.ring.tick_ms > since_ms:
                yield stay, False
        for stay in keeping.ended_stays(self.path / "quantiles", since_ms):
            if stay.held.allocation not in ended:
                yield stay, False

    def history(self, query: Query, to_ms: int) -> Iterator[tuple[int, Points]]:
        """What is on disk here, to `to_ms`: (the length that each point stands for, points)."""
        return self._history.points(query, to_ms)

    def _ring_points(self, query: Query, from_ms: int) -> Points:
        first = max(self.ring.oldest, -(-from_ms // self.ring.tick_ms))
        last = min(self.ring.newest, (query.to_ms - 1) // self.ring.tick_ms)
        ticks = np.arange(first, last + 1)
        values = self.ring.gather(query.metric, query.keys, ticks)
        return _points(values, ticks * self.ring.tick_ms)

    def quantiles(self, allocation: str, metric: str) -> Quantiles | None:
        """Of an allocation since its start, to the newest complete tick; None if nothing is known.

        What is returned does not change any more.
        """
        with self._lock:
            stay = self._folded_stay(allocation)
            if stay is None:
                return None
            if metric in stay.bins:
                return stay.histogram(metric)
            sketch = stay.sketches.get(metric)
            return sketch.copied() if sketch is not None else None

    def device_quantiles(
        self, allocation: str, metric: str
    ) -> list[tuple[tuple[str, int], Quantiles]]:
        """Per device in rank order; empty for what is no integer percent."""
        with self._lock:
            stay = self._folded_stay(allocation)
            if stay is None or metric not in stay.bins:
                return []
            return [
                (device, stay.histogram(metric, row)) for row, device in enumerate(stay.devices)
            ]

    def known_metrics(self, allocation: str) -> list[str]:
        """The metrics of which quantiles of the allocation are known."""
        with self._lock:
            stay = self._folded_stay(allocation)
            return sorted({*stay.bins, *stay.sketches}) if stay else []

    def _folded_stay(self, allocation: str) -> Stay | None:
        self.open(now_ms())
        stay = self._stays.live.get(allocation)
        if stay is not None:
            self._stays.fold([stay])
            return stay
        ended = self._ended.get(allocation)
        if ended is None:
            ended = keeping.find_ended(self.path / "quantiles", allocation)
        return ended

    def signals(
        self, from_ms: int, to_ms: int, node: str | None = None, job: str | None = None
    ) -> list[SignalRecord]:
        """What happened from `from_ms` (within) to `to_ms` (without), oldest first; the newest of
        it where it is too much.
        """
        with self._lock:
            self.open(now_ms())
            found = list(self._intake.signals)
        known_ms = min([one.at_ms for one in found], default=to_ms)
        older: list[SignalRecord] = []
        for day in range(from_ms // DAY_MS, min(known_ms, to_ms) // DAY_MS + 1):
            file = self.path / "signals" / f"{keeping.day_of(day * DAY_MS)}.ndjson"
            older += [one for one in keeping.read_signals(file) if one.at_ms < known_ms]
        chosen = [
            one
            for one in (*older, *found)
            if from_ms <= one.at_ms < to_ms
            and (node is None or one.node == node)
            and (job is None or one.job == job)
        ]
        return sorted(chosen, key=lambda one: one.at_ms)[-SIGNALS_FOUND_MAX:]

    def health(self) -> list[NodeHealth]:
        """How each node reports, by name."""
        with self._lock:
            return [_health(one) for _, one in sorted(self._intake.reporters.items())]


def _points(values: Floats, times_ms: NDArray[np.int64]) -> Points:
    """A matrix (T, K) as points."""
    rows, keys = np.nonzero(~np.isnan(values))
    found = values[rows, keys]
    return Points(keys.astype(np.int64), times_ms[rows], found, found, found, np.ones(len(found)))


def _health(one: Reporter) -> NodeHealth:
    boot = one.boots.get(one.current)
    return NodeHealth(
        one.node,
        one.seen_ms,
        one.at_ms,
        one.taken,
        one.refused,
        one.dropped,
        boot.offset_ms if boot else 0,
        tuple(
            MarkView(kind, mark.count, mark.at_ms, mark.text) for kind, mark in one.marks.items()
        ),
    )


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000
