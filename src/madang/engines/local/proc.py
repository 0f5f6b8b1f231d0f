"""The process table, read from /proc: who is whose child, since when, and what it uses.

Signals go through a pidfd whose start time is checked again, so that a process id that was given
away in the meantime is never hit. Source: proc(5).
"""

import os
import signal


class Stat:
    """One line of /proc/<pid>/stat.

    `ticks` is the start, in clock ticks since boot; `cpu_ticks` counts the process and its reaped
    children.
    """

    __slots__ = (
        "cpu_ticks",
        "group",
        "is_zombie",
        "parent",
        "pid",
        "rss_pages",
        "session",
        "ticks",
    )

    def __init__(self, line: bytes) -> None:
        # The name stands in parentheses and may hold anything, parentheses as well.
        words = line[line.rindex(b")") + 2 :].split()
        self.pid = int(line[: line.index(b" ")])
        self.is_zombie = words[0] in (b"Z", b"X")
        self.parent = int(words[1])
        self.group = int(words[2])
        self.session = int(words[3])
        self.cpu_ticks = sum(map(int, words[11:15]))
        self.ticks = int(words[19])
        self.rss_pages = int(words[21])


def stat(pid: int | str) -> Stat | None:
    """None when there is no such process (any more)."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        return Stat(os.read(fd, 4096))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def all_stats() -> dict[int, Stat]:
    """Every process in sight, by id."""
    found = (stat(name) for name in os.listdir("/proc") if name.isdigit())
    return {one.pid: one for one in found if one is not None}


class Moved:
    """What a process and its reaped children read from and wrote to disks, in bytes.

    Source: proc_pid_io(5); wait_task_zombie in Linux kernel/exit.c.
    """

    __slots__ = ("read_bytes", "written_bytes")

    def __init__(self, read_bytes: int, written_bytes: int) -> None:
        self.read_bytes = read_bytes
        self.written_bytes = written_bytes


def moved(pid: int) -> Moved | None:
    """None when it is gone, or its owner is another and does not let us look."""
    try:
        fd = os.open(f"/proc/{pid}/io", os.O_RDONLY)
    except OSError:
        return None
    try:
        fields = dict(line.split(b": ") for line in os.read(fd, 4096).splitlines())
        return Moved(int(fields[b"read_bytes"]), int(fields[b"write_bytes"]))
    except (OSError, ValueError, KeyError):
        return None
    finally:
        os.close(fd)


def descendants(root: int, stats: dict[int, Stat]) -> list[Stat]:
    """Children, their children and so on; parents first."""
    children: dict[int, list[Stat]] = {}
    for one in stats.values():
        children.setdefault(one.parent, []).append(one)
    found: list[Stat] = []
    waiting = [root]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found.extend(below)
        waiting.extend(one.pid for one in below)
    return found


def send(target: Stat, number: int) -> bool:
    """Signal exactly this process. False when it is gone or is not ours to signal."""
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        now = stat(target.pid)
        if now is None or now.ticks != target.ticks:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def boot_id() -> str:
    """Changes with every boot of the machine. Source: random(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
