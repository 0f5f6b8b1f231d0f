"""Where the kernel's log comes from: /dev/kmsg, or a file that somebody appends to.

A source gives what is new since the last call, whole lines only, and never waits. Where it has got
to can be kept in a small file, written once what was read is safe (`commit`): after a restart it
goes on there, so that an event is told at least once, and told twice only by a kill in between.
"""

import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from madang.agent.kernel_log import Stamp

_log = logging.getLogger(__name__)

KMSG = Path("/dev/kmsg")
RECORD_BYTES_MAX = 8_192  # CONSOLE_EXT_LOG_MAX: a longer one cannot be read at all
RECORDS_PER_READ_MAX = 50_000  # what is more waits for the next interval
BLOCK_BYTES_MAX = 4 << 20  # of a file, in one interval
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Source(Protocol):
    """See the module's docstring."""

    def read(self) -> bytes:
        """New lines. Raises OSError when there is no log (any more)."""

    def commit(self) -> None:
        """What was read is safe: go on behind it after a restart."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Cursor:
    """Where a source has got to, in a file or (None) in nobody's memory."""

    path: Path | None

    def load(self) -> dict[str, int | str]:
        try:
            found = json.loads(self.path.read_text()) if self.path else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, at: dict[str, int | str]) -> None:
        if self.path is None:
            return
        draft = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):  # told twice after a restart, at worst
            draft.write_text(json.dumps(at))
            draft.replace(self.path)


class Kmsg:
    """/dev/kmsg: every record that the kernel still has, from this boot. Source: ABI dev-kmsg."""

    def __init__(self, cursor: Cursor, path: Path = KMSG, boot_id: Path = BOOT_ID) -> None:
        self._cursor = cursor
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._boot = boot_id.read_text().strip()
        known = cursor.load()
        is_same = known.get("boot") == self._boot
        self._told_seq = self._seq = int(known.get("seq", -1)) if is_same else -1
        self.lost = 0

    def read(self) -> bytes:
        records = []
        for _ in range(RECORDS_PER_READ_MAX):
            try:
                record = os.read(self._fd, RECORD_BYTES_MAX)
            except BlockingIOError:
                break
            except BrokenPipeError:
                self.lost += 1  # overwritten before we came; the next read goes on behind
                continue
            except OSError as error:
                if error.errno == 22:  # a record longer than any we read: it is passed over
                    continue
                raise
            if not record:
                break
            seq = _seq_of(record)
            if seq > self._seq:
                self._seq = seq
                records.append(record if record.endswith(b"\n") else record + b"\n")
        return b"".join(records)

    def commit(self) -> None:
        if self._seq != self._told_seq:
            self._told_seq = self._seq
            self._cursor.save({"boot": self._boot, "seq": self._seq})

    def close(self) -> None:
        os.close(self._fd)


def _seq_of(record: bytes) -> int:
    try:
        return int(record.split(b",", 2)[1])
    except (IndexError, ValueError):
        return -1


class LogFile:
    """A file of lines, like /var/log/kern.log, which may be rotated or cut while it is read.

    Begins at its end, unless the cursor knows better: what an old file says has no true time.
    """

    def __init__(self, cursor: Cursor, path: Path) -> None:
        self._cursor, self._path = cursor, path
        self._part = b""
        known = cursor.load()
        status = path.stat()
        is_same = known.get("inode") == status.st_ino
        offset = int(known.get("offset", 0)) if is_same else status.st_size
        self._inode, self._offset = status.st_ino, min(offset, status.st_size)
        self._told = (self._inode, self._offset) if is_same else (0, 0)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - open for the agent's life
        self._file.seek(self._offset)

    def read(self) -> bytes:
        block = self._file.read(BLOCK_BYTES_MAX) or b""
        if not block:
            block = self._turned()
        self._offset += len(block)
        lines, newline, rest = (self._part + block).rpartition(b"\n")
        self._part = rest[-BLOCK_BYTES_MAX:]
        return lines + newline

    def _turned(self) -> bytes:
        """What is in the file that took its name, or in what is left of one that was cut."""
        status = self._path.stat()
        if status.st_ino == self._inode and status.st_size >= self._offset:
            return b""
        self._file.close()
        self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115
        self._inode, self._offset, self._part = status.st_ino, 0, b""
        return self._file.read(BLOCK_BYTES_MAX) or b""

    def commit(self) -> None:
        at = (self._inode, self._offset - len(self._part))
        if at != self._told:
            self._told = at
            self._cursor.save({"inode": at[0], "offset": at[1]})

    def close(self) -> None:
        self._file.close()


def at_ms(stamp: Stamp, now_ms: int, boot_ms: int) -> int:
    """When a line was written, in ms since 1970; `now_ms` if it does not say, or says nonsense."""
    if stamp.wall_ms >= 0:
        said = stamp.wall_ms
    elif stamp.boot_us >= 0:
        said = boot_ms + stamp.boot_us // 1000
    else:
        return now_ms
    return min(said, now_ms) if said > 0 else now_ms


def boot_ms(now_ms: int) -> int:
    """When this machine's kernel began to count, by the clock that its log uses."""
    return now_ms - time.monotonic_ns() // 1_000_000
