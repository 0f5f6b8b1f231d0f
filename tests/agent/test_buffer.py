"""Frames that wait: in order, within a bound, told when lost, and there again after a kill."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from madang.agent.buffer import BYTES_MIN, Buffer, BufferError_, DiskBuffer, MemoryBuffer

SIZE = 16_000


def frame(number: int) -> bytes:
    return (b"%08d" % number) * (SIZE // 8)


def put(buffer: Buffer, *numbers: int) -> list[int]:
    """Appends; what each was told of losses."""
    told = []
    for number in numbers:
        told.append(buffer.make_room(SIZE))
        buffer.append(frame(number))
    return told


def numbers(buffer: Buffer, frames_max: int = 10**6, bytes_max: int = 10**9) -> list[int]:
    return [int(one[:8]) for one in buffer.peek(frames_max, bytes_max)]


@pytest.fixture(params=["disk", "memory"])
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Buffer]:
    made: Buffer = MemoryBuffer(BYTES_MIN)
    if request.param == "disk":
        made = DiskBuffer(tmp_path / "ring", BYTES_MIN)
    yield made
    made.close()


def test_frames_come_out_in_the_order_in_which_they_came_in(buffer):
    put(buffer, *range(50))

    assert len(buffer) == 50
    assert numbers(buffer) == list(range(50))
    assert numbers(buffer, frames_max=3) == [0, 1, 2]
    assert numbers(buffer, bytes_max=2 * SIZE) == [0, 1]
    assert numbers(buffer, bytes_max=1) == [0]  # one always
    buffer.delivered(20)
    assert numbers(buffer) == list(range(20, 50))
    buffer.delivered(50)
    assert (numbers(buffer), len(buffer)) == ([], 0)
    put(buffer, 7)
    assert numbers(buffer) == [7]


def test_beyond_the_bound_the_oldest_are_lost_and_every_one_of_them_is_told(buffer, caplog):
    told = put(buffer, *range(150))  # 2.4 MB into 1 MiB

    left = numbers(buffer)
    assert left == list(range(left[0], 150))
    assert sum(told) == left[0] == 150 - len(left)
    assert (150 - left[0]) * SIZE > 0.9 * BYTES_MIN
    said = sum(int(one.getMessage().split()[0]) for one in caplog.records)
    assert said == left[0]


def test_what_is_delivered_while_it_is_dropped_takes_nothing_else_away(buffer):
    put(buffer, *range(60))
    first, on_its_way = buffer.head, numbers(buffer, frames_max=25)
    put(buffer, *range(60, 80))  # drops some that are on their way, and more
    before = numbers(buffer)
    buffer.delivered(first + len(on_its_way))

    assert numbers(buffer) == [one for one in before if one >= 25]


def test_a_disk_ring_never_grows_beyond_its_bound(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    for number in range(150):
        put(ring, number)
        if number % 5 == 0:
            ring.delivered(ring.head + 1)
        size = sum(path.stat().st_size for path in tmp_path.glob("*.frames"))
        assert size <= BYTES_MIN
    ring.close()


def test_what_is_delivered_leaves_the_disk(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, *range(50))
    ring.delivered(50)
    put(ring, 50)

    size = sum(path.stat().st_size for path in tmp_path.glob("*.frames"))
    assert size < 50 * SIZE / 4
    ring.close()


def test_a_ring_that_is_opened_again_goes_on_where_it_was(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, *range(50))
    ring.delivered(33)
    ring.close()
    again = DiskBuffer(tmp_path, BYTES_MIN)

    assert numbers(again) == list(range(33, 50))
    put(again, 50)
    assert numbers(again) == list(range(33, 51))
    again.delivered(again.head + 18)
    assert len(again) == 0
    again.close()
    empty = DiskBuffer(tmp_path, BYTES_MIN)
    assert len(empty) == 0
    empty.close()


def test_losses_that_were_not_told_are_told_after_a_restart(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, *range(62))
    lost = ring.make_room(SIZE * 10)
    assert lost > 0
    ring.close()  # before the frame that would have told it
    again = DiskBuffer(tmp_path, BYTES_MIN)

    assert again.make_room(SIZE) == lost
    again.append(frame(1))
    assert again.make_room(SIZE) == 0
    again.close()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, SIZE // 2])
def test_what_was_not_written_whole_is_cut_off_and_the_rest_is_there(tmp_path, cut):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, 0, 1, 2)
    ring.close()
    (path,) = tmp_path.glob("*.frames")
    os.truncate(path, path.stat().st_size - cut)
    again = DiskBuffer(tmp_path, BYTES_MIN)

    assert numbers(again) == [0, 1]
    put(again, 3)
    assert numbers(again) == [0, 1, 3]
    again.close()


def test_a_damaged_frame_ends_its_file_and_not_the_ring(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, *range(12))  # three files
    ring.close()
    first = min(tmp_path.glob("*.frames"))
    content = bytearray(first.read_bytes())
    content[SIZE + 50] ^= 1  # in its second frame
    first.write_bytes(content)
    again = DiskBuffer(tmp_path, BYTES_MIN)

    left = numbers(again)
    assert left[0] == 0
    assert left[1:] == list(range(left[1], 12))
    assert len(again) == len(left)
    again.close()


@pytest.mark.parametrize("content", ["", "what", "1 2 3", "-1 5", "99999999999999999999 0"])
def test_a_damaged_note_of_the_place_sends_again_rather_than_loses(tmp_path, content):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, *range(5))
    ring.close()
    (tmp_path / "at").write_text(content)
    again = DiskBuffer(tmp_path, BYTES_MIN)

    assert numbers(again) == list(range(5))
    again.close()


def test_a_full_disk_loses_only_what_does_not_fit(tmp_path, monkeypatch):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    put(ring, 0, 1)
    write, full = os.write, True

    def write_some(fd: int, content: bytes) -> int:
        if full and len(content) > 100:
            write(fd, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, content)

    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(OSError, match="No space"):
        put(ring, 2)
    full = False
    put(ring, 3)

    assert numbers(ring) == [0, 1, 3]
    ring.close()


def test_two_agents_cannot_share_a_directory(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    with pytest.raises(BufferError_, match="another agent"):
        DiskBuffer(tmp_path, BYTES_MIN)
    ring.close()
    DiskBuffer(tmp_path, BYTES_MIN).close()


@pytest.mark.parametrize("bytes_max", [0, 1, BYTES_MIN - 1])
def test_a_bound_that_is_too_small_is_refused(tmp_path, bytes_max):
    with pytest.raises(BufferError_, match="too small"):
        DiskBuffer(tmp_path, bytes_max)


def test_a_place_that_cannot_be_written_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BufferError_, match="file"):
        DiskBuffer(tmp_path / "file" / "ring", BYTES_MIN)


@pytest.mark.parametrize("round_", range(3))
def test_what_was_kept_survives_kill_9(tmp_path, round_):
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.agent.writer", str(tmp_path), str(64 << 20)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert writer.stdout is not None
    for _ in range(200 + 37 * round_):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    kept = 200 + 37 * round_ + len(rest)
    ring = DiskBuffer(tmp_path, 64 << 20)
    found = numbers(ring)

    assert found[:kept] == list(range(kept))
    assert len(found) - kept in (0, 1)  # written, and killed before it was said
    ring.close()
