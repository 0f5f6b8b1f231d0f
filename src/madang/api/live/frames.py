"""Columns and their changes as bytes, and a ring of the newest ticks.

A message is a row of frames, `[u32 length][u8 kind][u8 field][u32 tick][body]`, little-endian; the
length counts all after itself. It ends with a TICK: what came before it belongs together.

    TICK   body: u64 Unix ms, u64 sequence of the journal. The moment is whole.
    WHOLE  body: deflate(column)
    DELTA  body: deflate(column - the column of the tick before, modulo 256)
    TABLE  body: deflate(JSON), all rows
    PATCH  body: deflate(JSON), the rows that changed

What did not change has no frame. Each frame is written once, however many watch. Deflate is raw
(RFC 1951), as browsers have it.
"""

import json
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from madang.api.live.schema import BY_ID, JOBS_TABLE, NEWS_TABLE, NODES_TABLE, Bytes

TICK, WHOLE, DELTA, TABLE, PATCH = range(5)
HEAD = struct.Struct("<IBBI")
MOMENT = struct.Struct("<QQ")
RING_TICKS = 120
RING_BYTES_MAX = 32 << 20  # beyond it old ticks go sooner: their clients take a snapshot
FEW_TICKS = 4  # so few changes are never more than a snapshot is worth

Table = dict[str, Any]


def deflated(body: bytes, strategy: int = zlib.Z_RLE) -> bytes:
    """Raw deflate, in one piece.

    Readings and their changes are noise with runs of zeros: looking for repeats further back than
    one byte finds none, costs up to 20 times the time, and spends bits that Huffman's code needs.
    Measured: docs/benchmarks/live.md.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(body) + packer.flush()


def inflated(body: bytes, bytes_max: int = 64 << 20) -> bytes:
    """The other way; for clients in Python and tests.

    Raises:
        ValueError: more than it may be.
    """
    unpacker = zlib.decompressobj(-15)
    out = unpacker.decompress(body, bytes_max)
    if unpacker.unconsumed_tail:
        raise ValueError(f"a frame unpacks to more than {bytes_max:,} bytes")
    return out


def frame(kind: int, number: int, tick: int, body: bytes) -> bytes:
    return HEAD.pack(len(body) + HEAD.size - 4, kind, number, tick) + body


@dataclass(frozen=True, slots=True)
class Read:
    """A frame as read back."""

    kind: int
    field: int
    tick: int
    body: bytes


def frames_in(message: bytes) -> Iterator[Read]:
    """The frames of a message; for clients in Python and tests."""
    at = 0
    while at < len(message):
        length, kind, number, tick = HEAD.unpack_from(message, at)
        end = at + 4 + length
        yield Read(kind, number, tick, message[at + HEAD.size : end])
        at = end


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment. `version` names the devices: rows mean the same while it stays.

    `tables` are written only for those who come new, hence calls.
    """

    version: int
    at_ms: int
    seq: int
    columns: Mapping[int, Bytes]
    tables: Mapping[int, Callable[[], Table]]
    patches: Mapping[int, Table] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Tick:
    tick: int
    moment: bytes
    frames: Mapping[int, bytes]
    bytes_count: int


@dataclass(slots=True)
class Ring:
    """The newest picture, and how it came to be. One thread at a time."""

    tick: int = 0
    _picture: Picture | None = None
    _ticks: deque[_Tick] = field(default_factory=deque)
    _bytes: int = 0
    _whole: dict[int, bytes] = field(default_factory=dict)

    def take(self, picture: Picture) -> int:
        """The next tick; returns its number. Other devices than before empty the ring."""
        before, self._picture = self._picture, picture
        self._whole.clear()
        self.tick += 1
        if before is None or before.version != picture.version:
            self._ticks.clear()
            self._bytes = 0
            return self.tick
        frames: dict[int, bytes] = {}
        for table, patch in picture.patches.items():
            if patch:
                frames[table] = frame(PATCH, table, self.tick, _packed(patch))
        for number, column in picture.columns.items():
            change = column - before.columns[number]  # bytes: modulo 256 by themselves
            if change.any():
                frames[number] = frame(DELTA, number, self.tick, deflated(change.tobytes()))
        count = sum(map(len, frames.values()))
        self._ticks.append(_Tick(self.tick, self._moment(), frames, count))
        self._bytes += count
        while len(self._ticks) > RING_TICKS or self._bytes > RING_BYTES_MAX:
            self._bytes -= self._ticks.popleft().bytes_count
        return self.tick

    def message(self, fields: tuple[int, ...], after: int) -> tuple[bytes, int]:
        """What brings a client that has tick `after` (-1: nothing) to the newest, and its number.

        The changes, where the ring has them and a snapshot is not smaller; else a snapshot.
        """
        assert self._picture is not None, "nothing was ever taken"
        if self._ticks and self._ticks[0].tick <= after + 1 <= self.tick:
            missed = [tick for tick in self._ticks if tick.tick > after]
            changes = b"".join([_changes(tick, fields) for tick in missed])
            if len(missed) <= FEW_TICKS or len(changes) <= self._snapshot_bytes(fields):
                return changes, self.tick
        return self._snapshot(fields), self.tick

    def _snapshot_bytes(self, fields: tuple[int, ...]) -> int:
        return sum(len(self._whole_of(number)) for number in (NODES_TABLE, JOBS_TABLE, *fields))

    def _snapshot(self, fields: tuple[int, ...]) -> bytes:
        parts = [self._whole_of(number) for number in (NODES_TABLE, JOBS_TABLE, *fields)]
        return b"".join([*parts, self._moment()])

    def _whole_of(self, number: int) -> bytes:
        """A column or table whole, written when somebody first needs it."""
        assert self._picture is not None, "nothing was ever taken"
        known = self._whole.get(number)
        if known is None:
            if number in BY_ID:
                body = deflated(self._picture.columns[number].tobytes())
                known = frame(WHOLE, number, self.tick, body)
            else:
                known = frame(TABLE, number, self.tick, _packed(self._picture.tables[number]()))
            self._whole[number] = known
        return known

    def _moment(self) -> bytes:
        assert self._picture is not None, "nothing was ever taken"
        body = MOMENT.pack(self._picture.at_ms, self._picture.seq)
        return frame(TICK, 0, self.tick, body)


def _changes(tick: _Tick, fields: tuple[int, ...]) -> bytes:
    tables = (NODES_TABLE, JOBS_TABLE, NEWS_TABLE)
    wanted = (tick.frames.get(number) for number in (*tables, *fields))
    return b"".join([*(one for one in wanted if one is not None), tick.moment])


def _packed(table: Table) -> bytes:
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    return deflated(text, zlib.Z_DEFAULT_STRATEGY)


def column_of(width: int, units: int, body: bytes) -> Bytes:
    """The bytes of a WHOLE or DELTA as a column, checked for its size."""
    out = np.frombuffer(inflated(body), np.uint8)
    assert len(out) == width * units, f"{len(out)} bytes for {units} devices of {width}"
    return out
