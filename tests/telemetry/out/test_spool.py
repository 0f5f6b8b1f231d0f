"""The disk queue: order, bound, and what is left after a death in the middle of a write."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from madang.telemetry.out.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from madang.telemetry.out.spool import HEADER, Position, Record, Spool

MIB = 1 << 20


class Witness:
    """A reader that only notes what goes."""

    def __init__(self) -> None:
        self.gone: list[tuple[int, int]] = []

    def forget(self, segment: int, records: Sequence[Record]) -> None:
        self.gone.append((segment, sum(record.samples for record in records)))


def all_of(spool: Spool, place: Position | None = None) -> list[Record]:
    found: list[Record] = []
    place = place or Position()
    while records := spool.read(place, 1):
        found += records
        place = records[-1].end
    return found


def test_records_come_back_in_order_across_segments_and_openings(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB)
    for number in range(5):
        assert spool.append([(2, b"%d" % number, number)])
        spool.roll()
    spool.close()
    again = Spool(tmp_path, MIB)
    again.append([(2, b"5", 5)])

    found = all_of(again)

    assert [(one.payload, one.samples) for one in found] == [(b"%d" % n, n) for n in range(6)]
    assert all_of(again, found[2].end) == found[3:]


@pytest.mark.parametrize("cut", [1, HEADER.size, HEADER.size + 3, 2 * HEADER.size + 9])
def test_a_torn_end_is_cut_off_and_the_whole_records_stay(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path, MIB)
    for word in (b"first", b"second", b"third"):
        spool.append([(2, word, 1)])
    spool.close()
    (file,) = tmp_path.glob("*.out")
    os.truncate(file, file.stat().st_size - cut)

    words = [record.payload for record in all_of(Spool(tmp_path, MIB))]

    assert words == [b"first", b"second", b"third"][: 2 if cut <= HEADER.size + 5 else 1]


def test_a_damaged_record_ends_its_segment_and_the_next_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB)
    spool.append([(2, b"first", 1)])
    spool.append([(2, b"second", 1)])
    spool.roll()
    spool.append([(2, b"third", 1)])
    oldest = min(tmp_path.glob("*.out"))
    content = bytearray(oldest.read_bytes())
    content[-1] ^= 1
    oldest.write_bytes(bytes(content))

    assert [record.payload for record in all_of(spool)] == [b"first", b"third"]


def test_beyond_the_bound_the_oldest_goes_and_readers_are_told(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 64 << 10)
    witness = Witness()
    spool.add_reader(witness)
    for _ in range(100):
        spool.append([(2, bytes(2_000), 10)])
        if spool.is_full():
            spool.roll()

    kept = all_of(spool)

    assert spool.size_bytes <= spool.bytes_max
    assert sum(samples for _, samples in witness.gone) + 10 * len(kept) == 1_000
    assert [segment for segment, _ in witness.gone] == list(range(1, len(witness.gone) + 1))
    assert all_of(spool, Position(1, 40)) == kept, "a place that is gone means the oldest there is"


def test_what_all_have_read_is_deleted_but_never_the_newest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB)
    spool.append([(2, b"old", 1)])
    spool.roll()
    spool.append([(2, b"new", 1)])

    spool.trim(spool.end)

    assert [record.payload for record in all_of(spool)] == [b"new"]


def test_a_full_disk_loses_the_newest_says_so_and_leaves_the_rest_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, MIB)
    spool.append([(2, b"before", 1)])
    write = os.write

    def half(descriptor: int, content: memoryview) -> int:
        if len(content) > 8:
            return write(descriptor, content[:8])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    assert not spool.append([(2, b"lost", 5)])
    monkeypatch.setattr(os, "write", write)
    spool.append([(2, b"after", 1)])

    assert [record.payload for record in all_of(spool)] == [b"before", b"after"]
    assert spool.lost_samples == 5


def test_a_segment_that_cannot_be_begun_leaves_the_old_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, MIB)
    spool.append([(2, b"before", 1)])
    opened = os.open

    def full(*arguments: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space"):
        spool.roll()
    monkeypatch.setattr(os, "open", opened)
    spool.append([(2, b"after", 1)])

    assert [record.payload for record in all_of(spool)] == [b"before", b"after"]


@pytest.mark.crash
def test_what_append_returned_from_survives_kill_9(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from madang.telemetry.out.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]), 1 << 20)\n"
        "for number in range(10**9):\n"
        "    spool.append([(2, b'%d' % number, 1)])\n"
        "    print(number, flush=True)\n"
        "    if spool.is_full(): spool.roll()\n"
    )
    for _ in range(5):
        before = len(all_of(Spool(tmp_path, 1 << 30)))
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "src"},
        )
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(500)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
        writer.wait()
        writer.stdout.close()

        found = [int(record.payload) for record in all_of(Spool(tmp_path, 1 << 30))][before:]

        assert found[: len(said)] == said


def test_a_checkpoint_comes_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "hot.place"
    kept = Checkpoint(Position(3, 4_000), b"open minutes")
    write_checkpoint(path, kept)

    assert read_checkpoint(path) == kept
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :])
        assert read_checkpoint(path) is None
    path.write_bytes(content[:20])
    assert read_checkpoint(path) is None
    assert read_checkpoint(tmp_path / "none.place") is None
