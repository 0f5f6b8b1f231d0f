"""What members and devices use right now: for `madang top`, and members for telemetry.

CPU percent is measured since the last call; the first has nothing to compare with and says None.
A member is its whole process tree, less its shim. What telemetry is told of devices, ports and the
node itself is read by the agent's readers, in the daemon.
"""

import os
import threading
import time
from collections.abc import Mapping

import numpy as np
import psutil

from madang.engines.base import Block, MemberSample, NodeSample, Readings, Sample
from madang.engines.local import proc
from madang.engines.local.devices import Devices

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


METRICS = (
    "member_cpu_percent",
    "member_memory_mib",
    "member_read_bytes",
    "member_write_bytes",
    "member_processes",
)
NOT_KNOWN = float("nan")

Members = Mapping[tuple[str, int], int]
Totals = tuple[int, int, int]  # CPU ticks, bytes read, bytes written


class MemberReader:
    """The members' columns. One thread; remembers what had been counted at the last call."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._last_s: float | None = None
        self._totals: dict[tuple[str, int], Totals] = {}

    def read(self, shims: Members, now_ms: int) -> Readings:
        """The members that run. `shims`: the process id of each member's shim."""
        now_s = time.monotonic()
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        stats = proc.all_stats()
        keys, rows = [], []
        totals: dict[tuple[str, int], Totals] = {}
        for member, shim_pid in shims.items():
            below = proc.descendants(shim_pid, stats)
            if not below:
                continue  # it has just ended
            totals[member] = _totals(below)
            rss_mib = sum(one.rss_pages for one in below) * _PAGE_BYTES // _MIB
            cpu, read, written = _risen(self._totals.get(member), totals[member], passed_s)
            keys.append("/".join(map(str, member)))
            rows.append((cpu, rss_mib, read, written, len(below)))
        self._last_s, self._totals = now_s, totals
        values = np.array(rows, np.float32).reshape(len(keys), len(METRICS)).T
        blocks = (Block("member", METRICS, tuple(keys), values),) if keys else ()
        return Readings(self._node, now_ms, round(passed_s * 1000), blocks)


def _totals(processes: list[proc.Stat]) -> Totals:
    """What a member has done so far: the kernel adds to a parent what its ended children did."""
    moved = [proc.moved(one.pid) for one in processes]
    return (
        sum(one.cpu_ticks for one in processes),
        sum(one.read_bytes for one in moved if one is not None),
        sum(one.written_bytes for one in moved if one is not None),
    )


def _risen(before: Totals | None, now: Totals, passed_s: float) -> tuple[float, float, float]:
    """CPU percent, bytes read and written since; not known at the first look.

    A grandchild that was reaped by a stranger takes its share along: never below zero.
    """
    percent = _percent(before[0] if before else None, now[0], passed_s)
    if before is None or percent is None:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    return percent, max(0, now[1] - before[1]), max(0, now[2] - before[2])


class Sensors:
    """Remembers the last reading. Safe for many threads."""

    def __init__(self, node: str, devices: Devices) -> None:
        self._node = node
        self._devices = devices
        self._lock = threading.Lock()
        self._last_s = 0.0
        self._last_ticks: dict[tuple[str, int], int] = {}
        self._last_node: tuple[float, float] | None = None  # (busy, all) seconds

    def sample(self, shims: Members) -> Sample:
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
