"""The expected start of a job: the same controller, run ahead; what it rests on is said."""

from dataclasses import replace

import pytest

from madang.core.estimates import HISTORY, LIMIT, MOVED, SAID
from madang.core.forecast import expected_start, twin, why_and_when
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import DEFAULT
from madang.sim.world import picture
from tests.core.yard import Yard

# (the yard, seconds that those who run are expected to, who waits, in how many seconds the last of
# them starts, after whom)
CASES = {
    "when the one that holds its devices ends": (
        "n1: AA", {"a": 100}, ["b: 2"], 100, [("a", SAID)],
    ),
    "after those ahead of it": (
        "n1: AA", {"a": 100}, ["b: 2 estimate_s=50", "c: 2"], 150, [("b", SAID)],
    ),
    "a gang when the last of them has left": (
        "n1: AA\nn2: DD", {"a": 100, "d": 300}, ["b: 2x2"], 300, [("d", SAID), ("a", SAID)],
    ),
    "at once where there is room": ("n1: A.", {"a": 100}, ["b: 1"], 0, []),
    "a limit is an end": (
        "n1: AA", {"a": 100}, ["b: 2 limit_s=60", "c: 2"], 160, [("b", LIMIT)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_when_a_job_starts(case):
    picture_, estimates_s, jobs, seconds, after = CASES[case]
    yard = Yard(picture_).under(DEFAULT, estimates_s=estimates_s)
    for line in jobs:
        yard.submit(line)
    last = jobs[-1][0]
    yard.turn()
    expected = expected_start(yard.state.view(yard.now_ms), last)

    assert expected.is_known
    assert (expected.start_ms - yard.now_ms) / 1000 == pytest.approx(seconds, abs=2 + seconds / 20)
    assert [(one.job, one.estimate.source) for one in expected.after] == after


def test_nobody_can_say_where_nobody_knows_an_end():
    yard = Yard("n1: AA").submit("b: 2").turn()
    expected = expected_start(yard.state.view(yard.now_ms), "b")

    assert not expected.is_known


def test_a_job_that_runs_has_started():
    yard = Yard("n1: AA").submit("b: 2").turn()

    assert expected_start(yard.state.view(yard.now_ms), "a").start_ms == yard.now_ms


def test_who_will_be_moved_aside_is_foretold():
    policy = replace(MADANG, level_ms=60_000, run_ms_min=1)
    yard = Yard("n1: AA").under(policy, "a").submit("b: 2").turn()
    expected = expected_start(yard.state.view(yard.now_ms), "b")

    assert expected.is_known
    assert [(one.job, one.estimate.source) for one in expected.after] == [("a", MOVED)]
    assert 50_000 < expected.start_ms - yard.now_ms < 80_000


def test_the_history_says_when_and_the_answer_says_how_it_knows():
    yard = Yard("n1: ..")
    for number in range(6):
        yard.submit(f"w{number}: 2").turn().started(f"w{number}.1").turn(wait_ms=100_000)
        yard.ended(f"w{number}.1").turn()
    yard.submit("b: 2").turn().started("b.1").turn().submit("c: 2").turn()
    snapshot = yard.state.view(yard.now_ms)
    expected = expected_start(snapshot, "c")

    assert [(one.job, one.estimate.source) for one in expected.after] == [("b", HISTORY)]
    assert 80_000 < expected.start_ms - yard.now_ms < 130_000
    why = why_and_when(snapshot, "c")
    assert why.earliest_ms == expected.start_ms
    assert why.basis == "after b as 50 % of 6 such runs had ended by then"


@pytest.mark.parametrize("name", POLICIES)
def test_asking_changes_nothing(name):
    yard = Yard("n1: AAAA\nn2: BB..").under(POLICIES[name], "a", estimates_s={"a": 9, "b": 90})
    yard.submit("c: 4", "d: 2x2 estimate_s=5", "e: 8").turn()
    before = picture(yard.state)
    snapshot = yard.state.view(yard.now_ms)
    answers = [expected_start(snapshot, id) for id in ("c", "d")]

    assert picture(yard.state) == before
    assert picture(twin(snapshot)) == before
    assert answers == [expected_start(snapshot, id) for id in ("c", "d")]
