"""Keeps what the store knows: the ring and the quantiles for a restart, the rest as history.

A round is: collect under the lock (copies only), write without it, and commit by renaming
`state.json`, which names all that is valid. A round that fails is taken back and tried again with
the next; a kill at any point leaves the state before it, and the journal from there.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from madang.telemetry import keeping
from madang.telemetry.history import DAY_MS, History
from madang.telemetry.intake import Intake
from madang.telemetry.reporters import Reporter
from madang.telemetry.ring import TICKS, Ring
from madang.telemetry.rollups import HOUR_MS, MINUTE_MS, Late, Slab, late_rows, rows_of, slabs_of
from madang.telemetry.signals import SignalRecord
from madang.telemetry.stays import FOLD_TICKS, Stay

log = logging.getLogger("madang.telemetry")

FLUSH_MS = 30 * MINUTE_MS  # history is written this often, or when half of the ring is due
FLUSH_CELLS_MAX = 2_000_000  # minutes × subjects × metrics at once: some 100 MB for a second
SETTLE_MS = 30_000  # what comes later than this after its minute is written beside
STAYS_AT_ONCE = 64  # folded and packed under one hold of the lock
LATE_USUAL = 20_000  # frames; more are written at once


@dataclass(slots=True)
class _Round:
    """What a round writes."""

    generation: int
    images: list[keeping.TickImage]
    lines: list[str]
    signals: list[SignalRecord]
    ended: list[Stay]
    late: list[Late]
    slabs: list[Slab]
    written_ms: int
    before_ms: int
    state: dict[str, Any]


class Keeper:
    """One thread calls `round`; `open` comes first, under the lock."""

    def __init__(self, path: Path, intake: Intake, history: History, lock: "RLock") -> None:
        self.path = path
        self.trouble = ""
        self.since_ms = 0  # what is older than this is not in the ring, though it had room
        self.ended: list[Stay] = []  # not written yet
        self.journal = keeping.Journal(path / "journal")
        self._intake = intake
        self._history = history
        self._lock = lock
        self._generation = 0
        self._tick_files: dict[int, int] = {}
        self._quantiles = 0
        self._folded_tick = -1
        self._retained_ms = 0

    # -- beginning ---------------------------------------------------------------------------------

    def open(self, now_ms: int, replay: Callable[[bytes, int, int | None], None]) -> None:
        """Take up what the run before left.

        Raises:
            OSError: the directory cannot be used.
        """
        for name in ("", "ring", "quantiles", "signals", "history", "journal"):
            (self.path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        state = keeping.read_state(self.path / "state.json")
        committed = int(state["generation"]) if state else None
        self._generation = max(self._history.open(committed), committed or 0)
        if committed is not None:
            keeping.drop_uncommitted(self.path / "signals", committed)
        first_segment = 0
        if not state and self._generation:  # the ring is lost, history is not
            self.since_ms = self._intake.written_ms = now_ms
        if state:
            self._restore(state, now_ms)
            first_segment = int(state["journal"])
        for body, came_ms, sent_ms in self.journal.bodies(first_segment):
            replay(body, came_ms, sent_ms)
        self._intake.ring.sweep()
        self._rewrite_columns()
        last = max((int(one.stem) for one in (self.path / "journal").glob("*.log")), default=0)
        self.journal.begin(last + 1)

    def _restore(self, state: Mapping[str, Any], now_ms: int) -> None:
        intake = self._intake
        ring = intake.ring
        if state["tick_ms"] == ring.tick_ms:
            self._load_ring(ring, state)
            intake.written_ms = int(state["written_ms"])
            self.since_ms = int(state["since_ms"])
            self._tick_files = {int(tick): gen for tick, gen in state["ticks"].items()}
        else:
            # Ticks of another length: what is not in history yet goes there, and the ring begins.
            old = Ring(int(state["tick_ms"]))
            self._load_ring(old, state)
            begin_ms = int(state["written_ms"])
            slabs = [*slabs_of(old, _ticks_between(old, begin_ms, (old.newest + 1) * old.tick_ms))]
            self._generation += 2
            self._write_slabs(slabs, self._generation)
            self.since_ms = intake.written_ms = (old.newest + 1) * old.tick_ms
        for node, kept in state["nodes"].items():
            try:
                intake.reporters[node] = Reporter.restored(node, kept)
            except (KeyError, TypeError, ValueError):
                log.warning("who reported as %s is not known any more", node)
        self._quantiles = int(state["quantiles"])
        if self._quantiles:
            try:
                packed = (self.path / "quantiles" / f"live.{self._quantiles}").read_bytes()
                intake.stays.restore(
                    stay for block in _blocks(packed) for stay in keeping.unpack_stays(block)
                )
            except (OSError, ValueError):
                log.warning("quantiles since the start cannot be read: they begin again")
        for day in (now_ms - DAY_MS, now_ms):
            file = self.path / "signals" / f"{keeping.day_of(day)}.ndjson"
            intake.signals.extend(keeping.read_signals(file))

    def _load_ring(self, ring: Ring, state: Mapping[str, Any]) -> None:
        ring.begin(int(state["newest"]))
        ring.tick = int(state["tick"])
        keeping.read_columns(self.path / "columns.ndjson", ring)
        for tick, generation in state["ticks"].items():
            if not ring.holds(int(tick)):
                continue
            file = self.path / "ring" / f"{tick}.{generation}.tick"
            try:
                keeping.read_tick(file, ring, int(tick))
            except (OSError, ValueError, KeyError) as error:
                log.warning("the tick in %s is lost: %s", file, error)
        ring.added.clear()

    def _rewrite_columns(self) -> None:
        ring = self._intake.ring
        lines = [
            keeping.column_line(table.name, column, key)
            for table in ring.tables.values()
            for key, column in table.column_of.items()
        ]
        keeping.write_whole(self.path / "columns.ndjson", "".join(lines))
        ring.added.clear()

    # -- a round -----------------------------------------------------------------------------------

    def round(self, now_ms: int, *, last: bool = False) -> None:
        """Keep all that is new; at the `last` one before an end also what could wait.

        Raises:
            OSError: it can't be written; all is as before.
        """
        try:
            with self._lock:
                one = self._collect(last=last)
        except OSError as error:
            self.trouble = f"nothing can be kept: {error}"
            raise
        try:
            if self._folded_tick < 0:
                self._folded_tick = one.state["tick"]
            if one.state["tick"] - self._folded_tick >= FOLD_TICKS or last:
                self._write_quantiles(one)
                self._folded_tick = one.state["tick"]
            self._write(one)
        except OSError as error:
            self.trouble = f"nothing can be kept: {error}"
            with self._lock:
                self._take_back(one)
            raise
        self.trouble = ""
        self._generation = one.generation + 1
        self._tidy(one, now_ms)

    @property
    def is_urgent(self) -> bool:
        """More waits than should."""
        return len(self._intake.late) >= LATE_USUAL

    def _collect(self, *, last: bool) -> _Round:
        intake = self._intake
        ring = intake.ring
        generation = self._generation + 2
        self.journal.begin(self.journal.segment + 1)  # first: it is what may fail here
        begin_ms, end_ms = self._due(last=last)
        slabs = slabs_of(ring, _ticks_between(ring, begin_ms, end_ms)) if end_ms else []
        dirty = sorted(tick for tick in intake.dirty if ring.holds(tick))
        intake.dirty.clear()
        ticks = {tick: gen for tick, gen in self._tick_files.items() if ring.holds(tick)}
        ticks.update(dict.fromkeys(dirty, generation))
        signals, intake.new_signals = intake.new_signals, []
        late, intake.late = intake.late, []
        ended, self.ended = self.ended, []
        lines = [keeping.column_line(*added) for added in ring.added]
        ring.added.clear()
        before_ms = intake.written_ms
        intake.written_ms = max(before_ms, end_ms)
        state = {
            "version": keeping.STATE_VERSION,
            "generation": generation + 1,
            "tick_ms": ring.tick_ms,
            "newest": ring.newest,
            "tick": ring.tick,
            "ticks": ticks,
            "since_ms": self.since_ms,
            "written_ms": intake.written_ms,
            "journal": self.journal.segment,
            "quantiles": self._quantiles,
            "nodes": {node: one.kept() for node, one in intake.reporters.items()},
        }
        images = [keeping.image_of(ring, tick) for tick in dirty]
        return _Round(
            generation,
            images,
            lines,
            signals,
            ended,
            late,
            slabs,
            intake.written_ms,
            before_ms,
            state,
        )

    def _due(self, *, last: bool) -> tuple[int, int]:
        """The minutes to write to history now, from (within) and to (without); (0, 0) for none."""
        intake = self._intake
        ring = intake.ring
        if ring.tick < 0:
            return 0, 0
        settle_ms = 0 if last else min(SETTLE_MS, TICKS * ring.tick_ms // 8)
        end_ms = (ring.time_ms(ring.tick + 1) - settle_ms) // MINUTE_MS * MINUTE_MS
        begin_ms = max(intake.written_ms, ring.time_ms(ring.first) // MINUTE_MS * MINUTE_MS)
        cells = sum(len(one.column_of) * len(one.planes) for one in ring.tables.values())
        span_ms = min(FLUSH_MS, TICKS * ring.tick_ms // 2)
        span_ms = min(span_ms, max(FLUSH_CELLS_MAX // max(cells, 1), 5) * MINUTE_MS)
        return (begin_ms, end_ms) if end_ms - begin_ms >= span_ms else (0, 0)

    def _folded(self) -> Iterator[bytes]:
        """All quantiles, folded to the newest tick, some at a time under the lock."""
        stays = self._intake.stays
        with self._lock:
            ids = list(stays.live)
        for at in range(0, len(ids), STAYS_AT_ONCE):
            with self._lock:
                some = [stays.live[id] for id in ids[at : at + STAYS_AT_ONCE] if id in stays.live]
                stays.fold(some)
                text = keeping.gathered_stays(some)
            yield keeping.packed(text)

    def _write_quantiles(self, one: _Round) -> None:
        with open(self.path / "quantiles" / f"live.{one.generation}", "wb") as file:
            for block in self._folded():
                file.write(len(block).to_bytes(4, "little"))
                file.write(block)
        one.state["quantiles"] = one.generation

    def _write(self, one: _Round) -> None:
        path = self.path
        for image in one.images:
            keeping.write_tick(path / "ring" / f"{image.tick}.{one.generation}.tick", image)
        if one.lines:
            with open(path / "columns.ndjson", "a", encoding="utf-8") as file:
                file.writelines(one.lines)
        if one.signals:
            keeping.append_signals(path / "signals", one.signals, one.generation)
        for stay in one.ended:
            keeping.write_ended(path / "quantiles", stay)
        self._write_slabs(one.slabs, one.generation)
        if one.late:
            for resolution, bucket_ms in (("1m", MINUTE_MS), ("1h", HOUR_MS)):
                for rows in late_rows(one.late, self._intake.ring, bucket_ms):
                    self._history.write(resolution, rows, one.generation + 1)
        keeping.write_whole(path / "state.json", json.dumps(one.state, separators=(",", ":")))

    def _write_slabs(self, slabs: list[Slab], generation: int) -> None:
        while slabs:
            slab = slabs.pop(0)  # its memory is given back as soon as it is written
            for resolution, bucket_ms in (("1m", MINUTE_MS), ("1h", HOUR_MS)):
                self._history.write(resolution, rows_of(slab, bucket_ms), generation)

    def _take_back(self, one: _Round) -> None:
        """As before the round: the next one writes it."""
        intake = self._intake
        intake.dirty.update(image.tick for image in one.images)
        intake.new_signals[:0] = one.signals
        intake.late[:0] = one.late
        intake.written_ms = one.before_ms
        self.ended[:0] = one.ended
        self._generation = one.generation + 1  # what was written of it is void
        for generation in (one.generation, one.generation + 1):
            self._history.undo(generation)
        try:
            keeping.drop_uncommitted(self.path / "signals", one.generation - 1)
            self._rewrite_columns()
        except OSError:
            log.exception("a part of what could not be kept is left")

    def _tidy(self, one: _Round, now_ms: int) -> None:
        """Delete what the new state does not name; merge and forget history now and then."""
        self._tick_files = {int(tick): gen for tick, gen in one.state["ticks"].items()}
        named = {f"{tick}.{gen}.tick" for tick, gen in self._tick_files.items()}
        for file in (self.path / "ring").iterdir():
            if file.name not in named:
                file.unlink(missing_ok=True)
        self.journal.forget_before(one.state["journal"])
        if one.state["quantiles"] != self._quantiles:
            self._quantiles = one.state["quantiles"]
            for file in (self.path / "quantiles").glob("live.*"):
                if file.name != f"live.{self._quantiles}":
                    file.unlink(missing_ok=True)
        if one.written_ms > one.before_ms or one.late:
            self._history.merge()
        if now_ms - self._retained_ms >= HOUR_MS:
            self._retained_ms = now_ms
            self._history.retain(now_ms)
            before = keeping.day_of(now_ms - keeping.ENDED_DAYS_MAX * DAY_MS)
            keeping.drop_old(self.path / "quantiles", "????-??", before[:7])
            before = keeping.day_of(now_ms - keeping.SIGNAL_DAYS_MAX * DAY_MS)
            keeping.drop_old(self.path / "signals", "*.ndjson", before)


def _ticks_between(ring: Ring, from_ms: int, to_ms: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """The ticks that the ring holds in that time, in order."""
    first = max(-(-from_ms // ring.tick_ms), ring.oldest)
    last = min((to_ms - 1) // ring.tick_ms, ring.newest)
    return np.arange(first, last + 1)


def _blocks(packed: bytes) -> Iterator[bytes]:
    at = 0
    while at + 4 <= len(packed):
        length = int.from_bytes(packed[at : at + 4], "little")
        yield packed[at + 4 : at + 4 + length]
        at += 4 + length
