"""The rebalance pass: who is moved aside for whom, and for nobody in vain."""

from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.model import Project
from madang.core.policies import POLICIES
from madang.core.policy import Misfit, Policy
from tests.core.yard import Yard

LEVELS = replace(POLICIES["tiresias"], levels_max=32)
LEVEL_MS = LEVELS.level_ms

# (the yard, levels of those who run, the jobs, the decisions)
CASES = {
    "one of a later level makes room": (
        "n1: AAAA",
        {"a": 1},
        ["b: 4"],
        ["release a.1 preempted 30000", "nominate b"],
    ),
    "one of the same level does not": ("n1: AAAA", {"a": 0}, ["b: 4"], []),
    "the latest of the order goes first": (
        "n1: AACC",
        {"a": 2, "c": 1},
        ["b: 2"],
        ["release a.1 preempted 30000", "nominate b"],
    ),
    "one who would not make enough room is left in peace": (
        "n1: A...\nn2: CCDD",
        {"a": 3, "c": 2, "d": 1},
        ["b: 4"],
        ["release a.1 preempted 30000", "nominate b"],
    ),
    "of those tried only the ones without whom it does not fit": (
        "n1: A.EE\nn2: CCCC",
        {"a": 3, "c": 1, "e": 0},
        ["b: 4"],
        ["release c.1 preempted 30000", "nominate b"],
    ),
    "devices that are free are used before those of a victim": (
        "n1: AACC....",
        {"a": 2, "c": 1},
        ["b: 6"],
        ["release a.1 preempted 30000", "nominate b"],
    ),
    "a gang gets a place for all its members": (
        "n1: AAAA\nn2: CCCC\nn3: EEEE",
        {"a": 1, "c": 2, "e": 3},
        ["b: 2x4"],
        ["release c.1 preempted 30000", "release e.1 preempted 30000", "nominate b"],
    ),
    "a gang that cannot get all of it moves nobody": (
        "n1: AAAA\nn2: EEEE",
        {"a": 1, "e": 0},
        ["b: 2x4"],
        [],
    ),
    "what one cannot get another may": (
        "n1: AAAA\nn2: EEEE",
        {"a": 1, "e": 0},
        ["b: 2x4", "c: 2"],
        ["release a.1 preempted 30000", "nominate c"],
    ),
    "behind many alike that cannot, another kind may": (
        "n1: AAAA\nn2: EEEE",
        {"a": 1, "e": 0},
        ["b: 2x4", "c: 2x4", "d: 2x4", "f: 2"],
        ["release a.1 preempted 30000", "nominate f"],
    ),
    "of many alike the first gets what there is": (
        "n1: AAAA\nn2: EEEE",
        {"a": 1, "e": 0},
        ["b: 4", "c: 4", "d: 4"],
        ["release a.1 preempted 30000", "nominate b"],
    ),
    "two jobs get two holes in one turn": (
        "n1: AACC",
        {"a": 1, "c": 1},
        ["b: 2", "d: 2"],
        [
            "release c.1 preempted 30000",
            "nominate b",
            "release a.1 preempted 30000",
            "nominate d",
        ],
    ),
    "a victim is the victim of one": (
        "n1: AAAA",
        {"a": 1},
        ["b: 3", "c: 3"],
        ["release a.1 preempted 30000", "nominate b"],
    ),
    "a node that takes no more is no place for a hole": (
        "n1: AAAA cordoned\nn2: EEEE",
        {"a": 1, "e": 0},
        ["b: 4"],
        [],
    ),
    "another model is no place either": (
        "n1: AAAA model=L4\nn2: EEEE model=H100",
        {"a": 1, "e": 0},
        ["b: 4 model=H100"],
        [],
    ),
    "an ill device is nobody's to give": ("n1: AAAx", {"a": 1}, ["b: 4"], []),
    "of two who share a device one goes if that is enough": (
        "n1: {AC}",
        {"a": 1, "c": 1},
        ["b: 1 share=400"],
        ["release c.1 preempted 30000", "nominate b"],
    ),
}


def yard_of(picture: str, levels: dict[str, int], policy: Policy = LEVELS) -> Yard:
    yard = Yard(picture).under(policy)
    for id, level in levels.items():
        live = yard.state.jobs[id]
        live.job = replace(live.job, checkpoints=True)
        yard.ran(id, 0 if not level else LEVEL_MS * 4 ** (level - 1))
    yard.state.policy = policy  # last: what the state derives of jobs is derived again
    return yard


@pytest.mark.parametrize("case", CASES)
def test_who_is_moved_aside(case):
    picture, levels, jobs, decisions = CASES[case]

    assert yard_of(picture, levels).submit(*jobs).turn().decisions() == decisions


def test_one_that_cannot_checkpoint_stays():
    yard = yard_of("n1: AACC", {"a": 2, "c": 1})
    live = yard.state.jobs["a"]
    live.job = replace(live.job, checkpoints=False)

    assert yard.submit("b: 2").turn().decisions() == ["release c.1 preempted 30000", "nominate b"]


def test_one_runs_for_the_least_time_before_it_may_be_moved_and_no_longer():
    policy = replace(LEVELS, run_ms_min=60_000)
    yard = yard_of("n1: AA", {"a": 1}, policy).submit("b: 2").turn()
    assert yard.decisions() == []
    began_ms = yard.state.allocations["a.1"].running_ms

    assert yard.controller.due_ms(yard.now_ms) == began_ms + 60_000
    yard.turn(wait_ms=began_ms + 60_000 - yard.now_ms)
    assert yard.decisions() == ["release a.1 preempted 30000", "nominate b"]


def test_one_that_starts_is_not_moved_before_it_runs():
    yard = Yard("n1: ..").under(LEVELS).submit("a: 2 moves=1").turn().ran("a", LEVEL_MS)

    assert yard.submit("b: 2").turn().decisions() == []
    yard.started("a.1").turn()
    assert yard.submit("c: 1").turn().decisions() == ["release a.1 preempted 30000", "nominate b"]


def test_one_that_is_stopped_anyway_is_not_moved_too():
    yard = yard_of("n1: AACC", {"a": 2, "c": 1})
    yard.stop("a").submit("b: 2").turn()

    assert yard.decisions() == [
        "release a.1 stop 30000",
        "release c.1 preempted 30000",
        "nominate b",
    ]


def test_a_job_over_its_quota_moves_nobody():
    yard = yard_of("n1: AAAA", {"a": 1})
    yard.fact(ev.ProjectSet(Project("vision", quota_milli=1000)))
    yard.submit("b: 2x1 project=vision", "c: 1 project=vision").turn()

    assert yard.decisions()[-1] == "nominate c"


def test_cpus_are_made_free_too_and_only_where_they_are_needed():
    picture = "n1: A...  cpus=8\nn2: C...  cpus=8"
    yard = yard_of(picture, {"a": 2, "c": 1})
    yard.submit("e: 0 cpus=6 moves=1", "f: 0 cpus=6 moves=1").turn().started("e.1", 0)
    yard.started("f.1", 0).turn().ran("e", LEVEL_MS).ran("f", LEVEL_MS * 4)
    yard.submit("b: 1 cpus=4").turn()

    # The devices are there; what is missing are the CPUs that f holds.
    assert yard.decisions() == ["release f.1 preempted 30000", "nominate b"]
    yard.ended("f.1").turn()
    assert "bind b.1" in yard.decisions()


def test_who_was_moved_waits_behind_and_goes_on_later():
    yard = yard_of("n1: AA", {"a": 1}).submit("b: 2").turn().ended("a.1").turn()
    assert yard.picture() == "n1: BB\nwaiting: a"
    yard.started("b.1").turn().turn()
    assert yard.decisions() == []

    yard.ended("b.1").turn()
    assert yard.decisions() == ["end b succeeded", "bind a.2"]
    assert yard.state.jobs["a"].standing.attained_ms >= LEVEL_MS
    assert yard.state.jobs["a"].standing.failures == 0


def test_a_policy_that_does_not_preempt_moves_nobody():
    policy = replace(LEVELS, preempts=False)

    assert yard_of("n1: AA", {"a": 1}, policy).submit("b: 2").turn().decisions() == []


def test_one_that_lost_patience_is_not_passed_by_a_stream_of_short_jobs():
    """Each of the stream is younger than the least run time: nobody may be moved, ever."""
    policy = replace(LEVELS, misfit=Misfit.SKIP, patience_ms=600_000, run_ms_min=120_000)
    yard = Yard("n1: ..").under(policy).submit("s0: 1 moves=1", "b: 2 moves=1").turn()
    yard.started("s0.1").submit("s1: 1 moves=1").turn().started("s1.1")
    began_ms, last = yard.now_ms, 1
    while yard.state.jobs["b"].allocation is None:
        assert yard.now_ms < began_ms + 600_000 + 120_000, yard.picture()
        oldest = min((a for a in yard.state.allocations), default=None)
        if oldest is not None:
            yard.ended(oldest)
        last += 1
        yard.submit(f"s{last}: 1 moves=1").turn(wait_ms=40_000)
        for id, allocation in yard.state.allocations.items():
            if not allocation.running_ms:
                yard.started(id)
    assert yard.now_ms >= began_ms + 600_000 - 40_000
