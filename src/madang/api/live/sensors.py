"""Where the readings of live columns come from.

A source gives readings for a list of devices that it is told once; it says by a number whether it
has new ones. Missing is NaN, never 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from madang.api.live.schema import SENSORS
from madang.api.yard import GpuTop, Yard

Values = NDArray[np.float32]

TOP_MS = 2_000
TOP_REST_FACTOR = 10  # reading all sensors one by one takes at most a tenth of the time

# Nominal board power by model, where no limit is read: NVIDIA's data sheets, SXM where it exists.
BOARD_W = {
    "B200": 1000,
    "H200": 700,
    "H100": 700,
    "A100": 400,
    "V100": 300,
    "L40S": 350,
    "L40": 300,
    "L4": 72,
    "A40": 300,
    "A10": 150,
    "T4": 70,
}


def board_w(model: str) -> int:
    """What a board of a model may draw; 0 if nobody knows."""
    return BOARD_W.get(model.partition(":")[0].upper(), 0)


@dataclass(frozen=True, slots=True)
class Devices:
    """Whose readings are wanted, in this order: (U,) devices of N nodes.

    `node_of` (U,) rows of `nodes`; `index` (U,) the device on its node; `limit_w`, `memory_mib`
    (U,), 0 where unknown.
    """

    nodes: Sequence[str]
    node_of: NDArray[np.int32]
    index: NDArray[np.int32]
    limit_w: NDArray[np.float32]
    memory_mib: NDArray[np.float32]


class Sensors(Protocol):
    """See the module's docstring. One thread at a time."""

    def look(self, now_ms: int) -> int:
        """The number of the newest reading; the same as before if there is no new one."""

    def read(self, devices: Devices) -> Mapping[str, Values]:
        """By canonical metric, (U,) values; a metric that nobody measures is absent."""


class TopSensors:
    """What the engine says when it is asked, one object a device: right for small yards."""

    def __init__(self, yard: Yard) -> None:
        self._yard = yard
        self._due_ms = 0
        self._number = 0
        self._seen: dict[str, tuple[GpuTop, ...]] = {}

    def look(self, now_ms: int) -> int:
        if now_ms >= self._due_ms:
            import time

            began = time.monotonic()
            self._seen = {node.id: node.gpus for node in self._yard.top().nodes}
            took_ms = int((time.monotonic() - began) * 1000)
            self._due_ms = now_ms + max(TOP_MS, TOP_REST_FACTOR * took_ms)
            self._number += 1
        return self._number

    def read(self, devices: Devices) -> Mapping[str, Values]:
        count = len(devices.index)
        out = {field.metric: np.full(count, np.nan, np.float32) for field in SENSORS[:4]}
        util, memory, heat, power = out.values()
        first = np.searchsorted(devices.node_of, np.arange(len(devices.nodes) + 1))
        for row, node in enumerate(devices.nodes):
            start, end = int(first[row]), int(first[row + 1])
            for gpu in self._seen.get(node, ()):
                at = start + gpu.index
                if at >= end:
                    continue
                util[at] = _value(gpu.util_percent)
                memory[at] = _value(gpu.memory_used_mib)
                heat[at] = _value(gpu.temperature_c)
                power[at] = _value(gpu.power_w)
        memory *= _share(devices.memory_mib)
        power *= _share(devices.limit_w)
        return {metric: values for metric, values in out.items() if not np.isnan(values).all()}


def _value(reading: float | None) -> float:
    return np.nan if reading is None else reading


def _share(whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """What makes a reading a percentage; NaN where the whole is unknown."""
    out = np.full(len(whole), np.nan, np.float32)
    np.divide(100.0, whole, out=out, where=whole > 0)
    return out
