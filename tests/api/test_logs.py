"""Logs and reports: every byte, from any place, and followed to the end."""

import threading

import pytest

from madang.api.routes.logs import log_size, tail_offset
from madang.core.model import Exit

ODD_BYTES = bytes(range(256)) * 3


def reader(content: bytes):
    return lambda offset, bytes_max: content[offset : offset + min(bytes_max, 1000)]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 1023, 1024, 1025, 300_001])
def test_the_size_of_a_log_is_found_by_reading_single_bytes(size):
    calls = []

    def read(offset: int, bytes_max: int) -> bytes:
        calls.append(offset)
        return b"x" * max(0, min(bytes_max, size - offset))

    assert log_size(read) == size
    assert len(calls) <= 2 * size.bit_length() + 3


@pytest.mark.parametrize("line", [b"", b"one", b"a longer line of a log" * 20])
@pytest.mark.parametrize("newline_at_end", [True, False])
@pytest.mark.parametrize("lines", [0, 1, 2, 5, 1000])
def test_the_tail_is_what_splitting_into_lines_says(line, newline_at_end, lines):
    content = b"".join(b"%d%b\n" % (at, line) for at in range(700))
    if not newline_at_end:
        content = content[:-1]

    start = tail_offset(reader(content), lines)

    assert content[start:] == b"".join(
        content.splitlines(keepends=True)[700 - lines :]
        if lines and lines < 700
        else ([content] if lines else [])
    )


def running(served, **request):
    """A running job's view."""
    made = served.submit(name="logged", **request)
    return served.wait_until(made["id"], "running")


def test_arbitrary_bytes_come_through_from_any_offset(served):
    job = running(served)
    served.engine.write(job["allocation"], 0, ODD_BYTES)

    whole = served.client.get(f"/v1/jobs/{job['id']}/log")
    part = served.client.get(f"/v1/jobs/{job['id']}/log?offset=100&limit=50")
    beyond = served.client.get(f"/v1/jobs/{job['id']}/log?offset=10000")

    assert whole.content == ODD_BYTES
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["madang-offset"] == str(len(ODD_BYTES))
    assert part.content == ODD_BYTES[100:150]
    assert part.headers["madang-offset"] == "150"
    assert (beyond.content, beyond.headers["madang-offset"]) == (b"", "10000")
    served.engine.end(job["allocation"])


def test_the_last_lines_alone(served):
    job = running(served)
    served.engine.write(job["allocation"], 0, b"".join(b"line %d\n" % at for at in range(50_000)))

    tail = served.client.get(f"/v1/jobs/{job['id']}/log?tail=3")

    assert tail.text == "line 49997\nline 49998\nline 49999\n"
    served.engine.end(job["allocation"])


def test_a_followed_log_of_a_waiting_job_begins_with_it_and_ends_with_its_member(served):
    hog = running(served, members=7)  # n2 has one device that is ill
    waiting = served.submit(name="later")
    assert served.client.get(f"/v1/jobs/{waiting['id']}").json()["phase"] == "waiting"
    seen: list[bytes] = []
    began = threading.Event()

    def follow() -> None:
        with served.client.stream("GET", f"/v1/jobs/{waiting['id']}/log?follow=true") as log:
            began.set()
            seen.extend(log.iter_raw())

    follower = threading.Thread(target=follow)
    follower.start()
    assert began.wait(20), "the status comes before the first line"
    served.engine.end(hog["allocation"])
    job = served.wait_until(waiting["id"], "running")
    served.engine.write(job["allocation"], 0, b"first\n")
    served.engine.write(job["allocation"], 0, b"last, without a newline")
    served.engine.end(job["allocation"], Exit(3))
    follower.join(20)

    assert not follower.is_alive()
    assert b"".join(seen) == b"first\nlast, without a newline"


def test_following_sees_lines_as_they_are_written(served):
    job = running(served)
    served.engine.write(job["allocation"], 0, b"one\n")

    with served.client.stream("GET", f"/v1/jobs/{job['id']}/log?follow=true") as log:
        lines = log.iter_lines()
        first = next(lines)
        served.engine.write(job["allocation"], 0, b"two\n")
        second = next(lines)
        served.engine.end(job["allocation"])
        rest = list(lines)

    assert (first, second, rest) == ("one", "two", [])


def test_following_with_a_tail_begins_there(served):
    job = running(served)
    served.engine.write(job["allocation"], 0, b"1\n2\n3\n")
    served.engine.end(job["allocation"])

    answer = served.client.get(f"/v1/jobs/{job['id']}/log?follow=true&tail=1")

    assert answer.text == "3\n"


def test_each_attempt_keeps_its_log(served):
    job = running(served, retries=1)
    served.engine.write(job["allocation"], 0, b"first attempt\n")
    served.client.post(f"/v1/jobs/{job['id']}/requeue")
    first, second = f"{job['id']}.1", f"{job['id']}.2"
    with served.client.stream("GET", "/v1/events?after=0") as events:
        for line in events.iter_lines():
            if f"member 0 of {second} started" in line:
                break
    served.engine.write(second, 0, b"second attempt\n")

    newest = served.client.get(f"/v1/jobs/{job['id']}/log").text
    older = served.client.get(f"/v1/jobs/{job['id']}/log?attempt=1").text
    none = served.client.get(f"/v1/jobs/{job['id']}/log?attempt=3")

    assert (older, newest) == ("first attempt\n", "second attempt\n")
    assert none.json()["allowed"] == "1 to 2"
    assert first != second
    served.engine.end(second)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("member=1", 404),
        ("member=-1", 422),
        ("tail=1&offset=1", 422),
        ("limit=99999999999", 422),
        ("tial=1", 422),
        ("member=1&follow=true", 404),
    ],
)
def test_what_cannot_be_read_is_said(served, query, status):
    job = running(served)

    answer = served.client.get(f"/v1/jobs/{job['id']}/log?{query}")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    served.engine.end(job["allocation"])


def test_reports_come_in_order_and_what_is_no_report_is_passed_over(served):
    job = running(served)
    served.engine.write(
        job["allocation"], 0, b'{"step":1,"loss":0.5}\nnonsense\n[1]\n{"loss":NaN}\n', "reports"
    )

    first = served.client.get(f"/v1/jobs/{job['id']}/reports").json()
    served.engine.write(job["allocation"], 0, b'{"step":2}\n{"st', "reports")
    second = served.client.get(f"/v1/jobs/{job['id']}/reports?offset={first['offset']}").json()

    assert first["reports"] == [{"step": 1, "loss": 0.5}, {"loss": "NaN"}]
    assert second["reports"] == [{"step": 2}]
    served.engine.end(job["allocation"])
