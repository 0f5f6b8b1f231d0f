"""From what sensors say now and then to how busy a job's GPUs were over a window.

Promises: windows of an attempt follow each other without overlap; a device whose sensor was silent
for a part of the window makes the whole job's window unknown, and nothing is said of it then. What
is missing never counts as zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from madang.core.events import JobMeasured
from madang.core.model import Allocation, AllocationState
from madang.engines.base import Sample

LOOKS_MIN = 3  # fewer readings than this say nothing about a window
HEARD_PCT_MIN = 80  # of the readings of each device
GAPS_MAX = 3  # a pause of this many windows' thirds between two readings breaks the window

Device = tuple[str, int]


@dataclass(slots=True)
class _Window:
    """Readings of one allocation since `begin_ms`: per device the sum of percents, and how many."""

    begin_ms: int
    last_ms: int
    looks: int = 0
    heard: dict[Device, tuple[float, int]] = field(default_factory=dict)

    def add(self, devices: Iterable[Device], busy: dict[Device, float], now_ms: int) -> None:
        self.last_ms = now_ms
        self.looks += 1
        for device in devices:
            if device in busy:
                total, count = self.heard.get(device, (0.0, 0))
                self.heard[device] = (total + busy[device], count + 1)


class Meter:
    """Adds up samples. One thread."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def look(
        self, sample: Sample, allocations: Iterable[Allocation], now_ms: int, window_ms: int
    ) -> list[JobMeasured]:
        """Take in one sample of these allocations; what is known of windows that it completes."""
        busy = {
            (node.node, gpu.index): gpu.util_percent
            for node in sample.nodes
            for gpu in node.gpus
            if gpu.util_percent is not None
        }
        before, self._windows = self._windows, {}
        measured: list[JobMeasured] = []
        for allocation in allocations:
            devices = _devices(allocation)
            if allocation.state is not AllocationState.RUNNING or allocation.ended or not devices:
                continue
            window = before.get(allocation.id)
            if window is None or (now_ms - window.last_ms) * GAPS_MAX > window_ms:
                self._windows[allocation.id] = _Window(now_ms, now_ms)
                continue
            window.add(devices, busy, now_ms)
            if now_ms - window.begin_ms >= window_ms:
                measured += _measured(allocation, devices, window)
                window = _Window(now_ms, now_ms)
            self._windows[allocation.id] = window
        return measured


def _devices(allocation: Allocation) -> list[Device]:
    devices = ((seat.node, gpu) for seat in allocation.seats for gpu in seat.gpus)
    return list(dict.fromkeys(devices))


def _measured(allocation: Allocation, devices: list[Device], window: _Window) -> list[JobMeasured]:
    """One measurement, or none if some device was not heard enough.

    A device that several jobs share says only how busy they are together: each is given it all.
    """
    if window.looks < LOOKS_MIN:
        return []
    means = []
    for device in devices:
        total, count = window.heard.get(device, (0.0, 0))
        if count * 100 < window.looks * HEARD_PCT_MIN:
            return []
        means.append(min(max(total / count, 0.0), 100.0))
    return [
        JobMeasured(
            job=allocation.job,
            util_pct=round(sum(means) / len(means)),
            window_ms=window.last_ms - window.begin_ms,
            at_ms=window.last_ms,
            busiest_pct=-int(-max(means) // 1),
        )
    ]
