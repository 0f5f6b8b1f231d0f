"""One sample a minute and series, for destinations that keep history for long.

A node's minute is whole when a frame of the next one comes: agents send in order, however late.
The sample carries the minute's end. What is open can be written down (`state`) and taken up again,
so that a destination that begins anew at its last checkpoint sends the same samples once more.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import zstandard
from numpy.typing import NDArray

from madang.telemetry.metrics import METRICS, REPORT
from madang.telemetry.out.blocks import Block, Layout, Part

MINUTE_MS = 60_000
SILENT_MS_MAX = 600_000  # a node that was silent for so long: its open minute goes as it is
STATE_BYTES_MAX = 1 << 30

Float64 = NDArray[np.float64]
Row = tuple[str, int, Layout, Float64]  # node, at_ms, layout, values (S,)


@dataclass(slots=True)
class _Sums:
    """One layout's part of a node's minute: all (S,)."""

    layout: Layout
    count: int
    sums: Float64
    last: Float64
    bits: NDArray[np.int64]

    def values(self) -> Float64:
        counts, masks = _forms(self.layout)
        return np.where(masks, self.bits, np.where(counts, self.last, self.sums / self.count))


@dataclass(slots=True)
class _Open:
    minute: int
    sums: list[_Sums]


class Minutes:
    """The open minute of every node."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._newest_ms = 0
        self._looked_minute = 0
        self.late_samples = 0  # of a minute that was sent already: out of order, left out

    def add(self, blocks: Iterable[Block]) -> list[Block]:
        """The minutes that became whole by these frames."""
        closed: list[Row] = []
        for block in blocks:
            _, masks = _forms(block.layout)
            bits = np.where(masks, block.values, 0).astype(np.int64)
            for row, (node, at_ms) in enumerate(
                zip(block.nodes, block.at_ms.tolist(), strict=True)
            ):
                closed += self._frame(node, at_ms, block.layout, block.values[row], bits[row])
        return stacked([*closed, *self._silent()])

    def _frame(
        self, node: str, at_ms: int, layout: Layout, values: Float64, bits: NDArray[np.int64]
    ) -> list[Row]:
        self._newest_ms = max(self._newest_ms, at_ms)
        minute = at_ms // MINUTE_MS
        opened = self._open.get(node)
        closed: list[Row] = []
        if opened is not None and minute < opened.minute:
            self.late_samples += len(values)
            return closed
        if opened is None or minute > opened.minute:
            closed = _closed(node, opened) if opened is not None else []
            opened = self._open[node] = _Open(minute, [])
        for sums in opened.sums:
            if sums.layout == layout:
                sums.count += 1
                sums.sums += values
                sums.last[:] = values
                sums.bits |= bits
                return closed
        opened.sums.append(_Sums(layout, 1, values.copy(), values.copy(), bits.copy()))
        return closed

    def _silent(self) -> list[Row]:
        minute = self._newest_ms // MINUTE_MS
        if minute == self._looked_minute:
            return []
        self._looked_minute = minute
        before = (self._newest_ms - SILENT_MS_MAX) // MINUTE_MS
        gone = [node for node, opened in self._open.items() if opened.minute < before]
        return [row for node in gone for row in _closed(node, self._open.pop(node))]

    # -- written down --------------------------------------------------------------------------

    def state(self) -> bytes:
        """All that is open."""
        heads = []
        arrays = []
        for node, opened in self._open.items():
            for sums in opened.sums:
                parts = [[one.metric, one.subject, one.keys] for one in sums.layout.parts]
                heads.append([node, opened.minute, sums.count, parts])
                arrays += [sums.sums, sums.last, sums.bits.astype(np.float64)]
        head = json.dumps([self._newest_ms, self._looked_minute, heads]).encode()
        plain = len(head).to_bytes(8, "little") + head + b"".join(one.tobytes() for one in arrays)
        return zstandard.ZstdCompressor(level=1).compress(plain)

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError, zstandard.ZstdError: it was not written by `state`.
        """
        plain = zstandard.ZstdDecompressor().decompress(state, STATE_BYTES_MAX)
        size = int.from_bytes(plain[:8], "little")
        self._newest_ms, self._looked_minute, heads = json.loads(plain[8 : 8 + size])
        values = np.frombuffer(plain, np.float64, offset=8 + size)
        self._open = {}
        at = 0
        layouts: dict[Layout, Layout] = {}
        for node, minute, count, parts in heads:
            made = Layout(tuple(Part(name, subject, tuple(keys)) for name, subject, keys in parts))
            layout = layouts.setdefault(made, made)
            three = values[at : at + 3 * layout.series].reshape(3, -1)
            at += 3 * layout.series
            sums = _Sums(layout, count, three[0].copy(), three[1].copy(), three[2].astype(np.int64))
            self._open.setdefault(node, _Open(minute, [])).sums.append(sums)


def stacked(rows: Sequence[Row]) -> list[Block]:
    """Rows of one layout in one block, as long as that leaves each node's rows in order."""
    blocks: list[Block] = []
    run: dict[Layout, list[Row]] = {}
    layout_of: dict[str, Layout] = {}
    for row in rows:
        node, _, layout, _ = row
        if layout_of.get(node, layout) != layout:
            blocks += _blocks(run)
            run, layout_of = {}, {}
        layout_of[node] = layout
        run.setdefault(layout, []).append(row)
    return [*blocks, *_blocks(run)]


def _blocks(run: dict[Layout, list[Row]]) -> list[Block]:
    return [
        Block(
            layout,
            tuple(node for node, *_ in rows),
            np.array([at_ms for _, at_ms, *_ in rows], np.int64),
            np.stack([values for *_, values in rows]),
        )
        for layout, rows in run.items()
    ]


def _closed(node: str, opened: _Open) -> list[Row]:
    at_ms = (opened.minute + 1) * MINUTE_MS
    if len(opened.sums) == 1:
        return [(node, at_ms, opened.sums[0].layout, opened.sums[0].values())]
    layout, values = _merged(opened.sums)
    return [(node, at_ms, layout, values)]


def _merged(sums: Sequence[_Sums]) -> tuple[Layout, Float64]:
    """A minute in which the node's series changed: each series by what there is of it."""
    of_series: dict[tuple[str, str], dict[str, float]] = {}
    weights: dict[tuple[str, str, str], int] = {}
    for one in sums:
        values = iter(one.values().tolist())
        for part in one.layout.parts:
            named = of_series.setdefault((part.metric, part.subject), {})
            form = form_of(part.metric)
            for key in part.keys:
                value, whose = next(values), (part.metric, part.subject, key)
                before, weight = named.get(key), weights.get(whose, 0)
                if before is None or form == "count":
                    named[key] = value
                elif form == "bits":
                    named[key] = float(int(before) | int(value))
                else:
                    named[key] = (before * weight + value * one.count) / (weight + one.count)
                weights[whose] = weight + one.count
    parts = tuple(Part(*whose, tuple(named)) for whose, named in of_series.items())
    flat = [value for named in of_series.values() for value in named.values()]
    return Layout(parts), np.array(flat)


def form_of(metric: str) -> str:
    """gauge, count or bits."""
    return "gauge" if metric.startswith(REPORT) else METRICS[metric].form


@lru_cache(maxsize=4096)
def _forms(layout: Layout) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(S,) which series are counts, (S,) which are bits."""
    forms = [form_of(part.metric) for part in layout.parts for _ in part.keys]
    return np.array([one == "count" for one in forms]), np.array([one == "bits" for one in forms])
