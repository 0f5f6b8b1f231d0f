"""Where the kernel's log is read from, and what the reader makes of it: each event once."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from madang.agent.kernel import KernelLog
from madang.agent.kernel_log import Stamp
from madang.agent.kernel_source import KMSG, Cursor, Kmsg, at_ms
from madang.telemetry.frames import Frame, Signal, Subject, decode, encode

NOW_MS = 1_800_000_000_000
XID = "[ 12.000000] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=python, GPU has fallen off.\n"
DOWN = "mlx5_core 0000:5e:00.0 ib0: Link down\n"


OPENED: list[KernelLog] = []


def log_of(*args: Any) -> KernelLog:
    """Closed after the test."""
    OPENED.append(KernelLog(*args))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for log in OPENED:
        log.close()
    OPENED.clear()


def read(log: KernelLog, now_ms: int = NOW_MS) -> tuple[Signal, ...]:
    return log.read(now_ms).signals


def grow(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "kern.log"
    made.write_text(XID * 3)  # of days ago
    return made


def test_what_was_in_a_file_before_is_not_told(path):
    log = log_of(path)

    assert read(log) == ()
    grow(path, XID)
    assert [one.code for one in read(log)] == [79]
    assert read(log) == ()


def test_a_signal_is_of_the_device_at_its_address_or_of_the_node(path):
    gpus, ports = {"0000:3b:00": "5"}, {"0000:5e:00.0": "mlx5_2/1"}
    log = log_of(path, None, gpus.get, ports.get)
    read(log)
    grow(path, XID + DOWN + XID.replace("3b", "99") + DOWN.replace("5e", "99"))

    assert [(one.subject, one.key) for one in read(log)] == [
        (Subject.GPU, "5"),
        (Subject.PORT, "mlx5_2/1"),
        (Subject.NODE, ""),
        (Subject.NODE, ""),
    ]


def test_a_storm_of_one_xid_is_one_signal_with_its_count(path):
    log = log_of(path)
    read(log)
    grow(path, XID * 872 + XID.replace("79", "45"))

    first, second = read(log)
    assert first.text.endswith("(872 times)")
    assert (second.code, "times" in second.text) == (45, False)


def test_signals_of_a_storm_fit_into_a_frame(path):
    log = log_of(path)
    read(log)
    grow(path, "".join(XID.replace("79", str(code)) for code in range(5_000)))
    signals = read(log)

    assert len(signals) == 150
    frame = Frame("n", 1, 1, NOW_MS, 10_000, (), signals)
    assert decode(encode(frame)).signals == signals


def test_half_a_line_waits_for_its_other_half(path):
    log = log_of(path)
    read(log)
    grow(path, XID[:40])
    assert read(log) == ()
    grow(path, XID[40:])

    assert [one.code for one in read(log)] == [79]


def test_a_file_that_is_turned_over_is_read_on(path):
    log = log_of(path)
    read(log)
    path.rename(path.with_suffix(".1"))
    grow(path, XID)

    assert [one.code for one in read(log)] == [79]


def test_a_file_that_is_cut_is_read_from_its_start(path):
    log = log_of(path)
    read(log)
    path.write_text(DOWN)

    assert [one.kind for one in read(log)] == ["mlx5"]


def test_a_file_that_is_gone_is_looked_for_again(path, caplog):
    log = log_of(path)
    read(log)
    path.unlink()
    assert read(log) == ()
    assert "cannot be read" in caplog.text
    path.write_text("")
    assert read(log, NOW_MS + 61_000) == ()
    grow(path, XID)

    assert [one.code for one in read(log, NOW_MS + 62_000)] == [79]


def test_what_was_told_is_not_told_again_after_a_restart_and_the_rest_is(path, tmp_path):
    cursor = tmp_path / "cursor"
    log = log_of(path, cursor)
    read(log)
    grow(path, XID)
    assert len(read(log)) == 1
    read(log)  # the frame with it is safe
    log.close()
    grow(path, DOWN)

    assert [one.kind for one in read(log_of(path, cursor))] == ["mlx5"]


def test_an_event_that_may_not_have_been_kept_is_told_again(path, tmp_path):
    cursor = tmp_path / "cursor"
    log = log_of(path, cursor)
    read(log)
    read(log)
    grow(path, XID)
    assert len(read(log)) == 1
    log.close()  # killed before its frame was on disk

    assert [one.code for one in read(log_of(path, cursor))] == [79]


def test_a_damaged_cursor_is_as_none(path, tmp_path):
    cursor = tmp_path / "cursor"
    cursor.write_text("{what")

    assert read(log_of(path, cursor)) == ()


def test_no_log_is_said_once_and_costs_nothing_else(tmp_path, caplog):
    log = log_of(tmp_path / "absent")
    for at in range(4):
        assert read(log, NOW_MS + at * 61_000) == ()

    assert caplog.text.count("no kernel log") == 1
    assert not log.is_open


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (Stamp(), NOW_MS),
        (Stamp(wall_ms=NOW_MS - 5_000), NOW_MS - 5_000),
        (Stamp(boot_us=7_000_000), NOW_MS - 100_000 + 7_000),
        (Stamp(wall_ms=NOW_MS + 90_000), NOW_MS),  # nothing happens in the future
        (Stamp(boot_us=10**16), NOW_MS),
    ],
)
def test_the_time_of_an_event_is_that_of_its_line(stamp, expected):
    assert at_ms(stamp, NOW_MS, NOW_MS - 100_000) == expected


# -- /dev/kmsg -------------------------------------------------------------------------------------


def records(first: int, count: int) -> list[bytes]:
    return [f"4,{seq},{seq}000000,-;NVRM: Xid (PCI:0000:01:00): 79, off\n".encode()
            for seq in range(first, first + count)]  # fmt: skip


class Pipe:
    """A FIFO in place of the device: each write is one record as long as it is read in between."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kmsg"
        self.boot = folder / "boot"
        self.boot.write_text("boot-1\n")
        os.mkfifo(self.path)
        self.reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.writer = os.open(self.path, os.O_WRONLY)

    def give(self, record: bytes, kmsg: Kmsg) -> bytes:
        os.write(self.writer, record)
        return kmsg.read()

    def close(self) -> None:
        os.close(self.writer)
        os.close(self.reader)


@pytest.fixture
def pipe(tmp_path: Path):
    made = Pipe(tmp_path)
    yield made
    made.close()


def test_records_of_the_kernel_are_told_once_also_after_a_restart(pipe, tmp_path):
    cursor = Cursor(tmp_path / "cursor")
    kmsg = Kmsg(cursor, pipe.path, pipe.boot)
    first, second, third = records(7, 3)
    assert pipe.give(first, kmsg) == first
    assert pipe.give(second, kmsg) == second
    kmsg.commit()
    kmsg.close()
    again = Kmsg(cursor, pipe.path, pipe.boot)

    assert pipe.give(second, again) == b""
    assert pipe.give(third, again) == third
    again.close()


def test_after_a_boot_the_kernel_counts_anew(pipe, tmp_path):
    cursor = Cursor(tmp_path / "cursor")
    kmsg = Kmsg(cursor, pipe.path, pipe.boot)
    pipe.give(records(700, 1)[0], kmsg)
    kmsg.commit()
    kmsg.close()
    pipe.boot.write_text("boot-2\n")
    again = Kmsg(cursor, pipe.path, pipe.boot)

    assert pipe.give(records(3, 1)[0], again) == records(3, 1)[0]
    again.close()


def numbers(block: bytes) -> list[int]:
    return [int(line.split(b",")[1]) for line in block.splitlines() if line[:1].isdigit()]


@pytest.mark.skipif(not os.access(KMSG, os.R_OK), reason="/dev/kmsg is not ours to read")
def test_the_kernels_own_log_can_be_read_and_goes_on_where_it_was(tmp_path):
    try:
        kmsg = Kmsg(Cursor(tmp_path / "cursor"))
    except OSError as error:
        pytest.skip(f"/dev/kmsg: {error}")
    block = kmsg.read()
    kmsg.commit()
    kmsg.close()
    again = Kmsg(Cursor(tmp_path / "cursor"))

    sequence = numbers(block)
    assert sequence == sorted(set(sequence))
    told_again = [
        int(line.split(b",")[1]) for line in again.read().splitlines() if line[:1].isdigit()
    ]
    assert not set(sequence) & set(told_again)
    again.close()


def test_the_kernels_clock_is_that_of_this_machine(tmp_path):
    if not os.access(KMSG, os.R_OK):
        pytest.skip("/dev/kmsg is not ours to read")
    log = log_of(KMSG)

    assert all(one.at_ms <= time.time() * 1000 for one in log.read(time.time_ns() // 10**6).signals)
    log.close()
