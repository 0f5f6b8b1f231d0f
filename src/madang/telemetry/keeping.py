"""What a restart needs, in files: the ring tick by tick, who reported what, and the newest bodies.

    state.json                  written last and renamed: what it names is valid, the rest is not
    ring/179527709.41.tick      one tick of every table, and the generation that wrote it
    columns.ndjson              whose column is whose; of two lines the later one holds
    journal/12.log              bodies of HTTP since the newest state, as they came
    quantiles/live.41           quantiles of what is live
    quantiles/2026-11/ID.q      of what has ended, by the month of its end
    signals/2026-11-21.ndjson   signals by day, each line with its generation

Promises: nothing that was acknowledged is lost when the daemon is killed, at any point: it is in
the files of the newest state or in the journal. (A machine that loses power loses of the ring what
its kernel had not written, half a minute or so; a damaged file is left out and told in the log.)
What embedded engines read is not in the journal: of that a kill loses what is newer than the state.
"""

import json
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from madang.telemetry.frames import Subject
from madang.telemetry.metrics import metric_of
from madang.telemetry.quantiles import Sketch, from_bytes
from madang.telemetry.ring import TICKS, VALUE, Key, Ring
from madang.telemetry.signals import SignalRecord
from madang.telemetry.stays import Held, Stay

log = logging.getLogger("madang.telemetry")

STATE_VERSION = 1
BODY_BYTES_MAX = 16 << 20
ENDED_DAYS_MAX = 90
SIGNAL_DAYS_MAX = 90
_ID = re.compile(r"[\w-][\w.-]{0,199}", re.ASCII)  # an allocation's, as the name of a file
_TICK_MAGIC = b"MDTK"
_TICK_HEAD = struct.Struct("<4sII")  # magic, crc32 of the rest, bytes of the JSON text
_BODY_HEAD = struct.Struct("<IIqq")  # bytes, crc32, now_ms, sent_ms (-1: not told)


@dataclass(frozen=True, slots=True)
class TickImage:
    """A tick as the ring stores it, copied: per table its used columns of each plane."""

    tick: int
    tables: tuple[tuple[str, int, tuple[tuple[str, NDArray[np.generic]], ...]], ...]


def image_of(ring: Ring, tick: int) -> TickImage:
    slot = tick % TICKS
    tables = []
    for table in ring.tables.values():
        used = len(table.keys)
        planes = tuple(
            (name, plane.array[slot, :used].copy()) for name, plane in table.planes.items()
        )
        if used and planes:
            tables.append((table.name, used, planes))
    return TickImage(tick, tuple(tables))


def write_tick(path: Path, image: TickImage) -> None:
    """Raises:
    OSError: it can't.
    """
    stated = [
        [table, used, [[name, row.dtype.str] for name, row in planes]]
        for table, used, planes in image.tables
    ]
    text = json.dumps(stated).encode()
    rows = [row.tobytes() for _, _, planes in image.tables for _, row in planes]
    rest = b"".join((text, *rows))
    path.write_bytes(_TICK_HEAD.pack(_TICK_MAGIC, zlib.crc32(rest), len(text)) + rest)


def read_tick(path: Path, ring: Ring, tick: int) -> None:
    """Put a tick back where it was; the ring has begun it, and knows whose column is whose.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or of another form.
    """
    whole = path.read_bytes()
    if len(whole) < _TICK_HEAD.size:
        raise ValueError("it is too short")
    magic, crc, length = _TICK_HEAD.unpack_from(whole)
    rest = memoryview(whole)[_TICK_HEAD.size :]
    if magic != _TICK_MAGIC or zlib.crc32(rest) != crc:
        raise ValueError("its checksum is wrong")
    at = length
    ring.touched[tick % TICKS] = True
    for table_name, used, planes in json.loads(bytes(rest[:length])):
        table = ring.tables[table_name]
        heard = np.zeros(used, np.bool_)
        for name, dtype in planes:
            row = np.frombuffer(rest, dtype, used, at)
            at += row.nbytes
            metric = metric_of("report_x" if name == VALUE else name)
            if metric is None:
                continue  # a metric that a newer version knew
            plane = ring.plane_for(table_name, metric)
            if plane.dtype == row.dtype and used <= len(table.keys):
                plane.array[tick % TICKS, :used] = row
                heard |= row != 0
        if used <= len(table.keys):
            last = table.last_tick[:used]
            last[heard] = np.maximum(last[heard], tick)


# -- columns and state -----------------------------------------------------------------------------


def column_line(table: str, column: int, key: Key) -> str:
    return json.dumps([table, column, *key], ensure_ascii=False) + "\n"


def read_columns(path: Path, ring: Ring) -> None:
    """Give every subject its column again; a line that breaks off ends the file."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            table, column, node, key, name = json.loads(line)
            ring.restore_column(table, column, (node, key, name))
        except (ValueError, TypeError, KeyError):
            log.warning("columns of the ring: the line %.80r makes no sense", line)


def write_whole(path: Path, text: str) -> None:
    """A file replaced whole and durably."""
    beside = path.with_suffix(".part")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """The newest state; empty if there is none that can be used."""
    try:
        stated = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        log.warning("%s cannot be read: the hour before this start is lost", path)
        return {}
    if not isinstance(stated, dict) or stated.get("version") != STATE_VERSION:
        return {}
    return stated


# -- journal ---------------------------------------------------------------------------------------


class Journal:
    """Bodies since the newest state. A segment is begun with each state and deleted with the next
    but one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.segment = 0

    def begin(self, segment: int) -> None:
        """Write to a new segment from now on."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(self._path / f"{segment}.log", flags, 0o600)
        self.close()
        self._fd, self.segment = fd, segment

    def add(self, body: bytes, now_ms: int, sent_ms: int | None) -> None:
        """Raises:
        OSError: it is not kept.
        """
        if self._fd < 0:
            return
        head = _BODY_HEAD.pack(
            len(body), zlib.crc32(body), now_ms, -1 if sent_ms is None else sent_ms
        )
        whole = head + body
        written = os.write(self._fd, whole)
        if written != len(whole):
            raise OSError("the journal of frames took a part only")

    def forget_before(self, segment: int) -> None:
        for path, number in self._segments():
            if number < segment:
                path.unlink(missing_ok=True)

    def bodies(self, first: int) -> Iterator[tuple[bytes, int, int | None]]:
        """(body, now_ms, sent_ms) of the segments from `first` on; what breaks off is left out."""
        for path, number in self._segments():
            if number >= first:
                yield from _bodies_of(path.read_bytes())

    def _segments(self) -> list[tuple[Path, int]]:
        found = [
            (path, int(path.stem)) for path in self._path.glob("*.log") if path.stem.isdecimal()
        ]
        return sorted(found, key=lambda one: one[1])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _bodies_of(whole: bytes) -> Iterator[tuple[bytes, int, int | None]]:
    at = 0
    while at + _BODY_HEAD.size <= len(whole):
        length, crc, now_ms, sent_ms = _BODY_HEAD.unpack_from(whole, at)
        at += _BODY_HEAD.size
        body = whole[at : at + length]
        if length > BODY_BYTES_MAX or zlib.crc32(body) != crc:
            return  # the write that the kill cut off: it was never acknowledged
        yield body, now_ms, None if sent_ms < 0 else sent_ms
        at += length


# -- quantiles -------------------------------------------------------------------------------------


def pack_stays(stays: Iterable[Stay]) -> bytes:
    """Quantiles of allocations."""
    return packed(gathered_stays(stays))


def packed(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(text)


def gathered_stays(stays: Iterable[Stay]) -> bytes:
    """A copy of quantiles in one text and one block: what is `packed` at leisure."""
    stated: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    for stay in stays:
        sketches = [(name, sketch.to_bytes()) for name, sketch in stay.sketches.items()]
        stated.append(
            {
                "held": asdict(stay.held),
                "devices": stay.devices,
                "since": stay.since,
                "folded": stay.folded,
                "bins": list(stay.bins),
                "sketches": [[name, len(block)] for name, block in sketches],
            }
        )
        blocks += [bins.astype("<u4").tobytes() for bins in stay.bins.values()]
        blocks += [block for _, block in sketches]
    text = json.dumps(stated).encode()
    return struct.pack("<I", len(text)) + text + b"".join(blocks)


def unpack_stays(packed: bytes) -> list[Stay]:
    """What `pack_stays` packed.

    Raises:
        ValueError: it is damaged, or something else.
    """
    try:
        whole = zstandard.ZstdDecompressor().decompress(packed)
        (length,) = struct.unpack_from("<I", whole)
        at = 4 + length
        stays = []
        for one in json.loads(whole[4:at]):
            stay, at = _unpacked_stay(one, whole, at)
            stays.append(stay)
    except (zstandard.ZstdError, struct.error, KeyError, TypeError) as error:
        raise ValueError(f"not quantiles: {error}") from error
    return stays


def _unpacked_stay(stated: Mapping[str, Any], whole: bytes, at: int) -> tuple[Stay, int]:
    devices = [(node, gpu) for node, gpu in stated["devices"]]
    held = dict(stated["held"])
    held["devices"] = tuple((node, gpu) for node, gpu in held["devices"])
    stay = Stay(Held(**held), devices, stated["since"], stated["folded"])
    for name in stated["bins"]:
        bins = np.frombuffer(whole, "<u4", len(devices) * 101, at).reshape(-1, 101)
        stay.bins[name] = bins.astype(np.uint32)
        at += bins.nbytes
    for name, length in stated["sketches"]:
        sketch = from_bytes(whole[at : at + length])
        if not isinstance(sketch, Sketch):
            raise ValueError(f"{name} is not a sketch")
        stay.sketches[name] = sketch
        at += length
    return stay, at


def write_ended(root: Path, stay: Stay) -> None:
    """Keep the quantiles of what has ended.

    Raises:
        OSError: it can't.
    """
    if not _ID.fullmatch(stay.held.allocation):
        return
    month = root / datetime.now(UTC).strftime("%Y-%m")
    month.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = month / f"{stay.held.allocation}.q"
    beside = path.with_suffix(".part")
    beside.write_bytes(pack_stays([stay]))
    beside.replace(path)


def find_ended(root: Path, allocation: str) -> Stay | None:
    """Quantiles of an allocation that ended, or None."""
    if not _ID.fullmatch(allocation):
        return None
    for month in sorted(root.glob("????-??"), reverse=True):
        try:
            return unpack_stays((month / f"{allocation}.q").read_bytes())[0]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, IndexError):
            log.warning("quantiles of %s cannot be read", allocation, exc_info=True)
            return None
    return None


def ended_stays(root: Path, since_ms: int) -> Iterator[Stay]:
    """Quantiles of all that ended since then, newest first; what is damaged is left out."""
    files = []
    for path in root.glob("????-??/*.q"):
        try:
            written_ms = path.stat().st_mtime_ns // 1_000_000
        except OSError:
            continue  # it was too old, and is gone
        if written_ms >= since_ms:
            files.append((written_ms, path))
    for _, path in sorted(files, reverse=True):
        try:
            yield unpack_stays(path.read_bytes())[0]
        except (OSError, ValueError, IndexError):
            log.warning("the quantiles in %s cannot be read", path)


# -- signals ---------------------------------------------------------------------------------------


def append_signals(root: Path, signals: Sequence[SignalRecord], generation: int) -> None:
    """Raises:
    OSError: it can't.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    by_day: dict[str, list[str]] = {}
    for one in signals:
        line = json.dumps({**asdict(one), "generation": generation}, ensure_ascii=False)
        by_day.setdefault(day_of(one.at_ms), []).append(line + "\n")
    for day, lines in by_day.items():
        with open(root / f"{day}.ndjson", "a", encoding="utf-8") as file:
            file.writelines(lines)


def read_signals(path: Path, committed: int | None = None) -> list[SignalRecord]:
    """The signals of a file, without those of a generation after `committed`."""
    found = []
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            stated = json.loads(line)
            generation = stated.pop("generation")
            if committed is None or generation <= committed:
                stated["subject"] = Subject(stated["subject"])
                found.append(SignalRecord(**stated))
        except (ValueError, TypeError, KeyError):
            continue  # a line that a kill cut off
    return found


def drop_uncommitted(root: Path, committed: int) -> None:
    """Forget the signals that a crash left after the newest state: the journal has them still."""
    for path in sorted(root.glob("????-??-??.ndjson"))[-2:]:
        lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
        kept = [line for line in lines if _generation(line) <= committed]
        if len(kept) < len(lines):
            write_whole(path, "".join(kept))


def _generation(line: str) -> int:
    try:
        return int(json.loads(line)["generation"])
    except (ValueError, TypeError, KeyError):
        return 1 << 62


def day_of(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def drop_old(root: Path, pattern: str, before: str) -> None:
    """Delete files and folders whose names, which are dates, are before one."""
    for path in root.glob(pattern):
        if path.name[: len(before)] >= before:
            continue
        if path.is_dir():
            for file in path.iterdir():
                file.unlink(missing_ok=True)
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
