"""Live columns: what is sent is what is there; a cut line loses nothing; nobody slows another."""

import hashlib
import json
import socket
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from madang.api.live import frames
from madang.api.settings import Limits
from madang.core.events import RuleBroken, RuleKept
from madang.core.model import Node
from tests.api.serving import TOKEN, serving
from tests.api.watching import Picture, names_of, watching


def fresh(served, query="") -> Picture:
    """What somebody who comes now is told."""
    with watching(served.port, query) as watch:
        return watch.step()


def test_a_client_sees_every_device_its_state_and_its_job_at_once(served):
    job = served.submit(name="seen", gpus=2)
    served.wait_until(job["id"], "running")

    with watching(served.port) as watch:
        picture = watch.until(lambda seen: job["id"] in seen.holders)

    assert picture.nodes["id"] == ["n1", "n2"]
    assert picture.nodes["gpus"] == [4, 4]
    assert picture.holders.count(job["id"]) == 2
    assert picture.states.count("running") == 2
    assert picture.states.count("faulty") == 1  # n2 has one that is not healthy
    assert names_of(picture.columns) == ["state", "job", "idle", "util"]
    served.engine.end(f"{job['id']}.1")


def test_hello_says_what_a_byte_of_each_column_stands_for(served):
    with watching(served.port) as watch:
        schema = {one["name"]: one for one in watch.hello["schema"]}

    assert schema["util"] | {"text": ""} == {
        "id": 3,
        "name": "util",
        "text": "",
        "unit": "%",
        "metric": "gpu_util_percent",
        "low": 0.0,
        "step": 1.0,
        "width": 1,
        "missing": 255,
        "shown": [0.0, 100.0],
        "words": [],
    }
    assert schema["state"]["words"][0] == "running"
    assert schema["job"]["width"] == 3


def test_what_changes_comes_as_changes_and_ends_where_a_snapshot_begins(served):
    with watching(served.port) as watch:
        watch.step()
        job = served.submit(name="change", gpus=3)
        picture = watch.until(lambda seen: seen.holders.count(job["id"]) == 3)
        assert frames.WHOLE not in picture.kinds
        picture = watch.until(lambda seen: seen.states.count("running") == 3)
        served.engine.end(f"{job['id']}.1")
        picture = watch.until(lambda seen: job["id"] not in seen.holders)

        assert frames.DELTA in picture.kinds
        assert picture.same_as(fresh(served))
        assert picture.ticks == sorted(set(picture.ticks))


def test_the_jobs_that_the_journal_spoke_of_are_named_those_that_only_wait_too(served):
    with watching(served.port) as watch:
        watch.step()
        waits = served.submit(name="waits", gpus=2, project="small")["id"]
        waits_too = served.submit(name="waits-too", gpus=2, project="small")["id"]

        watch.until(lambda seen: {waits, waits_too} <= seen.told)

        watch.picture.told.clear()
        served.client.post(f"/v1/jobs/{waits_too}/stop")
        watch.until(lambda seen: waits_too in seen.told)
    served.engine.end(f"{waits}.1")


def test_a_job_that_breaks_a_rule_or_keeps_it_again_is_named(served):
    job = served.submit(name="breaks", gpus=1)["id"]
    served.wait_until(job, "running")
    with watching(served.port) as watch:
        watch.until(lambda seen: job in seen.holders)
        watch.picture.told.clear()
        served.yard.loop.tell([RuleBroken("idle-held", f"{job}.1", 1, "0", "critical", "it is 0")])
        watch.until(lambda seen: job in seen.told)
        broken = served.client.get(f"/v1/jobs/{job}").json()["broken"]
        assert [one["rule"] for one in broken] == ["idle-held"]

        watch.picture.told.clear()
        served.yard.loop.tell([RuleKept("idle-held", f"{job}.1", 2, "50")])
        watch.until(lambda seen: job in seen.told)
        assert served.client.get(f"/v1/jobs/{job}").json()["broken"] == []
    served.engine.end(f"{job}.1")


def test_a_cut_line_is_taken_up_again_where_it_broke(served):
    """The socket is cut in the middle; what happened meanwhile comes as changes, tick by tick."""
    with watching(served.port) as watch:
        watch.step()
        had, epoch = watch.picture, watch.hello["epoch"]
        watch.wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        watch.wire.socket.shutdown(socket.SHUT_RDWR)
    job = served.submit(name="unseen", gpus=1)
    with watching(served.port) as other:  # somebody else watched all the while
        other.until(lambda seen: job["id"] in seen.holders)
        kept = f"?epoch={epoch}&since={had.ticks[-1]}"

        with watching(served.port, kept, had) as again:
            picture = again.until(lambda seen: job["id"] in seen.holders)
            assert frames.WHOLE not in picture.kinds
            assert frames.TABLE not in picture.kinds
            ticks = picture.ticks
            assert ticks == list(range(ticks[0], ticks[-1] + 1)), "a tick was lost"

            assert picture.same_as(fresh(served))
    served.engine.end(f"{job['id']}.1")


@pytest.mark.parametrize(
    "query",
    ["?epoch=0000&since=1", "?since=1", "?since=-5", "?since=99999999999999999999"],
)
def test_who_has_a_tick_that_nobody_knows_gets_a_snapshot(served, query):
    with watching(served.port, query) as watch:
        picture = watch.step()

    assert frames.DELTA not in picture.kinds
    assert picture.kinds[-1] == frames.TICK
    assert frames.WHOLE in picture.kinds


def test_the_columns_are_those_that_were_asked_for_and_can_be_chosen_anew(served):
    with watching(served.port, "?fields=power,state") as watch:
        assert names_of(watch.step().columns) == ["state", "power"]

        watch.wire.send(json.dumps({"fields": ["job", "state"]}))
        watch.picture.columns.clear()
        watch.until(lambda seen: seen.columns)

        assert names_of(watch.picture.columns) == ["state", "job"]


def test_a_field_that_does_not_exist_is_refused_with_those_that_do(served):
    address = f"ws://127.0.0.1:{served.port}/v1/live?fields=state,beauty"
    headers = {"Authorization": f"Bearer {TOKEN}"}

    with pytest.raises(InvalidStatus) as refused:
        connect(address, additional_headers=headers, proxy=None)

    problem = json.loads(refused.value.response.body)
    assert refused.value.response.status_code == 422
    assert "beauty" in json.dumps(problem)
    assert "util" in json.dumps(problem)


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        '{"fields": ["beauty"]}',
        '{"fields": "state"}',
        '{"fields": [[]]}',
        "{}",
        "[" * 4000,
        json.dumps({"fields": ["state"] * 2000}),
        b"\0\1\2",
    ],
)
def test_words_that_mean_nothing_end_the_connection_with_the_reason(served, words):
    with watching(served.port) as watch:
        watch.wire.send(words)
        with pytest.raises(ConnectionClosed) as closed:
            watch.until(lambda seen: False)

    told = closed.value.rcvd
    assert told is not None
    assert told.code == 1008
    assert "fields" in told.reason


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}, 403),
    ],
)
def test_strangers_and_other_sites_see_nothing(served, headers, status):
    address = f"ws://127.0.0.1:{served.port}/v1/live"

    with pytest.raises(InvalidStatus) as refused:
        connect(address, additional_headers=headers, proxy=None)

    assert refused.value.response.status_code == status


def test_more_clients_than_may_watch_are_told_when_to_come_again(tmp_path):
    with serving(tmp_path, Limits(live_max=1)) as narrow:
        with (
            watching(narrow.port),
            pytest.raises(InvalidStatus) as refused,
            watching(narrow.port),
        ):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"]

        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with watching(narrow.port) as watch:  # the first has left: there is room again
                    watch.step()
                break
            except InvalidStatus:
                continue
        else:
            pytest.fail("the place of a client that left stayed taken")


# Their names don't compress: a snapshot is more than any socket's buffers here.
MANY = tuple(
    Node(hashlib.sha256(b"%d" % n).hexdigest(), gpus=8, cpu_milli=8_000, memory_mib=8_192)
    for n in range(6_000)
)


def test_a_client_that_reads_nothing_slows_nobody_and_is_let_go(tmp_path):
    """Its first snapshot does not fit the socket's buffers; the other client's clock goes on."""
    limits = Limits(stall_wait_s=2.0)
    with serving(tmp_path, limits, send_buffer_bytes=4_096, nodes=MANY) as crowd:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        deaf.connect(("127.0.0.1", crowd.port))
        deaf.sendall(
            b"GET /v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
        )
        try:
            with watching(crowd.port) as watch:
                watch.step()
                hub = crowd.app.state.desk.live
                assert hub.count == 2
                for number in range(4):
                    job = crowd.submit(name=f"while-{number}", gpus=8)
                    watch.until(lambda seen, id=job["id"]: id in seen.holders)
                ticks = watch.picture.ticks
                assert ticks == list(range(ticks[0], ticks[-1] + 1)), "it was made to skip"
                watch.until(lambda seen: hub.count == 1)  # heartbeats come; the deaf one is let go
        finally:
            deaf.close()


def test_a_client_that_pauses_is_at_the_newest_moment_when_it_reads_on(served):
    with watching(served.port) as slow, watching(served.port) as quick:
        slow.step()
        quick.step()
        jobs = [served.submit(name=f"n{number}")["id"] for number in range(3)]
        quick.until(lambda seen: seen.seq >= served.yard.last_seq)

        assert slow.until(lambda seen: seen.seq >= quick.picture.seq).same_as(quick.picture)
    for job in jobs:
        served.engine.end(f"{job}.1")


def test_moments_are_kept_for_replay_and_found_again(tmp_path):
    with serving(tmp_path, keep=tmp_path / "live") as kept:
        hub = kept.app.state.desk.live
        job = kept.submit(name="past", gpus=2)
        with watching(kept.port) as watch:
            now = watch.until(lambda seen: seen.states.count("running") == 2)
            ended = threading.Event()
            kept.app.state.desk.live._chronicle._entries = None  # as after a start
            hub._chronicle.due = lambda now_ms, devices: not ended.is_set()
            keep = hub._chronicle.keep

            def kept_once(picture):
                keep(picture)
                ended.set()

            hub._chronicle.keep = kept_once
            assert ended.wait(30)
        kept.engine.end(f"{job['id']}.1")
        history = kept.client.get("/v1/live/history").json()
        answer = kept.client.get(f"/v1/live/moment?at={history['times'][-1]}")

    past = Picture()
    past.take(answer.content)
    assert past.states == now.states
    assert past.holders.count(str(job["id"])) == 2
    assert history["counts"]["running"][-1] == 2
    assert names_of(past.columns)[:4] == ["state", "job", "idle", "util"]


def test_where_nothing_is_kept_there_is_nothing_to_replay(served):
    answer = served.client.get("/v1/live/moment?at=5")

    assert answer.status_code == 404
    assert answer.json()["code"] == "no_such_moment"
    assert served.client.get("/v1/live/history").json()["times"] == []


def test_when_the_last_client_leaves_nothing_runs_any_more(tmp_path):
    with serving(tmp_path) as quiet:
        with watching(quiet.port) as watch:
            watch.step()
        hub = quiet.app.state.desk.live
        deadline = time.monotonic() + 20
        while hub._task is not None and time.monotonic() < deadline:
            threading.Event().wait(0.01)

        assert hub._task is None
        assert hub.count == 0
