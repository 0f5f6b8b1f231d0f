"""Members of jobs that run on this node: what each, with all its processes, uses.

A member is known by what its engine put into its environment (MADANG_ALLOCATION, MADANG_RANK), so
that this works beside any engine; a child that lost these words belongs to its parent's member. If
a member has a cgroup of its own (version 2), the kernel's own sums are read there: those count what
ended processes did, too. Else the processes are added up.

Needs to see other users' processes: root, or CAP_SYS_PTRACE. What cannot be seen is missing.
Sources: cgroup-v2 (cpu.stat, memory.current, io.stat, pids.current), proc(5).
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from madang.agent._base import Counters, Reading, Row, columns_of
from madang.telemetry.frames import Subject

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
MIB = 1 << 20
ENVIRONMENT_BYTES_MAX = 1 << 17
KEY_CHARS_MAX = 200
MEMBERS_MAX = 1_024
SETTLED_S = 30.0  # a younger process may still become another program, with another environment
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    started: int
    cpu_ticks: int
    rss_pages: int


@dataclass(slots=True)
class _Member:
    """The processes of one, and the cgroup that holds all of them, or ""."""

    processes: list[_Process] = field(default_factory=list)
    cgroup: str = ""


class Members:
    """`proc`, `cgroups`: where these file systems are mounted."""

    name = "members"

    def __init__(self, proc: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._proc, self._cgroups = proc, cgroups
        self._counters = Counters()
        self._names: dict[tuple[int, int], str] = {}  # what a process said of itself
        self._last_s = 0.0

    def read(self, now_ms: int) -> Reading:
        self._counters.begin()
        now_s = time.monotonic()
        passed_s, self._last_s = now_s - self._last_s, now_s
        processes = {one.pid: one for one in self._processes()}
        members = self._members(processes)
        rows = {key: self._row(key, member, passed_s) for key, member in members.items()}
        return Reading(columns_of(Subject.MEMBER, rows))

    # -- who is whose ------------------------------------------------------------------------------

    def _processes(self) -> Iterator[_Process]:
        for name in os.listdir(self._proc):
            if name.isdecimal():
                found = _process(_bytes(self._proc / name / "stat", 4_096))
                if found is not None:
                    yield found

    def _members(self, processes: dict[int, _Process]) -> dict[str, _Member]:
        names: dict[tuple[int, int], str] = {}
        whose: dict[int, str] = {}
        now_ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S
        # Parents before children: who is asked knows what its parent is.
        for one in sorted(processes.values(), key=lambda one: (one.started, one.pid)):
            id = (one.pid, one.started)
            own = self._names.get(id)
            if own is None:
                own = _name_of(_bytes(self._proc / str(one.pid) / "environ", ENVIRONMENT_BYTES_MAX))
            if own or now_ticks - one.started > SETTLED_S * _TICKS_PER_S:
                names[id] = own
            whose[one.pid] = own or whose.get(one.parent, "")
        self._names = names
        members: dict[str, _Member] = {}
        for pid, key in whose.items():
            if key and (key in members or len(members) < MEMBERS_MAX):
                members.setdefault(key, _Member()).processes.append(processes[pid])
        self._find_cgroups(members)
        return members

    def _find_cgroups(self, members: dict[str, _Member]) -> None:
        """A member's cgroup is its own if all its processes are in it and nobody else is."""
        for member in members.values():
            paths = {self._cgroup_of(one.pid) for one in member.processes}
            path = paths.pop() if len(paths) == 1 else ""
            if not path or path == "/":
                continue
            inside = _bytes(self._cgroups / path.lstrip("/") / "cgroup.procs", 1 << 16).split()
            if inside and {int(one) for one in inside} <= {one.pid for one in member.processes}:
                member.cgroup = path

    def _cgroup_of(self, pid: int) -> str:
        for line in _bytes(self._proc / str(pid) / "cgroup", 4_096).decode().splitlines():
            if line.startswith("0::"):
                return line[3:].strip()
        return ""

    # -- what it uses ------------------------------------------------------------------------------

    def _row(self, key: str, member: _Member, passed_s: float) -> Row:
        if member.cgroup:
            row = self._cgroup_row(key, self._cgroups / member.cgroup.lstrip("/"), passed_s)
        else:
            row = self._process_row(key, member, passed_s)
        row["member_processes"] = float(len(member.processes))
        return row

    def _cgroup_row(self, key: str, folder: Path, passed_s: float) -> dict[str, float | None]:
        stat = dict(line.split(maxsplit=1) for line in _lines(folder / "cpu.stat") if b" " in line)
        cpu_us = float(stat[b"usage_usec"]) if b"usage_usec" in stat else None
        memory = _whole(_bytes(folder / "memory.current", 64))
        read = written = None
        for line in _lines(folder / "io.stat"):
            words = dict(word.split(b"=") for word in line.split()[1:] if b"=" in word)
            read = (read or 0.0) + float(words.get(b"rbytes", 0))
            written = (written or 0.0) + float(words.get(b"wbytes", 0))
        grown_us = self._counters.grown((key, "cgroup cpu"), cpu_us)
        return {
            "member_cpu_percent": round(grown_us / 1e4 / passed_s, 1) if passed_s else None,
            "member_memory_mib": None if memory is None else memory // MIB,
            "member_read_bytes": self._counters.grown((key, "cgroup read"), read),
            "member_write_bytes": self._counters.grown((key, "cgroup written"), written),
        }

    def _process_row(self, key: str, member: _Member, passed_s: float) -> dict[str, float | None]:
        """The kernel adds to a parent what its children did when they have ended: the sum over the
        living is what all did, as long as nobody's child is reaped by a stranger."""
        ticks = float(sum(one.cpu_ticks for one in member.processes))
        moved = [self._moved(one.pid) for one in member.processes]
        known = [one for one in moved if one is not None]
        read, written = (sum(one[0] for one in known), sum(one[1] for one in known))
        risen = self._counters.risen
        risen_ticks = risen((key, "cpu"), ticks)
        rss = sum(one.rss_pages for one in member.processes) * _PAGE_BYTES
        return {
            "member_cpu_percent": round(100 * risen_ticks / _TICKS_PER_S / passed_s, 1),
            "member_memory_mib": float(rss // MIB),
            "member_read_bytes": risen((key, "read"), read if known else None),
            "member_write_bytes": risen((key, "written"), written if known else None),
        }

    def _moved(self, pid: int) -> tuple[float, float] | None:
        """Bytes that a process and its reaped children read and wrote; None if not ours to see."""
        fields = dict(
            line.split(b": ", 1) for line in _lines(self._proc / str(pid) / "io") if b": " in line
        )
        read, written = _whole(fields.get(b"read_bytes")), _whole(fields.get(b"write_bytes"))
        return None if read is None or written is None else (read, written)

    def close(self) -> None:
        """Nothing is held."""


def _process(line: bytes) -> _Process | None:
    """Of a line of /proc/<pid>/stat; its name may hold anything, parentheses as well."""
    try:
        words = line[line.rindex(b")") + 2 :].split()
        return _Process(
            pid=int(line[: line.index(b" ")]),
            parent=int(words[1]),
            started=int(words[19]),
            cpu_ticks=sum(map(int, words[11:15])),
            rss_pages=int(words[21]),
        )
    except (ValueError, IndexError):
        return None  # it ended while we read


def _name_of(environment: bytes) -> str:
    """`ALLOCATION/RANK` of a process that says so; else ""."""
    found = {}
    for line in environment.split(b"\0"):
        if line.startswith((b"MADANG_ALLOCATION=", b"MADANG_RANK=")):
            name, _, value = line.partition(b"=")
            found[name] = value.decode("utf-8", "replace")
    allocation, rank = found.get(b"MADANG_ALLOCATION", ""), found.get(b"MADANG_RANK", "")
    if not allocation or not rank.isdecimal() or not allocation.isprintable():
        return ""
    key = f"{allocation}/{int(rank)}"
    return key if len(key) <= KEY_CHARS_MAX else ""


def _bytes(path: Path, bytes_max: int) -> bytes:
    """The file, or nothing: it is gone, or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(fd, bytes_max)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _lines(path: Path) -> list[bytes]:
    return _bytes(path, 1 << 16).splitlines()


def _whole(text: bytes | None) -> float | None:
    text = (text or b"").strip()
    return float(text) if text.isdigit() else None
