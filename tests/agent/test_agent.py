"""The agent as a whole: frames at their times, readers that hang, losses told, and as a program."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from madang.agent._base import Counters, Reading
from madang.agent.buffer import BYTES_MIN, DiskBuffer, MemoryBuffer
from madang.agent.gather import Gather
from madang.agent.loop import Agent, AgentError, Settings, checked, ticks, token_of
from madang.telemetry.frames import Column, Frame, Signal, Subject, decode, unpack
from tests.agent.doubles import Served, serving

NOW_MS = 1_800_000_000_000
TAKEN: tuple[int, dict[str, str], bytes] = (200, {}, b'{"taken": 1}')


def reading(value: float = 1.0, signals: int = 0) -> Reading:
    column = Column("node_load", Subject.NODE, ("",), np.array([value], np.float32))
    signal_ = Signal(NOW_MS, "xid", 79, Subject.NODE, "", "x" * 400)
    return Reading((column,), (signal_,) * signals)


class Told:
    """A reader that says what it was told to; it may have to wait, or fail."""

    name = "told"

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.gate = threading.Event()
        self.gate.set()
        self.reads = 0
        self.fails = False
        self.closed = threading.Event()

    def read(self, now_ms: int) -> Reading:
        self.reads += 1
        self.gate.wait(30)
        if self.fails:
            raise RuntimeError("a reader's own mistake")
        return reading(self.value)

    def close(self) -> None:
        self.closed.set()


def values_of(found: Reading) -> list[float]:
    return [float(column.values[0]) for column in found.columns]


# -- gathering -------------------------------------------------------------------------------------


def test_all_readers_are_asked_at_once_and_answer_in_their_order():
    gather = Gather([Told(1.0), Told(2.0), Told(3.0)])

    assert values_of(gather.read(NOW_MS, 10)) == [1.0, 2.0, 3.0]
    gather.close()


def test_a_reader_that_hangs_costs_its_own_columns_and_is_not_asked_again(caplog):
    slow = Told(2.0)
    slow.gate.clear()
    gather = Gather([Told(1.0), slow])

    assert values_of(gather.read(NOW_MS, 0.05)) == [1.0]
    assert values_of(gather.read(NOW_MS + 1, 0.05)) == [1.0]
    assert slow.reads == 1
    assert caplog.text.count("does not answer") == 1
    slow.gate.set()
    assert values_of(gather.read(NOW_MS + 2, 10)) == [1.0, 2.0]  # late, and not lost
    assert "answers again" in caplog.text
    gather.close()


def test_a_reader_that_fails_costs_its_own_columns(caplog):
    broken = Told()
    broken.fails = True
    gather = Gather([broken, Told(2.0)])

    assert values_of(gather.read(NOW_MS, 10)) == [2.0]
    assert "a reader's own mistake" in caplog.text
    broken.fails = False
    assert values_of(gather.read(NOW_MS, 10)) == [1.0, 2.0]
    gather.close()
    assert broken.closed.wait(10)


# -- counters --------------------------------------------------------------------------------------


def test_a_counter_that_was_silent_for_long_begins_anew():
    counters = Counters()
    counters.grown("a", 5)
    for _ in range(200):
        counters.begin()

    assert np.isnan(counters.grown("a", 9))
    assert counters.grown("a", 10) == 1


# -- keeping ---------------------------------------------------------------------------------------


def agent(buffer: DiskBuffer | MemoryBuffer, boot: int = 7) -> Agent:
    settings = Settings(node="n1", interval_ms=10_000)
    return Agent(settings, Gather([]), buffer, threading.Lock(), boot)


def frames(buffer: DiskBuffer | MemoryBuffer) -> list[Frame]:
    return [decode(one) for one in buffer.peek(10**6, 10**9)]


def test_frames_are_numbered_from_the_agents_start_and_say_what_was_read():
    buffer = MemoryBuffer()
    one = agent(buffer)
    for at in range(3):
        one.keep(reading(at), NOW_MS + at * 10_000)

    found = frames(buffer)
    assert [(f.node, f.boot, f.seq, f.at_ms) for f in found] == [
        ("n1", 7, at + 1, NOW_MS + at * 10_000) for at in range(3)
    ]
    assert [float(f.columns[0].values[0]) for f in found] == [0, 1, 2]


def test_two_starts_of_an_agent_are_told_apart():
    boots = set()
    for _ in range(2):
        buffer = MemoryBuffer()
        Agent(Settings(node="n1"), Gather([]), buffer, threading.Lock()).keep(reading(), NOW_MS)
        boots.add(frames(buffer)[0].boot)

    assert len(boots) == 2


def test_every_frame_that_was_lost_is_told_by_a_later_one(tmp_path):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    one = agent(ring)
    for at in range(60):
        one.keep(reading(at, signals=100), NOW_MS + at)  # 45 KB each

    left = frames(ring)
    assert [frame.seq for frame in left] == list(range(left[0].seq, 61))
    # those that told of losses may have been lost themselves, so who counts must count seq, too
    assert sum(frame.dropped for frame in left) > 0
    assert left[0].seq > 1
    ring.close()


def test_a_frame_that_the_disk_does_not_take_is_told_by_the_next(monkeypatch, tmp_path, caplog):
    ring = DiskBuffer(tmp_path, BYTES_MIN)
    one = agent(ring)
    append = ring.append

    def full(frame: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ring, "append", full)
    assert one.keep(reading(), NOW_MS) is None
    assert one.keep(reading(), NOW_MS) is None
    monkeypatch.setattr(ring, "append", append)
    kept = one.keep(reading(), NOW_MS)

    assert kept is not None
    assert (kept.seq, kept.dropped) == (3, 2)
    assert "No space left" in caplog.text
    ring.close()


# -- time ------------------------------------------------------------------------------------------


def test_ticks_are_multiples_of_the_interval_and_each_comes_once():
    leaving = threading.Event()
    found = []
    for now_ms in ticks(20, leaving):
        found.append(now_ms)
        if len(found) == 5:
            leaving.set()

    numbers = [now_ms // 20 for now_ms in found]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 5


def test_nothing_more_is_read_once_it_is_told_to_leave():
    leaving = threading.Event()
    leaving.set()

    assert list(ticks(10_000_000, leaving)) == []


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"interval_ms": 10}, "--interval"),
        ({"interval_ms": 10**9}, "--interval"),
        ({"node": "a\nb"}, "--node"),
        ({"node": "a" * 300}, "--node"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(changed, words):
    with pytest.raises(AgentError, match=words):
        checked(Settings(**changed))


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"x" * 5_000])
def test_a_file_without_a_token_is_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(AgentError, match="--token-file") as refused:
        token_of(path)
    assert "two words" not in str(refused.value)


def test_a_token_may_end_in_a_line_break(tmp_path):
    (tmp_path / "token").write_text("abc\n")

    assert token_of(tmp_path / "token") == "abc"


# -- as a program ----------------------------------------------------------------------------------


def madang(*words: str, **env: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MADANG_LOG": "info", **env}
    return subprocess.Popen(
        [sys.executable, "-m", "madang", "agent", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip


def finished(*words: str, **env: str) -> tuple[int, str, str]:
    program = madang(*words, **env)
    out, err = program.communicate(timeout=60)
    return program.returncode, out, err


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    (tmp_path / "kern.log").write_text("")
    (tmp_path / "token").write_text("very-secret\n")
    return [
        *("--node", "n1", "--kernel-log", str(tmp_path / "kern.log")),
        *("--token-file", str(tmp_path / "token"), "--buffer", str(tmp_path / "ring")),
    ]


def test_print_shows_what_is_read_and_sends_nothing(options):
    code, out, _ = finished(
        "--once", "--print", "--json", *options, MADANG_URL="http://127.0.0.1:9"
    )
    found = json.loads(out)

    assert code == 0
    assert found["node"] == "n1"
    assert {"node_load", "node_memory_used_mib", "node_cpu_percent"} <= {
        column["metric"] for column in found["columns"]
    }


def test_once_pushes_one_frame_and_the_token_is_nowhere_but_in_its_header(options):
    with serving(TAKEN) as served:
        code, out, err = finished("--once", "--url", served.url, *options)

    assert (code, out) == (0, "")
    ((_, headers, body),) = served.requests
    (frame,) = unpack(body)
    assert (frame.node, frame.seq) == ("n1", 1)
    assert headers["authorization"] == "Bearer very-secret"
    assert "very-secret" not in err


def test_once_says_so_when_nobody_takes_it_and_keeps_the_frame(options, tmp_path):
    with serving((503, {}, b"")) as served:
        code, _, err = finished("--once", "--url", served.url, *options)

    assert code == 5
    assert "does not take frames" in err
    ring = DiskBuffer(tmp_path / "ring", 64 << 20)
    assert len(ring) == 1
    ring.close()


def wait_for_frames(served: Served, count: int) -> list[Frame]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = {(f.boot, f.seq): f for _, _, body in list(served.requests) for f in unpack(body)}
        if len(found) >= count:
            return list(found.values())
        time.sleep(0.05)
    raise AssertionError(f"only {len(served.requests)} bodies came")


def test_it_runs_until_it_is_told_to_stop_and_an_xid_is_in_a_frame(options, tmp_path):
    with serving(TAKEN) as served:
        program = madang("--interval", "1s", "--url", served.url, *options)
        wait_for_frames(served, 1)
        with open(tmp_path / "kern.log", "a") as log:
            log.write("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n")
        before = len(wait_for_frames(served, 1))
        found = wait_for_frames(served, before + 2)
        seen_by_all = Path(f"/proc/{program.pid}/cmdline").read_bytes()
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=30)

    assert program.returncode == 0, err
    assert out == ""
    signals = [one for frame in found for one in frame.signals]
    assert [(one.kind, one.code) for one in signals] == [("xid", 79)]
    assert "very-secret" not in err
    assert b"very-secret" not in seen_by_all


def test_kill_9_of_the_agent_loses_nothing_that_the_daemon_has_not_got(options):
    with serving((503, {}, b"")) as served:
        program = madang("--interval", "1s", "--url", served.url, *options)
        kept = max(frame.seq for frame in wait_for_frames(served, 2))
        program.kill()
        program.communicate()
        served.requests.clear()
        served.answers = [TAKEN]
        again = madang("--interval", "1s", "--url", served.url, *options)
        found = wait_for_frames(served, kept + 1)
        again.send_signal(signal.SIGTERM)
        again.communicate(timeout=30)

    boots = list(dict.fromkeys(frame.boot for frame in found))
    first = [frame.seq for frame in found if frame.boot == boots[0]]
    assert len(boots) == 2
    assert first[:kept] == list(range(1, kept + 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "nowhere"], "--url"),
        (["--url", "http://127.0.0.1:9", "--interval", "soon"], "--interval"),
        (["--url", "http://127.0.0.1:9", "--buffer-max", "much"], "--buffer-max"),
        (["--url", "http://127.0.0.1:9", "--buffer-max", "5"], "too small"),
        (["--url", "http://127.0.0.1:9", "--dcgm", "nvml"], "--dcgm"),
        (["--url", "http://127.0.0.1:9", "--token-file", "/absent"], "--token-file"),
    ],
)
def test_a_wrong_word_is_a_usage_error_that_names_it(options, words, said):
    code, out, err = finished("--once", *options, *words)

    assert (code, out) == (2, "")
    assert said in err
