"""Budgets that others keep: who may be stopped, what is taken back when nobody is let be stopped,
and jobs that make nobody leave.
"""

from dataclasses import replace
from typing import Any

import pytest

from madang.core import events as ev
from madang.core.codec import from_json, to_json
from madang.core.explain import why
from madang.core.model import AllocationState, Exit, Job, Project, ReleaseReason, Seat
from madang.core.policy import Victims
from madang.core.settings import Quota, Shield
from madang.sim.world import picture, restored_from_rows
from tests.core.test_preempt import HOUR_MS, POLICY, leavers, yard_of
from tests.core.yard import Yard

KEEP = "web/keep"


def shielded(drawn: str, allowed: dict[str, int], by: dict[str, Any], **changes: Any) -> Yard:
    """`by`: a letter's shields, as names or as (name, members)."""
    yard = yard_of(drawn, **changes)
    for name, count in allowed.items():
        yard.fact(ev.ShieldSet(Shield(name, count)))
    for job, over in by.items():
        told = tuple((one, 1) if isinstance(one, str) else one for one in over)
        yard.fact(ev.JobShielded(job, told))
    return yard


# (the yard, what the shields allow, whom they cover, who waits, who leaves for whom); c has run
# for longer than a, and costs more
CASES: dict[str, tuple[str, dict[str, int], dict[str, Any], str, str]] = {
    "the cheaper victim is held, so the dearer one leaves": (
        "n1: A\nn2: C", {KEEP: 0}, {"a": [KEEP]}, "b: 1", "c > b",
    ),
    "the cheaper one leaves where his budget allows it": (
        "n1: A\nn2: C", {KEEP: 1}, {"a": [KEEP]}, "b: 1", "a > b",
    ),
    "all are held: nobody is stopped": (
        "n1: A\nn2: C", {KEEP: 0}, {"a": [KEEP], "c": [KEEP]}, "b: 1", ">",
    ),
    "one disruption is not enough for two victims of one budget": (
        "n1: A\nn2: C", {KEEP: 1}, {"a": [KEEP], "c": [KEEP]}, "b: 2x1", ">",
    ),
    "two disruptions are": (
        "n1: A\nn2: C", {KEEP: 2}, {"a": [KEEP], "c": [KEEP]}, "b: 2x1", "a c > b",
    ),
    "a gang needs one for each of its members": (
        "n1: AA\nn2: AA", {KEEP: 1}, {"a": [(KEEP, 2)]}, "b: 1", ">",
    ),
    "members that are not covered do not count": (
        "n1: AA\nn2: AA", {KEEP: 1}, {"a": [(KEEP, 1)]}, "b: 1", "a > b",
    ),
    "each budget of a job must allow it": (
        "n1: A", {KEEP: 1, "web/other": 0}, {"a": [KEEP, "web/other"]}, "b: 1", ">",
    ),
    "a shield that nobody has told of holds nobody": (
        "n1: A", {}, {"a": [KEEP]}, "b: 1", "a > b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("victims", [Victims.CHEAPEST, Victims.CHEAPEST_OF_LAST], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_who_may_be_stopped(case, victims):
    drawn, allowed, by, waiting, expected = case
    changes = {"c": {"ran_ms": 2 * HOUR_MS}} if "C" in drawn else {}
    yard = shielded(drawn, allowed, by, **changes)
    yard.state.policy = replace(POLICY, victims=victims)
    yard.submit(f"{waiting} priority=9").turn()

    assert leavers(yard) == expected


def test_the_last_in_order_is_passed_over_where_a_budget_holds_him():
    yard = shielded("n1: A\nn2: C", {KEEP: 0}, {"c": [KEEP]})
    yard.state.policy = replace(POLICY, victims=Victims.LAST)

    assert leavers(yard.submit("b: 1 priority=9").turn()) == "a > b"


def test_who_is_leaving_counts_until_he_has_left():
    """What is allowed counts them: else two turns would take what is allowed once."""
    by = {"a": [KEEP], "c": [KEEP]}
    yard = shielded("n1: A\nn2: C", {KEEP: 1}, by).submit("b: 1 priority=9").turn()
    yard.submit("d: 1 priority=9").turn()
    assert leavers(yard) == ">"

    left = "a.1" if yard.state.allocations["a.1"].state is AllocationState.RELEASING else "c.1"
    yard.ended(left, code=143).fact(ev.ShieldSet(Shield(KEEP, 0))).turn()
    assert leavers(yard) == ">"
    yard.fact(ev.ShieldSet(Shield(KEEP, 1))).turn()
    assert leavers(yard) in ("a > d", "c > d")


def test_a_budget_that_is_dropped_holds_nobody_any_more():
    yard = shielded("n1: A", {KEEP: 0}, {"a": [KEEP]}).submit("b: 1 priority=9").turn()
    assert leavers(yard) == ">"

    yard.fact(ev.SettingDropped("shields", KEEP, "kubernetes")).turn()
    assert leavers(yard) == "a > b"


def test_a_job_that_is_covered_no_more_may_leave():
    yard = shielded("n1: A", {KEEP: 0}, {"a": [KEEP]}).submit("b: 1 priority=9").turn()
    assert leavers(yard.fact(ev.JobShielded("a", ())).turn()) == "a > b"


@pytest.mark.parametrize(
    ("shield", "words"),
    [
        (Shield(KEEP, 0), "; a stays: budget web/keep allows no more disruptions"),
        (Shield(KEEP, 1), "; a stays: budget web/keep allows 1 more disruption, not all"),
        (Shield(KEEP, 0, "two budgets cover it"), "; a stays: two budgets cover it"),
    ],
)
def test_who_waits_is_told_which_budget_holds_whom(shield, words):
    yard = shielded("n1: AA\nn2: AA", {}, {"a": [(KEEP, 2)]}).fact(ev.ShieldSet(shield))
    yard.submit("b: 1 priority=9").turn()

    assert words in why(yard.state.snapshot(yard.now_ms), "b").text


# -- a release that nobody was let carry out -------------------------------------------------------


def held_once(drawn: str = "n1: A\nn2: C") -> Yard:
    """a was asked to leave for b, and held."""
    others: dict[str, Any] = {"c": {"ran_ms": 2 * HOUR_MS}} if "C" in drawn else {}
    yard = yard_of(drawn, **others)
    yard.submit("b: 1 priority=9").turn()
    assert leavers(yard) == "a > b"
    yard.fact(ev.ShieldSet(Shield("held:a", 0))).fact(ev.JobShielded("a", (("held:a", 1),)))
    return yard.fact(ev.ReleaseHeld("a.1", "budget web/keep holds it"))


def test_who_was_held_goes_on_and_somebody_else_leaves_at_once():
    yard = held_once().turn()
    a = yard.state.allocations["a.1"]

    assert leavers(yard) == "c > b"
    assert any(isinstance(one, ev.NominationDropped) for one in yard.last.decisions)
    assert (a.state, a.release_reason, a.released_for, a.bill_gpu_ms) == (
        AllocationState.RUNNING,
        ReleaseReason.NONE,
        "",
        0,
    )
    yard.ended("c.1", code=143).turn()
    assert yard.picture() == "n1: A\nn2: B\nwaiting: c"


def test_a_promise_is_void_though_another_victim_leaves_there():
    """a was held, c goes: b must look again, and not wait for what a keeps."""
    yard = yard_of("n1: AC").submit("b: 2 priority=9").turn()
    assert leavers(yard) == "a c > b"
    yard.fact(ev.ShieldSet(Shield("held:a", 0))).fact(ev.JobShielded("a", (("held:a", 1),)))
    yard.fact(ev.ReleaseHeld("a.1", "budget web/keep holds it")).turn()

    assert not yard.state.nominations
    yard.submit("d: 1").ended("c.1", code=143).turn()
    assert yard.picture().startswith("n1: A")


def test_where_nobody_else_can_leave_all_is_as_before():
    yard = held_once("n1: A").turn()

    assert leavers(yard) == ">"
    assert not yard.state.nominations
    assert yard.state.jobs["a"].standing.preemptions == 0
    yard.ended("a.1").turn()
    assert yard.picture() == "n1: B"


def test_the_state_after_it_is_that_of_its_rows():
    yard = held_once()
    yard.state.jobs["a"].job = replace(yard.state.jobs["a"].job, time_limit_ms=10 * HOUR_MS)
    yard.turn()

    assert picture(restored_from_rows(yard.state)) == picture(yard.state)
    assert yard.state.deadlines == [
        (yard.state.allocations["a.1"].running_ms + 10 * HOUR_MS, "a.1")
    ]


@pytest.mark.parametrize("word", ["stop", "fault", "node"])
def test_what_must_end_for_another_cause_is_asked_anew(word):
    yard = held_once("n1: AA\nn2: AA") if word == "fault" else held_once()
    reason = {"stop": "stop", "fault": "member_failed", "node": "node_lost"}[word]
    if word == "stop":
        yard.facts.insert(0, ev.JobStopAsked("a"))
    elif word == "node":
        yard.facts.insert(0, ev.NodeLost("n1"))
    else:
        yard.facts.insert(0, ev.MemberEnded("a.1", 1, Exit(7), yard.now_ms))
    yard.turn()

    asked = [one for one in yard.last.decisions if isinstance(one, ev.ReleaseAsked)]
    assert ("a.1", reason) in [(one.allocation, one.reason) for one in asked]
    assert yard.state.allocations["a.1"].state is AllocationState.RELEASING


@pytest.mark.parametrize("allocation", ["a.1", "c.1", "z.9"])
def test_that_nobody_was_asked_is_no_news(allocation):
    yard = yard_of("n1: A\nn2: C")
    before = picture(yard.state)
    yard.fact(ev.ReleaseHeld(allocation, "")).turn(0)

    assert yard.last.events == ()
    assert picture(yard.state) == before


def test_a_job_that_was_to_move_stays_and_its_new_place_is_free_again():
    yard = yard_of("n1: A\nn2: .")
    yard.state.apply(ev.ReleaseAsked("a.1", ReleaseReason.MOVED, 1_000, "hole"), yard.now_ms)
    yard.state.apply(ev.JobNominated("a", (Seat("n2", (0,)),)), yard.now_ms)
    yard.fact(ev.ReleaseHeld("a.1", "")).turn()

    assert not yard.state.nominations
    assert yard.submit("d: 1").turn().picture() == "n1: A\nn2: D"


# -- jobs that make nobody leave -------------------------------------------------------------------


def meek(yard: Yard, line: str) -> Yard:
    return yard.fact(ev.JobSubmitted(replace(yard.job(line), preempts=False)))


@pytest.mark.parametrize("victims", list(Victims), ids=str)
def test_who_does_not_preempt_waits_in_line_and_makes_nobody_leave(victims):
    yard = yard_of("n1: A")
    yard.state.policy = replace(POLICY, victims=victims)
    meek(yard, "b: 1 priority=9").turn()
    assert leavers(yard) == ">"
    words = why(yard.state.snapshot(yard.now_ms), "b").text
    assert words.endswith(
        "nobody leaves for it: its priority class may not preempt (preemptionPolicy: Never)"
    )

    yard.submit("d: 1 priority=1").ended("a.1").turn()
    assert yard.picture() == "n1: B\nwaiting: d"


def test_one_like_it_that_may_does():
    yard = meek(yard_of("n1: A"), "b: 1 priority=9").submit("d: 1 priority=8").turn()

    assert leavers(yard) == "a > d"


def test_of_a_job_below_nobody_would_leave_anyway():
    yard = meek(yard_of("n1: A", a={"priority": 20}), "b: 1 priority=9").turn()

    assert "preempt" not in why(yard.state.snapshot(yard.now_ms), "b").text


@pytest.mark.parametrize(("preempts", "expected"), [(True, "a > b"), (False, ">")])
def test_within_a_guarantee_it_makes_nobody_leave_either(preempts, expected):
    yard = yard_of("n1: A")
    yard.fact(ev.ProjectSet(Project("lab")))
    yard.fact(ev.QuotaSet(Quota("project:lab", guaranteed_milli=1_000)))
    job = replace(yard.job("b: 1 project=lab"), preempts=preempts)
    yard.fact(ev.JobSubmitted(job)).turn()

    assert leavers(yard) == expected


def test_an_old_ledger_has_jobs_that_preempt():
    job = yard_of("n1: A").job("b: 1")
    old = to_json(job)[:-1]

    assert len(to_json(job)) == len(old) + 1
    assert from_json(Job, old).preempts
