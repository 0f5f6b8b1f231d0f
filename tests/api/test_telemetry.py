"""Frames, series, quantiles and marks over HTTP."""

import secrets
import time

import httpx
import numpy as np
import pytest
import zstandard

from madang.api.settings import Limits
from madang.daemon.telemetry import held_of
from madang.telemetry.frames import Column, Frame, Signal, Subject, encode, pack
from tests.api.serving import Served, serving

HEADERS = {"content-type": "application/vnd.madang.frames"}
TICK_MS = 10_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Sender:
    """An agent of one node."""

    def __init__(self, served: Served, node: str = "n1") -> None:
        self.served = served
        self.node = node
        self.boot = secrets.randbits(63)
        self.seq = 0
        self.at_ms = (now_ms() // TICK_MS - 30) * TICK_MS

    def frame(self, *columns: Column, signals: tuple[Signal, ...] = ()) -> Frame:
        self.seq += 1
        at_ms = self.at_ms + self.seq * TICK_MS
        return Frame(self.node, self.boot, self.seq, at_ms, TICK_MS, columns, signals)

    def send(self, *frames: Frame, **headers: str) -> httpx.Response:
        return self.post(pack(frames), **headers)

    def post(self, body: bytes, **headers: str) -> httpx.Response:
        return self.served.client.post("/v1/frames", content=body, headers=HEADERS | headers)


def gpus(metric: str, *values: float) -> Column:
    keys = tuple(str(at) for at in range(len(values)))
    return Column(metric, Subject.GPU, keys, np.array(values, np.float32))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("telemetry")) as one:
        yield one


@pytest.fixture
def sender(served):
    return Sender(served, f"n{secrets.token_hex(4)}")


def get(served, path, **query):
    return served.client.get(path, params=query)


def test_what_was_sent_can_be_asked(served, sender):
    frames = [sender.frame(gpus("gpu_util_percent", at, 100 - at)) for at in range(12)]
    sent = sender.send(*frames)
    found = get(served, "/v1/series", metric="gpu_util_percent", node=sender.node, step="1m")
    view = found.json()

    assert sent.json()["taken"] == 12
    assert (view["unit"], view["form"], view["how"]) == ("percent", "gauge", "mean")
    assert [one["key"] for one in view["series"]] == [f"{sender.node}/0", f"{sender.node}/1"]
    assert [one["gpu"] for one in view["series"]] == [0, 1]
    assert all(at % 60_000 == 0 for at in view["times"])
    known = [[v for v in one["values"] if v is not None] for one in view["series"]]
    assert np.allclose(np.array(known).sum(axis=0), 100)
    assert None in view["series"][0]["values"]


def test_csv_has_a_line_for_each_known_value(served, sender):
    sender.send(sender.frame(gpus("gpu_power_w", 300.5, float("nan"))))
    found = get(
        served, "/v1/series", metric="gpu_power_w", node=sender.node, format="csv", step="10s"
    )
    head, *lines = found.text.splitlines()

    assert found.headers["content-type"].startswith("text/csv")
    assert head == "time_ms,node,key,rank,gpu_power_w"
    assert lines == [f"{sender.at_ms + TICK_MS},{sender.node},0,,300.5"]


def test_a_job_has_its_devices_ranks_and_quantiles(served):
    view = served.submit(gpus=2, command=["sleep", "1"])
    job = served.wait_until(view["id"], "running")
    allocation = served.yard.snapshot().allocations[f"{job['id']}.1"]
    seat = allocation.seats[0]
    sender = Sender(served, seat.node)
    sender.at_ms = (now_ms() // TICK_MS + 1) * TICK_MS
    store = served.yard.telemetry
    store.hold(held_of(served.yard.snapshot()))
    sender.send(*[sender.frame(gpus("gpu_util_percent", *[10.0 * at] * 4)) for at in range(4)])
    store.advance(sender.at_ms + 10 * TICK_MS)
    quantiles = get(served, "/v1/quantiles", job=job["id"]).json()
    series = get(served, "/v1/series", metric="gpu_util_percent", job=job["id"], to="now").json()

    assert (quantiles["count"], quantiles["p50"], quantiles["exact"]) == (8, 10.0, True)
    assert [(one["gpu"], one["count"]) for one in quantiles["per_gpu"]] == [
        (gpu, 4) for gpu in seat.gpus
    ]
    assert [(one["gpu"], one["rank"]) for one in series["series"]] == [(g, 0) for g in seat.gpus]
    assert series["quantiles"]["count"] == 8
    unknown = get(served, "/v1/quantiles", job=job["id"], metric="gpu_power_w")
    assert unknown.status_code == 404
    assert unknown.json()["allowed"] == ["gpu_util_percent"]


def test_a_frame_that_is_wrong_leaves_the_others_whole(served, sender):
    good = encode(sender.frame(gpus("gpu_util_percent", 1)))
    bad = bytearray(encode(sender.frame(gpus("gpu_util_percent", 2))))
    bad[-1] ^= 1
    parts = b"".join(len(one).to_bytes(4, "little") + one for one in (bytes(bad), good))
    answer = sender.post(zstandard.compress(parts)).json()

    assert (answer["taken"], answer["refused_count"]) == (1, 1)
    assert "checksum" in answer["refused"][0]["reason"]


def test_sent_again_it_is_known(served, sender):
    frame = sender.frame(gpus("gpu_util_percent", 1))
    answers = [sender.send(frame).json() for _ in range(2)]

    assert [(one["taken"], one["known"]) for one in answers] == [(1, 0), (0, 1)]


def test_what_is_wrong_with_values_is_told_to_the_sender_and_in_the_health(served, sender):
    sent = sender.send(sender.frame(gpus("gpu_util_percent", 120), gpus("gpu_bogus", 1))).json()
    health = get(served, "/v1/telemetry/health").json()
    mine = next(one for one in health["nodes"] if one["node"] == sender.node)

    assert sent["taken"] == 1
    assert {one.partition(":")[0] for one in sent["marks"]} == {"unknown_metric", "out_of_range"}
    assert {one["kind"] for one in mine["marks"]} == {"unknown_metric", "out_of_range"}
    assert mine["seen_ms"] > 0
    assert health["tick_ms"] == TICK_MS


def test_a_senders_wrong_clock_is_told_at_once(served, sender):
    five_minutes_ago = now_ms() - 300_000
    sender.at_ms = five_minutes_ago
    headers = {"madang-sent-ms": str(five_minutes_ago)}
    sent = sender.send(sender.frame(gpus("gpu_util_percent", 1)), **headers).json()
    health = get(served, "/v1/telemetry/health").json()
    mine = next(one for one in health["nodes"] if one["node"] == sender.node)

    assert sent["taken"] == 1
    assert abs(mine["clock_offset_ms"] - 300_000) < 5_000
    assert mine["marks"][0]["kind"] == "clock"


def test_signals_are_told_with_their_device(served, sender):
    signal = Signal(now_ms() - 1000, "xid", 79, Subject.GPU, "0", "GPU has fallen off the bus.")
    sender.send(sender.frame(signals=(signal,)))
    found = get(served, "/v1/signals", node=sender.node, **{"from": "1h"}).json()["signals"]

    assert [(one["kind"], one["code"], one["key"]) for one in found] == [("xid", 79, "0")]


def test_the_table_of_metrics_is_told(served):
    table = get(served, "/v1/metrics/names").json()["metrics"]
    util = next(one for one in table if one["name"] == "gpu_util_percent")

    assert util["exact_quantiles"]
    assert util["dcgm"] == ["DCGM_FI_DEV_GPU_UTIL"]


@pytest.mark.parametrize(
    ("path", "query", "status", "said"),
    [
        ("/v1/series", {"metric": "gpu_utl", "node": "n1"}, 404, "did you mean"),
        ("/v1/series", {"metric": "gpu_util_percent"}, 422, "give the job or the node"),
        ("/v1/series", {"metric": "gpu_util_percent", "job": "none-1"}, 404, "no job"),
        ("/v1/series", {"metric": "node_load", "node": "n1", "step": "soon"}, 422, "soon"),
        ("/v1/series", {"metric": "node_load", "node": "n1", "from": "soon"}, 422, "write 30d"),
        ("/v1/series", {"metric": "node_load", "node": "n1", "step": "0s"}, 422, "step of 0"),
        (
            "/v1/series",
            {"metric": "node_load", "node": "n1", "from": "30d", "step": "1s"},
            422,
            "longer step",
        ),
        ("/v1/series", {"metric": "node_load", "node": "n1", "colour": "red"}, 422, "no key"),
        ("/v1/series", {"metric": "node_load", "node": "n1", "how": "median"}, 422, "mean"),
        ("/v1/quantiles", {"job": "none-1"}, 404, "no job"),
        ("/v1/signals", {"from": "soon"}, 422, "write 30d"),
        ("/v1/signals", {"limit": "0"}, 422, "limit"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_that_says_why(served, path, query, status, said):
    answer = served.client.get(path, params=query)

    assert answer.status_code == status, answer.text
    assert said in answer.text


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"nonsense", {}, 422, "wrong_frames"),
        (pack([])[:-1] + b"?", {}, 422, "wrong_frames"),
        (bytes((8 << 20) + 1), {}, 413, "8,388,608"),
        (pack([]), {"madang-sent-ms": "noon"}, 422, "Madang-Sent-Ms"),
    ],
)
def test_a_body_that_is_none_is_refused_with_the_reason(
    served, sender, body, headers, status, said
):
    answer = sender.post(body, **headers)

    assert answer.status_code == status
    assert said in answer.text


def test_a_stranger_sends_nothing(served):
    with served.stranger() as stranger:
        answer = stranger.post("/v1/frames", content=pack([]), headers=HEADERS)

    assert answer.status_code == 401


def test_a_daemon_that_is_behind_says_when_to_come_again(tmp_path):
    with serving(tmp_path, Limits(frames_waiting_max=-1)) as one:  # no line at all
        answer = Sender(one).send()

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["code"] == "busy"
