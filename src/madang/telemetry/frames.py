"""Frames: what one node's sensors said in one interval, and their small binary form.

A frame is 56 bytes of header, a JSON text that names its columns (its *shape*), the signals (JSON,
mostly none), and then nothing but float32 values, column after column. A node's shape seldom
changes, so that readers know it by its bytes: a frame of 200 values is read in some microseconds.
A body of HTTP is many frames, each behind its length, packed by zstandard.

`decode` raises nothing but FrameError, whatever it is given, and says what is wrong. It looks at
the form only; what the values mean, and whether there is such a metric, is the store's to judge.
"""

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

MAGIC = b"MDFR"
VERSION = 1
# magic, version, flags, crc32 of all that follows, bytes of shape, bytes of signals, count of
# values, interval_ms, dropped, boot, seq, at_ms
_HEADER = struct.Struct("<4sHHIIIIIIQQq")
_CHECKED_FROM = 12  # the crc covers all behind itself
_LENGTH = struct.Struct("<I")

# A node of 16 devices with 40 metrics and some hundred members and ports stays far below these.
NODE_CHARS_MAX = 253  # a host name
KEY_CHARS_MAX = 200
KEYS_MAX = 4_096  # of one column
COLUMNS_MAX = 512
VALUES_MAX = 65_536  # of one frame
SIGNALS_MAX = 1_000
TEXT_CHARS_MAX = 500
FRAME_BYTES_MAX = 4 << 20
PACKED_BYTES_MAX = 8 << 20  # one body of HTTP
UNPACKED_BYTES_MAX = 64 << 20
INTERVAL_MS = (100, 3_600_000)
SHAPES_KNOWN_MAX = 32_768  # more nodes than that: shapes are read again now and then
METRIC = re.compile(r"(?!report_)[a-z][a-z0-9_]{0,63}|report_[A-Za-z0-9_.:/-]{1,64}")
_UINT63 = (1 << 63) - 1

Values = NDArray[np.float32]


class FrameError(ValueError):
    """Not a frame; the text says why. `node` and `seq` are as far as they could be read."""

    def __init__(self, reason: str, node: str = "", seq: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node
        self.seq = seq


class Subject(StrEnum):
    """What a value is said of. PORT is a port of InfiniBand or of the network."""

    GPU = "gpu"
    NODE = "node"
    MEMBER = "member"
    PORT = "port"


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One metric of some subjects of the node. `values` (len(keys),) float32; NaN: not known.

    Keys: of a GPU its index on the node ("0"; a MIG slice "0/1"), of a node "", of a member
    "ALLOCATION/RANK", of a port "mlx5_0/1" or "eth0".
    """

    metric: str
    subject: Subject
    keys: tuple[str, ...]
    values: Values


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that happened once: `kind` is xid, mlx5, clock, … with its `code`."""

    at_ms: int
    kind: str
    code: int
    subject: Subject
    key: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What one node said in one interval; (node, boot, seq) names it once.

    `boot` are 63 random bits of the agent's start; `seq` counts from it. `dropped` frames were lost
    by the agent's buffer before this one. `shape` is set by `decode`: frames with equal shapes have
    equal columns but for their values, which lie in `block` one column after the other.
    """

    node: str
    boot: int
    seq: int
    at_ms: int
    interval_ms: int
    columns: tuple[Column, ...]
    signals: tuple[Signal, ...] = ()
    dropped: int = 0
    shape: bytes = field(default=b"", repr=False)
    block: Values | None = field(default=None, repr=False)


# -- writing ---------------------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """The frame's bytes.

    Raises:
        FrameError: `decode` would not take it.
    """
    shape = frame.shape or _shape_bytes(frame)
    _shape_of(shape)
    blocks = [np.ascontiguousarray(column.values, dtype="<f4") for column in frame.columns]
    for column, block in zip(frame.columns, blocks, strict=True):
        if block.shape != (len(column.keys),):
            raise FrameError(f"{column.metric}: {block.shape} values of {len(column.keys)} keys")
    signals = b""
    if frame.signals:
        rows = [[s.at_ms, s.kind, s.code, s.subject, s.key, s.text] for s in frame.signals]
        signals = _json(rows)
        _signals_of(signals)
    values = b"".join(block.tobytes() for block in blocks)
    fields = (
        *(len(shape), len(signals), len(values) // 4),
        *(frame.interval_ms, frame.dropped, frame.boot, frame.seq, frame.at_ms),
    )
    _check_numbers(frame.interval_ms, frame.boot, frame.seq, frame.at_ms)
    try:
        head = _HEADER.pack(MAGIC, VERSION, 0, 0, *fields)
    except struct.error as error:
        raise FrameError(f"a number of the header does not fit: {error}") from None
    rest = b"".join((head[_CHECKED_FROM:], shape, signals, values))
    whole = _HEADER.pack(MAGIC, VERSION, 0, zlib.crc32(rest), *fields)[:_CHECKED_FROM] + rest
    if len(whole) > FRAME_BYTES_MAX:
        raise FrameError(f"{len(whole)} bytes; a frame may have {FRAME_BYTES_MAX}")
    return whole


def pack(frames: Iterable[Frame]) -> bytes:
    """One body of HTTP. The caller keeps within PACKED_BYTES_MAX and UNPACKED_BYTES_MAX."""
    return pack_encoded(encode(frame) for frame in frames)


def pack_encoded(frames: Iterable[bytes]) -> bytes:
    """One body of frames that are encoded already: those of a buffer on disk."""
    parts: list[bytes] = []
    for frame in frames:
        parts += (_LENGTH.pack(len(frame)), frame)
    return zstandard.ZstdCompressor(level=1).compress(b"".join(parts))


def _shape_bytes(frame: Frame) -> bytes:
    """{"node": …, "keys": [[subject, [key, …]], …], "columns": [[metric, row of keys], …]}"""
    keys: dict[tuple[Subject, tuple[str, ...]], int] = {}
    columns = [
        [column.metric, keys.setdefault((column.subject, column.keys), len(keys))]
        for column in frame.columns
    ]
    rows = [[subject, list(row)] for subject, row in keys]
    return _json({"node": frame.node, "keys": rows, "columns": columns})


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise FrameError("a name holds half a surrogate pair") from None


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shape:
    node: str
    columns: tuple[tuple[str, Subject, tuple[str, ...]], ...]
    value_count: int


_shapes: dict[bytes, _Shape] = {}  # what was read once; bounded, and cleared when full


def decode(data: bytes | memoryview) -> Frame:
    """The frame of these bytes; its values are views of them, and read-only.

    Raises:
        FrameError: it is none, or not of this version; says what is wrong.
    """
    if len(data) < _HEADER.size:
        raise FrameError(f"{len(data)} bytes; the header alone has {_HEADER.size}")
    if len(data) > FRAME_BYTES_MAX:
        raise FrameError(f"{len(data)} bytes; a frame may have {FRAME_BYTES_MAX}")
    head = _HEADER.unpack_from(data)
    magic, version, flags, crc, shape_bytes, signal_bytes, value_count = head[:7]
    interval_ms, dropped, boot, seq, at_ms = head[7:]
    if magic != MAGIC:
        raise FrameError(f"it begins with {bytes(magic)!r}, a frame with {MAGIC!r}")
    if version != VERSION or flags != 0:
        raise FrameError(
            f"form {version}.{flags}; this daemon reads {VERSION}.0: update the older side"
        )
    size = _HEADER.size + shape_bytes + signal_bytes + 4 * value_count
    if size != len(data):
        raise FrameError(f"{len(data)} bytes, but the header tells of {size}", seq=seq)
    if zlib.crc32(memoryview(data)[_CHECKED_FROM:]) != crc:
        raise FrameError("the checksum is wrong: it was damaged on its way", seq=seq)
    values_from = _HEADER.size + shape_bytes + signal_bytes
    shape_text = bytes(data[_HEADER.size : _HEADER.size + shape_bytes])
    try:
        shape = _shape_of(shape_text)
        if shape.value_count != value_count:
            raise FrameError(f"{value_count} values for {shape.value_count} keys", shape.node)
        _check_numbers(interval_ms, boot, seq, at_ms)
        signals: tuple[Signal, ...] = ()
        if signal_bytes:
            signals = _signals_of(bytes(data[_HEADER.size + shape_bytes : values_from]))
    except FrameError as error:
        error.seq = seq
        raise
    block = np.frombuffer(data, "<f4", value_count, values_from)
    block.flags.writeable = False
    columns = []
    begin = 0
    for metric, subject, keys in shape.columns:
        end = begin + len(keys)
        columns.append(Column(metric, subject, keys, block[begin:end]))
        begin = end
    return Frame(
        shape.node,
        boot,
        seq,
        at_ms,
        interval_ms,
        tuple(columns),
        signals,
        dropped,
        shape_text,
        block,
    )


def split(data: bytes) -> Iterator[memoryview]:
    """The encoded frames of one body, so that one that is damaged leaves the others whole.

    Raises:
        FrameError: it is no body, too large, or breaks off.
    """
    whole = _unpacked(data)
    at = 0
    while at < len(whole):
        if at + _LENGTH.size > len(whole):
            raise FrameError("the body breaks off within a length")
        (length,) = _LENGTH.unpack_from(whole, at)
        at += _LENGTH.size
        if at + length > len(whole):
            raise FrameError(
                f"the body breaks off: {length} bytes announced, {len(whole) - at} left"
            )
        yield whole[at : at + length]
        at += length


def unpack(data: bytes) -> Iterator[Frame]:
    """The frames of one body.

    Raises:
        FrameError: at the first that is none.
    """
    return map(decode, split(data))


def _unpacked(data: bytes) -> memoryview:
    if len(data) > PACKED_BYTES_MAX:
        raise FrameError(f"{len(data)} bytes packed; {PACKED_BYTES_MAX} are allowed")
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data)
    try:
        whole = reader.read(UNPACKED_BYTES_MAX + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FrameError(f"not packed by zstandard: {error}") from None
    if len(whole) > UNPACKED_BYTES_MAX:
        raise FrameError(f"more than {UNPACKED_BYTES_MAX} bytes unpacked; send fewer at once")
    return memoryview(whole)


def _check_numbers(interval_ms: int, boot: int, seq: int, at_ms: int) -> None:
    if not INTERVAL_MS[0] <= interval_ms <= INTERVAL_MS[1]:
        raise FrameError(
            f"an interval of {interval_ms} ms; {INTERVAL_MS[0]} to {INTERVAL_MS[1]} are allowed"
        )
    if not 0 <= boot <= _UINT63 or not 0 <= seq <= _UINT63:
        raise FrameError(f"boot {boot} or seq {seq} is not within 63 bits")
    if not 0 <= at_ms <= 1 << 48:
        raise FrameError(f"a time of {at_ms} ms since 1970")


def _shape_of(text: bytes) -> _Shape:
    known = _shapes.get(text)
    if known is None:
        known = _read_shape(text)
        if len(_shapes) >= SHAPES_KNOWN_MAX:
            _shapes.clear()
        _shapes[text] = known
    return known


def _read_shape(text: bytes) -> _Shape:
    stated = _loaded(text, "the shape")
    if not isinstance(stated, dict) or set(stated) != {"node", "keys", "columns"}:
        raise FrameError("the shape is not an object of node, keys and columns")
    node = _word(stated["node"], NODE_CHARS_MAX, "the node's name")
    if not node:
        raise FrameError("the node has no name")
    rows = [_keys_of(row, node) for row in _rows(stated["keys"], COLUMNS_MAX, "keys", node)]
    columns: list[tuple[str, Subject, tuple[str, ...]]] = []
    for row in _rows(stated["columns"], COLUMNS_MAX, "columns", node):
        if not isinstance(row, list) or len(row) != 2:
            raise FrameError(f"a column is [metric, row of keys], not {str(row)[:80]}", node)
        metric, index = row
        if not isinstance(metric, str) or not METRIC.fullmatch(metric):
            raise FrameError(f"{str(metric)[:80]!r} cannot be the name of a metric", node)
        if type(index) is not int or not 0 <= index < len(rows):
            raise FrameError(f"{metric} has row {str(index)[:20]} of {len(rows)} of keys", node)
        columns.append((metric, *rows[index]))
    count = sum(len(keys) for _, _, keys in columns)
    if count > VALUES_MAX:
        raise FrameError(f"{count} values; a frame may have {VALUES_MAX}", node)
    _check_once(columns, node)
    return _Shape(node, tuple(columns), count)


def _check_once(columns: list[tuple[str, Subject, tuple[str, ...]]], node: str) -> None:
    """No metric says two things of one subject; the same metric may come in several columns."""
    seen: dict[tuple[str, Subject], set[str]] = {}
    for metric, subject, keys in columns:
        before = seen.setdefault((metric, subject), set())
        if not before.isdisjoint(keys):
            twice = sorted(before.intersection(keys))[0]
            raise FrameError(f"{metric} is told twice of {subject} {twice!r}", node)
        before.update(keys)


def _keys_of(row: Any, node: str) -> tuple[Subject, tuple[str, ...]]:
    if not isinstance(row, list) or len(row) != 2 or row[0] not in tuple(Subject):
        allowed = ", ".join(Subject)
        raise FrameError(f"keys are [subject, [key, …]] with one of {allowed}", node)
    stated = _rows(row[1], KEYS_MAX, "keys of a column", node)
    keys = tuple(_word(key, KEY_CHARS_MAX, "a key", node) for key in stated)
    if len(set(keys)) < len(keys):
        raise FrameError(f"a key of {row[0]} comes twice in one column", node)
    return Subject(row[0]), keys


def _signals_of(text: bytes) -> tuple[Signal, ...]:
    signals = []
    for row in _rows(_loaded(text, "the signals"), SIGNALS_MAX, "signals", ""):
        if not isinstance(row, list) or len(row) != 6:
            raise FrameError("a signal is [at_ms, kind, code, subject, key, text]")
        at_ms, kind, code, subject, key, words = row
        if type(at_ms) is not int or type(code) is not int or subject not in tuple(Subject):
            raise FrameError(
                f"a signal is [at_ms, kind, code, subject, key, text], not {row!s:.80}"
            )
        if not 0 <= at_ms <= 1 << 48 or not -(1 << 31) <= code < 1 << 31:
            raise FrameError(f"a signal's time or code is out of all bounds: {at_ms}, {code}")
        signals.append(
            Signal(
                at_ms,
                _word(kind, 64, "a signal's kind"),
                code,
                Subject(subject),
                _word(key, KEY_CHARS_MAX, "a signal's key"),
                _word(words, TEXT_CHARS_MAX, "a signal's text"),
            )
        )
    return tuple(signals)


def _loaded(text: bytes, what: str) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise FrameError(f"{what} is not JSON: {error!s:.120}") from None


def _rows(stated: Any, count_max: int, what: str, node: str) -> list[Any]:
    if not isinstance(stated, list):
        raise FrameError(f"{what}: not a list", node)
    if len(stated) > count_max:
        raise FrameError(f"{len(stated)} {what}; {count_max} are allowed", node)
    return stated


def _word(stated: Any, chars_max: int, what: str, node: str = "") -> str:
    if not isinstance(stated, str) or len(stated) > chars_max:
        raise FrameError(f"{what} is not a text of at most {chars_max} characters", node)
    if not stated.isprintable():
        raise FrameError(f"{what} holds what cannot be printed: {stated[:80]!r}", node)
    return stated
