"""The text of /metrics: OpenMetrics 1.0, or the classic form for who does not ask for it.

Two ways lead here: `figures` for the daemon's own hundreds of samples, `sensors` for the fleet's
hundreds of thousands, which builds its lines from arrays. Beyond `gpus_max` GPUs single GPUs are
left out, and nodes have their mean, least and greatest instead (`madang_node_gpu_…`): a scrape of
100,000 GPUs would be 150 MB every 15 s. Who wants each of them takes remote write.
"""

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Subject
from madang.telemetry.metrics import METRICS, Metric, metric_of
from madang.telemetry.out.figures import Figure, gauge
from madang.telemetry.out.names import (
    PREFIX,
    REPORTS,
    Family,
    GroupOf,
    family,
    family_of,
    labels_of,
    no_group,
)
from madang.telemetry.out.totals import Totals
from madang.telemetry.ring import Ring

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
LABELS_LIVE_S = 300.0
DIGITS = 7  # of a float32
DIGITS_TOTAL = 15  # of a float64

Floats64 = NDArray[np.float64]


def wants_open_metrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics to the classic form, as Prometheus asks."""
    best: dict[str, float] = {}
    for one in accept.lower().split(","):
        kind, *parameters = [word.strip() for word in one.split(";")]
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
            if kind == "application/openmetrics-text" and name.strip() == "version":
                weight = weight if value.strip().strip('"') in ("1.0.0", "0.0.1") else 0.0
        best[kind] = max(weight, best.get(kind, 0.0))
    wanted = best.get("application/openmetrics-text", 0.0)
    return wanted > 0 and wanted >= max(best.get("text/plain", 0.0), best.get("text/*", 0.0))


class Text:
    """Collects the lines of one scrape."""

    def __init__(self, *, open_metrics: bool) -> None:
        self._open = open_metrics
        self._parts: list[str] = []

    def figures(self, figures: Iterable[Figure]) -> None:
        """Families and all their samples."""
        for figure in figures:
            self.head(figure.family)
            self._parts += [
                f"{name}{labels_text(labels)} {number(value)}\n"
                for name, labels, value in figure.samples()
            ]

    def head(self, its: Family) -> None:
        """HELP, TYPE and UNIT of a family; its samples must follow."""
        name = its.name if self._open else its.sample
        self._parts.append(f"# HELP {name} {escaped(its.text, self._open)}\n")
        self._parts.append(f"# TYPE {name} {its.form}\n")
        if its.unit and self._open:
            self._parts.append(f"# UNIT {name} {its.unit}\n")

    def rows(self, name: str, labels: Sequence[str], values: Sequence[str]) -> None:
        """Samples of one name; `labels` as `labels_text` writes them."""
        pairs = zip(labels, values, strict=True)
        self._parts.append("".join([f"{name}{its} {value}\n" for its, value in pairs]))

    def done(self) -> bytes:
        """The whole text."""
        if self._open:
            self._parts.append("# EOF\n")
        return "".join(self._parts).encode()


def number(value: float) -> str:
    """A float64 as short as it can be written; integers without a point."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def escaped(text: str, quotes: bool) -> str:
    """A HELP text or a label's value. Only the classic form leaves quotes in HELP as they are."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def labels_text(labels: Iterable[tuple[str, str]]) -> str:
    """`{a="b",c="d"}`, or nothing."""
    inner = ",".join([f'{name}="{escaped(value, True)}"' for name, value in labels])
    return f"{{{inner}}}" if inner else ""


# -- the fleet's sensors ---------------------------------------------------------------------------


class Sensors:
    """Writes what the ring holds at its newest complete tick. One thread at a time."""

    def __init__(
        self,
        ring: Ring,
        totals: Totals,
        subjects_max: int,
        group_of: GroupOf = no_group,
    ) -> None:
        self._ring = ring
        self._totals = totals
        self._subjects_max = subjects_max
        self._group_of = group_of
        self._labels: dict[tuple[str, tuple[str, str]], str] = {}
        self._labels_s = 0.0
        self._units: tuple[int, list[str]] = (-1, [])  # their version, labels in their order

    def write(self, text: Text) -> None:
        """All families that something is known of."""
        now_s = time.monotonic()
        if now_s - self._labels_s > LABELS_LIVE_S:
            self._labels.clear()  # members come and go, and nodes change their group
            self._units = (-1, [])
            self._labels_s = now_s
        left_out: dict[str, int] = {}
        self._write_gpus(text, left_out)
        counted: dict[str, dict[tuple[str, str, str], float]] = {}
        for metric in METRICS.values():
            if metric.subject is not Subject.GPU:
                self._write_others(text, metric, counted, left_out)
        self._write_reports(text, left_out)
        rows_of = [((("subject", one),), float(count)) for one, count in sorted(left_out.items())]
        words = "subjects too many to be scraped one by one"
        text.figures([gauge("metrics_left_out", words, rows_of)])

    def _write_gpus(self, text: Text, left_out: dict[str, int]) -> None:
        """GPUs one by one, or a few values a node. MIG slices are in remote write only."""
        units, tick = self._ring.units, self._ring.tick
        totals = self._totals.of_gpus(units)
        each = len(units.index) <= self._subjects_max
        if each and self._units[0] != units.version:
            keys = zip(units.node_of.tolist(), units.index.tolist(), strict=True)
            labels = [
                labels_text([*self._of_node(units.nodes[row]), ("gpu", str(index))])
                for row, index in keys
            ]
            self._units = (units.version, labels)
        for metric in METRICS.values():
            if metric.subject is not Subject.GPU:
                continue
            values = self._ring.column(metric.name, tick).astype(np.float64)
            if len(values) != len(units.index):
                continue  # a GPU has come since: it is in the next scrape
            known = np.isfinite(values)
            if metric.form == "count":
                values = np.where(known, totals.get(metric.name, np.nan), np.nan)
                known = np.isfinite(values)
            rows = np.flatnonzero(known)
            if not len(rows):
                continue
            if each:
                labels = [self._units[1][row] for row in rows.tolist()]
                _write(text, metric, labels, values[rows])
            else:
                left_out["gpu"] = len(units.index)
                nodes = [self._of_node(node) for node in units.nodes]
                _write_nodes(text, metric, nodes, units.node_of[rows], values[rows])

    def _write_others(
        self,
        text: Text,
        metric: Metric,
        counted: dict[str, dict[tuple[str, str, str], float]],
        left_out: dict[str, int],
    ) -> None:
        keys, stored = self._ring.latest(metric.name)
        if len(keys) > self._subjects_max:
            left_out[metric.subject.value] = len(keys)
            return
        subject, values = metric.subject.value, stored.astype(np.float64)
        if metric.form == "count":
            for node, _ in keys:
                if node not in counted:
                    counted[node] = self._totals.counted(node)
            totals = [counted[node].get((metric.name, subject, key)) for node, key in keys]
            keys = [pair for pair, one in zip(keys, totals, strict=True) if one is not None]
            values = np.array([one for one in totals if one is not None], np.float64)
        if keys:
            _write(text, metric, [self._label(metric.name, subject, one) for one in keys], values)

    def _label(self, metric: str, subject: str, pair: tuple[str, str]) -> str:
        known = self._labels.get((subject, pair))
        if known is None:
            node, key = pair
            labels = self._of_node(node) + list(labels_of(metric, subject, key).items())
            known = self._labels[subject, pair] = labels_text(labels)
        return known

    def _of_node(self, node: str) -> list[tuple[str, str]]:
        group = self._group_of(node)
        return [("node", node), ("group", group)] if group else [("node", node)]

    def _write_reports(self, text: Text, left_out: dict[str, int]) -> None:
        found = [(name, *self._ring.latest(name)) for name in self._ring.report_names()]
        count = sum(len(keys) for _, keys, _ in found)
        if not count:
            return
        if count > self._subjects_max:
            left_out["report"] = count
            return
        text.head(family(found[0][0]))
        for name, keys, values in found:
            labels = [
                labels_text(self._of_node(node) + list(labels_of(name, "member", key).items()))
                for node, key in keys
            ]
            text.rows(REPORTS, labels, numbers(values.astype(np.float64)))


def _write(text: Text, metric: Metric, labels: Sequence[str], values: Floats64) -> None:
    its = family_of(metric)
    text.head(its)
    digits = DIGITS_TOTAL if metric.form == "count" else DIGITS
    text.rows(its.sample, labels, numbers(values, digits))


def _write_nodes(
    text: Text,
    metric: Metric,
    nodes: Sequence[list[tuple[str, str]]],
    node_of: NDArray[np.int32],
    values: Floats64,
) -> None:
    """Instead of single GPUs: a few values a node. `nodes` are their labels."""
    how, its = node_family(metric)
    text.head(its)
    counts = np.bincount(node_of, minlength=len(nodes))
    here = np.flatnonzero(counts)
    if how == "sum":
        sums = np.bincount(node_of, values, len(nodes))[here]
        labels = [labels_text(nodes[row]) for row in here.tolist()]
        text.rows(its.sample, labels, numbers(sums.astype(np.float64), DIGITS_TOTAL))
        return
    if how == "any":
        masks = np.zeros(len(nodes), np.int64)
        np.bitwise_or.at(masks, node_of, values.astype(np.int64))
        labels = [labels_text(nodes[row]) for row in here.tolist()]
        text.rows(its.sample, labels, numbers(masks[here].astype(np.float64)))
        return
    least = np.full(len(nodes), np.inf)
    greatest = np.full(len(nodes), -np.inf)
    np.minimum.at(least, node_of, values)
    np.maximum.at(greatest, node_of, values)
    mean = np.bincount(node_of, values, len(nodes))[here] / counts[here]
    for over, found in (("mean", mean), ("min", least[here]), ("max", greatest[here])):
        labels = [labels_text([*nodes[row], ("over", over)]) for row in here.tolist()]
        text.rows(its.sample, labels, numbers(found))


def node_family(metric: Metric) -> tuple[str, Family]:
    """What stands for the GPUs of a node: the sum of counts, all bits, or mean, least, greatest."""
    own = family_of(metric)
    name = PREFIX + "node_" + own.name.removeprefix(PREFIX)
    if metric.form == "count":
        return "sum", Family(name, own.form, f"{metric.text}, all GPUs of a node", own.unit)
    if metric.form == "bits":
        return "any", Family(name, own.form, f"{metric.text}, of any GPU of a node")
    return "mean", Family(name, own.form, f"{metric.text}, over the GPUs of a node", own.unit)


def numbers(values: NDArray[np.float64], digits: int = DIGITS) -> list[str]:
    """Many values as text: integers as such, the rest as exact as a float32 is by default."""
    if bool(np.all(values == np.rint(values))) and bool(np.all(np.abs(values) < 1e15)):
        return list(map(str, values.astype(np.int64).tolist()))
    return [f"{value:.{digits}g}" for value in values.tolist()]


def known_names() -> frozenset[str]:
    """Every sample name of sensors that this room writes, by /metrics or remote write."""
    found = {REPORTS, PREFIX + "metrics_left_out"}
    for name in METRICS:
        metric = metric_of(name)
        assert metric is not None, name
        found.add(family_of(metric).sample)
        if metric.subject is Subject.GPU:
            found.add(node_family(metric)[1].sample)
    return frozenset(found)
