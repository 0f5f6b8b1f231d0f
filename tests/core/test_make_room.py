"""Holes: who moves for them, who never does, and what becomes of a hole."""

from dataclasses import replace
from typing import Any

import pytest

from madang.core import events as ev
from madang.core.draft import Draft
from madang.core.holes import HolePlan, NoHole, plan_hole
from madang.core.model import Node, Project, Shape
from madang.core.policy import Policy
from madang.core.settings import Hole
from tests.core.yard import Yard

HOUR_MS = 3_600_000


def yard_of(picture: str, *, checkpoints: str = "abcdefghij", policy: Policy | None = None) -> Yard:
    """A yard whose jobs of these letters checkpoint, and have run long enough to be moved."""
    yard = Yard(picture)
    for id, live in yard.state.jobs.items():
        live.job = replace(live.job, checkpoints=id in checkpoints)
        live.standing = replace(live.standing, checkpoint_ms=yard.now_ms)
    if policy is not None:
        yard.state.policy = policy
    return yard


def hole_of(size: str, *, until_ms: int = HOUR_MS * 10_000, **options: Any) -> Hole:
    members, gpus = map(int, size.split("x"))
    return Hole("room-1", Shape(gpus), members, until_ms, **options)


def planned(yard: Yard, hole: Hole) -> HolePlan | NoHole:
    return plan_hole(Draft(yard.state.snapshot(yard.now_ms)), hole)


def words(yard: Yard, plan: HolePlan | NoHole) -> str:
    """`n1 n2 | b→n3`: where the hole is, and who moves where; or why there is none."""
    if isinstance(plan, NoHole):
        return f"{plan.code} {plan.room}"
    ids = yard.state.node_ids
    at = " ".join(ids[row] for row, _ in plan.places)
    moves = [
        f"{move.mover.job.id}→{','.join(dict.fromkeys(ids[row] for row, _ in move.places))}"
        for move in plan.moves
    ]
    return " | ".join([at, *moves])


@pytest.mark.parametrize(
    ("picture", "size", "expected"),
    [
        ("n1: ....\nn2: A...", "1x4", "n1"),
        ("n1: A...\nn2: B...", "1x4", "n1 | a→n2"),
        ("n1: AAA.\nn2: B...", "1x4", "n2 | b→n1"),
        ("n1: AA..\nn2: BB..\nn3: CCC.", "1x4", "n1 | a→n2"),
        ("n1: A...\nn2: B...\nn3: C...", "2x4", "n1 n2 | a→n3 | b→n3"),
        ("n1: AB..\nn2: C...", "1x4", "n2 | c→n1"),
        # whoever can stay beside the hole stays
        ("n1: AB..\nn2: CC..\nn3: DDDD", "1x3", "n1 | a→n2"),
        # a gang leaves whole, and from all its nodes at once
        ("n1: AA..\nn2: AA..\nn3: ....", "2x4", "crowded 2"),
        ("n1: AA..\nn2: AA..\nn3: BB..\nn4: CC..", "2x4", "n3 n4 | b→n1 | c→n2"),
        # nowhere to go
        ("n1: AAA.\nn2: BBB.", "1x4", "crowded 1"),
        # larger than the yard
        ("n1: ....\nn2: ....", "3x4", "too_large 2"),
        ("n1: ....\nn2: ....", "1x8", "too_large 0"),
        # an ill device is no room
        ("n1: x...\nn2: A...", "1x4", "n2 | a→n1"),
        ("n1: x...\nn2: AAA.\nn3: xB..", "1x4", "n2 | a→n1"),
        ("n1: ....  cordoned\nn2: AA..\nn3: B...", "1x4", "n3 | b→n2"),
    ],
)
def test_a_hole_is_made_where_it_costs_least(picture, size, expected):
    yard = yard_of(picture)

    assert words(yard, planned(yard, hole_of(size))) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"checkpoints": False}, "held 0"),
        ({"preemptible": False}, "held 0"),
        ({"run_ms_min": HOUR_MS}, "held 0"),
        ({}, "n1 | a→n2"),
    ],
)
def test_nobody_moves_who_must_not(change, expected):
    yard = yard_of("n1: A...\nn2: BBB.", checkpoints="a")
    live = yard.state.jobs["a"]
    live.job = replace(live.job, **change)

    assert words(yard, planned(yard, hole_of("1x4"))) == expected


def test_a_gang_leaves_all_its_nodes_at_once():
    yard = yard_of("n1: AA..\nn2: AA..\nn3: BB..\nn4: CC..", checkpoints="a")

    assert words(yard, planned(yard, hole_of("2x4"))) == "n1 n2 | a→n3,n4"


def test_a_job_that_was_moved_lately_has_its_rest():
    yard = yard_of("n1: A...\nn2: BBB.", checkpoints="a")
    live = yard.state.jobs["a"]
    live.standing = replace(live.standing, moved_ms=yard.now_ms - 1_000)

    assert words(yard, planned(yard, hole_of("1x4"))) == "held 0"

    yard.state.policy = replace(yard.state.policy, move_rest_ms=1_000)

    assert words(yard, planned(yard, hole_of("1x4"))) == "n1 | a→n2"


def tree_of(yard: Yard, domains: dict[str, tuple[str, ...]]) -> Yard:
    for id, path in domains.items():
        yard.seen(id, domains=path)
    return yard.turn()


def test_a_hole_lies_within_one_domain_of_its_level():
    yard = yard_of("n1: A...\nn2: ....\nn3: B...\nn4: CC..")
    tree_of(yard, {"n1": ("x",), "n2": ("y",), "n3": ("x",), "n4": ("y",)})

    assert words(yard, planned(yard, hole_of("2x4", within="any"))) == "n1 n2 | a→n4"
    assert words(yard, planned(yard, hole_of("2x4", within="block"))) == "n1 n3 | a→n4 | b→n4"
    # a gang must be in one block unless it says otherwise, and so must a hole for one
    assert words(yard, planned(yard, hole_of("2x4"))) == "n1 n3 | a→n4 | b→n4"
    assert words(yard, planned(yard, hole_of("2x4", within="rack"))) == "no_level 0"
    assert words(yard, planned(yard, hole_of("2x2", within="node"))) == "n2 n2"


def asked(yard: Yard, hole: Hole) -> Yard:
    return yard.fact(ev.HoleAsked(hole)).turn()


def test_a_hole_is_made_and_the_destinations_are_promised_in_one_commit():
    yard = yard_of("n1: A...\nn2: B...")
    for id, ago_ms in (("a", 500), ("b", 700)):
        live = yard.state.jobs[id]
        live.standing = replace(live.standing, checkpoint_ms=yard.now_ms - ago_ms)
    asked(yard, hole_of("1x4", project="vision"))

    assert yard.decisions() == ["hole room-1 n1", "nominate a", "release a.1 moved 30000"]
    release = yard.last.decisions[-1]
    assert isinstance(release, ev.ReleaseAsked)
    assert (release.by, release.bill_gpu_ms) == ("room-1", 500 + 10 + 7_000)

    # nobody steals the hole, nor the place that was promised to the one who makes it
    yard.submit("d: 2", "c: 4", "e: 3").turn()
    assert yard.picture().splitlines()[:2] == ["n1: A...", "n2: B.DD"]
    yard.ended("a.1", code=143).settled().started("a.2").turn()
    assert yard.picture() == "n1: ....\nn2: BADD\nwaiting: c e"
    assert yard.state.settings.holes["room-1"].seats[0].node == "n1"


def test_a_hole_goes_to_the_first_who_asks_for_all_of_it():
    yard = asked(yard_of("n1: A...\nn2: B..."), hole_of("1x4", project="vision"))
    yard.fact(ev.ProjectSet(Project("vision"))).turn()
    yard.ended("a.1", code=143).settled()
    yard.submit("c: 4", "d: 2 project=vision", "e: 4 project=vision").turn()

    assert "bind e.1" in yard.decisions()
    assert "drop hole room-1 taken" in yard.decisions()
    assert yard.picture().splitlines()[0] == "n1: EEEE"
    assert not yard.state.settings.holes


def test_who_asks_while_the_hole_is_being_made_is_promised_it():
    yard = asked(yard_of("n1: A...\nn2: B..."), hole_of("1x4"))
    yard.submit("c: 4").turn()

    assert yard.decisions() == ["nominate c", "drop hole room-1 taken"]

    yard.ended("a.1", code=143).settled()
    assert yard.picture() == "n1: CCCC\nn2: BA.."


@pytest.mark.parametrize(
    ("after", "code"), [("time", "expired"), ("loss", "broken"), ("illness", "broken")]
)
def test_a_hole_that_cannot_be_kept_is_dropped(after, code):
    yard = yard_of("n1: ....\nn2: A...")
    asked(yard, hole_of("1x4", until_ms=yard.now_ms + 5_000))
    yard.turn()
    assert yard.controller.due_ms(yard.now_ms) == yard.state.settings.holes["room-1"].until_ms
    if after == "time":
        yard.turn(wait_ms=5_000)
    elif after == "loss":
        yard.lost("n1").turn()
    else:
        yard.seen("n1", healthy=~1).turn()

    assert f"drop hole room-1 {code}" in yard.decisions()
    assert yard.submit("b: 3").settled().phase("b") == "starting"


def test_a_hole_that_cannot_be_made_is_dropped_in_the_same_turn():
    yard = asked(yard_of("n1: A...\nn2: BBBB"), hole_of("1x4"))

    assert yard.decisions() == ["drop hole room-1 crowded"]


def test_a_hole_is_dropped_when_nobody_wants_it_any_more():
    yard = asked(yard_of("n1: ....\nn2: A..."), hole_of("1x4"))
    yard.submit("b: 4 project=default", "c: 3").turn()
    assert not yard.state.settings.holes  # b asked for all of it

    asked(yard, hole_of("1x1"))
    yard.fact(ev.SettingDropped("holes", "room-1", "ada")).turn()
    assert not yard.state.settings.holes


# -- moves on their way ----------------------------------------------------------------------------


def moving() -> Yard:
    """`a` is on its way from n1 to n2."""
    return asked(yard_of("n1: A...\nn2: B..."), hole_of("1x4"))


def test_a_job_that_moves_is_charged_once():
    yard = yard_of("n1: A...\nn2: B...").quota("default", 2).turn()
    asked(yard, hole_of("1x4"))

    assert yard.state.usage_milli["default"] == 2_000
    yard.submit("c: 1").turn()  # over quota, now and in between
    yard.ended("a.1", code=143).turn()
    yard.turn(wait_ms=0)
    assert yard.decisions() == ["bind a.2"]
    assert yard.picture().splitlines()[1] == "n2: BA.."


def test_a_job_that_is_stopped_while_it_moves_ends_and_its_promise_is_void():
    yard = moving().stop("a").turn()
    assert yard.decisions() == ["drop a"]

    yard.ended("a.1", code=143).settled()
    assert yard.phase("a") == "stopped: stop"
    assert not yard.state.nominations


def test_a_job_that_is_stopped_just_as_it_has_left_ends_once():
    yard = moving()
    yard.ended("a.1", code=143).stop("a").turn()

    assert yard.decisions() == ["end a stopped"]
    assert not yard.state.nominations


def test_a_destination_that_is_lost_leaves_the_job_waiting():
    yard = moving().lost("n2").turn()
    assert "drop a" in yard.decisions()

    yard.ended("a.1", code=143).settled()
    assert yard.state.jobs["a"].allocation is None
    assert yard.state.queue[0][1] == "a"


def test_a_source_that_is_lost_does_not_keep_the_job_from_its_place():
    yard = moving().lost("n1").settled()

    assert yard.state.allocations["a.2"].seats[0].node == "n2"


def test_a_move_survives_a_restart_of_the_controller():
    from madang.core.controller import Controller
    from madang.sim.world import picture, restored_from_rows

    yard = moving()
    before = picture(yard.state)
    yard.controller = Controller(restored_from_rows(yard.state))

    assert picture(yard.state) == before
    yard.ended("a.1", code=143).settled()
    assert yard.picture() == "n1: ....\nn2: BA.."
    assert yard.state.settings.holes["room-1"].seats[0].node == "n1"


def test_an_impossible_hole_in_a_yard_without_nodes_is_too_large():
    assert words(Yard(), planned(Yard(), hole_of("8x8"))) == "too_large 0"


def test_a_hole_of_a_model_takes_only_its_nodes():
    yard = yard_of("n1: .... model=L4\nn2: A... model=H100\nn3: .... model=H100 cordoned")
    hole = replace(hole_of("1x4"), shape=Shape(4, models=("H100",)))

    assert words(yard, planned(yard, hole)) == "n2 | a→n1"
    yard.fact(ev.NodeSeen(Node("n9", 4, 64_000, 1_024, "H100"))).turn()
    assert words(yard, planned(yard, hole)) == "n9"
