"""From submit to finished on a real API server with its real controllers: gangs, victims, trees."""

import time
from functools import partial

import pytest

from madang.core.model import Phase
from tests.kubernetes.pools import POOL, a_job, a_pod, condition, pool_of, submit_job, submit_pod
from tests.kubernetes.test_contract import made_in
from tests.kubernetes.yard import opened, pods, until

pytestmark = pytest.mark.kubernetes


def nodes_of(cluster, namespace, **labels):
    return [one["spec"].get("nodeName", "") for one in pods(cluster, namespace, **labels)]


def test_a_gang_of_our_own_runs_and_ends(shared, namespace, tmp_path):
    """Four members on two nodes see each other's environment, and what they say is kept."""
    said = 'echo "$RANK of $WORLD_SIZE on $NODE_RANK at $MASTER_ADDR:$MASTER_PORT"; sleep 0.5'
    with (
        pool_of(shared, {}, {}, gpus=2, processes=True) as (_, pool),
        opened(shared, tmp_path, namespace=namespace, made=made_in(namespace)) as yard,
    ):
        until(lambda: len(yard.loop.snapshot().nodes) >= 2, "two nodes")
        job = yard.run("sh", "-c", said, members=4, needs=[f"{POOL}={pool}"], name="own")
        yard.wait_phase(job, Phase.RUNNING)
        yard.wait_phase(job, Phase.SUCCEEDED)
        newest = yard.newest(job)
        logs = [yard.engine.read_log(newest.id, rank, 0, 1000).decode() for rank in range(4)]
        services = f"/api/v1/namespaces/{namespace}/services"
        until(lambda: not shared.ask("GET", services)["items"], "its service goes")

    assert [one.split(" on ")[0] for one in logs] == [f"{rank} of 4" for rank in range(4)]
    assert sorted(one.split(" on ")[1][0] for one in logs) == ["0", "0", "1", "1"]
    assert len({one.split(" at ")[1] for one in logs}) == 1


def test_a_job_of_the_real_controller_is_a_gang(shared, namespace, tmp_path):
    """It is bound whole or not at all, in its namespace's project, and one event says so."""
    with (
        pool_of(shared, {}, {}, gpus=2) as (fleet, pool),
        opened(shared, tmp_path) as yard,
    ):
        submit_pod(shared, namespace, a_pod("first", pool, gpus=1))
        first = until(lambda: yard.job_named("first"), "the first pod's job")
        yard.wait_phase(first, Phase.RUNNING)
        submit_job(shared, namespace, a_job("gang", pool, members=4))
        gang = until(lambda: yard.job_named("gang"), "the gang's job")
        waiting = until(
            lambda: [
                one
                for one in pods(shared, namespace, app="gang")
                if condition(one, "PodScheduled").get("reason") == "Unschedulable"
            ],
            "a reason at its pods",
        )
        bound_too_early = [node for node in nodes_of(shared, namespace, app="gang") if node]
        fleet.finish(namespace, "first")
        yard.wait_phase(gang, Phase.SUCCEEDED)
        record = yard.record(gang)
        events = until(
            lambda: [
                one
                for one in shared.ask("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
                if one["reason"] == "Scheduled" and one["involvedObject"]["name"] == "gang"
            ],
            "its event",
        )
        succeeded = until(
            lambda: shared.ask("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/gang")[
                "status"
            ].get("succeeded"),
            "the controller sees it",
        )
        moved, refused = fleet.moved, fleet.refused

    assert bound_too_early == []
    assert "4" in condition(waiting[0], "PodScheduled")["message"]
    assert (record.job.project, record.job.members, record.owner) == (
        namespace,
        4,
        "system:kubernetes",
    )
    assert len(events) == 1
    assert succeeded == 4
    assert (moved, refused) == ([], [])


def test_pods_of_other_schedulers_count(shared, namespace, tmp_path):
    """Whoever bound them: their GPUs are not offered, and are again once they have ended."""
    with (
        pool_of(shared, {}, gpus=4) as (fleet, pool),
        opened(shared, tmp_path) as yard,
    ):
        other = a_pod("other", pool, gpus=3, nodeName=f"{pool}-0")
        other["spec"]["schedulerName"] = "default-scheduler"
        submit_pod(shared, namespace, other)
        until(
            lambda: (
                yard.loop.snapshot().nodes.get(f"{pool}-0")
                and yard.loop.snapshot().nodes[f"{pool}-0"].node.taken.bit_count() == 3
            ),
            "three GPUs are taken",
        )
        submit_pod(shared, namespace, a_pod("ours", pool, gpus=2, runs_s="0.3"))
        job = until(lambda: yard.job_named("ours"), "its job")
        until(
            lambda: condition(pods(shared, namespace, app="ours")[0], "PodScheduled").get(
                "message"
            ),
            "why it waits",
        )
        fleet.finish(namespace, "other")
        yard.wait_phase(job, Phase.SUCCEEDED)
        refused = fleet.refused

    assert refused == []


def test_a_gang_with_a_hard_topology_lies_in_one_domain(shared, namespace, tmp_path):
    """Two racks have room for three each: four pods wait for one rack, and do not spill over."""
    rack = "topology.kubernetes.io/rack"
    racks = [{rack: "r1"}, {rack: "r1"}, {rack: "r2"}, {rack: "r2"}]
    with (
        pool_of(shared, *racks, gpus=2) as (fleet, pool),
        opened(shared, tmp_path) as yard,
    ):
        for n in (0, 2):
            blocker = a_pod(f"blocker-{n}", pool, nodeName=f"{pool}-{n}")
            blocker["spec"]["schedulerName"] = "default-scheduler"
            submit_pod(shared, namespace, blocker)
        until(
            lambda: (
                sum(live.node.taken.bit_count() for live in yard.loop.snapshot().nodes.values())
                == 2
            ),
            "both are taken",
        )
        wish = {"madang.io/within": rack}
        submit_job(shared, namespace, a_job("gang", pool, 4, annotations=wish, runs_s=""))
        job = until(lambda: yard.job_named("gang"), "the gang's job")
        why = until(
            lambda: condition(pods(shared, namespace, app="gang")[0], "PodScheduled").get(
                "message"
            ),
            "why it waits",
        )
        before = [node for node in nodes_of(shared, namespace, app="gang") if node]
        fleet.finish(namespace, "blocker-2")
        yard.wait_phase(job, Phase.RUNNING)
        after = sorted(nodes_of(shared, namespace, app="gang"))

    assert before == []
    assert "rack" in why
    assert after == [f"{pool}-2", f"{pool}-2", f"{pool}-3", f"{pool}-3"]


def test_a_deleted_workload_departs(shared, namespace, tmp_path):
    """Waiting or running: its job ends, and its devices are free again."""
    with (
        pool_of(shared, {}, gpus=2) as (_, pool),
        opened(shared, tmp_path) as yard,
    ):
        jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        for name, members in (("runs", 2), ("waits", 2)):
            submit_job(shared, namespace, a_job(name, pool, members, runs_s=""))
            job = until(partial(yard.job_named, name), f"{name}'s job")
            if name == "runs":
                yard.wait_phase(job, Phase.RUNNING)
        for name in ("waits", "runs"):
            shared.ask("DELETE", f"{jobs}/{name}?propagationPolicy=Background")
            yard.wait_phase(yard.job_named(name), Phase.STOPPED)
        began_s = time.monotonic()
        until(lambda: not yard.loop.allocations(), "nothing is held")

    assert time.monotonic() - began_s < 30


def test_a_deleted_node_loses_what_it_had_and_the_job_runs_elsewhere(shared, namespace, tmp_path):
    """Its pods go with it; the controller makes others, which are the job's next attempt."""
    with pool_of(shared, {}, {}, gpus=2) as (fleet, pool), opened(shared, tmp_path) as yard:
        submit_job(shared, namespace, a_job("gang", pool, 2, runs_s=""))
        job = until(lambda: yard.job_named("gang"), "its job")
        yard.wait_phase(job, Phase.RUNNING)
        first = yard.newest(job)
        fleet.remove(first.seats[0].node)
        until(lambda: yard.newest(job).attempt > first.attempt, "another attempt")
        yard.wait_phase(job, Phase.RUNNING, 90)
        second = yard.newest(job)
        states = {id: live.state.value for id, live in yard.loop.snapshot().nodes.items()}
        wrong = fleet.moved + fleet.refused

    assert {seat.node for seat in first.seats}.isdisjoint(seat.node for seat in second.seats)
    assert states[first.seats[0].node] in ("lost", "removed")
    assert wrong == []


def test_a_member_that_fails_is_replaced_in_its_own_seat(shared, namespace, tmp_path):
    """The controller makes another pod for it: the allocation goes on, and nobody else is hurt."""
    with pool_of(shared, {}, gpus=3) as (fleet, pool), opened(shared, tmp_path) as yard:
        submit_job(shared, namespace, a_job("gang", pool, 3, runs_s=""))
        job = until(lambda: yard.job_named("gang"), "its job")
        yard.wait_phase(job, Phase.RUNNING)
        before = yard.newest(job)
        victim = pods(shared, namespace, app="gang")[0]
        rank = victim["metadata"]["annotations"]["madang.io/rank"]
        fleet.finish(namespace, victim["metadata"]["name"], code=1)

        def again():
            running = [
                one
                for one in pods(shared, namespace, app="gang")
                if one["status"]["phase"] == "Running"
            ]
            names = {one["metadata"]["name"] for one in running}
            return running if len(names - {victim["metadata"]["name"]}) == 3 else None

        running = until(again, "three run again")
        after = yard.newest(job)

    assert after.id == before.id
    ranks = sorted(one["metadata"]["annotations"]["madang.io/rank"] for one in running)
    assert ranks == ["0", "1", "2"]
    assert rank in ranks
