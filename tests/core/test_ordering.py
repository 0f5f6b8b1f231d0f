"""Whose turn it is: keys that are whole numbers, total, and the same everywhere."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core.keys import gpus_of, level_of, service_weight
from madang.core.model import Shape
from madang.core.ordering import key_of
from madang.core.policies import POLICIES
from madang.core.policy import Policy
from tests.core.yard import Yard

FULL = "n1: AAAAAAAA"
LEVELS = replace(POLICIES["tiresias"], levels_max=32, preempts=False)

GPUS = st.integers(1, 4096)
QUARTERS = st.sampled_from((-8, -4, -1, 0, 1, 2, 4, 8))
ATTAINED = st.integers(0, 10**11)


def policy_of(quarters: int) -> Policy:
    return replace(LEVELS, service_gpus_quarters=quarters, level_ms=7_200_000)


@given(GPUS, QUARTERS)
def test_service_weighs_as_the_formula_says(gpus, quarters):
    weight = service_weight(policy_of(quarters), replace(Yard().job("a: 1"), shape=Shape(gpus)))

    assert weight >= 1
    assert weight / 65536 == pytest.approx(gpus ** (quarters / 4), rel=1e-3, abs=2 / 65536)


@given(GPUS, QUARTERS, ATTAINED, st.sampled_from((0, 1, 2, 32)))
def test_a_level_begins_where_service_passes_its_bound(gpus, quarters, attained, levels_max):
    policy = replace(policy_of(quarters), levels_max=levels_max, level_factor=4)
    job = replace(Yard().job("a: 1"), shape=Shape(gpus))
    service = attained * service_weight(policy, job) // 65536
    bounds = [policy.level_ms * 4**level for level in range(levels_max)]

    assert level_of(policy, job, attained) == sum(service >= bound for bound in bounds)


def test_a_share_of_a_device_weighs_as_one():
    assert gpus_of(Yard().job("a: 1 share=250")) == 1
    assert gpus_of(Yard().job("a: 3x2")) == 6


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
