"""Whose turn it is: keys that are whole numbers, total, and the same everywhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core.model import Shape
from madang.core.ordering import (
    gpus_of,
    has_lost_patience,
    key_of,
    level_of,
    next_change_ms,
    next_level_in_ms,
    ordered,
    service_weight,
)
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import DEFAULT, Policy
from tests.core.yard import Yard

FULL = "n1: AAAAAAAA"
LEVELS = replace(POLICIES["tiresias"], levels_max=32, preempts=False)

# (jobs in the order of submission, seconds they have run, their order)
CASES = {
    "fifo": (["b: 8", "c: 1", "d: 4"], {}, "b c d"),
    "sjf": (["b: 1 estimate_s=9", "c: 8 estimate_s=3", "d: 1 estimate_s=9"], {}, "c b d"),
    "ssf": (["b: 1 estimate_s=9", "c: 8 estimate_s=3", "d: 2x1 estimate_s=4"], {}, "d b c"),
    "srtf": (["b: 1 estimate_s=90", "c: 1 estimate_s=80"], {"b": 20}, "b c"),
    "tiresias": (
        ["b: 8", "c: 1", "d: 4", "e: 1"],
        {"b": 2_300, "c": 17_000, "d": 4_500, "e": 18_000},
        "c b d e",
    ),
    "madang": (["b: 1", "c: 8", "d: 1"], {"b": 7_200, "c": 7_200, "d": 7_199}, "c d b"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_a_policy(name):
    jobs, ran_s, order = CASES[name]
    yard = Yard(FULL).under(POLICIES[name]).submit(*jobs).turn()
    for id, seconds in ran_s.items():
        yard.ran(id, seconds * 1000)

    assert [id for _, id in ordered(yard.state.view(yard.now_ms))] == order.split()


def test_priority_comes_first_by_default():
    yard = Yard(FULL).under(DEFAULT).submit("b: 1", "c: 1 priority=1", "d: 1 priority=-1").turn()

    snapshot = yard.state.view(yard.now_ms)
    assert [id for _, id in ordered(snapshot)] == ["c", "b", "d"]
    assert ordered(snapshot) is snapshot.queue


GPUS = st.integers(1, 4096)
QUARTERS = st.sampled_from((-8, -4, -1, 0, 1, 2, 4, 8))
ATTAINED = st.integers(0, 10**11)


def policy_of(quarters: int) -> Policy:
    return replace(LEVELS, service_gpus_quarters=quarters, level_ms=7_200_000)


@given(GPUS, QUARTERS, ATTAINED)
def test_a_job_sinks_at_the_moment_that_was_foretold(gpus, quarters, attained):
    policy, job = policy_of(quarters), replace(Yard().job("a: 1"), shape=Shape(gpus))
    level, in_ms = level_of(policy, job, attained), next_level_in_ms(policy, job, attained)

    if in_ms == 0:
        assert level == policy.levels_max
        return
    assert level_of(policy, job, attained + in_ms - 1) == level
    assert level_of(policy, job, attained + in_ms) == level + 1


@given(GPUS, QUARTERS)
def test_service_weighs_as_the_formula_says(gpus, quarters):
    weight = service_weight(policy_of(quarters), replace(Yard().job("a: 1"), shape=Shape(gpus)))

    assert weight >= 1
    assert weight / 65536 == pytest.approx(gpus ** (quarters / 4), rel=1e-3, abs=2 / 65536)


def test_a_share_of_a_device_weighs_as_one():
    assert gpus_of(Yard().job("a: 1 share=250")) == 1
    assert gpus_of(Yard().job("a: 3x2")) == 6


def test_one_that_waited_too_long_goes_first_and_counts_again_once_it_has_run():
    policy = replace(MADANG, patience_ms=60_000, preempts=False)
    yard = Yard(FULL).under(policy).submit("b: 1", "c: 8").turn().ran("b", 10**9)
    view = yard.state.view

    assert not has_lost_patience(view(yard.now_ms), yard.state.jobs["b"])
    late_ms = yard.state.jobs["b"].job.submitted_ms + 60_000
    assert has_lost_patience(view(late_ms), yard.state.jobs["b"])
    assert not has_lost_patience(view(late_ms), yard.state.jobs["a"])  # it runs
    assert [id for _, id in ordered(view(late_ms - 1))] == ["c", "b"]
    assert [id for _, id in ordered(view(late_ms))] == ["b", "c"]

    live = yard.state.jobs["b"]
    live.standing = replace(live.standing, waiting_ms=late_ms)
    assert not has_lost_patience(view(late_ms), live)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), ATTAINED), max_size=12))
def test_no_two_jobs_have_one_key(jobs):
    for name, policy in POLICIES.items():
        yard = Yard(FULL).under(policy)
        for number, (estimate, gpus, _) in enumerate(jobs):
            yard.submit(f"j{number}: {gpus + 1} estimate_s={estimate}")
        yard.turn()
        for number, (_, _, attained) in enumerate(jobs):
            yard.ran(f"j{number}", attained)
        snapshot = yard.state.view(yard.now_ms)
        keys = [key_of(snapshot, live) for live in snapshot.jobs.values()]
        assert len(set(keys)) == len(keys), name


class Changes:
    """When the order of a yard changes by time alone."""

    policy = replace(LEVELS, preempts=True, level_ms=100_000, patience_ms=500_000)


def test_the_order_changes_when_a_running_job_sinks_or_a_waiting_one_loses_patience():
    yard = Yard(FULL).under(Changes.policy, "a").submit("b: 8").turn()
    began_ms = yard.state.allocations["a.1"].running_ms

    assert next_change_ms(yard.state.view(yard.now_ms)) == began_ms + 12_500  # 8 GPUs
    assert next_change_ms(yard.state.view(began_ms + 12_500)) == began_ms + 50_000
    yard.under(Changes.policy)  # who cannot be moved may sink unseen
    submitted_ms = yard.state.jobs["b"].job.submitted_ms
    assert next_change_ms(yard.state.view(yard.now_ms)) == submitted_ms + 500_000
    assert next_change_ms(yard.state.view(submitted_ms + 500_000)) is None


def test_an_order_that_time_does_not_change_is_never_due():
    for policy in (DEFAULT, POLICIES["srtf"], POLICIES["fifo"], replace(MADANG, preempts=False)):
        yard = Yard(FULL).under(policy, "a").submit("b: 8").turn()
        assert next_change_ms(yard.state.view(yard.now_ms)) is None
    yard = Yard(FULL).under(MADANG, "a").turn()
    assert next_change_ms(yard.state.view(yard.now_ms)) is None  # nobody waits


def test_the_controller_is_due_when_the_order_changes():
    yard = Yard(FULL).under(Changes.policy, "a").submit("b: 8").turn()
    began_ms = yard.state.allocations["a.1"].running_ms
    assert yard.controller.due_ms(yard.now_ms) == began_ms + 12_500
    yard.turn(wait_ms=began_ms + 12_500 - yard.now_ms)

    assert yard.decisions() == ["release a.1 preempted 30000", "nominate b"]
