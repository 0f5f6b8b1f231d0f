"""Preemption by impact: little clusters, who is moved aside, for whom, and at what cost.

Every job that runs is 1 h old unless the case says otherwise; the waiting one is of a higher class.
"""

from dataclasses import replace
from typing import Any

import pytest

from madang.api.routes.budgets import budget_views
from madang.api.sentences import sentence
from madang.core import events as ev
from madang.core.codec import encode_event
from madang.core.draft import Draft
from madang.core.explain import why
from madang.core.impact import cheapest_room, impact_gpu_ms
from madang.core.model import Category, Job, Purpose, ReleaseReason
from madang.core.policy import Misfit, Policy, Victims
from madang.core.settings import DisruptionBudget
from tests.core.yard import Yard

HOUR_MS = 3_600_000
POLICY = Policy("classes", order=("priority",), misfit=Misfit.SKIP, preempts=True)


def yard_of(picture: str, policy: Policy = POLICY, **changes: Any) -> Yard:
    """A yard whose jobs checkpoint and have run for an hour; `changes` are of some of them.

    Of a job (`priority`, `checkpoints`, …), of its standing (`preemptions`), or `ran_ms`, how long
    it has run, and `saved_ms`, how long ago it saved.
    """
    yard = Yard(picture)
    yard.fact(ev.PolicySet(policy)).turn(wait_ms=1_000 * HOUR_MS)
    for id, live in yard.state.jobs.items():
        change = {"checkpoints": True, "ran_ms": HOUR_MS, **changes.get(id, {})}
        running_ms = yard.now_ms - change.pop("ran_ms")
        if "saved_ms" in change:
            change["checkpoint_ms"] = yard.now_ms - change.pop("saved_ms")
        standing = {n: change.pop(n) for n in list(change) if n in live.standing.__slots__}
        live.job = replace(live.job, **change)
        live.standing = replace(live.standing, running_ms=running_ms, **standing)
        assert live.allocation is not None
        held = yard.state.allocations[live.allocation]
        moved = replace(held, running_ms=running_ms, bound_ms=running_ms)
        yard.state.allocations[live.allocation] = moved
    return yard


def leavers(yard: Yard) -> str:
    """Who was asked to leave in the last turn, and who was promised room: `a c > b`."""
    asked = [d for d in yard.last.decisions if isinstance(d, ev.ReleaseAsked)]
    promised = [d.job for d in yard.last.decisions if isinstance(d, ev.JobNominated)]
    assert all(d.reason is ReleaseReason.PREEMPTED for d in asked)
    return " ".join([*sorted(d.allocation.partition(".")[0] for d in asked), ">", *promised])


# (the yard, what is so of those who run, who waits, who leaves for whom)
CASES: dict[str, tuple[str, dict[str, Any], list[str], str]] = {
    "the youngest of equals loses the least": (
        "n1: AACC",
        {"a": {"ran_ms": 600_000}},
        ["b: 2 priority=9"],
        "a > b",
    ),
    "who has just saved loses less than who is younger": (
        "n1: AACC",
        {"a": {"ran_ms": 600_000}, "c": {"saved_ms": 1_000}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "a checkpoint of one that does not go on from it is worth nothing": (
        "n1: AACC",
        {"a": {"ran_ms": 600_000}, "c": {"saved_ms": 1_000, "checkpoints": False}},
        ["b: 2 priority=9"],
        "a > b",
    ),
    "three run and one waits: no need to stop two": (
        "n1: AACCEE",
        {"e": {"ran_ms": 60_000}},
        ["b: 2 priority=9"],
        "e > b",
    ),
    "one that holds more than is wanted stays if a smaller one will do": (
        "n1: AAAA\nn2: C...",
        {},
        ["b: 4 priority=9"],
        "c > b",
    ),
    "the whole gang goes, so its whole work counts": (
        "n1: AACC\nn2: AA..\nn3: EEGG",
        {"e": {"ran_ms": HOUR_MS * 9 // 10}, "g": {"ran_ms": HOUR_MS * 9 // 10}},
        ["b: 4 priority=9"],
        "e g > b",
    ),
    "who was moved before is spared": (
        "n1: AACC",
        {"a": {"preemptions": 2, "ran_ms": HOUR_MS // 2}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "who serves users is dearer than who trains": (
        "n1: AACC",
        {"a": {"category": Category.SERVING, "purpose": Purpose.SERVICE, "ran_ms": HOUR_MS // 2}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "a dear restart counts": (
        "n1: AACC",
        {"a": {"restart_ms": HOUR_MS, "ran_ms": HOUR_MS // 2}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "who is of no lower class stays": (
        "n1: AACC",
        {"a": {"priority": 9, "ran_ms": 1}, "c": {"priority": 8}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "who may not be preempted stays": (
        "n1: AACC",
        {"a": {"preemptible": False, "ran_ms": 60_000}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "who has not run its least time stays": (
        "n1: AACC",
        {"a": {"run_ms_min": 120_000, "ran_ms": 60_000}},
        ["b: 2 priority=9"],
        "c > b",
    ),
    "if all of them are within their least time nobody leaves": (
        "n1: AACC",
        {"a": {"run_ms_min": HOUR_MS * 2}, "c": {"run_ms_min": HOUR_MS * 2}},
        ["b: 2 priority=9"],
        ">",
    ),
    "a gang gets room for all its members": (
        "n1: AACC\nn2: EEGG",
        {"c": {"ran_ms": 60_000}, "e": {"ran_ms": 60_000}},
        ["b: 2x2 priority=9"],
        "c e > b",
    ),
    "a gang that cannot get all of it moves nobody": (
        "n1: AAAA\nn2: EEEE",
        {"e": {"priority": 9}},
        ["b: 2x4 priority=9"],
        ">",
    ),
    "a gang goes where its victims are cheapest, not where they are fewest": (
        "n1: AAAA\nn2: CCEE",
        {"c": {"ran_ms": 600_000}, "e": {"ran_ms": 600_000}},
        ["b: 2x2 priority=9"],
        "c e > b",
    ),
    "a gang that one switch must hold gets it whole": (
        "n1: AACC at=l0\nn2: EE.. at=l1\nn3: GGG. at=l1",
        {"g": {"ran_ms": HOUR_MS * 9}},
        ["b: 2x4 priority=9 within=block"],
        "e g > b",
    ),
    "anywhere the same gang would have been cheaper": (
        "n1: AACC at=l0\nn2: EE.. at=l1\nn3: GGG. at=l1",
        {"g": {"ran_ms": HOUR_MS * 9}},
        ["b: 2x4 priority=9 within=any"],
        "a c e > b",
    ),
    "two jobs get two holes in one turn": (
        "n1: AACC",
        {"a": {"ran_ms": 600_000}},
        ["b: 2 priority=9", "d: 2 priority=9"],
        "a c > b d",
    ),
    "a victim is the victim of one": (
        "n1: AAAA",
        {},
        ["b: 3 priority=9", "d: 3 priority=9"],
        "a > b",
    ),
    "what is free is used before anybody is stopped": (
        "n1: AA..",
        {},
        ["b: 2 priority=9"],
        ">",
    ),
    "of two who share a device one goes if that is enough": (
        "n1: {AC}",
        {"a": {"ran_ms": 600_000}},
        ["b: 1 share=400 priority=9"],
        "a > b",
    ),
    "both go if the whole device is wanted": (
        "n1: {AC}",
        {},
        ["b: 1 priority=9"],
        "a c > b",
    ),
    "nobody leaves a node that takes no more, nor an ill device": (
        "n1: AAAA cordoned\nn2: EEEx",
        {},
        ["b: 4 priority=9"],
        ">",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_who_leaves_for_whom(case):
    picture, running, jobs, expected = CASES[case]

    assert leavers(yard_of(picture, **running).submit(*jobs).turn()) == expected


def test_both_sides_are_told_for_whom_and_what_it_costs():
    yard = yard_of("n1: AAAA", a={"ran_ms": HOUR_MS}).submit("b: 4 priority=9").turn()

    asked = yard.last.decisions[0]
    assert isinstance(asked, ev.ReleaseAsked)
    assert (asked.by, asked.bill_gpu_ms) == ("b", 4 * (HOUR_MS + 10 + 30_000))
    held = yard.state.allocations["a.1"]
    assert (held.released_for, held.bill_gpu_ms) == ("b", asked.bill_gpu_ms)


def test_the_hole_is_for_whom_it_was_made():
    yard = yard_of("n1: AAAA").submit("b: 4 priority=9").turn()
    yard.ended("a.1", code=143).submit("d: 4 priority=99").turn()

    assert yard.picture() == "n1: BBBB\nwaiting: d a"


def test_a_victim_counts_how_often_it_was_moved_and_goes_on_later():
    yard = yard_of("n1: AAAA").submit("b: 4 priority=9").turn().ended("a.1", code=143).turn()
    yard.started("b.1").turn().ended("b.1").turn()

    assert yard.picture() == "n1: AAAA"
    assert yard.state.jobs["a"].standing.preemptions == 1


# -- budgets -----------------------------------------------------------------------------------


def serving(picture: str, down_max: int, **changes: Any) -> Yard:
    """A yard whose jobs all count under one budget."""
    ids = sorted({letter.lower() for letter in picture if letter.isupper()})
    counted: dict[str, Any] = {id: {"budget": "chat", **changes.get(id, {})} for id in ids}
    yard = yard_of(picture, **counted)
    return yard.fact(ev.BudgetSet(DisruptionBudget("chat", "default", down_max)))


@pytest.mark.parametrize(
    ("down_max", "expected"),
    [(0, ">"), (1, "a > b"), (2, "a c > b d"), (3, "a c e > b d f")],
)
def test_no_more_are_down_at_once_than_the_budget_allows(down_max, expected):
    yard = serving("n1: A\nn2: C\nn3: E", down_max)
    yard.submit("b: 1 priority=9", "d: 1 priority=9", "f: 1 priority=9").turn()

    assert leavers(yard) == expected


def test_who_is_down_already_counts():
    yard = serving("n1: A\nn2: C", 1)
    yard.requeue("a").turn().ended("a.1", code=143).submit("b: 1 priority=9").turn()
    assert yard.picture() == "n1: B\nn2: C\nwaiting: a"

    yard.submit("d: 1 priority=9").turn()
    assert leavers(yard) == ">"


def test_who_was_taken_down_and_runs_again_is_no_longer_down():
    yard = serving("n1: A\nn2: C\nn3: .x", 1).submit("b: 1 priority=9").turn()
    assert yard.picture().endswith("n3: Bx")
    yard.submit("d: 1 priority=9").turn().ended("a.1", code=143).turn()
    yard.submit("f: 1 priority=9").turn()
    assert leavers(yard) == ">"

    yard.ended("b.1").turn()  # f takes its place, and no other is free
    yard.started("d.1").started("f.1").turn().ended("d.1").turn().started("a.2").turn()
    assert leavers(yard.submit("g: 1 priority=9").turn()) in ("a > g", "c > g")


def test_members_count_so_a_gang_larger_than_the_budget_is_never_moved():
    yard = serving("n1: AA\nn2: AA\nn3: CC", 1, c={"ran_ms": HOUR_MS * 50})

    assert leavers(yard.submit("b: 2 priority=9").turn()) == "c > b"


def test_a_budget_is_of_one_project():
    yard = serving("n1: A", 0)
    yard.fact(ev.BudgetSet(DisruptionBudget("chat", "others", 0)))

    assert leavers(yard.submit("b: 1 priority=9").turn()) == "a > b"


@pytest.mark.parametrize("victims", list(Victims), ids=str)
def test_a_budget_that_is_overdrawn_protects_nobody_else(victims):
    yard = serving("n1: AA\nn2: CC\nn3: EE", 0)
    yard.state.policy = replace(yard.state.policy, victims=victims)
    yard.state.jobs["c"].job = replace(yard.state.jobs["c"].job, budget="")
    yard.requeue("a").turn().ended("a.1", code=143).submit("b: 2 priority=9").turn()
    assert yard.picture() == "n1: BB\nn2: CC\nn3: EE\nwaiting: a"

    assert leavers(yard.submit("d: 2 priority=9").turn()) == "c > d"


def test_a_gang_makes_do_with_victims_that_break_no_budget():
    yard = serving("n1: AAAA\nn2: CCCC\nn3: EEEE", 1)
    yard.state.jobs["e"].job = replace(yard.state.jobs["e"].job, budget="")
    yard.state.jobs["e"].standing = replace(yard.state.jobs["e"].standing, preemptions=50)

    assert leavers(yard.submit("b: 2x4 priority=9").turn()) == "c e > b"


# -- what other passes use -----------------------------------------------------------------------


def test_cheapest_room_decides_nothing():
    yard = yard_of("n1: AACC", a={"ran_ms": 600_000}).submit("b: 2").turn()
    draft = Draft(yard.state.snapshot(yard.now_ms))
    job: Job = yard.state.jobs["b"].job
    room = cheapest_room(draft, job, yard.state.allocations.values())

    assert draft.decisions == []
    assert room is not None
    assert [victim.allocation.id for victim in room.victims] == ["a.1"]
    assert room.bill_gpu_ms == impact_gpu_ms(draft.snapshot, yard.state.allocations["a.1"])
    assert room.seated.places == ((0, (0, 1)),)
    assert cheapest_room(draft, job, []) is None


# -- what both sides are told ----------------------------------------------------------------------


def test_why_names_who_leaves_for_whom_what_it_costs_and_until_when():
    yard = yard_of("n1: AAAA").submit("b: 4 priority=9").turn()
    snapshot = yard.state.snapshot(yard.now_ms)

    waits, leaves = why(snapshot, "b"), why(snapshot, "a")
    assert waits.code == "promised"
    assert waits.text == (
        "it is promised its place on n1; a leaves for it, which costs 4.03 GPU·h of work at most"
    )
    assert dict(waits.numbers) == {"victims": 1, "bill_gpu_ms": 14_520_040}
    assert waits.earliest_ms == yard.now_ms + 30_000
    assert leaves.code == "preempted"
    assert leaves.text.startswith("it was asked to save and leave for b, whose turn comes first")
    assert sentence(encode_event(yard.last.decisions[0])) == (
        "a.1 was asked to end: b needs its GPUs, 4.03 GPU·h of work at most is lost (30 s of grace)"
    )


def test_a_budget_is_shown_with_its_members_and_who_of_them_is_down():
    yard = serving("n1: AA\nn2: CC", 2).submit("b: 2 priority=9").turn()
    shown = budget_views(yard.state.snapshot(yard.now_ms))

    assert [(one.id, one.members, one.down, one.down_max) for one in shown] == [("chat", 2, 1, 2)]


def test_who_waits_is_told_which_budget_keeps_whom():
    yard = serving("n1: A\nn2: C", 1).submit("b: 1 priority=9", "d: 1 priority=9").turn()
    told = why(yard.state.snapshot(yard.now_ms), "d").text
    lower = why(yard.submit("f: 1 priority=0").turn().state.snapshot(yard.now_ms), "f").text

    assert leavers(yard) == ">"
    assert "; c stays: budget chat lets 1 of its members be down at once, 1 is" in told
    assert "budget" not in lower
