"""Replicas that are killed, stopped and followed: nothing is bound twice, or by halves."""

import signal
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from madang.engines.kubernetes.engine import KubernetesEngine, Settings
from madang.engines.kubernetes.leading import Candidate
from tests.kubernetes.cluster import free_port
from tests.kubernetes.conftest import access_to
from tests.kubernetes.faults import Faults, FaultyDoor
from tests.kubernetes.pools import a_job, pool_of, submit_job
from tests.kubernetes.replica import Replica, get
from tests.kubernetes.yard import pods, until

pytestmark = pytest.mark.kubernetes


@contextmanager
def replicas(*all_of):
    try:
        yield all_of
    finally:
        for one in all_of:
            print(one.folder.name, one.log[-4000:], sep="\n")  # shown if the test fails
            one.kill()


def gangs_of(cluster, namespace):
    """Job → (node, allocation, rank) of each of its pods; "" where it is not bound."""
    found = defaultdict(list)
    for pod in pods(cluster, namespace):
        notes = pod["metadata"].get("annotations") or {}
        found[pod["metadata"]["labels"]["app"]].append(
            (
                pod["spec"].get("nodeName", ""),
                notes.get("madang.io/allocation", ""),
                notes.get("madang.io/rank", ""),
            )
        )
    return found


def bound(cluster, namespace):
    return sum(bool(node) for gang in gangs_of(cluster, namespace).values() for node, _, _ in gang)


def _more_than(before, cluster, namespace):
    return bound(cluster, namespace) > before


def backlog(cluster, namespace, pool, gangs, members):
    """Jobs whose pods all wait."""
    for n in range(gangs):
        submit_job(cluster, namespace, a_job(f"gang-{n}", pool, members, runs_s=""))
    until(lambda: len(pods(cluster, namespace)) == gangs * members, "all pods wait", 90)


def test_killed_in_the_middle_of_200_binds_it_goes_on(shared, namespace, tmp_path):
    """kill -9, three times; what fills the pool exactly is bound whole, each pod once.

    Each binding is held back for up to a second: else all are done before a list sees the first.
    """
    gangs, members = 40, 5
    nodes: list[dict[str, str]] = [{}] * (gangs * members // 8)
    slow = FaultyDoor(shared, 1, Faults(delay_s=1.0), lambda verb, path: path.endswith("/binding"))
    with pool_of(shared, *nodes) as (fleet, pool), slow as door, ExitStack() as undo:
        # The lease goes through the door as well, which is slow when the machine is busy.
        place = {"namespace": namespace, "server": door.url, "lease_s": 8}
        one = Replica(shared, tmp_path / "a", tmp_path / "madang.db", **place)
        undo.enter_context(replicas(one))
        backlog(shared, namespace, pool, gangs, members)
        seen = []
        for _ in range(3):
            before = bound(shared, namespace)
            if before == gangs * members:
                break
            one.start()
            until(partial(_more_than, before, shared, namespace), "more are bound", 60)
            one.kill()
            seen.append(bound(shared, namespace))
        one.start()
        one.wait_leads()
        until(lambda: bound(shared, namespace) == gangs * members, "all are bound", 90)
        until(
            lambda: all(pod["status"]["phase"] == "Running" for pod in pods(shared, namespace)),
            "all run",
        )
        found = gangs_of(shared, namespace)
        code = one.end()
        moved, refused = fleet.moved, fleet.refused

    assert 0 < seen[0] < gangs * members, f"killed too late to show anything: {seen}"
    assert (moved, refused) == ([], [])
    for gang in found.values():
        assert len({allocation for _, allocation, _ in gang}) == 1
        assert sorted(int(rank) for _, _, rank in gang) == list(range(members))
    assert code == 0


def test_a_standby_answers_and_takes_over_after_a_crash(shared, namespace, tmp_path):
    """With leases of two seconds a new leader binds within five of the old one's death."""
    ports = free_port(), free_port()
    first, second = (
        Replica(shared, tmp_path / name, tmp_path / "madang.db", namespace=namespace, port=port)
        for name, port in zip("ab", ports, strict=True)
    )
    with pool_of(shared, {}) as (fleet, pool), replicas(first, second):
        first.start()
        first.wait_leads()
        second.start()
        until(lambda: "stands by" in second.log, "it stands by")
        health = get(f"http://127.0.0.1:{ports[1]}/v1/health?x=1")
        refused = get(f"http://127.0.0.1:{ports[1]}/v1/jobs")
        leader = get(f"http://127.0.0.1:{ports[0]}/v1/health")
        submit_job(shared, namespace, a_job("before", pool, 4, runs_s=""))
        until(lambda: bound(shared, namespace) == 4, "the first one binds")
        first.kill()
        died_s = time.monotonic()
        submit_job(shared, namespace, a_job("after", pool, 4, runs_s=""))
        until(lambda: bound(shared, namespace) == 8, "the second one binds")
        took_s = time.monotonic() - died_s
        now = get(f"http://127.0.0.1:{ports[1]}/v1/health")
        wrong = fleet.moved + fleet.refused

    assert (health[0], health[1]["role"], health[1]["status"]) == (200, "standby", "ok")
    assert (refused[0], refused[1]["code"]) == (503, "standby")
    assert leader[1]["role"] == now[1]["role"] == "leader"
    assert wrong == []
    assert took_s < 5


def test_a_leader_that_was_stopped_past_its_lease_writes_no_more(shared, namespace, tmp_path):
    """SIGSTOP, another takes over, SIGCONT: the old one ends by itself, and bound nothing twice."""
    first, second = (
        Replica(shared, tmp_path / name, tmp_path / "madang.db", namespace=namespace)
        for name in "ab"
    )
    with pool_of(shared, {}, {}) as (fleet, pool), replicas(first, second):
        first.start()
        first.wait_leads()
        second.start()
        until(lambda: "stands by" in second.log, "it stands by")
        first.signal(signal.SIGSTOP)
        backlog(shared, namespace, pool, 4, 4)
        second.wait_leads()
        first.signal(signal.SIGCONT)
        until(lambda: first.is_over, "the deposed one ends")
        until(lambda: bound(shared, namespace) == 16, "all are bound")
        found = gangs_of(shared, namespace)
        wrong = fleet.moved + fleet.refused

    assert wrong == []
    for gang in found.values():
        assert len({allocation for _, allocation, _ in gang}) == 1


def test_who_leads_at_once_lists_once_and_who_stood_by_lists_anew(shared, namespace, tmp_path):
    """A list that began before the lease was ours may lack what another leader wrote after it."""

    def standing(name):
        candidate = Candidate(name, lease_s=2.0)
        engine = KubernetesEngine(
            Settings(access_to(shared), tmp_path, lambda launch: (), namespace, candidate=candidate)
        )
        engine.warm()
        return engine

    def leading(engine):
        assert engine.lead(threading.Event(), lambda: None)
        engine.open(lambda: None)
        engine.adopt([])
        return [mirror.lists for mirror in (engine._here.cache.pods, engine._here.cache.nodes)]

    first = standing("first")
    try:
        at_once = leading(first)
        second = standing("second")
        try:
            until(lambda: second._here.cache.pods.lists, "the standby knows the pods")
            first.close()
            after = leading(second)
        finally:
            second.close()
    finally:
        first.close()

    assert (at_once, after) == ([1, 1], [2, 2])
