"""Who leaves for whom on a real API server, with the disruption controller's own budgets."""

import pytest

from madang.core.explain import why
from madang.core.model import Phase
from madang.engines.kubernetes import shields
from tests.kubernetes.pools import POOL, a_job, a_pod, condition, pool_of, submit_job, submit_pod
from tests.kubernetes.test_contract import made_in
from tests.kubernetes.yard import opened, pods, until

pytestmark = pytest.mark.kubernetes

JOB = "madang.io/job"


def priority_class(cluster, namespace, value=1000, **more):
    name = f"high-{namespace}"[:60].rstrip("-")
    body = {"metadata": {"name": name}, "value": value, **more}
    cluster.ask("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
    return name


class Budgets:
    """PodDisruptionBudgets of a namespace, through the API server."""

    def __init__(self, cluster, namespace):
        self.cluster = cluster
        self.path = f"/apis/policy/v1beta1/namespaces/{namespace}/poddisruptionbudgets"

    def keep(self, least, name="keep", **labels):
        """At least so many of the pods with these labels stay up."""
        spec = {"minAvailable": least, "selector": {"matchLabels": labels}}
        self.cluster.ask("POST", self.path, {"metadata": {"name": name}, "spec": spec})

    def wait(self, healthy, name="keep"):
        """Until its controller has counted so many."""

        def counted():
            status = self.cluster.ask("GET", f"{self.path}/{name}").get("status", {})
            return status.get("currentHealthy") == healthy

        until(counted, "the budget counts them")

    def drop(self, name="keep"):
        self.cluster.ask("DELETE", f"{self.path}/{name}")


def runs(yard, cluster, namespace, body):
    """Submit a pod and wait until it runs: its job."""
    submit_pod(cluster, namespace, body)
    name = body["metadata"]["name"]
    job = until(lambda: yard.job_named(name), f"the job of {name}")
    yard.wait_phase(job, Phase.RUNNING)
    return job


def events(cluster, namespace, reason):
    found = cluster.ask("GET", f"/api/v1/namespaces/{namespace}/events")["items"]
    return [one["message"] for one in found if one["reason"] == reason]


def asked_to_leave(yard):
    """Jobs that were ever asked to leave, in order."""
    found = yard.ledger.events(0, 10_000, kinds=("ReleaseAsked",))
    return [one.job for one in found]


def knows(yard, shield):
    """Until the scheduler has the budget, as the engine told it."""
    until(lambda: shield in yard.loop.snapshot().settings.shields, f"budget {shield} is told")


def reason_at(cluster, namespace, app, words):
    """Until the pod says these words of why it waits: all that it says."""

    def said():
        message = condition(pods(cluster, namespace, app=app)[0], "PodScheduled").get("message")
        return message if message and words in message else ""

    return until(said, f"{app} is told: {words}", 90.0)


def test_where_a_budget_holds_the_cheaper_victim_the_other_one_leaves_at_once(
    shared, namespace, tmp_path
):
    """The younger one would lose less, but its budget allows no disruption."""
    high = priority_class(shared, namespace)
    budgets = Budgets(shared, namespace)
    with pool_of(shared, {}, {}, gpus=2) as (_, pool), opened(shared, tmp_path) as yard:
        old = runs(yard, shared, namespace, a_pod("old", pool, gpus=2))
        young = runs(yard, shared, namespace, a_pod("young", pool, gpus=2))
        budgets.keep(1, app="young")
        budgets.wait(1)
        knows(yard, f"{namespace}/keep")
        body = a_pod("high", pool, gpus=2, runs_s="0.3", priorityClassName=high)
        submit_pod(shared, namespace, body)
        job = until(lambda: yard.job_named("high"), "the high job")
        yard.wait_phase(job, Phase.SUCCEEDED)
        asked, there = asked_to_leave(yard), pods(shared, namespace, app="young")[0]
        phase = yard.phase(young)

    assert asked == [old]
    assert phase is Phase.RUNNING
    assert not there["metadata"].get("deletionTimestamp")
    assert condition(there, "DisruptionTarget") == {}
    assert events(shared, namespace, "EvictionHeld") == []


def test_where_budgets_hold_all_nobody_is_touched_and_who_waits_is_told_which(
    shared, namespace, tmp_path
):
    """As soon as the budget lets go, the victim goes."""
    high = priority_class(shared, namespace)
    budgets = Budgets(shared, namespace)
    with pool_of(shared, {}, gpus=2) as (_, pool), opened(shared, tmp_path) as yard:
        budgets.keep(1, app="low")
        low = runs(yard, shared, namespace, a_pod("low", pool, gpus=2))
        budgets.wait(1)
        knows(yard, f"{namespace}/keep")
        body = a_pod("high", pool, gpus=2, runs_s="0.3", priorityClassName=high)
        submit_pod(shared, namespace, body)
        job = until(lambda: yard.job_named("high"), "the high job")
        words = f"{low} stays: budget {namespace}/keep allows no more disruptions"
        said = reason_at(shared, namespace, "high", "stays: budget")
        explained = why(yard.loop.snapshot(), job).text
        asked, there = asked_to_leave(yard), pods(shared, namespace, app="low")[0]
        budgets.drop()
        yard.wait_phase(job, Phase.SUCCEEDED)
        gone = pods(shared, namespace, app="low")

    assert words in said
    assert words in explained
    assert asked == []
    assert not there["metadata"].get("deletionTimestamp")
    assert gone == []
    assert events(shared, namespace, "EvictionHeld") == []


def test_a_gang_of_which_only_some_may_go_is_not_touched(shared, namespace, tmp_path):
    high = priority_class(shared, namespace)
    budgets = Budgets(shared, namespace)
    with pool_of(shared, {}, {}, gpus=1) as (_, pool), opened(shared, tmp_path) as yard:
        budgets.keep(1, app="gang")
        submit_job(shared, namespace, a_job("gang", pool, 2, runs_s=""))
        gang = until(lambda: yard.job_named("gang"), "the gang's job")
        yard.wait_phase(gang, Phase.RUNNING)
        budgets.wait(2)
        until(
            lambda: [one.allowed for one in yard.loop.snapshot().settings.shields.values()] == [1],
            "one of them may go",
        )
        submit_pod(shared, namespace, a_pod("high", pool, priorityClassName=high))
        said = reason_at(shared, namespace, "high", "stays: budget")
        asked = asked_to_leave(yard)

    assert f"{gang} stays: budget {namespace}/keep allows 1 more disruption, not all" in said
    assert asked == []


def test_who_is_held_though_his_budget_was_not_seen_goes_on_and_another_leaves(
    shared, namespace, tmp_path, monkeypatch
):
    """As where the account may not list budgets: the Eviction API has the last word."""
    monkeypatch.setattr(shields, "selects", lambda selector, labels: False)
    high = priority_class(shared, namespace)
    budgets = Budgets(shared, namespace)
    with pool_of(shared, {}, {}, gpus=2) as (_, pool), opened(shared, tmp_path) as yard:
        old = runs(yard, shared, namespace, a_pod("old", pool, gpus=2))
        young = runs(yard, shared, namespace, a_pod("young", pool, gpus=2))
        budgets.keep(1, app="young")
        budgets.wait(1)
        body = a_pod("high", pool, gpus=2, runs_s="0.3", priorityClassName=high)
        submit_pod(shared, namespace, body)
        job = until(lambda: yard.job_named("high"), "the high job")
        yard.wait_phase(job, Phase.SUCCEEDED)
        asked, phase = asked_to_leave(yard), yard.phase(young)
        there = pods(shared, namespace, app="young")[0]
        held = until(lambda: events(shared, namespace, "EvictionHeld"), "the event")

    assert asked == [young, old]
    assert phase is Phase.RUNNING
    assert not there["metadata"].get("deletionTimestamp")
    assert "disruption budget" in held[0]


def test_a_job_of_our_own_is_under_budgets_too(shared, namespace, tmp_path):
    high = priority_class(shared, namespace)
    budgets = Budgets(shared, namespace)
    with (
        pool_of(shared, {}, gpus=1, processes=True) as (_, pool),
        opened(shared, tmp_path, namespace=namespace, made=made_in(namespace)) as yard,
    ):
        until(lambda: f"{pool}-0" in yard.loop.snapshot().nodes, "a node")
        own = yard.run(
            "sleep", "600", needs=[f"{POOL}={pool}"], name="own", provisioning="spot", grace=1_000
        )
        yard.wait_phase(own, Phase.RUNNING)
        budgets.keep(1, **{JOB: own})
        knows(yard, f"{namespace}/keep")
        submit_pod(shared, namespace, a_pod("high", pool, runs_s="0.3", priorityClassName=high))
        job = until(lambda: yard.job_named("high"), "the high job")
        said = reason_at(shared, namespace, "high", "stays: budget")
        asked = asked_to_leave(yard)
        budgets.drop()
        yard.wait_phase(job, Phase.SUCCEEDED)
        after = asked_to_leave(yard)

    assert f"{own} stays: budget {namespace}/keep allows no more disruptions" in said
    assert (asked, after) == ([], [own])


def test_a_pod_whose_class_never_preempts_waits_and_says_so(shared, namespace, tmp_path):
    high = priority_class(shared, namespace, preemptionPolicy="Never")
    with pool_of(shared, {}, gpus=2) as (fleet, pool), opened(shared, tmp_path) as yard:
        low = runs(yard, shared, namespace, a_pod("low", pool, gpus=2))
        body = a_pod("high", pool, gpus=2, runs_s="0.3", priorityClassName=high)
        submit_pod(shared, namespace, body)
        said = reason_at(shared, namespace, "high", "preemptionPolicy")
        job = yard.job_named("high")
        asked, phase = asked_to_leave(yard), yard.phase(low)
        submit_pod(shared, namespace, a_pod("later", pool, gpus=2, runs_s="0.3"))
        fleet.finish(namespace, "low")
        yard.wait_phase(job, Phase.SUCCEEDED)

    assert "its priority class may not preempt (preemptionPolicy: Never)" in said
    assert (asked, phase) == ([], Phase.RUNNING)
