"""What members and devices use right now: for `madang top`.

CPU percent is measured since the last call; the first has nothing to compare with and says None.
A member is its whole process tree, less its shim.
"""

import os
import threading
import time
from collections.abc import Mapping

import psutil

from madang.engines.base import MemberSample, NodeSample, Sample
from madang.engines.local import proc
from madang.engines.local.devices import Devices

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class Sensors:
    """Remembers the last reading. Safe for many threads."""

    def __init__(self, node: str, devices: Devices) -> None:
        self._node = node
        self._devices = devices
        self._lock = threading.Lock()
        self._last_s = 0.0
        self._last_ticks: dict[tuple[str, int], int] = {}
        self._last_node: tuple[float, float] | None = None  # (busy, all) seconds

    def sample(self, shims: Mapping[tuple[str, int], int]) -> Sample:
        """Read everything once. `shims`: the shim's process id of each running member."""
        gpus = self._devices.samples()
        with self._lock:
            now_s = time.monotonic()
            passed_s = now_s - self._last_s
            stats = proc.all_stats()
            members = []
            ticks_now: dict[tuple[str, int], int] = {}
            for member, shim_pid in shims.items():
                below = proc.descendants(shim_pid, stats)
                if not below:
                    continue  # it has just ended
                ticks = ticks_now[member] = sum(one.cpu_ticks for one in below)
                before = self._last_ticks.get(member)
                percent = _percent(before, ticks, passed_s)
                rss_bytes = sum(one.rss_pages for one in below) * _PAGE_BYTES
                members.append(MemberSample(*member, percent, rss_bytes // _MIB))
            self._last_s, self._last_ticks = now_s, ticks_now
            node = NodeSample(self._node, self._node_percent(), _memory_used_mib(), gpus)
        return Sample((node,), tuple(members))

    def _node_percent(self) -> float | None:
        times = psutil.cpu_times()
        total = sum(times[:8])  # guest time is already in user time
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        last, self._last_node = self._last_node, (busy, total)
        if last is None or total <= last[1]:
            return None
        share = (busy - last[0]) / (total - last[1])
        return round(100 * max(0.0, min(1.0, share)), 1)


def _percent(before: int | None, ticks: int, passed_s: float) -> float | None:
    if before is None or passed_s <= 0:
        return None
    # A grandchild that was reaped by a stranger takes its time along: never below zero.
    return round(100 * max(0, ticks - before) / _TICKS_PER_S / passed_s, 1)


def _memory_used_mib() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available) // _MIB
