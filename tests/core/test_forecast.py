"""The expected start of a job: the same controller, run ahead; what it rests on is said."""

from dataclasses import replace

import pytest

from madang.core import forecast
from madang.core.estimates import HISTORY, LIMIT, MOVED, SAID
from madang.core.forecast import FUTURES, expected_start, permille_of, twin, why_and_when
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
    assert why.basis == (
        "after b as 50 % of 6 such runs had ended by then; "
        "of 7 futures run ahead, as many say sooner as say later"
    )


def _taught(picture_: str, seconds: list[int]) -> Yard:
    """A yard whose history has seen such runs of one GPU."""
    yard = Yard(picture_)
    for number, each in enumerate(seconds):
        yard.submit(f"w{number}: 1").turn().started(f"w{number}.1").turn(wait_ms=each * 1000)
        yard.ended(f"w{number}.1").turn()
    return yard


def test_who_needs_the_first_of_many_to_end_is_not_told_the_median_of_one():
    yard = _taught("n1: ........", [100, 200, 400, 800, 1600, 3200, 6400, 12800])
    for number in range(8):
        yard.submit(f"r{number}: 1").turn().started(f"r{number}.1").turn()
    yard.submit("b: 1").turn()
    expected = expected_start(yard.state.view(yard.now_ms), "b")

    assert expected.is_known
    assert expected.start_ms - yard.now_ms < 400_000  # the median run is from 800 to 1,600 s
    assert expected.futures == 7


def test_where_nothing_is_guessed_one_future_is_enough():
    yard = Yard("n1: AA").under(DEFAULT, estimates_s={"a": 100}).submit("b: 2").turn()

    assert expected_start(yard.state.view(yard.now_ms), "b").futures == 1


def test_in_a_yard_too_large_for_seven_futures_fewer_are_run(monkeypatch):
    yard = _taught("n1: .", [100] * 6).submit("a: 1").turn().started("a.1").turn()
    snapshot = yard.submit("b: 1").turn().state.view(yard.now_ms)
    futures = []
    for turns in (7 * 128, 7 * 128 - 1, 3 * 64 - 1):
        monkeypatch.setattr(forecast, "WORK_MAX", turns * 4)  # two jobs and a node
        futures.append(expected_start(snapshot, "b").futures)

    assert futures == [7, 3, 1]


@pytest.mark.parametrize("futures", [count for count, _ in FUTURES])
def test_every_job_meets_every_part_of_its_history_once(futures):
    parts = [(2 * part + 1) * 1000 // (2 * futures) for part in range(futures)]
    orders = set()
    for number in range(200):
        job = replace(Yard().job("a: 1"), seq=number)
        order = tuple(permille_of(job, future, futures) for future in range(futures))
        assert sorted(order) == parts
        orders.add(order)

    assert len(orders) == futures * max(futures - 1, 1)
    assert parts[futures // 2] == 500


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
