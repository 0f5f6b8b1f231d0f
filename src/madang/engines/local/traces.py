"""What the files of a member say about it, and what to do about one whose shim is gone.

The lock on the `state` file is the truth about the shim: the kernel drops it when the shim ends,
however it ends. Exactly one of four things is found: NEVER started, RUNNING under its shim, ENDED
with a recorded exit, or ORPHANED: started, no exit, nobody holding the lock.
"""

import fcntl
import os
import signal
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from madang.engines.local import proc, records
from madang.engines.local.records import ExitRecord, Record

KILL_AGAIN_S = 0.05


class Trace(Enum):
    """See the module's docstring."""

    NEVER = "never"
    RUNNING = "running"
    ENDED = "ended"
    ORPHANED = "orphaned"


@dataclass(frozen=True, slots=True)
class Found:
    """A trace and the record it was read from."""

    trace: Trace
    record: Record


def look(state: str, boot_id: str) -> Found:
    """What there is of a member.

    Raises:
        OSError: the disk cannot be read; look again later.
    """
    record = records.read(state)
    if not record.touched:
        return Found(Trace.NEVER, record)
    if record.exit is not None:
        return Found(Trace.ENDED, record)
    if record.start is not None and record.start.boot_id != boot_id:
        return Found(Trace.ORPHANED, record)
    if _is_locked(state):
        return Found(Trace.RUNNING, record)
    record = records.read(state)  # the shim may have ended in between, with its exit
    return Found(Trace.ENDED if record.exit is not None else Trace.ORPHANED, record)


def poke(state: str, number: int) -> bool:
    """Signal the shim. False when there is no shim (any more)."""
    start = records.read(state).start
    if start is None:
        return False
    try:
        pidfd = os.pidfd_open(start.shim_pid)
    except OSError:
        return False
    try:
        # Locked now: the shim lives now, so it lived when the pidfd was opened: that is the shim.
        if not _is_locked(state):
            return False
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def give_up(state: str, exit: ExitRecord) -> bool:
    """Make sure that no shim ever starts this member, and record `exit`. False if one has it.

    Raises:
        OSError: the record cannot be written.
    """
    os.makedirs(os.path.dirname(state), mode=0o700, exist_ok=True)
    fd = os.open(state, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(fd, 1):
            return False
        os.pwrite(fd, records.never_block(exit), 0)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def bury(state: str, boot_id: str) -> ExitRecord:
    """Kill what an orphaned member left, wait until it is gone, and record the member as lost.

    May take as long as a process takes to die: not for a thread that others wait for.

    Raises:
        OSError: the record cannot be written.
    """
    os.makedirs(os.path.dirname(state), mode=0o700, exist_ok=True)
    fd = os.open(state, os.O_RDWR | os.O_CREAT, 0o600)  # a record that vanished is made anew
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        block = os.pread(fd, records.RECORD_BYTES, 0)
        record = records.parsed(block)
        if record.exit is not None:
            return record.exit
        start = record.start
        if start is None or start.boot_id == boot_id:
            while left := leftovers(Path(state).parent, start):
                for one in left:
                    proc.send(one, signal.SIGKILL)
                time.sleep(KILL_AGAIN_S)
        exit = ExitRecord(0, 0, True, time.time_ns() // 1_000_000)
        if len(block) == records.RECORD_BYTES:
            os.pwrite(fd, records.exit_bytes(exit), records.EXIT_AT)
        else:  # torn or missing: make it whole, so that the exit is found where it is looked for
            os.pwrite(fd, records.never_block(exit), 0)
        return exit
    finally:
        os.close(fd)


def leftovers(member: Path, start: records.StartRecord | None) -> list[proc.Stat]:
    """Living processes of a member without a shim.

    They are known by the session that the member led, and by the report file that it handed down
    in its environment (as Jenkins finds what a build left); the latter also finds those which
    made a session of their own.
    """
    mark = f"MADANG_REPORT_FILE={member}/{records.REPORTS}".encode()
    me = os.getpid()
    found = []
    for one in proc.all_stats().values():
        if one.is_zombie or one.pid == me:
            continue
        in_session = start is not None and one.session == start.pid and one.ticks >= start.ticks
        if in_session or mark in _environ(one.pid):
            found.append(one)
    return found


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone, or another user's


def _is_locked(state: str) -> bool:
    fd = os.open(state, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
