"""Bindings that come too late: their pods go, everybody else's stay."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from madang.engines.base import Launch
from madang.engines.kubernetes import seating
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.cache import Cache, PodNews
from madang.engines.kubernetes.late import AGAIN_S, STRANDED_S, Late
from madang.engines.kubernetes.notes import Notes
from madang.engines.kubernetes.stays import Stays
from madang.engines.kubernetes.values import PodFacts
from tests.kubernetes.faults import CALM, Faults, FaultyDoor
from tests.kubernetes.made_objects import GANG_OF_TWO
from tests.kubernetes.pools import (
    a_job,
    a_pod,
    pool_of,
    submit_job,
    submit_pod,
)
from tests.kubernetes.yard import opened, pods, until


class Table:
    """A live gang of two, whose rank 0 sits; what is removed is in `removed`."""

    def __init__(self):
        self.now_s = 100.0
        self.removed: list[str] = []
        self.of_allocation: dict[str, dict[str, PodFacts]] = {}
        self.waiting: list[PodFacts] = []
        self.stays = Stays(lambda fact: None, lambda: self.now_s, lambda: 7)
        stay = self.stays.start(Launch(GANG_OF_TWO, "a", "ada", ("true",), arrival="gang"))
        assert stay is not None
        self.stays.seen(stay, pod("sits", "n0"))
        gangs = SimpleNamespace(
            scheduler="madang",
            is_own=lambda one: one.namespace == "own",
            gang_of=lambda one: "gang",
            seats=lambda key: dict(enumerate(self.waiting)),
        )
        self.late = Late(
            cast(Cache, self),
            self.stays,
            cast(Gangs, gangs),
            cast(Notes, SimpleNamespace(event=lambda *words, bad: None)),
            lambda one, text: self.removed.append(one.name),
        )


def pod(name: str, node: str = "n0", **more: Any) -> PodFacts:
    notes = {"allocation": "a-1.1", "rank": "0", "gang": "gang"} | more.pop("notes", {})
    written = tuple((f"madang.io/{key}", value) for key, value in notes.items() if value)
    fields = {"uid": f"uid-{name}", "scheduler": "madang", "annotations": written} | more
    return PodFacts(f"ns/{name}", fields.pop("namespace", "ns"), name, node=node, **fields)


@pytest.mark.parametrize(
    ("case", "goes"),
    [
        (pod("sits"), False),
        (pod("second"), True),
        (pod("free", "n1", notes={"rank": "1"}), False),
        (pod("astray", "n7", notes={"rank": "1"}), True),
        (pod("beyond", notes={"rank": "2"}), True),
        (pod("unranked", notes={"rank": ""}), True),
        (pod("dead", notes={"allocation": "a-0.9"}), True),
        (pod("ended", phase="Failed", notes={"allocation": "a-0.9"}), False),
        (pod("going", deleting=True, notes={"allocation": "a-0.9"}), False),
        (pod("another's", scheduler="volcano", notes={"allocation": "a-0.9"}), False),
        (pod("ours", namespace="own", notes={"allocation": "a-0.9"}), False),
        (pod("plain", notes={"allocation": ""}), False),
        (pod("no-gang", notes={"gang": "", "allocation": "a-0.9"}), False),
        (pod("unbound", "", notes={"allocation": "a-0.9"}), False),
    ],
    ids=lambda case: case.name if isinstance(case, PodFacts) else "",
)
def test_who_was_bound_just_now_goes_if_it_has_no_seat(case: PodFacts, goes: bool):
    """The same, seen bound from the start, stays: what is not known is left alone."""
    before = PodFacts(case.key, case.namespace, case.name, uid=case.uid, scheduler=case.scheduler)
    table, known_bound = Table(), Table()
    table.late.look(PodNews(case, before=before))
    known_bound.late.look(PodNews(case))
    known_bound.late.look(PodNews(case, before=case))

    assert table.removed == [case.name] * goes
    assert known_bound.removed == []


def test_a_removal_that_failed_is_asked_for_again_until_the_pod_goes():
    table, one = Table(), pod("dead", notes={"allocation": "a-0.9"})
    table.late.look(PodNews(one, before=pod("dead", "")))
    for now_s in (101.0, 100.0 + AGAIN_S, 101.0 + AGAIN_S):
        table.now_s = now_s
        table.late.tick()
    table.late.look(PodNews(pod("dead", deleting=True), before=one))
    table.now_s += 10 * AGAIN_S
    table.late.tick()

    assert table.removed == ["dead", "dead"]


@pytest.mark.parametrize(
    ("waiting", "goes"),
    [
        ([pod("beside", "")], True),
        ([pod("beside", "n1")], False),  # whole, as after a ledger was lost
        ([pod("beside", "", gated=True)], False),
        ([], False),
    ],
)
def test_who_was_bound_while_nobody_led_goes_if_its_gang_waits(waiting: list[PodFacts], goes: bool):
    table = Table()
    one = pod("dead", notes={"allocation": "a-0.9"})
    table.of_allocation = {"a-0.9": {one.key: one}, "a-1.1": {"ns/sits": pod("sits")}}
    table.waiting = [one, *waiting]
    for _ in range(3):
        table.late.look_for_stranded()
        table.now_s += STRANDED_S / 2
    table.late.look_for_stranded()

    assert table.removed == ["dead"] * goes


def test_who_is_waited_for_a_moment_only_stays():
    table = Table()
    one = pod("dead", notes={"allocation": "a-0.9"})
    table.of_allocation = {"a-0.9": {one.key: one}}
    for waiting in ([pod("beside", "")], [], [pod("beside", "")]):
        table.waiting = waiting
        table.late.look_for_stranded()
        table.now_s += STRANDED_S * 0.8

    assert table.removed == []


# -- on a real API server --------------------------------------------------------------------------


def a_binding(pod, node, **notes):
    """As this engine would have written it for another allocation."""
    return {
        "metadata": {
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
            "annotations": {f"madang.io/{key}": value for key, value in notes.items()},
        },
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }


def events(cluster, namespace, reason):
    listed = cluster.ask("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    return [one["message"] for one in listed if one["reason"] == reason]


@pytest.mark.kubernetes
def test_a_pod_bound_for_an_allocation_that_is_no_more_goes(shared, namespace, tmp_path):
    """Its GPUs count as taken until it is gone; a namesake's that runs on stays where it is."""
    dead = {"allocation": "old-1.1", "rank": "0", "job": "old-1", "gang": "any"}
    keep = Faults(broken=1.0)
    with (
        pool_of(shared, {}, gpus=4) as (_, pool),
        FaultyDoor(shared, 1, CALM, lambda verb, path: verb == "DELETE") as door,
        opened(shared, tmp_path, access=door.access, namespace=namespace) as yard,
    ):

        def taken():
            return yard.loop.snapshot().nodes[f"{pool}-0"].node.taken.bit_count()

        until(lambda: f"{pool}-0" in yard.loop.snapshot().nodes, "the node")
        runs_on = a_pod("runs-on", pool, 1, nodeName=f"{pool}-0")
        runs_on["metadata"]["annotations"] = {f"madang.io/{k}": v for k, v in dead.items()}
        submit_pod(shared, namespace, runs_on)
        until(lambda: taken() == 1, "it is taken")
        waits = a_job("late", pool, 2, gpus=2, runs_s="")  # has no room beside the other one
        submit_job(shared, namespace, waits)
        job = until(lambda: yard.job_named("late"), "the job")
        first, _ = pods(shared, namespace, app="late")
        door.faults = keep
        where = f"/api/v1/namespaces/{namespace}/pods/{first['metadata']['name']}/binding"
        shared.ask("POST", where, a_binding(first, f"{pool}-0", **dead))
        until(lambda: taken() == 3, "its GPUs count")
        until(lambda: door.counts["500"] >= 4, "its removal is refused")
        door.faults = CALM
        gone = first["metadata"]["uid"]
        until(
            lambda: (
                len(now := pods(shared, namespace, app="late")) == 2
                and gone not in [one["metadata"]["uid"] for one in now]
            ),
            "another is there in its place",
        )
        until(lambda: taken() == 1, "its GPUs are free again")
        phase, said = yard.phase(job).name, events(shared, namespace, "BoundLate")
        (still,) = pods(shared, namespace, app="runs-on")

    assert phase == "WAITING"
    assert len(said) == 1
    assert "had been given up" in said[0]
    assert not still["metadata"].get("deletionTimestamp")


@pytest.mark.kubernetes
def test_bindings_held_back_past_their_deadline_do_no_harm(
    shared, namespace, tmp_path, monkeypatch
):
    """A proxy lets them go when their gang has been given up; all are bound once more, together."""
    monkeypatch.setattr(seating, "BIND_S", 0.5)
    with (
        pool_of(shared, {}, gpus=4) as (fleet, pool),
        FaultyDoor(
            shared, 1, Faults(hold_s=3.0), lambda verb, path: path.endswith("/binding")
        ) as door,
        opened(shared, tmp_path, access=door.access, namespace=namespace) as yard,
    ):
        until(lambda: f"{pool}-0" in yard.loop.snapshot().nodes, "the node")
        submit_job(shared, namespace, a_job("held", pool, 4, runs_s=""))
        late = until(lambda: events(shared, namespace, "BoundLate"), "some came too late")
        door.faults = CALM
        until(
            lambda: (
                [
                    one["status"]["phase"]
                    for one in pods(shared, namespace, app="held")
                    if not one["metadata"].get("deletionTimestamp")
                ]
                == ["Running"] * 4
            ),
            "all run",
            90,
        )
        job = yard.job_named("held")
        newest = yard.newest(job).id
        found = [
            one["metadata"]["annotations"]["madang.io/allocation"]
            for one in pods(shared, namespace, app="held")
            if not one["metadata"].get("deletionTimestamp")
        ]
        held = door.counts["held"]
        moved = fleet.moved

    assert late
    assert held >= 4
    assert found == [newest] * 4
    assert moved == []
