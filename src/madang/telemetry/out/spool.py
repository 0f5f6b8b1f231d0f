"""The disk queue of what goes out: records in segment files, in order, bounded in bytes.

Promises: what `append` has returned from survives the death of this process (it is in the file),
and that of the machine once `sync` has returned. A torn end is cut off when the queue is opened; a
record whose checksum is wrong ends its segment for readers. Beyond the bound the oldest segment
goes, and every reader is told, so that it can say what of it was never read. A full disk loses the
newest instead, and that too is counted.

A record is `length, crc32, kind, samples` (little-endian) and its payload. Each segment begins with
no memory of the others: whoever reads it from its start understands all of it.
"""

import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

log = logging.getLogger("madang.telemetry.out")

SEGMENT_BYTES_MAX = 4 << 20  # what goes beyond the bound is counted: a tenth of a second each
SEGMENTS_MIN = 8  # a bound smaller than so many whole segments makes segments smaller
RECORD_BYTES_MAX = 64 << 20  # a length beyond it is a torn or foreign file
HEADER = struct.Struct("<IIII")
SUFFIX = ".out"
SAID_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two records; the order of the fields is the order of places."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """`begin` and `end` are its places; `samples` as its writer counted them."""

    kind: int
    payload: bytes
    samples: int
    begin: Position
    end: Position


class Reader(Protocol):
    """Who must be asked before a segment goes."""

    def forget(self, segment: int, records: Sequence[Record]) -> None:
        """The segment is about to go; `records` is all of it. Called by the writer's thread."""


class Spool:
    """One writer, many readers; the readers' threads call `read`, the writer's the rest."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Open the queue in directory `path`, made if needed.

        Raises:
            OSError: the directory cannot be made or read.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.bytes_max = bytes_max
        self._said_s = -SAID_EVERY_S
        self.lost_samples = 0  # could not be written: the disk is full
        self._segment_bytes = max(4096, min(SEGMENT_BYTES_MAX, bytes_max // SEGMENTS_MIN))
        self._lock = threading.Lock()
        self._readers: list[Reader] = []
        self._sizes = {number: self._file(number).stat().st_size for number in self._found()}
        self._dirty = False
        self._news = threading.Condition()
        self._version = 0
        newest = max(self._sizes, default=0)
        if newest:
            self._sizes[newest] = _cut_torn_end(self._file(newest))
        self._open_segment(newest + 1)  # never appends to what another process wrote

    # -- writing -------------------------------------------------------------------------------

    @property
    def end(self) -> Position:
        """After the last record."""
        with self._lock:
            return Position(self._number, self._sizes[self._number])

    @property
    def begin(self) -> Position:
        """Before the oldest record."""
        with self._lock:
            return Position(min(self._sizes), 0)

    @property
    def size_bytes(self) -> int:
        """All segments together."""
        with self._lock:
            return sum(self._sizes.values())

    def bytes_after(self, place: Position) -> int:
        """What lies behind a reader's place."""
        with self._lock:
            after = sum(size for number, size in self._sizes.items() if number > place.segment)
            return after + max(0, self._sizes.get(place.segment, 0) - place.offset)

    def add_reader(self, reader: Reader) -> None:
        """From now on it is asked before a segment goes."""
        self._readers.append(reader)

    def is_full(self) -> bool:
        """True iff the newest segment takes no more: `roll` before the next append."""
        return self._sizes[self._number] >= self._segment_bytes

    def roll(self) -> None:
        """Begin a new segment: readers start in it without any memory.

        Raises:
            OSError: the disk; the old segment goes on.
        """
        self.sync()
        with self._lock:
            before = self._descriptor
            self._open_segment(self._number + 1)
            os.close(before)
        self._keep_bound()

    def lose(self, samples: int, why: object) -> None:
        """Count and say what could not be written; said now and then only."""
        self.lost_samples += samples
        now_s = time.monotonic()
        if now_s - self._said_s >= SAID_EVERY_S:
            self._said_s = now_s
            log.error(
                "the queue in %s takes no more (%s): %d samples lost since the start",
                *(self.path, why, self.lost_samples),
            )

    def append(self, records: Sequence[tuple[int, bytes, int]]) -> bool:
        """Add (kind, payload, samples) records, all or none; False if the disk took none."""
        parts = bytearray()
        for kind, payload, samples in records:
            parts += HEADER.pack(len(payload), zlib.crc32(payload), kind, samples)
            parts += payload
        before = self._sizes[self._number]
        try:
            _write_whole(self._descriptor, parts)
        except OSError as failure:
            os.ftruncate(self._descriptor, before)
            self.lose(sum(samples for _, _, samples in records), failure)
            return False
        with self._lock:
            self._sizes[self._number] = before + len(parts)
            self._dirty = True
        with self._news:
            self._version += 1
            self._news.notify_all()
        return True

    def sync(self) -> None:
        """Returns once all that was appended survives a power cut."""
        with self._lock:
            dirty, self._dirty = self._dirty, False
            descriptor = os.dup(self._descriptor) if dirty else -1
        if dirty:
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def trim(self, before: Position) -> None:
        """Delete the segments that end before a place which every reader has behind it."""
        with self._lock:
            gone = [number for number in self._sizes if number < before.segment]
            gone = [number for number in gone if number != self._number]
            for number in gone:
                del self._sizes[number]
        for number in gone:
            self._file(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is appended any more; waiting readers return."""
        self.sync()
        os.close(self._descriptor)
        self.wake()

    def _open_segment(self, number: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._file(number), flags, 0o600)
        self._number = number
        self._sizes[number] = 0

    def _keep_bound(self) -> None:
        while self.size_bytes > self.bytes_max:
            with self._lock:
                oldest = min(self._sizes)
                if oldest == self._number:
                    return
                size = self._sizes.pop(oldest)
            records = list(_records(self._file(oldest), oldest, 0, size))
            for reader in self._readers:
                reader.forget(oldest, records)
            self._file(oldest).unlink(missing_ok=True)

    # -- reading -------------------------------------------------------------------------------

    def read(self, place: Position, bytes_max: int) -> list[Record]:
        """Whole records of one segment from a place on, at least one if there is one.

        At the end of a segment it goes on with the next; a place in a segment that is gone means
        the oldest there is. A caller sees from `Record.begin` that the segment has changed.
        """
        with self._lock:
            sizes = dict(self._sizes)
        for number in sorted(sizes):
            if number < place.segment:
                continue
            offset = place.offset if number == place.segment else 0
            found: list[Record] = []
            taken = 0
            for record in _records(self._file(number), number, offset, sizes[number]):
                found.append(record)
                taken += len(record.payload)
                if taken >= bytes_max:
                    break
            if found:
                return found
        return []

    def wait(self, version: int, seconds: float) -> int:
        """The version now, as soon as it is not `version` any more, or after a while."""
        with self._news:
            if self._version == version:
                self._news.wait(seconds)
            return self._version

    def wake(self) -> None:
        """Let all that wait look again."""
        with self._news:
            self._version += 1
            self._news.notify_all()

    # -- files ---------------------------------------------------------------------------------

    def _file(self, number: int) -> Path:
        return self.path / f"{number:012d}{SUFFIX}"

    def _found(self) -> list[int]:
        names = (path.name.removesuffix(SUFFIX) for path in self.path.glob(f"*{SUFFIX}"))
        return sorted(int(name) for name in names if name.isdigit())


def _write_whole(descriptor: int, content: bytearray) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _cut_torn_end(path: Path) -> int:
    """Cut off what a killed writer left half; the size that is left."""
    size = path.stat().st_size
    whole = 0
    for record in _records(path, 1, 0, size):
        whole = record.end.offset
    if whole < size:
        log.warning("%s ended with %d bytes of half a record: cut off", path, size - whole)
        os.truncate(path, whole)
    return whole


def _records(path: Path, number: int, offset: int, size: int) -> Iterator[Record]:
    """The whole records of a segment between two offsets; ends where one is broken."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, by the with
    except FileNotFoundError:
        return  # it went beyond the bound since we looked
    with file:
        file.seek(offset)
        while offset + HEADER.size <= size:
            header = file.read(HEADER.size)
            if len(header) < HEADER.size:
                return
            length, crc, kind, samples = HEADER.unpack(header)
            if length > RECORD_BYTES_MAX:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != crc:
                return
            end = offset + HEADER.size + length
            places = Position(number, offset), Position(number, end)
            yield Record(kind, payload, samples, *places)
            offset = end
