"""The whole engine on a real API server that is killed, cut off, stopped and lied about, by a seed.

Jobs of the real Job controller are gangs. Whatever happens, at the end all of them have finished:
no pod was ever on two nodes, no kubelet was ever given more than it has, no gang is left half.
"""

import random
import time
from contextlib import contextmanager

import pytest

from madang.engines.kubernetes.engine import KubernetesEngine, Settings
from tests.kubernetes.faults import ROUGH, FaultyDoor
from tests.kubernetes.pools import a_job, pool_of, submit_job
from tests.kubernetes.yard import Yard, pods, until

pytestmark = pytest.mark.kubernetes

NODES = 3
STORM_S = 150.0


@contextmanager
def yard_behind(door, cluster, folder):
    """A daemon's loop that reaches the API server through the faulty door alone."""
    settings = Settings(access=door.access, folder=folder / "kubernetes", made=lambda launch: ())
    yard = Yard(cluster, folder, KubernetesEngine(settings))
    yard.open()
    try:
        yield yard
    finally:
        yard.close()


class Storm:
    """Jobs of drawn sizes, and what befalls the cluster while they run."""

    def __init__(self, cluster, namespace, pool, fleet, seed):
        self.cluster = cluster
        self.namespace = namespace
        self.pool = pool
        self.fleet = fleet
        self.draw = random.Random(seed)
        self.sizes = {f"j-{n}": self.draw.choice([1, 1, 2, 3, 5, 8, 13]) for n in range(14)}

    def submit(self):
        for name, members in self.sizes.items():
            runs_s = f"{self.draw.uniform(0.2, 1.0):.2f}"
            job = a_job(name, self.pool, members, runs_s=runs_s)
            job["spec"]["backoffLimit"] = 100
            submit_job(self.cluster, self.namespace, job)

    def until_begun(self, share):
        """So much of all has begun to run, first tries and later ones."""
        wanted = round(share * sum(self.sizes.values()))
        until(lambda: self.begun() >= wanted, f"{wanted} pods have begun", STORM_S)

    def begun(self):
        return sum(n for (where, _), n in self.fleet.starts.items() if where == self.namespace)

    def unfinished(self):
        listed = self.cluster.ask("GET", f"/apis/batch/v1/namespaces/{self.namespace}/jobs")
        return {
            one["metadata"]["name"]: one.get("status")
            for one in listed["items"]
            if (one.get("status") or {}).get("succeeded") != self.sizes[one["metadata"]["name"]]
        }

    def delete_a_pod(self):
        """One that waits or runs; its controller makes another."""
        living = [
            pod["metadata"]["name"]
            for pod in pods(self.cluster, self.namespace)
            if pod["status"]["phase"] in ("Pending", "Running")
        ]
        if living:
            name = self.draw.choice(sorted(living))
            self.cluster.ask("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    def until_all_done(self, yard):
        end_s = time.monotonic() + STORM_S
        while left := self.unfinished():
            if time.monotonic() > end_s:
                stays = "\n".join(
                    str(one) for one in yard.engine._parts.settler.stays.live.values()
                )
                pytest.fail(f"not finished: {left}\n{self.states()}\n{stays}")
            time.sleep(0.1)

    def states(self):
        """Each pod in one line, for who must find out why."""
        return "\n".join(
            f"{pod['metadata']['name']} {pod['status'].get('phase')} "
            f"on {pod['spec'].get('nodeName')} {pod['metadata'].get('deletionTimestamp', '')} "
            f"{[one.get('message') for one in pod['status'].get('conditions') or []]} "
            f"{pod['metadata'].get('annotations')}"
            for pod in pods(self.cluster, self.namespace)
        )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_befalls_the_cluster_every_job_runs_whole(shared, namespace, tmp_path, seed):
    """Refusals, lost answers, cut watches, deleted pods, the API server killed."""
    with (
        pool_of(shared, *[{}] * NODES) as (fleet, pool),
        FaultyDoor(shared, seed, ROUGH) as door,
        yard_behind(door, shared, tmp_path) as yard,
    ):
        storm = Storm(shared, namespace, pool, fleet, seed)
        storm.submit()
        befalls = [storm.delete_a_pod, door.cut, shared.restart_api_server, storm.delete_a_pod]
        storm.draw.shuffle(befalls)
        for at, befall in enumerate(befalls):
            storm.until_begun((at + 1) / (len(befalls) + 1))
            befall()
        storm.until_all_done(yard)
        until(lambda: not yard.loop.snapshot().allocations, "nothing is held any more")
        refused, moved, counts = fleet.refused, fleet.moved, door.counts

    assert (refused, moved) == ([], [])
    for fault in ("409", "500", "lost", "watch", "cut"):
        assert counts[fault] > 0, f"the seed never drew {fault}: {counts}"


def test_etcd_may_stand_still_for_twenty_seconds(shared, namespace, tmp_path):
    with (
        pool_of(shared, *[{}] * NODES) as (fleet, pool),
        FaultyDoor(shared, 1, ROUGH) as door,
        yard_behind(door, shared, tmp_path) as yard,
    ):
        storm = Storm(shared, namespace, pool, fleet, 1)
        storm.submit()
        storm.until_begun(0.3)
        etcd = shared.programs["etcd"]
        etcd.stand_still()
        try:
            time.sleep(20)
        finally:
            etcd.go_on()
        storm.until_all_done(yard)
        refused, moved = fleet.refused, fleet.moved

    assert (refused, moved) == ([], [])


def test_a_node_that_is_gone_takes_no_gang_with_it(shared, namespace, tmp_path):
    """Its Node object is deleted while gangs run there; another machine comes."""
    with (
        pool_of(shared, *[{}] * NODES) as (fleet, pool),
        FaultyDoor(shared, 1, ROUGH) as door,
        yard_behind(door, shared, tmp_path) as yard,
    ):
        storm = Storm(shared, namespace, pool, fleet, 2)
        storm.submit()
        storm.until_begun(0.3)
        fleet.remove(f"{pool}-1")
        fleet.add(f"{pool}-new", labels={"test.madang.io/pool": pool})
        try:
            storm.until_all_done(yard)
        finally:
            fleet.remove(f"{pool}-new")
            fleet.add(f"{pool}-1")
        refused, moved = fleet.refused, fleet.moved

    assert (refused, moved) == ([], [])
