"""The last day of the live columns, coarse: what replay by dragging shows.

Every minute (every five where there are many devices) one moment is appended to the file of its
hour: a head that says how many devices were in which state, and a message as a client gets it when
it comes new. So a moment of the past is read back with one seek, whatever happened to nodes and
jobs since. Files older than a day go. One thread at a time.

What a crash cut off at the end of a file is dropped at the next start; a full disk costs moments,
never the daemon.
"""

import json
import logging
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from madang.api.live.frames import Picture, Ring
from madang.api.live.schema import MISSING, STATE, STATES, UTIL, fields_of

log = logging.getLogger("madang.api")

STEP_MS = 60_000
STEP_MANY_MS = 300_000
MANY = 20_000  # devices; at 100,000 a moment is about 0.4 MB, so a day 120 MB
DAY_MS = 24 * 3_600_000
KEPT = fields_of(["state", "job", "idle", "util", "memory", "temperature", "power"])
HEAD = struct.Struct("<QII")  # Unix ms, bytes of the head, bytes of the message
SUFFIX = ".moments"
HEAD_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Entry:
    """A moment: where it is, and its head."""

    at_ms: int
    file: Path
    offset: int
    length: int
    head: dict[str, Any]


class Chronicle:
    """See the module's docstring. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._entries: list[Entry] | None = None
        self._warned = False

    @property
    def keeps(self) -> bool:
        return self._folder is not None

    def due(self, now_ms: int, devices: int) -> bool:
        """True iff the next moment should be kept now."""
        entries = self._known()
        step_ms = STEP_MANY_MS if devices > MANY else STEP_MS
        return self.keeps and (not entries or now_ms // step_ms > entries[-1].at_ms // step_ms)

    def keep(self, picture: Picture) -> None:
        """Append the moment; never raises for the disk."""
        assert self._folder is not None, "there is no folder"
        ring = Ring()
        ring.take(picture)
        message, _ = ring.message(KEPT, -1)
        head = _head(picture)
        text = json.dumps(head, separators=(",", ":")).encode()
        block = HEAD.pack(picture.at_ms, len(text), len(message)) + text + message
        hour = datetime.fromtimestamp(picture.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H")
        file = self._folder / f"{hour}{SUFFIX}"
        entries = self._known()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(file, "ab") as opened:
                offset = opened.tell() + HEAD.size + len(text)
                opened.write(block)
        except OSError as failure:
            if not self._warned:
                log.warning("moments for replay cannot be kept: %s", failure)
            self._warned = True
            return
        self._warned = False
        entries.append(Entry(picture.at_ms, file, offset, len(message), head))
        self._forget(picture.at_ms - DAY_MS)

    def between(self, from_ms: int, to_ms: int) -> dict[str, Any]:
        """How many devices were in which state, moment by moment, in columns."""
        entries = [one for one in self._known() if from_ms <= one.at_ms <= to_ms]
        return {
            "times": [one.at_ms for one in entries],
            "states": list(STATES),
            "counts": {
                name: [one.head["counts"][code] for one in entries]
                for code, name in enumerate(STATES)
            },
            "util": [one.head["util"] for one in entries],
        }

    def at(self, at_ms: int) -> bytes:
        """The message of the last moment that is not after `at_ms`, or of the first one.

        Raises:
            LookupError: none is kept.
        """
        entries = self._known()
        place = bisect_right(entries, at_ms, key=lambda one: one.at_ms)
        if not entries:
            raise LookupError("no moment has been kept yet")
        one = entries[max(place - 1, 0)]
        try:
            with open(one.file, "rb") as opened:
                opened.seek(one.offset)
                message = opened.read(one.length)
        except OSError as failure:
            raise LookupError(f"{one.file.name} cannot be read: {failure.strerror}") from failure
        if len(message) != one.length:
            raise LookupError(f"{one.file.name} is shorter than it was")
        return message

    def _known(self) -> list[Entry]:
        if self._entries is None:
            self._entries = []
            if self._folder is not None and self._folder.is_dir():
                for file in sorted(self._folder.glob(f"*{SUFFIX}")):
                    self._entries += _read(file)
        return self._entries

    def _forget(self, before_ms: int) -> None:
        """Drop whole files, so that what stays is never written again."""
        entries = self._known()
        young = {one.file for one in entries if one.at_ms >= before_ms}
        old = {one.file for one in entries} - young
        if not old:
            return
        self._entries = [one for one in entries if one.file in young]
        for file in sorted(old):
            file.unlink(missing_ok=True)


def _head(picture: Picture) -> dict[str, Any]:
    states = np.bincount(picture.columns[STATE.id], minlength=len(STATES))
    util = picture.columns[UTIL.id]
    known = util[util != MISSING]
    return {
        "counts": states.tolist(),
        "util": round(float(known.mean()), 1) if len(known) else None,
    }


def _read(file: Path) -> Sequence[Entry]:
    """The moments of a file; what a crash left at its end is cut off."""
    found, good = [], 0
    try:
        with open(file, "r+b") as opened:
            size = file.stat().st_size
            for entry, end in _entries(file, opened.read, opened.seek, size):
                found.append(entry)
                good = end
            if good < size:
                opened.truncate(good)
    except OSError as failure:
        log.warning("%s: moments for replay cannot be read: %s", file.name, failure)
    return found


def _entries(
    file: Path, read: Callable[[int], bytes], seek: Callable[[int], int], size: int
) -> Iterator[tuple[Entry, int]]:
    at = 0
    while at + HEAD.size <= size:
        seek(at)
        at_ms, head_bytes, message_bytes = HEAD.unpack(read(HEAD.size))
        start = at + HEAD.size + head_bytes
        end = start + message_bytes
        if head_bytes > HEAD_BYTES_MAX or end > size:
            return
        try:
            head = json.loads(read(head_bytes))
        except ValueError:
            return
        yield Entry(at_ms, file, start, message_bytes, head), end
        at = end
