"""Frames as they go out: what is not known is left out, and what was counted becomes a total.

A frame holds what was added since the one before; Prometheus wants what was added since some start,
because then a lost sample loses nothing. The start is that of this program: after it, totals begin
at 0 again, which `rate` and `increase` know how to read. Not for two threads at once.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Frame
from madang.telemetry.metrics import metric_of
from madang.telemetry.out.blocks import Measured, Part
from madang.telemetry.ring import Units
from madang.telemetry.taps import Taken

NODES_MAX = (
    32_768  # beyond it the node that was silent for longest is forgotten: its totals restart
)

Float64 = NDArray[np.float64]


Name = tuple[str, str, str]  # metric, subject, key


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """What a frame's columns mean, once for all nodes alike. Of the V values of a frame `kept` (S,)
    belong to metrics that there are; of those `counted` (C,) are counts, `names` say of what.
    """

    parts: tuple[Part, ...]
    kept: NDArray[np.intp]
    counted: NDArray[np.intp]
    names: tuple[Name, ...]


@dataclass(slots=True)
class _Node:
    """The node's last shape, by which key it is known, and the totals (C,) of what it counts."""

    key: object
    shape: _Shape
    totals: Float64


class Totals:
    """Turns frames into what is written and scraped. Any thread."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, _Node] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, taken: Sequence[Taken]) -> list[Measured]:
        """The frames in order, without values that are not known; empty ones are left out."""
        with self._lock:
            found = [self._measured(one) for one in taken if len(one.block)]
        return [one for one in found if len(one.values)]

    def counted(self, node: str) -> dict[Name, float]:
        """The totals of a node by (metric, subject, key); empty if nothing was counted there."""
        with self._lock:
            known = self._nodes.get(node)
            if known is None:
                return {}
            return dict(zip(known.shape.names, known.totals.tolist(), strict=True))

    def of_gpus(self, units: Units) -> dict[str, Float64]:
        """By metric the totals of all GPUs, (U,) in the order of `units`; NaN: never counted."""
        found: dict[str, Float64] = {}
        bounds = np.searchsorted(units.node_of, np.arange(len(units.nodes) + 1)).tolist()
        with self._lock:
            for row, name in enumerate(units.nodes):
                node = self._nodes.get(name)
                if node is None:
                    continue
                begin, end = bounds[row], bounds[row + 1]
                indices = units.index[begin:end].tobytes()
                for metric, (to, of) in _places(node.shape, indices).items():
                    values = found.get(metric)
                    if values is None:
                        values = found[metric] = np.full(len(units.index), np.nan)
                    values[begin:end][to] = node.totals[of]
        return found

    def _measured(self, taken: Taken) -> Measured:
        node = self._node(taken.frame)
        shape = node.shape
        values = taken.block[shape.kept].astype(np.float64)
        known = np.isfinite(values)
        if known.all():
            if len(shape.counted):
                node.totals += values[shape.counted]
                values[shape.counted] = node.totals
            return Measured(taken.frame.node, taken.at_ms, shape.parts, values)
        here = known[shape.counted]
        np.add(node.totals, values[shape.counted], out=node.totals, where=here)
        values[shape.counted[here]] = node.totals[here]
        parts = _only(shape.parts, known)
        return Measured(taken.frame.node, taken.at_ms, parts, values[known])

    def _node(self, frame: Frame) -> _Node:
        """What is known of the frame's node, with the shape of this frame."""
        key: object = frame.shape or tuple(
            [(one.metric, one.subject, one.keys) for one in frame.columns]
        )
        node = self._nodes.get(frame.node)
        if node is not None and node.key == key:
            self._nodes.move_to_end(frame.node)
            return node
        shape = _shape_of(
            tuple([Part(one.metric, one.subject.value, one.keys) for one in frame.columns])
        )
        before = node.totals.tolist() if node is not None else []
        known = dict(zip(node.shape.names, before, strict=True)) if node is not None else {}
        totals = np.array([known.get(name, 0.0) for name in shape.names])
        node = self._nodes[frame.node] = _Node(key, shape, totals)
        self._nodes.move_to_end(frame.node)
        if len(self._nodes) > NODES_MAX:
            self._nodes.popitem(last=False)
        return node


@lru_cache(maxsize=4096)
def _places(shape: _Shape, indices: bytes) -> dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """By metric: which of a node's devices (int16) are counted, and which totals are theirs."""
    row_of = {str(index): row for row, index in enumerate(np.frombuffer(indices, np.int16))}
    pairs: dict[str, list[tuple[int, int]]] = {}
    for at, (metric, subject, key) in enumerate(shape.names):
        if subject == "gpu" and key in row_of:
            pairs.setdefault(metric, []).append((row_of[key], at))
    return {
        metric: (np.array([to for to, _ in its]), np.array([of for _, of in its]))
        for metric, its in pairs.items()
    }


@lru_cache(maxsize=4096)
def _shape_of(columns: tuple[Part, ...]) -> _Shape:
    parts: list[Part] = []
    kept: list[int] = []
    counted: list[int] = []
    names: list[Name] = []
    begin = 0
    for part in columns:
        end = begin + len(part.keys)
        metric = metric_of(part.metric)
        if metric is not None and metric.subject.value == part.subject:
            if metric.form == "count":
                counted += range(len(kept), len(kept) + len(part.keys))
                names += [(part.metric, part.subject, key) for key in part.keys]
            kept += range(begin, end)
            parts.append(part)
        begin = end
    return _Shape(tuple(parts), np.array(kept, np.intp), np.array(counted, np.intp), tuple(names))


def _only(parts: tuple[Part, ...], known: NDArray[np.bool_]) -> tuple[Part, ...]:
    """The parts with the keys whose values are known."""
    kept = []
    begin = 0
    for part in parts:
        end = begin + len(part.keys)
        mask = known[begin:end]
        begin = end
        if mask.all():
            kept.append(part)
        elif mask.any():
            keys = tuple(key for key, is_known in zip(part.keys, mask, strict=True) if is_known)
            kept.append(Part(part.metric, part.subject, keys))
    return tuple(kept)
