"""Frames as they go out: what is not known is left out, and what was counted becomes a total.

A frame holds what was added since the one before; Prometheus wants what was added since some start,
because then a lost sample loses nothing. The start is that of this program: after it, totals begin
at 0 again, which `rate` and `increase` know how to read. Not for two threads at once.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Frame
from madang.telemetry.metrics import METRICS, REPORT
from madang.telemetry.out.blocks import Measured, Part

NODES_MAX = (
    32_768  # beyond it the node that was silent for longest is forgotten: its totals restart
)

Float64 = NDArray[np.float64]


@dataclass(slots=True)
class _Node:
    """What was seen of a node: its last shape, and the totals of what that counts.

    `parts` are the shape's; `counted` (C,) which of its S values are counts, `totals` (C,) theirs.
    `names` are the counted series, so that another shape can go on with them.
    """

    shape: object = None
    parts: tuple[Part, ...] = ()
    counted: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    totals: Float64 = field(default_factory=lambda: np.zeros(0))
    names: tuple[tuple[str, str, str], ...] = ()


class Totals:
    """Turns frames into what is written and scraped."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, _Node] = OrderedDict()

    def take(self, frames: Sequence[Frame]) -> list[Measured]:
        """The frames in order, without values that are not known; empty ones are left out."""
        taken = (self._measured(frame) for frame in frames if frame.columns)
        return [one for one in taken if len(one.values)]

    def counted(self, node: str) -> dict[tuple[str, str, str], float]:
        """The totals of a node by (metric, subject, key); empty if nothing was counted there."""
        known = self._nodes.get(node)
        return dict(zip(known.names, known.totals.tolist(), strict=False)) if known else {}

    def _measured(self, frame: Frame) -> Measured:
        node = self._node(frame.node)
        shape = frame.shape or tuple([(one.metric, one.subject, one.keys) for one in frame.columns])
        if shape != node.shape:
            _reshape(node, frame, shape)
        values = np.concatenate([one.values for one in frame.columns]).astype(np.float64)
        known = np.isfinite(values)
        if known.all():
            if len(node.counted):
                node.totals += values[node.counted]
                values[node.counted] = node.totals
            return Measured(frame.node, frame.at_ms, node.parts, values)
        here = known[node.counted]
        np.add(node.totals, values[node.counted], out=node.totals, where=here)
        values[node.counted[here]] = node.totals[here]
        return Measured(frame.node, frame.at_ms, _only(node.parts, known), values[known])

    def _node(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node()
            if len(self._nodes) > NODES_MAX:
                self._nodes.popitem(last=False)
        self._nodes.move_to_end(name)
        return node


def _counts(metric: str) -> bool:
    return not metric.startswith(REPORT) and METRICS[metric].form == "count"


def _reshape(node: _Node, frame: Frame, shape: object) -> None:
    """Another set of columns: totals go on by name, those of what is gone are forgotten."""
    before = dict(zip(node.names, node.totals.tolist(), strict=True))
    node.shape = shape
    parts = tuple([Part(one.metric, one.subject.value, one.keys) for one in frame.columns])
    node.parts, node.counted, node.names = _shared(parts)
    node.totals = np.array([before.get(name, 0.0) for name in node.names])


@lru_cache(maxsize=4096)
def _shared(
    parts: tuple[Part, ...],
) -> tuple[tuple[Part, ...], NDArray[np.intp], tuple[tuple[str, str, str], ...]]:
    """The parts, which of their values are counts, and those series: once for all nodes alike."""
    counted: list[int] = []
    names: list[tuple[str, str, str]] = []
    begin = 0
    for part in parts:
        if _counts(part.metric):
            names += [(part.metric, part.subject, key) for key in part.keys]
            counted += range(begin, begin + len(part.keys))
        begin += len(part.keys)
    return parts, np.array(counted, np.intp), tuple(names)


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
