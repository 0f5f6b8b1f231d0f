"""A usage report: the books between two moments, grouped by what the reader asks for.

Amounts are exact integers of GPU·µs (one thousandth of a GPU for one ms); whatever lies across an
end of the window is cut there. What each column means is in docs/policies/reports.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from madang.core.usage.books import CAUSES, FAILED, Books
from madang.core.usage.keys import DIMENSIONS, SIZE_NAMES
from madang.core.usage.rows import Ints, Rows

DAY = "day"
DAY_MS = 86_400_000
BY = (*DIMENSIONS, DAY)
POINTS_MAX = 400  # of the curve over time: more than a chart has pixels for is waste
DAYS_MAX = 1_000
CAPACITY_BY = frozenset({"model", "zone", DAY})  # what a GPU that nobody holds can be said to be


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the jobs waited that started for the first time: exact quantiles, in ms."""

    count: int = 0
    mean_ms: int = 0
    p50_ms: int = 0
    p90_ms: int = 0
    p99_ms: int = 0
    max_ms: int = 0


@dataclass(frozen=True, slots=True)
class Amounts:
    """What can be added up. `…_gpu_us` are GPU·µs."""

    capacity_gpu_us: int = 0
    held_gpu_us: int = 0
    waited_gpu_us: int = 0
    measured_gpu_us: int = 0
    used_gpu_us: int = 0
    wasted_gpu_us: int = 0
    failed_gpu_us: int = 0
    stranded_gpu_us: int = 0
    submitted: int = 0
    ended: int = 0
    jct_sum_ms: int = 0
    waiting: int = 0
    preemptions: int = 0
    moves: int = 0
    reclaims: int = 0
    requeues: int = 0
    node_losses: int = 0
    failures: int = 0

    @property
    def asked_gpu_us(self) -> int:
        """Held, and wished for while waiting."""
        return self.held_gpu_us + self.waited_gpu_us


@dataclass(frozen=True, slots=True)
class Line:
    """One group of a report; `group` holds a word for each of `Report.by`."""

    group: tuple[str, ...]
    amounts: Amounts
    waits: Waits


@dataclass(frozen=True, slots=True)
class Point:
    """The yard at a moment, in GPU-milli. `stuck` of the `free` ones are in too small pieces."""

    at_ms: int
    capacity_milli: int
    free_milli: int
    stuck_milli: int


@dataclass(frozen=True, slots=True)
class Report:
    """`begins_ms` is when the books begin, if later than the window does; else its own begin."""

    since_ms: int
    until_ms: int
    begins_ms: int
    by: tuple[str, ...]
    total: Line
    lines: tuple[Line, ...]
    points: tuple[Point, ...]


class BadWindow(ValueError):
    """The window or the grouping cannot be; the text says what is allowed."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """The books' tables with what is open until the window's end."""

    held: Ints
    stranded: Ints
    waited: Ints
    capacity: Ints


def report(books: Books, since_ms: int, until_ms: int, by: Sequence[str] = ()) -> Report:
    """The window [since, until) of the books, grouped by some of BY.

    Raises:
        BadWindow: no such window or no such dimension.
    """
    unknown = [name for name in by if name not in BY]
    if unknown or len(set(by)) != len(by):
        raise BadWindow(f"cannot group by {','.join(by)!r}; each once, of: {', '.join(BY)}")
    if until_ms <= since_ms:
        raise BadWindow("the report would end before it begins")
    if DAY in by and until_ms - since_ms > DAYS_MAX * DAY_MS:
        raise BadWindow(f"by day, a report covers {DAYS_MAX} days at most")
    tables = _tables(books, until_ms)
    [total] = _lines(books, tables, (since_ms, until_ms), ())
    lines: list[Line] = []
    rest = tuple(name for name in by if name != DAY)
    for begin_ms, end_ms in _days(since_ms, until_ms) if DAY in by else [(since_ms, until_ms)]:
        for line in _lines(books, tables, (begin_ms, end_ms), rest):
            group = list(line.group)
            if DAY in by:
                group.insert(by.index(DAY), day_of(begin_ms))
            lines.append(Line(tuple(group), line.amounts, line.waits))
    lines.sort(key=lambda line: _order(line.group, by))
    return Report(
        since_ms,
        until_ms,
        max(since_ms, books.begins_ms),
        tuple(by),
        total,
        tuple(lines) if by else (),
        _points(books, since_ms, until_ms),
    )


def _order(group: tuple[str, ...], by: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """Words in their alphabet, sizes by size."""
    return tuple(
        (SIZE_NAMES.index(word), word) if name == "size" else (0, word)
        for name, word in zip(by, group, strict=True)
    )


def _days(since_ms: int, until_ms: int) -> Iterable[tuple[int, int]]:
    """The window, cut at each midnight (UTC)."""
    begin_ms = since_ms
    while begin_ms < until_ms:
        end_ms = min((begin_ms // DAY_MS + 1) * DAY_MS, until_ms)
        yield begin_ms, end_ms
        begin_ms = end_ms


def day_of(at_ms: int) -> str:
    """The day in UTC, `2026-11-21` (the civil calendar by days; Hinnant 2013)."""
    days = at_ms // DAY_MS + 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (month <= 2)
    return f"{year:04}-{month:02}-{day:02}"


# -- tables ------------------------------------------------------------------------------------


def _tables(books: Books, until_ms: int) -> _Tables:
    waits = [
        (code, since_ms, until_ms, milli, is_first, 0)
        for code, since_ms, milli, is_first in books.waiting()
    ]
    return _Tables(
        _with(books.held, books.open_held(until_ms, charged=True)),
        _with(books.stranded, books.open_held(until_ms, charged=False)),
        _with(books.waited, waits),
        _with(books.floor.capacity, books.floor.open_capacity(until_ms)),
    )


def _with(rows: Rows, more: Sequence[tuple[int, ...]]) -> Ints:
    table = rows.table()
    return np.vstack([table, np.array(more, np.int64)]) if more else table


@dataclass(slots=True)
class _Groups:
    """Which group each key belongs to: `of` (keys,) int64, and the groups' words."""

    words: list[tuple[str, ...]]
    of: Ints

    def sums(self, codes: Ints, values: Ints) -> Ints:
        """(groups,) the values of each group added up, exactly."""
        out = np.zeros(len(self.words), np.int64)
        np.add.at(out, self.of[codes], values)
        return out


def _groups(words_of_keys: Iterable[tuple[str, ...]]) -> _Groups:
    index: dict[tuple[str, ...], int] = {}
    of = [index.setdefault(words, len(index)) for words in words_of_keys]
    return _Groups(list(index), np.array(of, np.int64))


def _lines(
    books: Books, tables: _Tables, window: tuple[int, int], by: tuple[str, ...]
) -> list[Line]:
    """A line for each group that has anything in the window; without `by`, one."""
    groups = _groups(tuple(getattr(key, name) for name in by) for key in books.keys)
    if not by and not groups.words:
        groups.words.append(())
    columns = _columns(books, tables, window, groups)
    waits = _first_waits(tables.waited, window, groups)
    capacity = _capacity(books, tables.capacity, window, by)
    words = list(dict.fromkeys([*groups.words, *(words for words in capacity if by)]))
    place = {word: at for at, word in enumerate(groups.words)}
    lines = []
    for word in words:
        at = place.get(word)
        numbers = {} if at is None else {name: int(c[at]) for name, c in columns.items()}
        amounts = Amounts(capacity_gpu_us=capacity.get(word, 0), **numbers)
        wait = Waits() if at is None else waits[at]
        if not by or any(getattr(amounts, field.name) for field in fields(amounts)):
            lines.append(Line(word, amounts, wait))
    return lines


def _columns(
    books: Books, tables: _Tables, window: tuple[int, int], groups: _Groups
) -> dict[str, Ints]:
    """Each amount but the capacity, per group."""
    until_ms = window[1]
    measured = books.measured.table()
    wasted = _within(books.wasted.table(), 1, window)
    failed = wasted[:, 3] == FAILED
    ended = _within(books.ended.table(), 1, window)
    submitted = _within(tables.waited[tables.waited[:, 4] == 1], 1, window)
    still = tables.waited
    still = still[(still[:, 1] < until_ms) & (still[:, 2] >= until_ms)]
    columns = {
        "held_gpu_us": _integral(tables.held, window, groups),
        "stranded_gpu_us": _integral(tables.stranded, window, groups),
        "waited_gpu_us": _integral(tables.waited, window, groups),
        "measured_gpu_us": _integral(measured, window, groups),
        "used_gpu_us": _integral(measured[:, [0, 1, 2, 4]], window, groups),
        "wasted_gpu_us": groups.sums(wasted[~failed][:, 0], wasted[~failed][:, 2]),
        "failed_gpu_us": groups.sums(wasted[failed][:, 0], wasted[failed][:, 2]),
        "submitted": groups.sums(submitted[:, 0], np.ones(len(submitted), np.int64)),
        "ended": groups.sums(ended[:, 0], np.ones(len(ended), np.int64)),
        "jct_sum_ms": groups.sums(ended[:, 0], ended[:, 2]),
        "waiting": groups.sums(still[:, 0], np.ones(len(still), np.int64)),
    }
    names = ("preemptions", "moves", "reclaims", "requeues", "node_losses", "failures")
    for cause, name in zip(range(len(CAUSES)), names, strict=True):
        codes = wasted[wasted[:, 3] == cause][:, 0]
        columns[name] = groups.sums(codes, np.ones(len(codes), np.int64))
    return columns


def _within(table: Ints, column: int, window: tuple[int, int]) -> Ints:
    """The rows whose moment in that column lies in the window."""
    return table[(table[:, column] >= window[0]) & (table[:, column] < window[1])]


def _spans_ms(table: Ints, window: tuple[int, int]) -> Ints:
    """(rows,) how much of each row's stretch lies in the window."""
    begins = np.maximum(table[:, 1], window[0])
    spans: Ints = np.maximum(np.minimum(table[:, 2], window[1]) - begins, 0)
    return spans


def _integral(table: Ints, window: tuple[int, int], groups: _Groups) -> Ints:
    return groups.sums(table[:, 0], _spans_ms(table, window) * table[:, 3])


def _capacity(
    books: Books, table: Ints, window: tuple[int, int], by: tuple[str, ...]
) -> dict[tuple[str, ...], int]:
    """GPU·µs on offer, where the grouping can be said of a GPU that nobody holds."""
    if not CAPACITY_BY.issuperset(by):
        return {}
    spans = _spans_ms(table, window) * table[:, 3]
    found: dict[tuple[str, ...], int] = {}
    for code, (model, zone) in enumerate(books.floor.places):
        words = {"model": model, "zone": zone}
        group = tuple(words[name] for name in by)
        amount = int(spans[table[:, 0] == code].sum())
        if amount or not by:
            found[group] = found.get(group, 0) + amount
    return found


def _first_waits(waited: Ints, window: tuple[int, int], groups: _Groups) -> list[Waits]:
    """Of the jobs that started for the first time in the window."""
    started = _within(waited[(waited[:, 4] == 1) & (waited[:, 5] == 1)], 2, window)
    waits = started[:, 2] - started[:, 1]
    if len(groups.words) == 1:
        return [waits_of(waits)]
    of = groups.of[started[:, 0]]
    order = np.argsort(of, kind="stable")
    edges = np.searchsorted(of[order], np.arange(len(groups.words) + 1))
    return [waits_of(waits[order[edges[at] : edges[at + 1]]]) for at in range(len(groups.words))]


def waits_of(waits_ms: Ints) -> Waits:
    """Mean, exact quantiles (each a wait that there was) and the longest of waits in ms."""
    if not len(waits_ms):
        return Waits()
    p50, p90, p99 = np.quantile(waits_ms, (0.5, 0.9, 0.99), method="inverted_cdf")
    mean_ms = int(waits_ms.sum()) // len(waits_ms)
    return Waits(len(waits_ms), mean_ms, int(p50), int(p90), int(p99), int(waits_ms.max()))


def _points(books: Books, since_ms: int, until_ms: int) -> tuple[Point, ...]:
    """The samples in the window, thinned out evenly, and how things stood at its begin."""
    samples = books.floor.samples.table()
    if since_ms <= books.at_ms < until_ms:
        samples = np.vstack([samples, [[books.at_ms, *books.floor.picture()]]])
    before = samples[samples[:, 0] < since_ms][-1:]
    inside = _within(samples, 0, (since_ms, until_ms))
    if len(before):
        inside = np.vstack([[[since_ms, *before[0, 1:]]], inside])
    if len(inside) > POINTS_MAX:
        inside = inside[np.linspace(0, len(inside) - 1, POINTS_MAX).round().astype(np.int64)]
    return tuple(Point(*(int(value) for value in row)) for row in inside)
