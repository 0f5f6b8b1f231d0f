"""Frames for tests: small, and the same from the same numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from madang.telemetry.frames import Column, Frame
from madang.telemetry.metrics import metric_of
from madang.telemetry.taps import Taken

BEGIN_MS = 1_790_000_040_000  # a whole minute


def frame(
    node: str,
    seq: int,
    at_ms: int,
    values: Mapping[str, Sequence[float]],
    keys: Mapping[str, tuple[str, ...]] | None = None,
) -> Taken:
    """A frame with one column a metric; keys of GPUs are 0, 1, …"""
    columns = []
    for name, row in values.items():
        metric = metric_of(name)
        assert metric is not None, name
        numbered = ("",) if metric.subject == "node" else tuple(map(str, range(len(row))))
        its = (keys or {}).get(name, numbered)
        columns.append(Column(name, metric.subject, its, np.array(row, np.float32)))
    return taken(Frame(node, 7, seq, at_ms, 10_000, tuple(columns)))


def ticks(nodes: int, gpus: int, count: int, step_ms: int = 10_000) -> list[Taken]:
    """`count` frames of each node, tick by tick: utilisation and received bytes of every GPU."""
    return [
        frame(
            f"n{node}",
            tick,
            BEGIN_MS + tick * step_ms,
            {
                "gpu_util_percent": [(7 * node + gpu + tick) % 101 for gpu in range(gpus)],
                "gpu_pcie_rx_bytes": [1000 + gpu for gpu in range(gpus)],
            },
        )
        for tick in range(count)
        for node in range(nodes)
    ]


def taken(frame: Frame) -> Taken:
    """As the store hands it on."""
    parts = [column.values for column in frame.columns]
    block = np.concatenate(parts, dtype=np.float32) if parts else np.zeros(0, np.float32)
    return Taken(frame, frame.at_ms, block)
