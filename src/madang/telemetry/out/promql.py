"""History from a store that speaks PromQL: the same questions, the same answers.

A step of a query begins at a multiple of its length and is half open, as in queries.py; it is asked
for as a range that ends a millisecond before the next step. Totals are asked for as they stood at
the end of each step, and their growth is worked out here, so that it is exact on any backend
(PromQL's own `increase` extrapolates, and differs between VictoriaMetrics and Prometheus).
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Subject
from madang.telemetry.metrics import REPORT, metric_of
from madang.telemetry.out.names import exposed
from madang.telemetry.out.post import Away, Line
from madang.telemetry.out.settings import History
from madang.telemetry.queries import BadQuery, HistoryAway, Points, Query

SELECTOR_CHARS_MAX = 6_000  # VictoriaMetrics takes queries of 16 KiB
STEPS_PER_REQUEST_MAX = 10_000  # Prometheus takes 11,000
ERROR_CHARS_MAX = 300
FRAME_MS = 10_000  # how often a count is sampled, for the greatest and least of its growth
LINES_MAX = 4  # queries at once; more wait
OVER_TIME = {
    "mean": "avg_over_time",
    "max": "max_over_time",
    "min": "min_over_time",
    "sum": "sum_over_time",
}
SPAN = "$span"  # in an expression: the length of what is asked for

Floats = NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: an expression and the subjects that it may answer for."""

    selector: str
    keys: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Steps in a row that are asked for at once: step i of them, row `row + i` of the answer, is
    the `span_ms` from `begin_ms + i * step_ms` on.
    """

    row: int
    begin_ms: int
    steps: int
    span_ms: int
    step_ms: int


class RemoteHistory:
    """Asks one remote store. Any thread; a few at a time."""

    def __init__(self, settings: History) -> None:
        self._settings = settings
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(LINES_MAX)
        self.trouble = ""  # of the last question; "" if it was answered

    def points(self, query: Query, until_ms: int) -> Iterator[tuple[int, Points]]:
        """(the step's length, a point for each step and subject that something is known of), of
        what was before `until_ms`; a step that this cuts is asked for in part.

        Raises:
            HistoryAway: the remote store does not answer.
            BadQuery: it refuses to; the text has its words.
        """
        known = metric_of(query.metric)
        if known is None:
            raise BadQuery(f"there is no metric {query.metric!r}")
        stretches = _stretches(query, until_ms)
        if not stretches:
            return
        values = np.full((sum(one.steps for one in stretches), len(query.keys)), np.nan)
        weights = np.full_like(values, query.step_ms / FRAME_MS)
        for one in stretches:
            weights[one.row : one.row + one.steps] = one.span_ms / FRAME_MS
        last = stretches[-1]
        is_cut = until_ms < query.to_ms and last.span_ms < query.step_ms and query.how == "mean"
        if is_cut:  # it goes on elsewhere: what is known of it here must weigh what it is
            weights[last.row] = np.nan
        for ask in asks(query, self._settings.labels):
            if known.form == "count":
                self._counted(query, ask, stretches, values)
            else:
                self._fill(_over(query.how, ask), query, stretches, values)
            if is_cut:
                counts = f"count_over_time({ask.selector}[{SPAN}])"
                self._fill(counts, query, [last], weights)
        yield query.step_ms, _points(query, stretches, values, weights)

    def close(self) -> None:
        """Leave no connection open."""
        with self._lock:
            for line in self._lines:
                line.close()

    def _counted(
        self, query: Query, ask: Ask, stretches: Sequence[_Stretch], values: Floats
    ) -> None:
        """Fill in what totals grew by: in each step, or a frame on the mean, most or least."""
        if query.how in ("max", "min"):
            grown = f"clamp_min({ask.selector} - {ask.selector} offset {FRAME_MS}ms, 0)"
            expression = f"{OVER_TIME[query.how]}(({grown})[{SPAN}:{FRAME_MS}ms])"
            self._fill(expression, query, stretches, values)
            return
        totals = np.full((len(values) + 1, values.shape[1]), np.nan)
        first = stretches[0]
        before = _Stretch(0, first.begin_ms - query.step_ms, 1, query.step_ms, query.step_ms)
        latest = f"last_over_time({ask.selector}[{SPAN}])"
        self._fill(latest, query, [before], totals[:1])
        self._fill(latest, query, stretches, totals[1:])
        grown_by = _growth(totals)
        if query.how == "mean":
            counts = np.full_like(values, np.nan)
            self._fill(f"count_over_time({ask.selector}[{SPAN}])", query, stretches, counts)
            grown_by = grown_by / counts
        np.copyto(values, grown_by, where=np.isfinite(grown_by))

    def _fill(
        self, expression: str, query: Query, stretches: Sequence[_Stretch], values: Floats
    ) -> None:
        """Put the answers' values in their places; what is there already stays."""
        row_of = {pair: row for row, pair in enumerate(query.keys)}
        for one in stretches:
            end_ms = one.begin_ms + one.span_ms - 1
            asked = {
                "query": expression.replace(SPAN, f"{one.span_ms}ms"),
                "start": f"{end_ms / 1000:.3f}",
                "end": f"{(end_ms + (one.steps - 1) * one.step_ms) / 1000:.3f}",
                "step": f"{one.step_ms / 1000:.3f}",
                "nocache": "1",  # or VictoriaMetrics moves the steps to its own multiples
            }
            for series in self._ask("/api/v1/query_range", asked):
                column = row_of.get(_pair(query, series.get("metric", {})))
                if column is None:
                    continue
                samples = series.get("values", ())
                at_ms = np.rint([float(sample[0]) * 1000 for sample in samples]).astype(np.int64)
                found = np.array([float(sample[1]) for sample in samples])
                rows = one.row + (at_ms - end_ms) // one.step_ms
                is_free = (rows >= one.row) & (rows < one.row + one.steps)
                is_free[is_free] = np.isnan(values[rows[is_free], column])
                values[rows[is_free], column] = found[is_free]

    def _ask(self, path: str, asked: Mapping[str, str]) -> Sequence[Any]:
        """The series of an answer."""
        with self._places:
            line = self._line()
            try:
                answer = line.post(
                    urlencode(asked).encode(),
                    {"Content-Type": "application/x-www-form-urlencoded"},
                    line.path.rstrip("/") + path,
                )
            except Away as away:
                self.trouble = f"{line.host} is away: {away}"
                raise HistoryAway(self.trouble) from away
            finally:
                with self._lock:
                    self._lines.append(line)
        try:
            stated = json.loads(answer.body)
            if answer.status in (400, 422) and stated["status"] == "error":
                words = str(stated.get("error", ""))[:ERROR_CHARS_MAX]
                raise BadQuery(f"{line.host} does not answer this: {words}")
            if answer.status == 200 and stated["status"] == "success":
                self.trouble = ""
                found: Sequence[Any] = stated["data"]["result"]
                return found
        except BadQuery:
            raise
        except (ValueError, LookupError, TypeError):
            pass  # not what Prometheus' HTTP API says
        self.trouble = f"{line.host} answers {answer.status} {answer.words}"
        raise HistoryAway(f"{self.trouble}; is [history] url in telemetry-out.toml right?")

    def _line(self) -> Line:
        with self._lock:
            if self._lines:
                return self._lines.pop()
        return Line(self._settings.url, self._settings.access, self._settings.timeout_s)


# -- expressions -----------------------------------------------------------------------------------


def _stretches(query: Query, until_ms: int) -> list[_Stretch]:
    """The steps of a query before `until_ms`: those that are cut by its begin or by that apart."""
    step_ms = query.step_ms
    end_ms = min(query.to_ms, until_ms)
    found: list[_Stretch] = []
    begins = [int(one) for one in query.times_ms if one < end_ms]
    row = 0
    while row < len(begins):
        begin_ms = max(begins[row], query.from_ms)
        span_ms = min(begins[row] + step_ms, end_ms) - begin_ms
        steps = 1
        if span_ms == step_ms:
            whole = sum(begin + step_ms <= end_ms for begin in begins[row:])
            steps = min(whole, STEPS_PER_REQUEST_MAX)
        found.append(_Stretch(row, begin_ms, steps, span_ms, step_ms))
        row += steps
    return found


def _over(how: str, ask: Ask) -> str:
    return f"{OVER_TIME[how]}({ask.selector}[{SPAN}])"


def asks(query: Query, labels: Sequence[Pair]) -> Iterator[Ask]:
    """Selectors for all the keys, each of a length that every store takes."""
    by_node: dict[str, list[Pair]] = {}
    for pair in query.keys:
        by_node.setdefault(pair[0], []).append(pair)
    held: list[Pair] = []
    for pairs in by_node.values():
        whole = [*held, *pairs]
        if held and len(_selector(query, whole, labels)) > SELECTOR_CHARS_MAX:
            yield Ask(_selector(query, held, labels), tuple(held))
            whole = list(pairs)
        held = whole
    if held:
        yield Ask(_selector(query, held, labels), tuple(held))


def _selector(query: Query, pairs: Sequence[Pair], labels: Sequence[Pair]) -> str:
    matchers = [f'{name}="{_quoted(value)}"' for name, value in labels]
    if query.metric.startswith(REPORT):
        matchers.append(f'report="{_quoted(query.metric.removeprefix(REPORT))}"')
    matchers.append(_one_of("node", [node for node, _ in pairs]))
    keys = [key for _, key in pairs]
    match query.subject:
        case Subject.GPU:
            matchers.append(_one_of("gpu", keys))
        case Subject.PORT:
            matchers.append(_one_of("port", keys))
        case Subject.MEMBER:
            matchers.append(_one_of("allocation", [key.rpartition("/")[0] for key in keys]))
    return f"{exposed(query.metric)}{{{','.join(matchers)}}}"


def _one_of(label: str, values: Sequence[str]) -> str:
    unique = list(dict.fromkeys(values))
    if len(unique) == 1:
        return f'{label}="{_quoted(unique[0])}"'
    return f'{label}=~"{_quoted("|".join(map(re.escape, unique)))}"'


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _pair(query: Query, labels: Mapping[str, str]) -> Pair:
    """The (node, key) that a series is of."""
    node = labels.get("node", "")
    match query.subject:
        case Subject.GPU:
            return node, labels.get("gpu", "")
        case Subject.PORT:
            return node, labels.get("port", "")
        case Subject.MEMBER:
            return node, f"{labels.get('allocation', '')}/{labels.get('rank', '')}"
    return node, ""


# -- values ----------------------------------------------------------------------------------------


def _growth(totals: Floats) -> Floats:
    """(T, K) of (T + 1, K): what a total grew by in each step since it was last known; where it
    fell it has begun anew. NaN where nothing is known.
    """
    grown = np.full((len(totals) - 1, totals.shape[1]), np.nan)
    last = totals[0].copy()
    for step, total in enumerate(totals[1:]):
        difference = total - last
        difference = np.where(difference < 0, total, difference)
        grown[step] = np.where(np.isnan(last), np.nan, difference)
        last = np.where(np.isnan(total), last, total)
    return grown


def _points(query: Query, stretches: Sequence[_Stretch], values: Floats, weights: Floats) -> Points:
    """A step's value as one point in it, that weighs as many frames as there are in it."""
    at_ms = np.concatenate([one.begin_ms + np.arange(one.steps) * one.step_ms for one in stretches])
    row, key = np.nonzero(np.isfinite(values) & np.isfinite(weights))
    found, counts = values[row, key], weights[row, key]
    if query.how == "sum":
        found = found / counts
    points = found.astype(np.float32)
    return Points(key, at_ms[row], points, points, points, counts)
