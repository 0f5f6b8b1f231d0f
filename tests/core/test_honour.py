"""The honour pass: a promise is kept whole, or dropped and looked for again."""

import pytest

from madang.core import events as ev
from madang.core.check import check
from madang.core.model import Project
from madang.core.policies import POLICIES
from madang.core.settings import Quota
from madang.sim.world import restored_from_rows
from tests.core.yard import Yard, text

LEVELS = POLICIES["tiresias"]
AGED_MS = 100 * LEVELS.level_ms


def promised(picture: str, *jobs: str, movable: str = "a") -> Yard:
    """A yard in which the first of the jobs was just promised what `a` holds."""
    yard = Yard(picture).under(LEVELS, movable)
    for letter in movable:
        yard.ran(letter, AGED_MS)
    yard.submit(*jobs).turn()
    assert "nominate b" in yard.decisions()
    return yard


def test_a_promise_is_kept_once_the_last_has_left_and_not_before():
    yard = promised("n1: AA\nn2: AA", "b: 2x2")
    yard.ended("a.1", 0).turn()
    assert yard.decisions() == []
    yard.ended("a.1", 1).turn()

    assert yard.decisions() == ["requeue a 0", "bind b.1"]
    assert yard.picture() == "n1: BB\nn2: BB\nwaiting: a"


def test_nobody_else_takes_what_is_free_of_a_hole():
    yard = promised("n1: AA\nn2: AA", "b: 2x2")
    yard.submit("c: 1", "d: 2").ended("a.1", 0).turn()

    assert yard.decisions() == []
    assert yard.picture() == "n1: ..\nn2: AA\nwaiting: b c d"


def test_what_the_hole_does_not_need_is_for_others():
    yard = promised("n1: AAAA", "b: 2")
    yard.submit("c: 2").ended("a.1").turn()

    assert yard.decisions() == ["requeue a 0", "bind b.1", "bind c.1"]


def test_a_promised_job_that_is_stopped_ends_and_leaves_its_hole():
    yard = promised("n1: AA", "b: 2", "c: 2")
    yard.stop("b").ended("a.1").turn()

    assert yard.decisions() == ["requeue a 0", "end b stopped", "bind c.1"]
    assert yard.state.nominations == {}


@pytest.mark.parametrize("trouble", ["cordon", "lost", "ill", "smaller", "without its CPUs"])
def test_a_promise_that_cannot_come_true_is_dropped_and_the_job_looks_again(trouble):
    yard = promised("n1: AA\nn2: DD", "b: 2 cpus=8", movable="a")
    {
        "cordon": lambda: yard.cordon("n1"),
        "lost": lambda: yard.lost("n1"),
        "ill": lambda: yard.seen("n1", ("a.1", 0), healthy=~2),
        "smaller": lambda: yard.seen("n1", ("a.1", 0), gpus=1),
        "without its CPUs": lambda: yard.seen("n1", ("a.1", 0), cpu_milli=4000),
    }[trouble]()
    yard.ended("d.1").turn()

    assert yard.decisions()[-2:] == ["drop b", "bind b.1"]
    assert yard.state.jobs["b"].allocation == "b.1"
    assert {seat.node for seat in yard.state.allocations["b.1"].seats} == {"n2"}


def test_a_promise_that_waits_for_nobody_is_dropped():
    """The node reports fewer CPUs: what there is beside `e` is not enough, and `e` stays."""
    yard = Yard("n1: A.  cpus=16").submit("e: 0 cpus=8").turn().started("e.1").turn()
    yard.under(LEVELS, "a").ran("a", AGED_MS).submit("b: 2 cpus=8").turn()
    assert yard.decisions() == ["release a.1 preempted 30000", "nominate b"]
    yard.seen("n1", ("a.1", 0), ("e.1", 0), cpu_milli=12_000).turn()
    assert yard.decisions() == []
    yard.ended("a.1").turn()

    assert yard.decisions() == ["requeue a 0", "drop b"]
    yard.ended("e.1").turn()
    assert "bind b.1" in yard.decisions()


def test_a_job_of_the_same_project_cannot_take_the_quota_of_a_promise():
    yard = Yard("n1: AA\nn2: ..").under(LEVELS, "a").ran("a", AGED_MS)
    yard.fact(ev.ProjectSet(Project("vision", quota_milli=3000)))
    yard.submit("b: 3x1 project=vision").turn()
    assert "nominate b" in yard.decisions()
    yard.submit("c: 1 project=vision").turn()
    assert yard.decisions() == []
    yard.ended("a.1").turn()

    assert "bind b.1" in yard.decisions()


def test_a_promise_is_dropped_when_its_project_may_not_hold_it_any_more():
    yard = promised("n1: AA", "b: 2")
    yard.quota("default", 1).turn()

    assert yard.decisions() == ["drop b"]
    assert yard.picture() == "n1: AA\nwaiting: b"


def test_the_cpus_of_a_hole_are_not_taken_by_a_job_without_devices():
    yard = promised("n1: A  cpus=8", "b: 1 cpus=6")
    yard.submit("c: 0 cpus=4", "d: 0 cpus=2").turn()

    assert yard.decisions() == ["bind d.1"]
    yard.ended("a.1").turn()
    assert "bind b.1" in yard.decisions()


def test_a_promised_job_does_not_run_beside_its_own_older_attempt():
    yard = Yard("n1: ....\nn2: AA").under(LEVELS, "a").ran("a", AGED_MS)
    yard.submit("b: 4 moves=1").turn().started("b.1").lost("n1").settled()
    assert yard.phase("b").startswith("waiting")
    yard.seen("n1", ("b.1", 0)).turn()

    assert "bind b.2" not in yard.decisions()
    assert "nominate b" not in yard.decisions()


def test_a_restart_keeps_promises():
    yard = promised("n1: AA\nn2: AA", "b: 2x2")
    again = restored_from_rows(yard.state)
    check(again)
    yard.controller = type(yard.controller)(again)
    yard.ended("a.1").turn()

    assert "bind b.1" in yard.decisions()


def test_two_promises_each_get_their_own_hole():
    yard = promised("n1: AA\nn2: CC", "b: 2", "e: 2", movable="ac")
    assert sorted(yard.state.nominations) == ["b", "e"]
    yard.ended("a.1").ended("c.1").turn()

    assert yard.decisions() == ["requeue a 0", "requeue c 0", "bind b.1", "bind e.1"]
    assert yard.picture() in (
        text("n1: BB\nn2: EE\nwaiting: a c"),
        text("n1: EE\nn2: BB\nwaiting: a c"),
    )


@pytest.mark.parametrize(
    ("group", "limit_gpus", "kept"),
    [("*", 2, True), ("default", 2, True), ("*", 1, False), ("default", 1, False)],
)
def test_a_promise_is_void_once_a_limit_was_lowered_below_it(group, limit_gpus, kept):
    yard = promised("n1: AA", "b: 2")
    quota = Quota("project:default", group, limit_milli=limit_gpus * 1_000)
    yard.fact(ev.QuotaSet(quota)).ended("a.1").turn()

    assert ("bind b.1" in yard.decisions()) is kept
    assert (yard.state.nominations == {}) is True
