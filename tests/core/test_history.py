"""Run times that are learned: integers, bounded, the same after a restart."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core import history
from madang.core.estimates import HISTORY, LIMIT, NEVER_MS, SAID, left
from madang.core.history import BUCKETS, RUNS_MAX, RUNS_MIN, bound_ms, bucket_of, guess, learn
from madang.core.model import Shape
from madang.sim.world import restored_from_rows
from tests.core.yard import Yard

TIMES = st.integers(0, 1 << 45)


def job(owner: str = "ann", image: str = "", gpus: int = 1):
    return replace(Yard().job(f"a: {gpus}"), owner=owner, image=image)


def known(*runs: tuple[str, int], of=job) -> dict[str, history.Runs]:
    """What is known once these have run: (owner, seconds)."""
    found: dict[str, history.Runs] = {}
    for number, (owner, seconds) in enumerate(runs):
        found |= {one.key: one for one in learn(found, of(owner), seconds * 1000, number)}
    return found


@given(TIMES)
def test_a_time_is_less_than_the_bound_of_its_bucket_and_not_of_the_one_before(ms):
    bucket = bucket_of(ms)

    assert 0 <= bucket < BUCKETS
    if bucket < BUCKETS - 1:
        assert ms < bound_ms(bucket)
    if bucket:
        assert ms >= bound_ms(bucket - 1)


@given(st.lists(st.integers(2, 10**6), min_size=RUNS_MIN, max_size=60), st.integers(1, 999))
def test_a_quantile_is_within_a_quarter_octave_of_the_true_one(seconds, permille):
    found = guess(known(*(("ann", s) for s in seconds)), job(), permille)
    rank = -(-len(seconds) * permille // 1000)
    true_ms = sorted(seconds)[rank - 1] * 1000

    assert found is not None
    assert found.runs == len(seconds)
    assert true_ms * 4 // 5 - 1 <= found.ms <= true_ms * 5 // 4 + 1


@given(st.lists(st.integers(2, 10**6), min_size=RUNS_MIN, max_size=60), st.integers(0, 10**9))
def test_what_has_run_so_long_takes_longer(seconds, ran_ms):
    found = guess(known(*(("ann", s) for s in seconds)), job(), 500, ran_ms)

    assert found is None or found.ms >= ran_ms


@given(st.integers(1, 999), st.integers(1, 999))
def test_who_is_deep_in_a_bucket_does_not_end_in_the_part_he_has_outlived(share, permille):
    low_ms, high_ms = bound_ms(40), bound_ms(41)
    ran_ms = low_ms + (high_ms - low_ms) * share // 1000
    seconds = (low_ms + high_ms) // 2000
    found = guess(known(*[("ann", seconds)] * 64), job(), permille, ran_ms)

    if found is None:
        assert share > 900  # fewer than five of 64 are left
    else:
        expected_ms = ran_ms + (high_ms - ran_ms) * permille // 1000
        assert abs(found.ms - expected_ms) <= 2
        assert found.runs == 64 * (high_ms - ran_ms) // (high_ms - low_ms)


def test_the_most_particular_family_that_knows_enough_speaks():
    runs = known(*[("ann", 10)] * RUNS_MIN, *[("bob", 5000)] * 3 * RUNS_MIN)
    ann, bob, new = (guess(runs, job(owner), 500) for owner in ("ann", "bob", "cid"))

    assert ann is not None
    assert ann.ms < 13_000
    assert bob is not None
    assert bob.ms > 4_000_000
    assert new is not None  # everybody's: three of four are bob's
    assert new.ms > 4_000_000
    assert guess(known(*[("ann", 10)] * (RUNS_MIN - 1)), job(), 500) is None


def test_an_image_and_a_size_of_their_own_are_families_of_their_own():
    runs = known(*[("ann", 10)] * RUNS_MIN, of=lambda owner: job(owner, "a"))
    for number in range(RUNS_MIN):
        for one in learn(runs, job("ann", "b", 8), 9_000_000, number):
            runs[one.key] = one

    assert guess(runs, job("ann", "a"), 500).ms < 13_000  # type: ignore[union-attr]
    assert guess(runs, job("ann", "b", 8), 500).ms > 7_000_000  # type: ignore[union-attr]


def test_old_runs_fade():
    runs = known(*[("ann", 10)] * 2 * RUNS_MAX, *[("ann", 5000)] * RUNS_MAX)

    assert guess(runs, job(), 400).ms > 4_000_000  # type: ignore[union-attr]
    assert all(sum(one.weights) <= (RUNS_MAX + 1) * history.WEIGHT for one in runs.values())


def test_a_serving_job_is_not_judged_by_trainings():
    serving = Yard().job("s: 1 category=serving")

    assert guess(known(*[("ann", 10)] * 99), replace(serving, owner="ann"), 500) is None


def test_who_learned_longest_ago_is_forgotten_first(monkeypatch):
    monkeypatch.setattr(history, "FAMILIES_MAX", 16)
    runs = {f"f{n}": history.Runs(f"f{n}", at_ms=n) for n in range(20)}

    assert history.forgotten(runs) == [f"f{n}" for n in range(5)]
    assert history.forgotten(dict(list(runs.items())[:16])) == []


@pytest.mark.parametrize(
    ("line", "ran_s", "left_s", "source"),
    [
        ("a: 1", 0, 10, HISTORY),
        ("a: 1 limit_s=5", 0, 5, LIMIT),
        ("a: 1 limit_s=500", 0, 10, HISTORY),
        ("a: 1 estimate_s=70", 0, 70, SAID),
        ("a: 1 estimate_s=70 limit_s=30", 20, 10, LIMIT),
    ],
)
def test_what_is_said_comes_before_the_history_and_the_limit_bounds_all(
    line, ran_s, left_s, source
):
    runs = known(*[("default", 10)] * RUNS_MIN, of=lambda _: Yard().job("a: 1"))
    found = left(runs, 500, Yard().job(line), ran_ms=ran_s * 1000)

    assert found.source == source
    assert found.left_ms == pytest.approx(left_s * 1000, rel=0.25)
    assert left(runs, 0, Yard().job("a: 1")).left_ms == NEVER_MS


def test_the_fold_learns_what_ends_and_a_restart_remembers():
    yard = Yard("n1: ....").submit("b: 1", "c: 1").turn().started("b.1").turn(wait_ms=60_000)
    assert yard.state.settings.runs == {}
    yard.ended("b.1").turn()
    runs = yard.state.settings.runs

    assert len(runs) > 1
    (last,) = {one.weights for one in runs.values()}
    assert len(last) == bucket_of(60_000) + 1
    assert restored_from_rows(yard.state).settings.runs == runs
    yard.stop("c").turn()
    assert yard.state.settings.runs == runs  # it never ran


def test_a_share_of_a_device_is_a_size_of_its_own():
    one, other = job(), replace(job(), shape=Shape(1, 500))

    assert set(history.families_of(one)) != set(history.families_of(other))
