"""How far a destination came, in a file that is replaced whole.

A file that is lost or damaged costs no sample: the destination begins at the queue's oldest record.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from madang.telemetry.out.spool import Position

MAGIC = b"MDPL\x01\x00\x00\x00"
_HEAD = struct.Struct("<8sIQQQ")  # magic, crc32 of what follows it, segment, offset, bytes of state
_CHECKED_FROM = 12


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All before `place` is settled; `state` is what the destination had open there."""

    place: Position
    state: bytes = b""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Survives this process; after a power cut an older one may be found, or none.

    Raises:
        OSError: the disk.
    """
    place = checkpoint.place
    head = _HEAD.pack(MAGIC, 0, place.segment, place.offset, len(checkpoint.state))
    checked = head[_CHECKED_FROM:] + checkpoint.state
    part = path.with_suffix(".part")
    part.write_bytes(MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked)
    os.replace(part, path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """None if there is none, or none that can be used."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) < _HEAD.size:
        return None
    magic, crc, segment, offset, size = _HEAD.unpack_from(content)
    if magic != MAGIC or zlib.crc32(content[_CHECKED_FROM:]) != crc:
        return None
    return Checkpoint(Position(segment, offset), content[_HEAD.size : _HEAD.size + size])
