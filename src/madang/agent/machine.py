"""The node itself: processors, memory, disks, network. By psutil, which reads /proc.

Disks are whole devices, not their partitions, nor what is stacked on them (device mapper, RAID,
loops): each byte is counted once. Network is every interface that has hardware under it; without
one (in a container) all but the loopback.
"""

import os
from pathlib import Path

import psutil

from madang.agent._base import Counters, Reading, columns_of
from madang.telemetry.frames import Subject

MIB = 1 << 20
# File systems that say nothing of the room that is left on a disk.
NO_DISK = frozenset("squashfs iso9660 overlay tmpfs devtmpfs ramfs erofs".split())  # noqa: SIM905
STACKED = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")


class Machine:
    """`sys`: where sysfs is."""

    name = "machine"

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._sys = sys
        self._counters = Counters()
        self._last_cpu: tuple[float, float] | None = None  # (busy, all) seconds

    def read(self, now_ms: int) -> Reading:
        self._counters.begin()
        row: dict[str, float | None] = {"node_cpu_percent": self._cpu_percent()}
        for add in (_add_memory, _add_disk_use, self._add_disks, self._add_network):
            try:
                add(row)
            except (OSError, RuntimeError, ValueError):
                pass  # psutil found /proc other than it knows: missing
        return Reading(columns_of(Subject.NODE, {"": row}))

    def _cpu_percent(self) -> float | None:
        times = psutil.cpu_times()
        total = sum(times[:8])  # guest time is already in user time
        busy = total - times.idle - getattr(times, "iowait", 0.0)
        last, self._last_cpu = self._last_cpu, (busy, total)
        if last is None or total <= last[1]:
            return None
        return round(100 * min(max((busy - last[0]) / (total - last[1]), 0.0), 1.0))

    def _add_disks(self, row: dict[str, float | None]) -> None:
        disks = psutil.disk_io_counters(perdisk=True) or {}
        whole = {name for name in disks if self._is_whole_disk(name)}
        for metric, field in (
            ("node_disk_read_bytes", "read_bytes"),
            ("node_disk_write_bytes", "write_bytes"),
        ):
            parts = [
                self._counters.grown((metric, name), float(getattr(disks[name], field)))
                for name in whole
            ]
            row[metric] = _sum_of_known(parts)

    def _is_whole_disk(self, name: str) -> bool:
        return not name.startswith(STACKED) and (self._sys / "block" / name).exists()

    def _add_network(self, row: dict[str, float | None]) -> None:
        ports = psutil.net_io_counters(pernic=True)
        real = [name for name in ports if (self._sys / "class/net" / name / "device").exists()]
        real = real or [name for name in ports if name != "lo"]
        for metric, field in (
            ("node_net_rx_bytes", "bytes_recv"),
            ("node_net_tx_bytes", "bytes_sent"),
        ):
            parts = [
                self._counters.grown((metric, name), float(getattr(ports[name], field)))
                for name in real
            ]
            row[metric] = _sum_of_known(parts)

    def close(self) -> None:
        """Nothing is held."""


def _sum_of_known(parts: list[float]) -> float | None:
    known = [one for one in parts if one == one]  # noqa: PLR0124 - NaN
    return sum(known) if known else None


def _add_memory(row: dict[str, float | None]) -> None:
    row["node_load"] = round(os.getloadavg()[0], 2)
    memory = psutil.virtual_memory()
    used = memory.total - memory.available
    row["node_memory_used_mib"] = used // MIB
    row["node_memory_used_percent"] = round(100 * used / memory.total)


def _add_disk_use(row: dict[str, float | None]) -> None:
    """The fullest file system that is on a disk; the root's, if none is seen (a container)."""
    shares = []
    seen: set[int] = set()
    for part in psutil.disk_partitions(all=False):
        if part.fstype in NO_DISK:
            continue
        try:
            device = os.stat(part.mountpoint).st_dev
            if device not in seen:
                seen.add(device)
                shares.append(psutil.disk_usage(part.mountpoint).percent)
        except OSError:
            continue  # not ours to look at
    row["node_disk_used_percent"] = round(max(shares or [psutil.disk_usage("/").percent]))
