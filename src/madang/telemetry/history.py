"""History: roll-ups of minutes and hours in Parquet files, written and asked through DuckDB.

    history/1m/2026-11-21/gpu.1795276740-1795278540.41-41.parquet
            │  │          │   first and last second   generations that are in it
            │  day (UTC)  table
            minutes or hours

A file has `node`, `key`, `name` (a report's, else empty) and `time_ms`, and per metric four
columns: the mean by the metric's name, `_low`, `_high` and `_count`; NULL where nothing is known.
Rows of different files may be of the same subject and time, because something came late: means are
weighted by counts. A file is complete or not there: it is written beside, made durable and renamed.
One that replaces others names all their generations, so that after a crash in between the others
are known to be void. Anyone may read the files; nothing but `History` may write them.
"""

import itertools
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from madang.telemetry.metrics import REPORT
from madang.telemetry.queries import Points, Query
from madang.telemetry.ring import VALUE, table_of
from madang.telemetry.rollups import HOUR_MS, MINUTE_MS, Rows, by_day

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

log = logging.getLogger("madang.telemetry")

DAY_MS = 86_400_000
RESOLUTIONS = {"1m": MINUTE_MS, "1h": HOUR_MS}
MEMORY = "512MB"  # of DuckDB; beyond it spills to disk
QUERY_THREADS = 2
ROW_GROUP = 122_880  # rows; smaller ones make questions slower, of which each opens every group
FILES_PER_SPAN_MAX = 6  # of one table and hour (of minutes) or day (of hours); more are merged
SPAN_MS = {"1m": HOUR_MS, "1h": DAY_MS}
_NAME = re.compile(r"([a-z]+)\.(\d+)-(\d+)\.(\d+)-(\d+)\.parquet", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One file. `first_ms` and `last_ms` are times of rows, `begin` and `end` generations."""

    table: str
    first_ms: int
    last_ms: int
    begin: int
    end: int
    path: Path


@dataclass(frozen=True, slots=True)
class Retention:
    """How long history is kept; whatever ends first."""

    minute_ms: int = 14 * DAY_MS
    hour_ms: int = 400 * DAY_MS
    bytes_max: int = 20 << 30


class History:
    """See the module. One thread writes; any may ask."""

    def __init__(self, path: Path, retention: Retention) -> None:
        self.path = path
        self.retention = retention
        self._lock = threading.Lock()  # of the list of parts
        self._parts: dict[str, list[Part]] = {}

    # -- files -------------------------------------------------------------------------------------

    def open(self, committed: int | None) -> int:
        """List what there is, without what a crash left half done: files beside, files that others
        have replaced, and those of a generation after `committed` (None: not known). Returns the
        highest generation there is.
        """
        found: dict[str, list[Part]] = {name: [] for name in RESOLUTIONS}
        for resolution in RESOLUTIONS:
            for day in sorted(self.path.glob(f"{resolution}/????-??-??")):
                for file in sorted(day.iterdir()):
                    part = _part_of(file)
                    if part is None or (committed is not None and part.end > committed):
                        file.unlink(missing_ok=True)
                    else:
                        found[resolution].append(part)
        for resolution, parts in found.items():
            void = {one for one in parts if any(_replaces(other, one) for other in parts)}
            for one in void:
                one.path.unlink(missing_ok=True)
            found[resolution] = [one for one in parts if one not in void]
        with self._lock:
            self._parts = found
        return max((one.end for parts in found.values() for one in parts), default=0)

    def parts(self, resolution: str, table: str, from_ms: int, to_ms: int) -> list[Part]:
        """The files that may know something of that time."""
        with self._lock:
            return [
                one
                for one in self._parts.get(resolution, [])
                if one.table == table and one.first_ms < to_ms and one.last_ms >= from_ms
            ]

    @property
    def size_bytes(self) -> int:
        with self._lock:
            paths = [one.path for parts in self._parts.values() for one in parts]
        return sum(path.stat().st_size for path in paths if path.exists())

    # -- writing -----------------------------------------------------------------------------------

    def write(self, resolution: str, rows: Rows, generation: int) -> None:
        """Keep rows, durably.

        Raises:
            OSError: it can't; nothing of it is there.
        """
        for day_ms, of_day in by_day(rows):
            first_ms, last_ms = int(of_day.time_ms.min()), int(of_day.time_ms.max())
            part = self._part(
                resolution, day_ms, rows.table, (first_ms, last_ms), (generation, generation)
            )
            columns, select = _columns(of_day)
            with self._session() as session:
                session.register("rows_here", columns)
                self._copy(session, f"SELECT {select} FROM rows_here", part.path)
            with self._lock:
                self._parts.setdefault(resolution, []).append(part)

    def undo(self, generation: int) -> None:
        """Delete what was written as this generation: the rest of it could not be."""
        with self._lock:
            void = [
                (resolution, one)
                for resolution, parts in self._parts.items()
                for one in parts
                if (one.begin, one.end) == (generation, generation)
            ]
        self._drop(void)

    def _part(
        self,
        resolution: str,
        day_ms: int,
        table: str,
        times_ms: tuple[int, int],
        generations: tuple[int, int],
    ) -> Part:
        day = datetime.fromtimestamp(day_ms / 1000, UTC).strftime("%Y-%m-%d")
        name = (
            f"{table}.{times_ms[0] // 1000}-{times_ms[1] // 1000}"
            f".{generations[0]}-{generations[1]}.parquet"
        )
        return Part(table, *times_ms, *generations, self.path / resolution / day / name)

    def _copy(self, session: "DuckDBPyConnection", select: str, path: Path) -> None:
        """Write what is selected: beside, durably, and then in its place."""
        import duckdb

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        try:
            session.execute(
                f"COPY ({select}) TO '{_quoted(beside)}' (FORMAT parquet, "
                f"COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )
            with open(beside, "rb") as written:
                os.fsync(written.fileno())
            beside.replace(path)
            _sync_directory(path.parent)
        except duckdb.Error as error:
            beside.unlink(missing_ok=True)
            raise OSError(f"history cannot be written: {str(error).splitlines()[0]}") from error

    def merge(self) -> int:
        """Merge the files of one table and span where there are too many; how many spans it was."""
        count = 0
        for resolution, group in self._crowded():
            self._merge(resolution, group)
            count += 1
        return count

    def _crowded(self) -> Iterator[tuple[str, list[Part]]]:
        """Files of one span that should be one: those of a span that is over, and too many."""
        for resolution, span_ms in SPAN_MS.items():
            with self._lock:
                parts = sorted(
                    self._parts.get(resolution, []),
                    key=lambda one: (one.table, one.first_ms // span_ms, one.begin),
                )
            newest: dict[str, int] = {one.table: one.first_ms // span_ms for one in parts}
            for (table, span), found in itertools.groupby(
                parts, key=lambda one: (one.table, one.first_ms // span_ms)
            ):
                group = [one for one in found if one.last_ms // span_ms == span]
                is_over = span < newest[table] and _is_disjoint(group)
                if len(group) > (1 if is_over else FILES_PER_SPAN_MAX):
                    yield resolution, group

    def _merge(self, resolution: str, group: Sequence[Part]) -> None:
        day_ms = group[0].first_ms // DAY_MS * DAY_MS
        times_ms = min(one.first_ms for one in group), max(one.last_ms for one in group)
        generations = min(one.begin for one in group), max(one.end for one in group)
        part = self._part(resolution, day_ms, group[0].table, times_ms, generations)
        files = ", ".join(f"'{_quoted(one.path)}'" for one in group)
        source = f"read_parquet([{files}], union_by_name=true)"
        with self._session() as session:
            select = f"SELECT * FROM {source}"
            if not _is_disjoint(group):
                described = session.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
                counts = [row[0] for row in described if row[0].endswith("_count")]
                merged = "".join(f", {_merged(name.removesuffix('_count'))}" for name in counts)
                select = (
                    f"SELECT node, key, name, time_ms{merged} FROM {source} "
                    "GROUP BY node, key, name, time_ms ORDER BY node, key, name, time_ms"
                )
            self._copy(session, select, part.path)
        with self._lock:
            kept = [one for one in self._parts[resolution] if one not in group]
            self._parts[resolution] = [*kept, part]
        for one in group:
            if one.path != part.path:
                one.path.unlink(missing_ok=True)

    def retain(self, now_ms: int) -> int:
        """Delete what is too old, and the oldest of what is too much; how many files it was."""
        keep = self.retention
        ages_ms = {"1m": keep.minute_ms, "1h": keep.hour_ms}
        with self._lock:
            old = [
                (resolution, one)
                for resolution, parts in self._parts.items()
                for one in parts
                if one.last_ms < now_ms - ages_ms[resolution]
            ]
        self._drop(old)
        over = self.size_bytes - keep.bytes_max
        if over <= 0:
            return len(old)
        much = []
        with self._lock:
            # Minutes first: the hours say the same in a sixtieth of the room.
            rest = [
                (resolution, one)
                for resolution in RESOLUTIONS
                for one in sorted(self._parts[resolution], key=lambda one: one.last_ms)
            ]
        for resolution, one in rest:
            if over <= 0:
                break
            over -= one.path.stat().st_size
            much.append((resolution, one))
        self._drop(much)
        return len(old) + len(much)

    def _drop(self, dropped: Iterable[tuple[str, Part]]) -> None:
        for resolution, one in dropped:
            with self._lock:
                self._parts[resolution].remove(one)
            one.path.unlink(missing_ok=True)
            try:
                one.path.parent.rmdir()
            except OSError:
                pass  # the day has other files

    # -- asking ------------------------------------------------------------------------------------

    def points(self, query: Query, to_ms: int) -> Iterator[tuple[int, Points]]:
        """(their length in ms, points) from the query's begin to `to_ms`; of each day the minutes,
        or the hours where these are gone or enough.
        """
        enough = "1h" if query.step_ms % HOUR_MS == 0 else "1m"
        for day_ms in range(query.from_ms // DAY_MS * DAY_MS, to_ms, DAY_MS):
            begin_ms, end_ms = max(day_ms, query.from_ms), min(day_ms + DAY_MS, to_ms)
            for resolution in dict.fromkeys((enough, "1m", "1h")):
                parts = [
                    part
                    for table in self._tables(query)
                    for part in self.parts(resolution, table, begin_ms, end_ms)
                ]
                if parts:
                    length_ms = RESOLUTIONS[resolution]
                    yield length_ms, self._points(query, parts, (begin_ms, end_ms))
                    break

    @staticmethod
    def _tables(query: Query) -> list[str]:
        return sorted({table_of(query.subject, query.metric, key) for _, key in query.keys})

    def _points(self, query: Query, parts: Sequence[Part], window_ms: tuple[int, int]) -> Points:
        import duckdb

        is_report = query.metric.startswith(REPORT)
        metric = VALUE if is_report else query.metric
        wanted = {
            "node": np.array([node for node, _ in query.keys], dtype=object),
            "key": np.array([key for _, key in query.keys], dtype=object),
            "row": np.arange(len(query.keys), dtype=np.int64),
        }
        files = ", ".join(f"'{_quoted(part.path)}'" for part in parts)
        named = {"min": "low", "max": "high"}.get(query.how, "mean")
        column = f'"{metric}"' if named == "mean" else f'"{metric}_{named}"'
        name = query.metric.removeprefix(REPORT) if is_report else ""
        sql = (
            f'SELECT row, time_ms, {column} AS value, "{metric}_count" AS count '
            f"FROM read_parquet([{files}], union_by_name=true) AS rows_there "
            "JOIN wanted_here USING (node, key) "
            "WHERE name = ? AND time_ms >= ? AND time_ms < ?"
        )
        with self._session(QUERY_THREADS) as session:
            session.register("wanted_here", wanted)
            try:
                found = session.execute(sql, [name, *window_ms]).fetchnumpy()
            except duckdb.BinderException:  # no file has the metric
                found = {}
            except duckdb.IOException:
                log.warning("a file of history went while it was read", exc_info=True)
                found = {}
        return _points_of(found)

    @contextmanager
    def _session(self, threads: int = 1) -> Iterator["DuckDBPyConnection"]:
        """DuckDB for one errand: 10 ms to open, and all its memory is given back at the end."""
        import duckdb

        spill = self.path / "spill"
        spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": MEMORY,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": "false",  # nothing from the network
            "autoload_known_extensions": "false",
        }
        connection = duckdb.connect(":memory:", config=config)
        try:
            yield connection
        finally:
            connection.close()


def _is_disjoint(group: Sequence[Part]) -> bool:
    """No two of them have rows of one time: they may be laid one behind the other."""
    ordered = sorted(group, key=lambda one: one.first_ms)
    return all(one.last_ms < other.first_ms for one, other in itertools.pairwise(ordered))


def _part_of(path: Path) -> Part | None:
    found = _NAME.fullmatch(path.name)
    if found is None:
        return None
    first_s, last_s, begin, end = (int(one) for one in found.groups()[1:])
    return Part(found[1], first_s * 1000, last_s * 1000, begin, end, path)


def _replaces(other: Part, one: Part) -> bool:
    """Other is merged of one and more: it has all of one's generations, and one's times."""
    return (
        other.table == one.table
        and other.path.parent == one.path.parent
        and other.begin <= one.begin
        and one.end <= other.end
        and (other.begin, other.end) != (one.begin, one.end)
        and other.first_ms <= one.first_ms
        and one.last_ms <= other.last_ms
    )


def _columns(rows: Rows) -> tuple[dict[str, Any], str]:
    """Arrays for DuckDB, and what to select of them: NaN becomes NULL."""
    places = [np.array([key[at] for key in rows.keys], dtype=object) for at in range(3)]
    arrays: dict[str, Any] = {
        name: place[rows.subject]
        for name, place in zip(("node", "key", "name"), places, strict=True)
    }
    arrays["time_ms"] = rows.time_ms
    selected = ["node", "key", "name", "time_ms"]
    for metric, stat in rows.stats.items():
        named = {"": stat.mean, "_low": stat.low, "_high": stat.high}
        for suffix, values in named.items():
            arrays[metric + suffix] = np.ascontiguousarray(values)
            selected.append(f'nullif("{metric}{suffix}", \'nan\'::FLOAT) AS "{metric}{suffix}"')
        arrays[metric + "_count"] = np.ascontiguousarray(stat.count)
        selected.append(f'"{metric}_count"')
    return arrays, ", ".join(selected)


def _merged(name: str) -> str:
    weight = f'coalesce("{name}_count", 0)'
    return (
        f'(sum("{name}"::DOUBLE * {weight}) / nullif(sum({weight}), 0))::FLOAT AS "{name}", '
        f'min("{name}_low") AS "{name}_low", max("{name}_high") AS "{name}_high", '
        f'sum({weight})::UINTEGER AS "{name}_count"'
    )


def _points_of(found: dict[str, Any]) -> Points:
    if not found:
        none = np.zeros(0, np.float32)
        return Points(np.zeros(0, np.int64), np.zeros(0, np.int64), none, none, none, np.zeros(0))
    values = np.ma.filled(found["value"].astype(np.float32), np.nan)
    count = np.ma.filled(found["count"], 0).astype(np.float64)
    row, at_ms = (np.asarray(found[name], np.int64) for name in ("row", "time_ms"))
    return Points(row, at_ms, values, values, values, count)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
