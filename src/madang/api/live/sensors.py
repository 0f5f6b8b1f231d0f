"""Where the readings of live columns come from.

A source gives readings for a list of devices that it is told once; it says by a number whether it
has new ones. Missing is NaN, never 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from madang.api.live.schema import SENSORS
from madang.telemetry.ring import TICKS, Ring

Values = NDArray[np.float32]

INDEX_MAX = 1 << 12  # devices of a node
LATE_TICKS = 3  # so many ticks later a silent device is unknown

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

    def quiet_since_ms(self, devices: Devices, most_percent: float) -> NDArray[np.int64]:
        """(U,) Unix ms since when each device was at most so busy; 0 if it is not now."""


class RingSensors:
    """The newest complete tick of the store's ring. A device that was silent in it keeps what it
    said in one of the few ticks before: nodes report when they can.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._rows: tuple[Devices, int, NDArray[np.int64]] | None = None

    def look(self, now_ms: int) -> int:
        return self._ring.tick

    def read(self, devices: Devices) -> Mapping[str, Values]:
        rows = self._rows_of(devices)
        found = {field.metric: self._lately(field.metric, rows) for field in SENSORS}
        memory = found["gpu_memory_used_percent"]
        if np.isnan(memory).all():  # only MiB are read here
            used = self._lately("gpu_memory_used_mib", rows)
            found["gpu_memory_used_percent"] = used * _share(devices.memory_mib)
        limit = self._lately("gpu_power_limit_w", rows)
        limit = np.where(np.isnan(limit), devices.limit_w, limit).astype(np.float32)
        found["gpu_power_percent"] = self._lately("gpu_power_w", rows) * _share(limit)
        return {metric: values for metric, values in found.items() if not np.isnan(values).all()}

    def quiet_since_ms(self, devices: Devices, most_percent: float) -> NDArray[np.int64]:
        """Back to the oldest tick of the ring, or to the last in which the device worked."""
        rows, newest = self._rows_of(devices), self._ring.tick
        since = np.zeros(len(rows), np.int64)
        quiet = rows >= 0
        for tick in range(newest, max(self._ring.oldest, newest - TICKS + 1) - 1, -1):
            quiet &= self._column("gpu_util_percent", rows, tick) <= most_percent
            if not quiet.any():
                break
            since[quiet] = self._ring.time_ms(tick)
        return since

    def _lately(self, metric: str, rows: NDArray[np.int64]) -> Values:
        newest = self._ring.tick
        out = self._column(metric, rows, newest)
        for tick in range(newest - 1, newest - LATE_TICKS - 1, -1):
            silent = np.isnan(out)
            if tick < 0 or not silent.any():
                break
            out[silent] = self._column(metric, rows, tick)[silent]
        return out

    def _column(self, metric: str, rows: NDArray[np.int64], tick: int | None = None) -> Values:
        values = self._ring.column(metric, tick)
        out = np.full(len(rows), np.nan, np.float32)
        known = (rows >= 0) & (rows < len(values))
        out[known] = values[rows[known]]
        return out

    def _rows_of(self, devices: Devices) -> NDArray[np.int64]:
        """Where each device is in the ring's order, -1 if nowhere."""
        units = self._ring.units
        if self._rows is not None and self._rows[0] is devices and self._rows[1] == units.version:
            return self._rows[2]
        row_of = {node: row for row, node in enumerate(devices.nodes)}
        nodes = np.array([row_of.get(node, -1) for node in units.nodes], np.int64)
        there = _keys(nodes[units.node_of] if len(nodes) else nodes, units.index)
        order = np.argsort(there, kind="stable")
        wanted = _keys(devices.node_of.astype(np.int64), devices.index)
        at = np.searchsorted(there[order], wanted)
        found = np.full(len(wanted), -1, np.int64)
        hit = at < len(order)
        hit[hit] = there[order[at[hit]]] == wanted[hit]
        found[hit] = order[at[hit]]
        self._rows = (devices, units.version, found)
        return found


def _keys(nodes: NDArray[np.int64], index: NDArray[Any]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = nodes * INDEX_MAX + index
    return keys


def _share(whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """What makes a reading a percentage; NaN where the whole is unknown."""
    out = np.full(len(whole), np.nan, np.float32)
    np.divide(100.0, whole, out=out, where=whole > 0)
    return out
