"""Seeded faults between the engine and a real API server: nothing is doubled or overfilled."""

import random
import threading
from contextlib import suppress
from urllib.error import HTTPError

import pytest

from madang.core.check import check
from tests.kubernetes.faults import CALM, ROUGH, FaultyDoor
from tests.kubernetes.pools import POOL, a_job, pool_of, submit_job
from tests.kubernetes.test_contract import made_in
from tests.kubernetes.yard import opened, pods, until

pytestmark = pytest.mark.kubernetes

MEMBERS = 4
GANGS = 8
DELETED = 4  # controllers wait twice as long after each


@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_everything_gets_scheduled_once(shared, namespace, tmp_path, seed):
    """409, 429, 500, lost answers and cut watches; pods and a node are deleted meanwhile."""
    draw = random.Random(seed)
    with (
        pool_of(shared, {}, {}, {}, {}) as (fleet, pool),
        FaultyDoor(shared, seed, ROUGH) as door,
        opened(
            shared, tmp_path, access=door.access, namespace=namespace, made=made_in(namespace)
        ) as yard,
    ):
        for n in range(GANGS):
            submit_job(shared, namespace, a_job(f"gang-{n}", pool, MEMBERS, runs_s="1.5"))
        own = yard.run("sleep", "1", members=2, needs=[f"{POOL}={pool}"], name="own")
        stop = threading.Event()
        vandal = threading.Thread(target=_delete_some, args=(shared, namespace, draw, stop))
        vandal.start()
        try:
            until(lambda: _ended(shared, namespace) >= GANGS // 2, "half are through", 120)
            fleet.remove(f"{pool}-3")
            door.cut()
        finally:
            stop.set()
            vandal.join()
        until(lambda: _ended(shared, namespace) == GANGS, "all are through", 150)
        door.faults = CALM
        until(lambda: _nothing_held(yard, fleet, namespace, own), "nothing is held any more", 60)
        check(yard.loop._controller.state)
        fleet.add(f"{pool}-3", labels={POOL: pool})
        moved, refused, counts = fleet.moved, fleet.refused, door.counts

    assert moved == []
    assert refused == []
    assert all(counts[kind] for kind in ("409", "429", "500", "lost", "watch")), counts


def _nothing_held(yard, fleet, namespace, own):
    """Our own job ends when it is told to; what befell it may have made it begin anew just now."""
    for pod in pods(yard.cluster, namespace, **{"madang.io__job": own}):
        fleet.finish(namespace, pod["metadata"]["name"])
    return not yard.loop.allocations()


def _ended(cluster, namespace):
    listed = cluster.ask("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs")["items"]
    return sum(bool(one["status"].get("completionTime")) for one in listed)


def _delete_some(cluster, namespace, draw, stop):
    """A pod now and then, whatever it is just doing: its controller makes another."""
    left = DELETED
    while left and not stop.wait(0.5):
        listed = [one for one in pods(cluster, namespace) if one["status"]["phase"] == "Pending"]
        if listed:
            left -= 1
            name = draw.choice(listed)["metadata"]["name"]
            with suppress(HTTPError):
                path = f"/api/v1/namespaces/{namespace}/pods/{name}"
                cluster.ask("DELETE", path, {"gracePeriodSeconds": 1})
