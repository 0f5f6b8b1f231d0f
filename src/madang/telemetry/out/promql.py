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
from madang.telemetry.queries import BadQuery, Points, Query

SELECTOR_CHARS_MAX = 6_000  # VictoriaMetrics takes queries of 16 KiB
STEPS_PER_REQUEST_MAX = 10_000  # Prometheus takes 11,000
ERROR_CHARS_MAX = 300
FRAME_MS = 10_000  # how often a count is sampled, for the greatest and least of its growth
LINES_MAX = 4  # queries at once; more wait
OVER_TIME = {"mean": "avg_over_time", "max": "max_over_time", "min": "min_over_time"}

Floats = NDArray[np.float64]
Pair = tuple[str, str]


class HistoryAway(Exception):
    """The remote store does not answer, or not this; the text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request: an expression and the subjects that it may answer for."""

    selector: str
    keys: tuple[Pair, ...]


class RemoteHistory:
    """Asks one remote store. Any thread; a few at a time."""

    def __init__(self, settings: History) -> None:
        self._settings = settings
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(LINES_MAX)
        self.trouble = ""  # of the last question; "" if it was answered

    def points(self, query: Query) -> Points:
        """A point for each step and subject that something is known of: the step's value.

        Raises:
            HistoryAway: the remote store does not answer.
            BadQuery: it refuses to; the text has its words.
        """
        known = metric_of(query.metric)
        if known is None:
            raise BadQuery(f"there is no metric {query.metric!r}")
        values = np.full((len(query.times_ms), len(query.keys)), np.nan)
        row_of = {pair: row for row, pair in enumerate(query.keys)}
        for ask in _asks(query, self._settings.labels):
            for begin in range(0, len(query.times_ms), STEPS_PER_REQUEST_MAX):
                times_ms = query.times_ms[begin : begin + STEPS_PER_REQUEST_MAX]
                part = values[begin : begin + len(times_ms)]
                if known.form == "count":
                    self._counted(query, ask, times_ms, row_of, part)
                else:
                    expression = _over(query, ask.selector)
                    self._fill(expression, query, times_ms, row_of, part)
        return _points(values, np.maximum(query.times_ms, query.from_ms))

    def close(self) -> None:
        """Leave no connection open."""
        with self._lock:
            for line in self._lines:
                line.close()

    def _counted(
        self,
        query: Query,
        ask: _Ask,
        times_ms: NDArray[np.int64],
        row_of: Mapping[Pair, int],
        part: Floats,
    ) -> None:
        """Fill in what totals grew by: in each step, or a frame on the mean, most or least."""
        step = f"{query.step_ms}ms"
        if query.how in ("max", "min"):
            grown = f"clamp_min({ask.selector} - {ask.selector} offset {FRAME_MS}ms, 0)"
            expression = f"{OVER_TIME[query.how]}(({grown})[{step}:{FRAME_MS}ms])"
            self._fill(expression, query, times_ms, row_of, part)
            return
        totals = np.full((len(times_ms) + 1, part.shape[1]), np.nan)
        before = np.concatenate(([times_ms[0] - query.step_ms], times_ms))
        self._fill(f"last_over_time({ask.selector}[{step}])", query, before, row_of, totals)
        grown_by = _growth(totals)
        if query.how == "mean":
            counts = np.full_like(part, np.nan)
            self._fill(f"count_over_time({ask.selector}[{step}])", query, times_ms, row_of, counts)
            grown_by = grown_by / counts
        np.copyto(part, grown_by, where=np.isfinite(grown_by))

    def _fill(
        self,
        expression: str,
        query: Query,
        times_ms: NDArray[np.int64],
        row_of: Mapping[Pair, int],
        part: Floats,
    ) -> None:
        """Put the answer's values in their places; what is there already stays."""
        shift_ms = query.step_ms - 1
        asked = {
            "query": expression,
            "start": f"{(int(times_ms[0]) + shift_ms) / 1000:.3f}",
            "end": f"{(int(times_ms[-1]) + shift_ms) / 1000:.3f}",
            "step": f"{query.step_ms / 1000:.3f}",
            "nocache": "1",  # or VictoriaMetrics moves the steps to its own multiples
        }
        for series in self._ask("/api/v1/query_range", asked):
            row = row_of.get(_pair(query, series.get("metric", {})))
            if row is None:
                continue
            samples = series.get("values", ())
            at = np.rint([float(one[0]) * 1000 for one in samples]).astype(np.int64) - shift_ms
            found = np.array([float(one[1]) for one in samples])
            step = (at - int(times_ms[0])) // query.step_ms
            inside = (step >= 0) & (step < len(times_ms))
            column = part[:, row]
            is_free = np.isnan(column[step[inside]])
            column[step[inside][is_free]] = found[inside][is_free]

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
                text = f"{self.trouble}; what is older than the ring cannot be shown meanwhile"
                raise HistoryAway(text) from away
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


def _over(query: Query, selector: str) -> str:
    how = "sum_over_time" if query.how == "sum" else OVER_TIME[query.how]
    return f"{how}({selector}[{query.step_ms}ms])"


def _asks(query: Query, labels: Sequence[Pair]) -> Iterator[_Ask]:
    """Selectors for all the keys, each of a length that every store takes."""
    by_node: dict[str, list[Pair]] = {}
    for pair in query.keys:
        by_node.setdefault(pair[0], []).append(pair)
    held: list[Pair] = []
    for pairs in by_node.values():
        whole = [*held, *pairs]
        if held and len(_selector(query, whole, labels)) > SELECTOR_CHARS_MAX:
            yield _Ask(_selector(query, held, labels), tuple(held))
            whole = list(pairs)
        held = whole
    if held:
        yield _Ask(_selector(query, held, labels), tuple(held))


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


def _points(values: Floats, times_ms: NDArray[np.int64]) -> Points:
    """A step's value as one point in it."""
    step, key = np.nonzero(np.isfinite(values))
    found = values[step, key].astype(np.float32)
    return Points(key, times_ms[step], found, found, found, np.ones(len(step), np.int64))
