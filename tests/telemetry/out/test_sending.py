"""Remote write over a real port: once and in order, through refusals, absence and restarts.

The receiver decodes what arrives by itself (receiver.py), so that what is compared is what the
other side of the wire would have understood.
"""

import logging
import math
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from madang.telemetry.out import destination
from madang.telemetry.out import writer as writer_module
from madang.telemetry.out.blocks import Fact
from madang.telemetry.out.destination import pause_s
from madang.telemetry.out.protobuf import Encoder
from madang.telemetry.out.settings import Access, Destination, OutSettings, Selection
from madang.telemetry.out.totals import Totals
from madang.telemetry.out.writer import Writer
from tests.telemetry.out.making import BEGIN_MS, frame, ticks
from tests.telemetry.out.receiver import Received, Sample, receiving


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that a test would only sit through."""
    monkeypatch.setattr(destination, "LINGER_S", 0.01)
    monkeypatch.setattr(destination, "PAUSE_S", (0.01, 0.05))


@contextmanager
def writing(folder: Path, *destinations: Destination, bound: int = 1 << 24) -> Iterator[Writer]:
    writer = Writer(folder, OutSettings(queue_bytes_max=bound, destinations=destinations), Totals())
    writer.open()
    try:
        yield writer
    finally:
        writer.close()


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """What a sender has done after the receiver's answer, nobody is told of."""
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.005)


def hot(received: Received, **more: object) -> Destination:
    return Destination("hot", received.url, **more)  # type: ignore[arg-type]


def by_series(samples: list[Sample]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for labels, at_ms, _ in samples:
        found.setdefault(str(sorted(labels)), []).append(at_ms)
    return found


def test_every_sample_arrives_once_and_each_series_in_order(tmp_path: Path) -> None:
    frames = ticks(nodes=20, gpus=4, count=30)
    with (
        receiving() as received,
        writing(tmp_path, hot(received, senders=3, samples_per_send=500)) as writer,
    ):
        for begin in range(0, len(frames), 37):
            writer.take(frames[begin : begin + 37])
        samples = received.wait_for(20 * 4 * 2 * 30)
        until(lambda: writer.senders[0].lag_bytes == 0)
        assert writer.senders[0].counts.sent == writer.queued == len(samples)

    series = by_series(samples)
    assert len(series) == 20 * 4 * 2
    times = [BEGIN_MS + 10_000 * tick for tick in range(30)]
    assert all(found == times for found in series.values())
    assert received.headers[0]["Content-Encoding"] == "snappy"
    assert received.headers[0]["X-Prometheus-Remote-Write-Version"] == "0.1.0"


def test_a_receiver_that_comes_late_gets_everything_from_the_disk(tmp_path: Path) -> None:
    with receiving() as received:
        port = received.port
    frames = ticks(nodes=3, gpus=2, count=10)
    with writing(tmp_path, hot(received)) as writer:
        writer.take(frames[:15])
        until(lambda: bool(writer.senders[0].counts.trouble))
        writer.take(frames[15:])
        assert "is away" in writer.senders[0].counts.trouble
        with receiving(port) as again:
            samples = again.wait_for(3 * 2 * 2 * 10)

    assert sorted(set(samples)) == sorted(samples, key=str) or len(set(samples)) == len(samples)
    assert all(found == sorted(found) for found in by_series(samples).values())
    assert all(len(found) == 10 for found in by_series(samples).values())


def test_what_was_not_delivered_is_delivered_by_the_next_run(tmp_path: Path) -> None:
    frames = ticks(nodes=3, gpus=2, count=10)
    with receiving() as received:
        received.verdict = lambda samples: 503
        with writing(tmp_path, hot(received)) as writer:
            writer.take(frames)
            received.wait_for_requests(2)
        received.verdict = lambda samples: 200
        with writing(tmp_path, hot(received)) as again:
            samples = received.wait_for(3 * 2 * 2 * 10)
            until(lambda: again.senders[0].lag_bytes == 0)
        with writing(tmp_path, hot(received)) as writer:
            writer.take([frame("n9", 0, BEGIN_MS, {"node_load": [1.0]})])
            assert len(received.wait_for(len(samples) + 1)) == len(samples) + 1, "nothing twice"


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 401, 403, 404])
def test_what_may_pass_is_tried_again_until_it_is_taken(tmp_path: Path, status: int) -> None:
    answers = iter([status] * 3)
    with receiving() as received:
        received.verdict = lambda samples: next(answers, 204)
        with writing(tmp_path, hot(received)) as writer:
            writer.take(ticks(1, 2, 1))
            received.wait_for(4)
            until(lambda: writer.senders[0].lag_bytes == 0)
            counts = writer.senders[0].counts
            assert (counts.retries, counts.refused) == (3, 0)
    assert len(received.samples) == 4


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_only_the_samples_that_are_refused_are_dropped_and_they_are_counted(
    tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def verdict(samples: list[Sample]) -> int:
        wrong = any(("node", "n7") in labels and at_ms == BEGIN_MS + 20_000
                    for labels, at_ms, _ in samples)  # fmt: skip
        return status if wrong else 204

    with receiving() as received, caplog.at_level(logging.WARNING):
        received.verdict = verdict
        with writing(tmp_path, hot(received)) as writer:
            writer.take(ticks(nodes=10, gpus=2, count=5))
            received.wait_for(10 * 2 * 2 * 5 - 4)
            writer.take([frame("n0", 5, BEGIN_MS + 50_000, {"node_load": [1.0]})])
            received.wait_for(10 * 2 * 2 * 5 - 4 + 1)
            until(lambda: writer.senders[0].lag_bytes == 0)
            counts = writer.senders[0].counts

    assert counts.refused == 4
    assert f"refused and dropped: {status} not these" in caplog.text
    assert len(set(received.samples)) == 10 * 2 * 2 * 5 - 4 + 1


def test_a_receiver_that_refuses_everything_does_not_stop_the_rest(tmp_path: Path) -> None:
    with receiving() as received, receiving() as other:
        received.verdict = lambda samples: 400
        cold = Destination("cold", other.url)
        with writing(tmp_path, hot(received), cold) as writer:
            writer.take(ticks(nodes=50, gpus=2, count=5))
            other.wait_for(50 * 2 * 2 * 5)
            hot_counts = writer.senders[0].counts
            writer.take(ticks(nodes=1, gpus=1, count=1))
            until(lambda: hot_counts.refused == 50 * 2 * 2 * 5 + 2)
    assert received.requests < 400


def test_destinations_get_what_their_filters_say_and_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    with receiving() as received, receiving() as other:
        received.verdict = lambda samples: 503
        util = Selection(metrics=("gpu_util_percent",))
        cold = Destination("cold", other.url, util, minutes=True)
        with writing(tmp_path, hot(received), cold) as writer:
            writer.take(ticks(nodes=2, gpus=2, count=19))
            samples = other.wait_for(2 * 2 * 3)

    assert {dict(labels)["__name__"] for labels, _, _ in samples} == {"madang_gpu_util_percent"}
    assert all(
        found == [BEGIN_MS + 60_000 * n for n in (1, 2, 3)] for found in by_series(samples).values()
    )


def test_minutes_are_the_same_when_the_daemon_ends_in_the_middle_of_one(tmp_path: Path) -> None:
    frames = ticks(nodes=2, gpus=2, count=25)
    expected: list[Sample] = []
    for cut in (0, 16, 26):
        folder = tmp_path / str(cut)
        with receiving() as received:
            cold = Destination(
                "cold", received.url, Selection(metrics=("gpu_util*",)), minutes=True
            )
            for begin, end in ((0, cut), (cut, len(frames))):
                with writing(folder, cold) as writer:
                    writer.take(frames[begin:end])
                    received.wait_for(2 * 2 * ((end // 2 - 1) // 6 if end else 0))
            got = sorted(set(received.samples), key=str)
        expected = expected or got
        assert got == expected


def test_what_falls_off_the_end_is_counted_by_each_destination_for_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as received:
        received.verdict = lambda samples: 503
        util = Selection(metrics=("gpu_util_percent",))
        cold = Destination("cold", received.url, util)
        with writing(tmp_path, hot(received), cold, bound=1 << 16) as writer:
            for tick in range(400):
                writer.take(ticks(nodes=8, gpus=8, count=1, step_ms=tick))
            received.wait_for_requests(1)
            lost = {one.name: one.counts.overrun for one in writer.senders}
            assert writer.spool.size_bytes <= 1 << 16
            received.verdict = lambda samples: 204
            writer.take([frame("last", 0, BEGIN_MS, {"gpu_util_percent": [1.0]})])
            queued = writer.queued
            until(lambda: all(one.lag_bytes == 0 for one in writer.senders))
            sent = {one.name: one.counts.sent for one in writer.senders}

    # Both lose the same segments unless one had begun to send them: of hot two metrics each.
    assert lost["hot"] > lost["cold"] > 0
    assert sent["hot"] + lost["hot"] == queued
    assert "samples were never sent" in caplog.text


def test_facts_go_the_same_way(tmp_path: Path) -> None:
    with receiving() as received, writing(tmp_path, hot(received)) as writer:
        writer.take_facts([Fact("madang_journal_seq", (("role", "leader"),), BEGIN_MS, 12.0)])
        ((labels, at_ms, value),) = received.wait_for(1)

    assert (dict(labels), at_ms, value) == (
        {"__name__": "madang_journal_seq", "role": "leader"},
        BEGIN_MS,
        12.0,
    )


def test_secrets_come_from_files_are_renewed_without_a_restart_and_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "token"
    secret.write_text("old-secret\nX-Evil: 1\n")
    with receiving() as received, caplog.at_level(logging.DEBUG):

        def verdict(samples: list[Sample]) -> int:
            said = received.headers[-1]["Authorization"] if received.headers else ""
            return 204 if said == "Bearer new-secret" else 401

        received.verdict = verdict
        access = Access(token_file=secret, headers=(("X-Scope-OrgID", "yard"),))
        with writing(tmp_path / "out", hot(received, access=access)) as writer:
            writer.take(ticks(1, 1, 1))
            received.wait_for_requests(2)
            secret.write_text("new-secret")
            received.wait_for(2)

    said = [one["Authorization"] for one in received.headers]
    assert (said[0], said[-1]) == ("Bearer old-secret", "Bearer new-secret")
    assert all("X-Evil" not in one for one in received.headers)
    assert received.headers[0]["X-Scope-OrgID"] == "yard"
    assert "401" in caplog.text
    assert "-secret" not in caplog.text


def test_a_disk_that_is_full_for_a_while_costs_only_what_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = ticks(nodes=2, gpus=2, count=9)
    with receiving() as received, writing(tmp_path, hot(received)) as writer:
        writer.take(frames[:6])
        write, opened = os.write, os.open

        def full(*arguments: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        writer.take([frame("late", 0, BEGIN_MS, {"node_load": [1.0]})])
        monkeypatch.setattr(os, "open", full)
        writer.take(frames[6:8])
        assert writer.spool.lost_samples == 1 + 2 * 4
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "open", opened)
        writer.take(frames[8:])
        writer.take([frame("late", 1, BEGIN_MS + 1, {"node_load": [2.0]})])
        received.wait_for(16 * 4 + 1)
        until(lambda: writer.senders[0].lag_bytes == 0)

    assert writer.queued == len(received.samples) == 16 * 4 + 1
    assert [value for _, _, value in received.named("madang_node_load")] == [2.0]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "비밀".encode()])
def test_a_secret_that_cannot_be_sent_is_no_end_of_the_sender(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_bytes(content)
    access = Access(token_file=tmp_path / "token")
    with (
        receiving() as received,
        writing(tmp_path / "out", hot(received, access=access)) as writer,
    ):
        writer.take(ticks(1, 1, 1))
        until(lambda: "the secret's file" in writer.senders[0].counts.trouble)
        (tmp_path / "token").write_text("good")
        received.wait_for(2)

    assert "비밀" not in caplog.text


def test_a_user_and_a_password_go_as_basic(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pass:word\n")
    access = Access(user="vm", password_file=tmp_path / "password")
    with (
        receiving() as received,
        writing(tmp_path / "out", hot(received, access=access)) as writer,
    ):
        writer.take(ticks(1, 1, 1))
        received.wait_for(2)

    assert received.headers[0]["Authorization"] == "Basic dm06cGFzczp3b3Jk"


def test_pauses_grow_and_are_never_all_the_same() -> None:
    least, most = destination.PAUSE_S

    pauses = [pause_s(tries, 0.5) for tries in range(1, 30)]

    assert pauses == sorted(pauses)
    assert pauses[0] >= least / 2
    assert pauses[-1] == most * 0.75
    assert pause_s(3, 0.1) < pause_s(3, 0.9) <= most


def test_a_series_of_figures_that_ends_is_told_to_have_ended_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [("job", "a-1")]
    looks = iter(range(BEGIN_MS, BEGIN_MS + 10_000_000, 1_000))

    def facts() -> list[Fact]:
        at_ms = next(looks)
        up = Fact("madang_out_up", (), at_ms, 1.0)
        return [up, *(Fact("madang_gpu_held", (pair,), at_ms, 1.0) for pair in held)]

    monkeypatch.setattr(writer_module, "SYNC_EVERY_S", 0.01)
    with receiving() as received:
        settings = OutSettings(destinations=(hot(received),), figures_every_s=0.0)
        writer = Writer(tmp_path, settings, Totals(), facts=facts)
        writer.open()
        until(lambda: len(received.named("madang_gpu_held")) >= 2)
        held[:] = [("job", "b-2")]
        until(
            lambda: any(labels["job"] == "b-2" for labels, *_ in received.named("madang_gpu_held"))
        )
        count = len(received.named("madang_out_up"))
        until(lambda: len(received.named("madang_out_up")) >= count + 3)
        writer.close()

    of_job: dict[str, list[float]] = {"a-1": [], "b-2": []}
    for labels, _, value in received.named("madang_gpu_held"):
        of_job[labels["job"]].append(value)
    assert math.isnan(of_job["a-1"][-1])
    assert of_job["a-1"][:-1] == [1.0] * (len(of_job["a-1"]) - 1)
    assert set(of_job["b-2"]) == {1.0}


def test_the_mark_of_an_ended_series_is_the_one_that_prometheus_knows() -> None:
    plain = Encoder({}).facts([Fact("madang_x", (), BEGIN_MS, math.nan)])

    assert struct.pack("<Q", 0x7FF0000000000002) in plain
