"""Frames that the daemon does not have yet: a bounded ring of files, oldest first.

What `append` has returned survives kill -9 and a power cut (fsync). Beyond the bound the oldest
file goes, and how many frames were in it is told: by the log, and by the next frame (`dropped`).
Frames are sent again rather than lost: after a restart those of the oldest file may go out a second
time, and the daemon knows them by (node, boot, seq).

    00000000000000000042.frames   length, crc32, frame; length, crc32, frame; …
    at                            the file and the place behind the last frame that was delivered
    dropped                       lost, and not told yet
"""

import contextlib
import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

_log = logging.getLogger(__name__)

FILES = 16  # in the ring: at the bound, a sixteenth is lost at once
FILE_BYTES_MIN = 64 << 10
BYTES_MIN = 1 << 20
MEMORY_BYTES_MAX = 16 << 20
_HEAD = struct.Struct("<II")
_FRAME_BYTES_MAX = 4 << 20


class BufferError_(Exception):
    """The buffer cannot be used; the text says what to do."""


class Buffer(Protocol):
    """First in, first out, bounded in bytes. One thread appends, one delivers; the caller locks."""

    def make_room(self, size: int) -> int:
        """Drop the oldest so that a frame of `size` bytes fits; how many frames were lost since
        the last `append`, by this and before."""

    def append(self, frame: bytes) -> None:
        """Keep a frame, which tells what `make_room` said. Raises OSError: it was not kept."""

    def peek(self, frames_max: int, bytes_max: int) -> list[bytes]:
        """The oldest frames, at least one if there is any."""

    @property
    def head(self) -> int:
        """Frames that have left so far, delivered or dropped: the number of the oldest here."""

    def delivered(self, until: int) -> None:
        """Those before number `until` are safe elsewhere; some may have been dropped meanwhile."""

    def __len__(self) -> int:
        """Frames that wait."""

    def close(self) -> None: ...


class MemoryBuffer:
    """Without a directory: what waits is lost with the agent."""

    def __init__(self, bytes_max: int = MEMORY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self.head = 0

    def make_room(self, size: int) -> int:
        lost = 0
        while self._frames and self._bytes + size > self._bytes_max:
            self._pop()
            lost += 1
        _tell_lost(lost, self._bytes_max)
        self._dropped += lost
        return self._dropped

    def append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        self._dropped = 0

    def peek(self, frames_max: int, bytes_max: int) -> list[bytes]:
        return list(_within(iter(self._frames), frames_max, bytes_max))

    def delivered(self, until: int) -> None:
        while self._frames and self.head < until:
            self._pop()

    def _pop(self) -> None:
        self._bytes -= len(self._frames.popleft())
        self.head += 1

    def __len__(self) -> int:
        return len(self._frames)

    def close(self) -> None:
        """Nothing to keep."""


@dataclass(slots=True)
class _Part:
    """One file: its bytes, and its frames that wait."""

    number: int
    size: int
    waiting: int


class DiskBuffer:
    """See the module's docstring."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        """Open, or make, the ring in `folder`; it is for one agent alone.

        Raises:
            BufferError_: it cannot be used.
        """
        if bytes_max < BYTES_MIN:
            raise BufferError_(f"a buffer of {bytes_max} bytes is too small: at least {BYTES_MIN}")
        self._folder, self._bytes_max = folder, bytes_max
        self._part_bytes_max = max(FILE_BYTES_MIN, bytes_max // FILES)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _hold(self._lock, folder)
            self._dropped = int(_words(folder / "dropped")[0])
            self._first, self._offset = self._place()
            self._parts = self._found()
        except OSError as error:
            raise BufferError_(f"{folder}: {error.strerror or error}") from error
        self._file: int | None = None
        self.head = 0

    # -- opening -----------------------------------------------------------------------------------

    def _place(self) -> tuple[int, int]:
        words = _words(self._folder / "at")
        return (int(words[0]), int(words[1])) if len(words) == 2 else (0, 0)

    def _found(self) -> deque[_Part]:
        """The files there are; what was not written whole is cut off."""
        paths = {
            int(path.stem): path
            for path in sorted(self._folder.glob("*.frames"))
            if path.stem.isdecimal()
        }
        if paths and self._first not in (*paths, max(paths) + 1):
            self._first, self._offset = min(paths), 0  # the note is damaged: send all again
        parts: deque[_Part] = deque()
        for number, path in paths.items():
            if number < self._first:
                path.unlink()
                continue
            part = _Part(number, 0, 0)
            begin = self._offset if number == self._first else 0
            for end, _ in _frames_of(path, 0):
                part.waiting += end > begin
                part.size = end
            if part.size < path.stat().st_size:
                _log.warning("%s: the end was not written whole, and is cut off", path)
                os.truncate(path, part.size)
            parts.append(part)
        if not parts or parts[0].number != self._first:
            self._first, self._offset = (parts[0].number if parts else self._first + 1), 0
        return parts

    # -- writing -----------------------------------------------------------------------------------

    def make_room(self, size: int) -> int:
        size += _HEAD.size
        while self._parts and sum(part.size for part in self._parts) + size > self._bytes_max:
            self._drop_oldest()
        return self._dropped

    def _drop_oldest(self) -> None:
        part = self._parts[0]
        if part.waiting:
            self.head += part.waiting
            self._dropped += part.waiting
            _tell_lost(part.waiting, self._bytes_max)
            _write_whole(self._folder / "dropped", str(self._dropped))
        self._remove_first()

    def _remove_first(self) -> None:
        part = self._parts.popleft()
        if self._file is not None and not self._parts:
            os.close(self._file)
            self._file = None
        self._first = self._parts[0].number if self._parts else part.number + 1
        self._offset = 0
        _write_whole(self._folder / "at", f"{self._first} 0", sync=False)
        self._path(part.number).unlink(missing_ok=True)

    def append(self, frame: bytes) -> None:
        part = self._writable()
        assert self._file is not None, "no file to write to"
        record = _HEAD.pack(len(frame), zlib.crc32(frame)) + frame
        try:
            _write_all(self._file, record)
            os.fsync(self._file)
        except OSError:
            # A disk that is full: what is half there must not be before the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, part.size)
                os.lseek(self._file, part.size, os.SEEK_SET)
            raise
        part.size += len(record)
        part.waiting += 1
        if self._dropped:
            self._dropped = 0
            _write_whole(self._folder / "dropped", "0")

    def lost(self, count: int) -> None:
        """Frames that could not even be appended."""
        self._dropped += count
        with contextlib.suppress(OSError):
            _write_whole(self._folder / "dropped", str(self._dropped))

    def _writable(self) -> _Part:
        last = self._parts[-1] if self._parts else None
        if last is not None and last.size < self._part_bytes_max:
            if self._file is None:
                self._file = os.open(self._path(last.number), os.O_WRONLY | os.O_CLOEXEC)
                os.lseek(self._file, last.size, os.SEEK_SET)
            return last
        number = last.number + 1 if last is not None else self._first
        if self._file is not None:
            os.close(self._file)
            self._file = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.open(self._path(number), flags, 0o600)
        _sync_folder(self._folder)
        self._parts.append(_Part(number, 0, 0))
        return self._parts[-1]

    # -- reading -----------------------------------------------------------------------------------

    def peek(self, frames_max: int, bytes_max: int) -> list[bytes]:
        return list(_within(self._waiting(), frames_max, bytes_max))

    def _waiting(self) -> Iterator[bytes]:
        for part in self._parts:
            offset = self._offset if part.number == self._first else 0
            for _, frame in _frames_of(self._path(part.number), offset):
                yield frame

    def delivered(self, until: int) -> None:
        count = min(until - self.head, len(self))
        self.head += max(count, 0)
        while count > 0 and self._parts:
            part = self._parts[0]
            if count >= part.waiting and len(self._parts) > 1:
                count -= part.waiting
                self._remove_first()
                continue
            taken = min(count, part.waiting)
            count -= part.waiting
            part.waiting -= taken
            self._offset = self._behind(part, taken)
            if not part.waiting and part.size >= self._part_bytes_max:
                self._remove_first()
            else:
                _write_whole(self._folder / "at", f"{self._first} {self._offset}", sync=False)

    def _behind(self, part: _Part, count: int) -> int:
        """The place behind the next `count` frames of the first file."""
        ends = [end for end, _ in islice(_frames_of(self._path(part.number), self._offset), count)]
        return ends[-1] if ends else self._offset

    def __len__(self) -> int:
        return sum(part.waiting for part in self._parts)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020}.frames"

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        os.close(self._lock)


def _within(frames: Iterator[bytes], frames_max: int, bytes_max: int) -> Iterator[bytes]:
    total = 0
    for count, frame in enumerate(frames):
        total += len(frame)
        if count and (count >= frames_max or total > bytes_max):
            return
        yield frame


def _frames_of(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    """The whole frames from `offset` on, each with the place behind it."""
    with open(path, "rb") as file:
        file.seek(offset)
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, crc = _HEAD.unpack(head)
            if length > _FRAME_BYTES_MAX:
                return
            frame = file.read(length)
            if len(frame) < length or zlib.crc32(frame) != crc:
                return
            offset += _HEAD.size + length
            yield offset, frame


def _tell_lost(count: int, bytes_max: int) -> None:
    if count:
        _log.error(
            "%d frames were dropped: the daemon has not taken them, and the buffer of %d MiB is "
            "full (--buffer-max)",
            count,
            bytes_max >> 20,
        )


def _hold(lock: int, folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BufferError_(f"{folder} is in use by another agent; give each its own") from None


def _words(path: Path) -> list[str]:
    """Whole numbers in a small file; ["0"] if there is none, or it is damaged."""
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return ["0"]
    return words if words and all(word.isdecimal() for word in words) else ["0"]


def _write_whole(path: Path, text: str, *, sync: bool = True) -> None:
    """In place of what was there, or not at all."""
    draft = path.with_name(path.name + ".new")
    with open(draft, "w") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
    if sync:
        _sync_folder(path.parent)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
