"""Frames on their way: taken once, in order, at the daemon's pace, and none lost by its absence."""

import json
import threading
import time
from collections.abc import Iterator

import pytest

from madang.agent.buffer import BYTES_MIN, Buffer, DiskBuffer, MemoryBuffer
from madang.agent.http import HttpError, Line, Place, get
from madang.agent.push import Pusher
from madang.telemetry.frames import Frame, Signal, Subject, encode, unpack
from tests.agent.doubles import Served, serving


def frame(seq: int, text: str = "") -> bytes:
    signals = (Signal(1, "xid", 79, Subject.NODE, "", text),) if text else ()
    return encode(Frame("n1", 5, seq, 1_800_000_000_000 + seq, 10_000, (), signals))


def taken(refused: int = 0, pause_ms: int = 0) -> tuple[int, dict[str, str], bytes]:
    said = {"taken": 1, "refused": [{"seq": 1, "reason": "too old"}] * min(refused, 100)}
    return 200, {}, json.dumps({**said, "refused_count": refused, "pause_ms": pause_ms}).encode()


OPENED: list[Pusher] = []


def opened(url: str, buffer: Buffer, token: str = "") -> Pusher:
    """Closed after the test."""
    OPENED.append(Pusher(Place(url), lambda: token, buffer, threading.Lock()))
    return OPENED[-1]


def pusher(served: Served, count: int = 0, token: str = "secret-1") -> Pusher:
    buffer = MemoryBuffer()
    for seq in range(count):
        buffer.append(frame(seq))
    return opened(served.url, buffer, token)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for one in OPENED:
        one.close()
    OPENED.clear()


def seqs(served: Served) -> list[list[int]]:
    """Of each body that came."""
    return [[one.seq for one in unpack(body)] for _, _, body in served.requests]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(taken()) as one:
        yield one


def test_what_waits_is_sent_in_one_body_and_then_there_is_nothing_left(served):
    push = pusher(served, 5)

    assert push.turn() == 0
    assert push.turn() is None
    assert seqs(served) == [[0, 1, 2, 3, 4]]
    path, headers, _ = served.requests[0]
    assert path == "/v1/frames"
    assert headers["authorization"] == "Bearer secret-1"
    assert abs(int(headers["madang-sent-ms"]) / 1000 - time.time()) < 60
    assert push.counts.taken == 5


def test_an_address_may_have_a_path_and_no_token_is_no_header():
    with serving(taken()) as served:
        push = opened(f"{served.url}/yard/", MemoryBuffer())
        push.buffer.append(frame(1))
        push.turn()

    assert served.requests[0][0] == "/yard/v1/frames"
    assert "authorization" not in served.requests[0][1]


@pytest.mark.parametrize("status", [429, 503, 500, 502, 401, 403, 404, 302])
def test_a_daemon_that_does_not_take_frames_is_asked_again_with_the_same(served, status, caplog):
    served.answers = [(status, {}, b"what"), (status, {}, b"{}"), taken()]
    push = pusher(served, 3)
    rests = [push.turn(), push.turn(), push.turn(), push.turn()]

    assert seqs(served) == [[0, 1, 2]] * 3
    assert rests[2:] == [0, None]
    assert rests[0] is not None
    assert 0.5 <= rests[0] <= 1.0
    assert rests[1] is not None
    assert 1.0 <= rests[1] <= 2.0
    assert caplog.text.count("does not take frames") == 1
    assert caplog.text.count("takes frames again; 3 wait") == 1


@pytest.mark.parametrize(
    ("said", "least"),
    [("7", 7), ("100000", 300), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5), ("-3", 0.5)],
)
def test_retry_after_is_honoured_within_reason(served, said, least):
    served.answers = [(503, {"Retry-After": said}, b"{}")]
    push = pusher(served, 1)
    rest_s = push.turn()

    assert rest_s is not None
    assert least <= rest_s <= max(least, 1)


@pytest.mark.parametrize(("pause_ms", "rest_s"), [(0, 0), (1_500, 1.5), (10**9, 300), (-5, 0)])
def test_a_daemon_that_is_busy_may_ask_for_a_rest(served, pause_ms, rest_s):
    served.answers = [taken(pause_ms=pause_ms)]
    push = pusher(served, 1)

    assert push.turn() == rest_s


def test_tries_become_rare_and_then_stay_so(served):
    served.answers = [(503, {}, b"")]
    push = pusher(served, 1)
    rests = [push.turn() or 0 for _ in range(30)]

    assert max(rests) <= 60
    assert min(rests[8:]) >= 30


def test_nobody_at_the_address_is_waited_for(served):
    push = opened(served.url, MemoryBuffer())
    push.buffer.append(frame(1))
    served.server.server_close()

    assert (push.turn() or 0) >= 0.5
    assert len(push.buffer) == 1


def test_a_frame_that_is_refused_in_the_answer_is_done_with_and_told(served, caplog):
    served.answers = [taken(refused=7)]
    push = pusher(served, 10)
    push.turn()

    assert len(push.buffer) == 0
    assert (push.counts.taken, push.counts.refused) == (3, 7)
    assert caplog.text.count("too old") == 5
    assert "2 more frames" in caplog.text


def test_one_frame_that_spoils_a_body_costs_itself_and_no_other(served, caplog):
    bad = 37

    def judge() -> None:
        sent = seqs(served)[-1]
        served.answers[0] = (422, {}, b'{"detail": "no"}') if bad in sent else taken()

    served.on_request = judge
    push = pusher(served, 100)
    while push.turn() is not None:
        pass

    good = [seq for some in seqs(served) if bad not in some for seq in some]
    assert good == [seq for seq in range(100) if seq != bad]
    assert push.counts.refused == 1
    assert "a frame is refused (422): no" in caplog.text


@pytest.mark.parametrize("said", [b"", b"[]", b"\xff", b"<html>log in</html>", b"{" * 9, b"{}"])
def test_a_yes_that_is_not_the_daemons_is_no_yes(served, said, caplog):
    served.answers = [(200, {}, said), taken()]
    push = pusher(served, 2)

    assert (push.turn() or 0) >= 0.5
    assert len(push.buffer) == 2
    assert "no answer of a daemon" in caplog.text
    assert push.turn() == 0


@pytest.mark.parametrize("rest", ['"refused": 5', '"pause_ms": "x"', '"refused": [1, null]'])
def test_what_is_odd_in_an_answer_is_passed_over(served, rest):
    served.answers = [(200, {}, f'{{"taken": 2, {rest}}}'.encode())]
    push = pusher(served, 2)

    assert push.turn() == 0
    assert len(push.buffer) == 0


def test_a_connection_that_was_closed_meanwhile_is_opened_again():
    with serving((200, {"Connection": "close"}, b"{}")) as served:
        line = Line(Place(served.url), 5)
        for _ in range(3):
            assert line.ask("POST", "/", body=b"x").status == 200
        line.close()
    assert len(served.requests) == 3


def test_an_answer_without_end_is_not_read(served):
    served.answers = [(200, {}, b"x" * 2_000_000)]
    with pytest.raises(HttpError, match="longer than"):
        get(Place(served.url), 5, 1_000_000)


def test_an_hour_without_a_daemon_loses_nothing_and_comes_in_order(tmp_path):
    ring = DiskBuffer(tmp_path, 16 * BYTES_MIN)
    with serving((503, {}, b""), (503, {}, b""), taken()) as served:
        push = opened(served.url, ring)
        for seq in range(360):
            ring.make_room(len(frame(seq)))
            ring.append(frame(seq))
            if seq in (100, 200):
                push.turn()  # nobody there
        while push.turn() is not None:
            pass

    assert [seq for some in seqs(served)[2:] for seq in some] == list(range(360))
    assert push.counts.taken == 360
    ring.close()


def test_it_sends_by_itself_whenever_there_is_news(served):
    push = pusher(served)
    came = threading.Event()
    served.on_request = came.set
    push.open()
    for seq in range(3):
        came.clear()
        with push.lock:
            push.buffer.append(frame(seq))
        push.wake()
        assert came.wait(10)

    assert sorted(seq for some in seqs(served) for seq in some) == [0, 1, 2]
