"""The event stream: nothing missed, nothing twice, whatever the client does."""

import json
import socket
import time
import typing
from pathlib import Path

import httpx
import pytest

from madang.api.sentences import WORDS, sentence
from madang.api.settings import Limits
from madang.core import events as ev
from madang.core.codec import encode_event
from madang.core.hypernodes import Topology
from madang.core.model import (
    Allocation,
    AllocationState,
    Exit,
    Job,
    Node,
    Phase,
    Project,
    ReleaseReason,
    Seat,
    Shape,
)
from madang.core.policy import DEFAULT
from madang.core.rules import Rule
from madang.core.settings import (
    DisruptionBudget,
    Hole,
    Quota,
    Reservation,
    Shield,
    Workspace,
    Zone,
)
from tests.api.serving import TOKEN, serving

Event = tuple[int, str, dict[str, typing.Any]]


def events_of(lines: typing.Iterable[str]) -> typing.Iterator[Event]:
    """(id, type, data) as a browser would see them."""
    id, kind = 0, ""
    for line in lines:
        key, _, value = line.partition(": ")
        if key == "id":
            id = int(value)
        elif key == "event":
            kind = value
        elif key == "data":
            yield id, kind, json.loads(value)


def test_a_job_is_told_from_submission_to_end(served):
    with served.client.stream("GET", "/v1/events") as stream:
        events = events_of(stream.iter_lines())
        served.engine.quick = True
        job = served.submit(name="told")
        seen = []
        for _, kind, event in events:
            if kind == "job" and event["job"] == job["id"]:
                seen.append(event)
                if event["kind"] == "JobEnded":
                    break
        served.engine.quick = False

    assert [event["kind"] for event in seen] == [
        "JobSubmitted", "AllocationBound", "MemberStarted", "MemberEnded", "JobEnded",
    ]  # fmt: skip
    assert seen[0]["text"] == f"{job['id']} asks for 1 GPU in project default"
    assert seen[-1]["phase"] == "succeeded"
    assert set(seen[0]) == {"seq", "at_ms", "kind", "job", "phase", "reason", "text"}


def test_nodes_and_projects_are_told_with_their_own_types(served):
    with served.client.stream("GET", "/v1/events?after=0") as stream:
        seen = {}
        for _, kind, event in events_of(stream.iter_lines()):
            seen[kind] = event
            if {"node", "project"} <= set(seen):
                break

    assert seen["node"]["state"] == "ready"
    assert "H100" in seen["node"]["text"]
    assert seen["project"]["project"] in ("default", "small")


def test_a_cut_stream_goes_on_where_it_was_cut(served):
    """Read a few, cut the socket, resume: together they are the journal, without gap or double."""
    for _ in range(30):
        served.client.put("/v1/projects/cut", json={"quota_gpus": len(seen_quota)})
        seen_quota.append(0)
    last = served.loop.last_seq
    ids: list[int] = []
    headers: dict[str, str] = {}
    while not ids or ids[-1] < last:
        before = len(ids)
        with served.client.stream(
            "GET", "/v1/events", params=None if ids else {"after": 0}, headers=headers
        ) as stream:
            for id, _, _ in events_of(stream.iter_lines()):
                ids.append(id)
                if len(ids) - before == 7 or id == last:
                    break  # leaves the block: the connection is closed in the middle
        headers = {"last-event-id": str(ids[-1])}

    assert ids == list(range(1, last + 1))


seen_quota: list[int] = []


def test_a_stream_without_a_place_begins_now(served):
    with served.client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        first = next(lines)
        served.client.put("/v1/projects/now", json={"quota_gpus": 1})
        events = events_of(lines)
        _, _, event = next(events)

    assert first.startswith(": after ")
    assert event["project"] == "now"


def test_a_place_beyond_the_end_is_the_end(served):
    with served.client.stream("GET", "/v1/events?after=999999999") as stream:
        lines = stream.iter_lines()
        next(lines)
        served.client.put("/v1/projects/beyond", json={"quota_gpus": 1})

        assert next(events_of(lines))[2]["project"] == "beyond"


@pytest.mark.parametrize("place", ["x", "-1", "1" * 40])
def test_a_place_that_is_none_is_a_mistake(served, place):
    answer = served.client.get("/v1/events", headers={"last-event-id": place})

    assert answer.status_code == 422


def test_many_listeners_are_served_by_one_read(served, monkeypatch):
    reads: list[int] = []
    real = served.yard.ledger.events

    def counted(after: int, limit: int, job: str | None = None) -> typing.Any:
        reads.append(after)
        return real(after, limit, job)

    monkeypatch.setattr(served.yard.ledger, "events", counted)
    with httpx.Client(base_url=served.url, headers=served.client.headers, timeout=30) as client:
        streams = [client.send(client.build_request("GET", "/v1/events"), stream=True)
                   for _ in range(20)]  # fmt: skip
        iterators = [stream.iter_lines() for stream in streams]
        for lines in iterators:
            next(lines)
        served.client.put("/v1/projects/many", json={"quota_gpus": 2})
        got = [next(events_of(lines))[2]["project"] for lines in iterators]
        for stream in streams:
            stream.close()

    assert got == ["many"] * 20
    assert len(reads) <= 2


@pytest.fixture
def small(tmp_path: Path) -> typing.Iterator[typing.Any]:
    """A daemon with few streams and little patience."""
    limits = Limits(streams_max=2, stall_wait_s=0.5)
    with serving(tmp_path, limits, send_buffer_bytes=16_384) as one:
        yield one


def test_more_listeners_than_allowed_are_asked_to_come_again(small):
    headers = dict(small.client.headers)
    with httpx.Client(base_url=small.url, headers=headers, timeout=30) as client:
        first = client.send(client.build_request("GET", "/v1/events"), stream=True)
        second = client.send(client.build_request("GET", "/v1/events"), stream=True)
        third = client.get("/v1/events")
        first.close()
        second.close()

    assert third.status_code == 503
    assert third.json()["code"] == "busy"
    assert int(third.headers["retry-after"]) > 0


def test_a_client_that_reads_nothing_is_cut_off_and_may_resume(small):
    """It has a few KB of socket buffers and gets far more than that to read."""
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", small.port))
        wire.settimeout(30)
        wire.sendall(
            f"GET /v1/events?after=0 HTTP/1.1\r\nhost: 127.0.0.1:{small.port}\r\n"
            f"authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        head = wire.recv(512)
        jobs = [{"command": ["true"]} for _ in range(1000)]
        small.engine.quick = True
        for _ in range(2):
            assert small.client.post("/v1/jobs:batch", json={"jobs": jobs}).status_code == 201
        rest = b""
        cut = False
        # Nothing is read until the server has had time to lose its patience: its own answer to
        # another stream tells that the first is gone, for only two may be open.
        until = time.monotonic() + 20
        while not cut and time.monotonic() < until:
            with small.client.stream("GET", "/v1/events") as one:
                lines = one.iter_lines()  # dropped, it would close the stream
                next(lines)
                with small.client.stream("GET", "/v1/events") as two:
                    cut = (one.status_code, two.status_code) == (200, 200)
        assert cut, "the stream of the client that reads nothing still stands"
        try:
            while block := wire.recv(1 << 20):
                rest += block
        except ConnectionResetError:
            pass

    ids = [int(line[4:]) for line in (head + rest).split(b"\n") if line.startswith(b"id: ")]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) < small.loop.last_seq, "it was cut off before the end"
    place = {"last-event-id": str(ids[-1])}
    resumed = 0
    while not resumed and time.monotonic() < until:
        with small.client.stream("GET", "/v1/events", headers=place) as again:
            if again.status_code == 200:  # not yet, while the streams from above are being closed
                resumed = next(events_of(again.iter_lines()))[0]
    assert resumed == ids[-1] + 1


# -- sentences -------------------------------------------------------------------------------------

SHAPE = Shape(gpus=2)
JOB = Job("digits-42", 42, "vision", SHAPE, members=4)
SEATS = tuple(Seat(f"n{at}", (0, 1)) for at in range(6))
STAY = Allocation("digits-42.1", "digits-42", "vision", 1, SHAPE, SEATS, AllocationState.BOUND, 1)

SENTENCES: list[tuple[ev.Event, str]] = [
    (ev.JobSubmitted(JOB), "digits-42 asks for 4 members × 2 GPUs in project vision"),
    (ev.JobStopAsked("digits-42", "ann"), "ann asked digits-42 to stop"),
    (ev.JobStopAsked("digits-42"), "somebody asked digits-42 to stop"),
    (ev.JobRequeueAsked("digits-42", "ann"), "ann sent digits-42 back to the queue"),
    (ev.ProjectSet(Project("vision")), "project vision may hold GPUs without limit"),
    (
        ev.ProjectSet(Project("vision", quota_milli=8000)),
        "project vision may hold 8 GPUs at once",
    ),
    (
        ev.NodeSeen(Node("n1", 8, 1, 1, "H100", healthy=0b01111111)),
        "n1 offers 8 × H100, 1 of them unhealthy",
    ),
    (ev.NodeSeen(Node("n1", 0, 4000, 1)), "n1 offers 4 CPUs"),
    (ev.NodeLost("n1"), "n1 is out of sight; what it holds stays held"),
    (ev.NodeCordoned("n1", True, "ann"), "ann cordoned n1: it takes no new members"),
    (ev.NodeCordoned("n1", False, "ann"), "ann opened n1 again"),
    (ev.MemberStarted("digits-42.1", 3, 1), "member 3 of digits-42.1 started"),
    (ev.MemberEnded("digits-42.1", 3, Exit(0), 1), "member 3 of digits-42.1 ended well"),
    (ev.MemberEnded("digits-42.1", 3, Exit(7), 1), "member 3 of digits-42.1 exited with 7"),
    (
        ev.MemberEnded("digits-42.1", 3, Exit(0, lost=True), 1),
        "member 3 of digits-42.1 was lost with its node",
    ),
    (ev.WorkspaceSet(Workspace("lab")), "workspace lab was set"),
    (ev.QuotaSet(Quota("project:vision")), "quota project:vision/*/* was set"),
    (ev.ZoneSet(Zone("night")), "zone night was set"),
    (ev.ReservationSet(Reservation("r1", "vision", SHAPE, 1, 5, 9)), "reservation r1 was set"),
    (ev.BudgetSet(DisruptionBudget("search", "vision", 1)), "disruption budget search was set"),
    (ev.TopologySet(Topology(("block", "leaf"))), "network block > leaf was set"),
    (ev.PolicySet(DEFAULT), f"the policy is {DEFAULT.name}"),
    (ev.SettingDropped("zones", "night", "ann"), "ann dropped night of the zones"),
    (ev.NodeFlagged("n1", 3, "ann"), "ann flagged n1: it is used last (3)"),
    (ev.NodeFlagged("n1", 0), "somebody cleared n1 of suspicion"),
    (ev.NodeRemoved("n1", "ann"), "ann removed n1 from the yard"),
    (ev.CheckpointSaved("digits-42", 5), "digits-42 saved a checkpoint"),
    (ev.JobMeasured("digits-42", 97, 60_000, 5), "digits-42 used 97 % of its GPUs"),
    (ev.ProjectMeasured("vision", 5), "what vision consumed was measured"),
    (ev.JobWarned("digits-42", "idle", 0), "digits-42 was warned: it holds idle GPUs"),
    (
        ev.JobWarned("digits-42", "idle", 9),
        "digits-42 was warned: it holds idle GPUs and loses them unless it uses them",
    ),
    (
        ev.HoleAsked(Hole("room-1", SHAPE, 8, 9, within="block", by="ann")),
        "ann wants room: 8 × 2 GPUs within one block (room-1)",
    ),
    (ev.HoleMade("room-1", SEATS[:2]), "room-1 is 4 GPUs on n0, n1 once free"),
    (ev.HoleDropped("room-1", "expired"), "room-1 is given up: its time is over"),
    (ev.HoleDropped("room-1", "taken", "digits-42"), "room-1 is given to digits-42"),
    (
        ev.RuleSet(Rule("low", "gpu_util_percent", "p25", 0, is_above=False, threshold="20")),
        "rule low was set",
    ),
    (
        ev.RuleBroken("low", "digits-42.1", 5, "3", "info", "p25 of x since the start is 3"),
        "digits-42 breaks the rule low: p25 of x since the start is 3",
    ),
    (
        ev.RuleKept("low", "digits-42.1", 6, "40"),
        "digits-42 keeps the rule low again: what it measures is 40",
    ),
    (ev.ShieldSet(Shield("web/front", 0)), "budget web/front allows no more disruptions"),
    (ev.ShieldSet(Shield("web/front", 1)), "budget web/front allows 1 more disruption"),
    (ev.ShieldSet(Shield("a+b", 0, "a and b cover one pod")), "a and b cover one pod"),
    (ev.JobShielded("digits-42", (("web/front", 4),)), "digits-42 is under web/front"),
    (ev.JobShielded("digits-42", ()), "no budget covers digits-42"),
    (
        ev.ReleaseHeld("digits-42.1", "budget web/front holds it"),
        "digits-42.1 goes on: budget web/front holds it",
    ),
    (
        ev.JobRejected("digits-42", "vision", "too_large", ()),
        "digits-42 can never run here (too large)",
    ),
    (
        ev.AllocationBound(STAY),
        "digits-42 got 12 GPUs on n0, n1, n2, n3 and 2 more (attempt 1)",
    ),
    (
        ev.JobNominated("digits-42", SEATS[:2]),
        "digits-42 is promised 4 GPUs on n0, n1 once free",
    ),
    (
        ev.NominationDropped("digits-42"),
        "digits-42 must look again: what it was promised is gone",
    ),
    (
        ev.ReleaseAsked("digits-42.1", ReleaseReason.TIME_LIMIT, 30_000),
        "digits-42.1 was asked to end: its time is up (30 s of grace)",
    ),
    (ev.JobRequeued("digits-42", "it failed", 1, 0), "digits-42 waits again: it failed"),
    (ev.JobEnded("digits-42", Phase.STOPPED, ""), "digits-42 was stopped"),
    (ev.JobEnded("digits-42", Phase.FAILED, "exit 1"), "digits-42 failed: exit 1"),
]


@pytest.mark.parametrize(("event", "words"), SENTENCES)
def test_each_event_in_one_sentence(event, words):
    assert sentence(encode_event(event)) == words


def test_every_kind_of_event_has_its_sentence_and_its_row_above():
    kinds = {*ev.FACTS, *ev.DECISIONS}

    assert set(WORDS) == kinds
    assert {type(event) for event, _ in SENTENCES} == kinds


def test_a_kind_of_a_newer_version_is_named():
    assert sentence('["GpuWasPolished",["n1"]]') == "gpu was polished"


def test_every_reason_of_a_release_has_its_words():
    for reason in ReleaseReason:
        line = encode_event(ev.ReleaseAsked("digits-42.1", reason, 30_000))
        assert (": " in sentence(line)) is (reason is not ReleaseReason.NONE)
