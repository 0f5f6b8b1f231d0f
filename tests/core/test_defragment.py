"""Tidying up at night: which moves pay, which do not, and what may never be exceeded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.draft import Draft
from madang.core.model import Allocation, ReleaseReason, Seat
from madang.core.night import DEFRAGMENT, NEVER_MS, is_due, next_look_ms, night_begin_ms
from madang.core.passes.defragment import defragment
from madang.core.policy import Policy
from madang.core.settings import DisruptionBudget, Night
from madang.core.snapshot import Snapshot
from madang.core.typical import typical_requests, unusable, unusable_milli
from tests.core.test_make_room import yard_of
from tests.core.yard import Yard

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
# The yard's clock stands at 00:16:40.
NIGHT = Policy("night", night_begin_ms=0, night_end_ms=HOUR_MS, move_horizon_ms=8 * HOUR_MS)


def moves_of(yard: Yard) -> list[str]:
    """`a→n2` for each job that the last turn moved."""
    to = {d.job: d.seats[0].node for d in yard.last.decisions if isinstance(d, ev.JobNominated)}
    return [
        f"{event.allocation.partition('.')[0]}→{to[event.allocation.partition('.')[0]]}"
        for event in yard.last.decisions
        if isinstance(event, ev.ReleaseAsked) and event.reason is ReleaseReason.MOVED
    ]


def tidied(picture: str, policy: Policy = NIGHT, **options: str) -> list[str]:
    yard = yard_of(picture, policy=policy, **options)
    return moves_of(yard.turn())


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        # a request for four, which runs, says that four are asked for: two halves make a whole
        ("n1: A...\nn2: B...\nn3: CCCC", ["a→n2"]),
        ("n1: AB..\nn2: CD..\nn3: EEEE", ["a→n2", "b→n2"]),
        # whoever leaves last makes the hole: all three move or none
        ("n1: ABC.\nn2: D...\nn3: EEEE", ["d→n1"]),
        # nobody asks for more than one: nothing is lost, nobody moves
        ("n1: A...\nn2: B...", []),
        # nobody asks for four
        ("n1: AA..\nn2: BB..\nn3: CC..", []),
        # it would only move the gap
        ("n1: AAA.\nn2: BBB.\nn3: CCCC", []),
        ("n1: AA..\nn2: BBB.\nn3: CCCC", []),
        # closed nodes are no place to go
        ("n1: A...\nn2: B...  cordoned\nn3: CCCC", []),
    ],
)
def test_a_move_is_made_if_more_gpus_can_be_used_after_it(picture, expected):
    assert tidied(picture) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ["a→n2"]),
        ({"night_end_ms": 0}, []),  # no night at all
        ({"night_begin_ms": 20 * MINUTE_MS}, []),  # it has not begun
        ({"utc_offset_ms": HOUR_MS}, []),  # an hour further east it is over
        ({"night_begin_ms": 23 * HOUR_MS}, ["a→n2"]),  # since yesterday evening
        ({"move_horizon_ms": 1}, []),  # gains that do not last do not pay
        ({"move_gain_pct": 1_000_000_000}, []),
        ({"night_gpu_ms": 7_009}, []),  # ten ms since the checkpoint, and the restart
        ({"night_gpu_ms": 7_010}, ["a→n2"]),
        ({"run_ms_min": HOUR_MS}, []),
    ],
)
def test_the_policy_says_when_and_how_much(change, expected):
    assert tidied("n1: A...\nn2: B...\nn3: CCCC", replace(NIGHT, **change)) == expected


@pytest.mark.parametrize(("down_max", "expected"), [(0, []), (1, []), (2, ["a→n2"]), (3, ["a→n2"])])
def test_no_move_takes_more_down_than_a_disruption_budget_allows(down_max, expected):
    """One of those under the budget is down already: it waits."""
    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC", policy=NIGHT)
    yard.fact(ev.BudgetSet(DisruptionBudget("few", "default", down_max)))
    yard.state.jobs["a"].job = replace(yard.state.jobs["a"].job, budget="few")
    yard.state.jobs["b"].job = replace(yard.state.jobs["b"].job, checkpoints=False)
    waiting = replace(yard.job("d: 8"), budget="few")
    yard.state.apply(ev.BudgetSet(DisruptionBudget("few", "default", down_max)), yard.now_ms)
    yard.state.apply(ev.JobSubmitted(waiting), yard.now_ms)

    assert moves_of(yard.turn()) == expected


def test_who_does_not_checkpoint_stays():
    assert tidied("n1: A...\nn2: B...\nn3: CCCC", checkpoints="c") == []
    assert tidied("n1: A...\nn2: B...\nn3: CCCC", checkpoints="b") == ["b→n1"]


def test_a_job_that_ends_soon_is_not_moved():
    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC", policy=NIGHT)
    for id in "ab":
        yard.state.jobs[id].job = replace(yard.state.jobs[id].job, estimate_ms=2_000)

    assert moves_of(yard.turn()) == []


def test_the_dearer_is_left_where_it_is():
    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC", policy=NIGHT)
    yard.state.jobs["a"].job = replace(yard.state.jobs["a"].job, restart_ms=MINUTE_MS)

    assert moves_of(yard.turn()) == ["b→n1"]


def test_no_more_are_under_way_than_allowed_and_the_rest_follow():
    picture = "\n".join(f"n{n}: {letter}..." for n, letter in enumerate("ABCDEF"))
    yard = yard_of(f"{picture}\nn9: GGGG", policy=replace(NIGHT, moves_at_once=1))
    moved = []
    for _ in range(12):
        yard.turn(wait_ms=MINUTE_MS)
        moved += moves_of(yard)
        for id, held in list(yard.state.allocations.items()):
            if held.release_reason is ReleaseReason.MOVED:
                yard.ended(id, code=143)
        yard.settled()
        for id, held in list(yard.state.allocations.items()):
            if not held.started:
                yard.started(id)
        yard.turn(wait_ms=1)

    assert len(moved) == len(set(moved)) == 4  # six jobs on four-GPU nodes need two
    free = yard.picture().count("....")
    assert free == 4, yard.picture()


def test_what_a_night_has_cost_is_counted_and_the_next_begins_anew():
    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC", policy=NIGHT).turn()
    begin_ms = yard.now_ms - yard.now_ms % DAY_MS

    assert yard.state.settings.nights[DEFRAGMENT] == Night(DEFRAGMENT, begin_ms, 1, 7_010)

    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC", policy=replace(NIGHT, night_gpu_ms=10_000))
    yard.state.settings.put(Night(DEFRAGMENT, begin_ms, 9, 2_991))
    assert moves_of(yard.turn()) == []
    yard.now_ms += DAY_MS
    for id in "abc":
        yard.fact(ev.CheckpointSaved(id, yard.now_ms))
    assert moves_of(yard.turn()) == ["a→n2"]


def test_the_controller_comes_back_by_itself_when_the_night_begins():
    policy = replace(NIGHT, night_begin_ms=2 * HOUR_MS, night_end_ms=3 * HOUR_MS)
    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC", policy=policy).turn()
    assert moves_of(yard) == []

    due_ms = yard.controller.due_ms(yard.now_ms)
    assert due_ms == 2 * HOUR_MS
    yard.now_ms = due_ms - 1
    assert moves_of(yard.turn(wait_ms=1)) == ["a→n2"]


@pytest.mark.parametrize(
    ("begin", "end", "offset", "now", "begun"),
    [
        (2, 6, 0, 3, 2),
        (2, 6, 0, 2, 2),
        (2, 6, 0, 6, None),
        (2, 6, 0, 1, None),
        (22, 4, 0, 23, 22),
        (22, 4, 0, 27, 22),  # three in the morning of the next day
        (22, 4, 0, 12, None),
        (2, 6, 9, 19, 17),  # four in the morning in Seoul
        (2, 6, -5, 7, 7),
        (3, 3, 0, 3, None),
    ],
)
def test_the_hour_of_the_night(begin, end, offset, now, begun):
    policy = Policy(
        "t",
        night_begin_ms=begin * HOUR_MS,
        night_end_ms=end * HOUR_MS,
        utc_offset_ms=offset * HOUR_MS,
    )
    found = night_begin_ms(policy, 10 * DAY_MS + now * HOUR_MS)

    assert found == (NEVER_MS if begun is None else 10 * DAY_MS + begun * HOUR_MS)


hours = st.integers(0, 47).map(lambda half: half * HOUR_MS // 2)


@given(hours, hours, st.integers(-24, 24), st.integers(0, 3 * DAY_MS), st.integers(0, DAY_MS))
def test_it_is_looked_for_once_a_slot_and_only_at_night(begin, end, offset, now, ago):
    policy = Policy(
        "t", night_begin_ms=begin, night_end_ms=end, utc_offset_ms=offset * HOUR_MS // 2
    )
    now += 5 * DAY_MS
    looked = now - ago
    next_ms = next_look_ms(policy, looked, now)
    if begin == end:
        assert next_ms == NEVER_MS
        return
    assert next_ms >= now
    assert (next_ms == now) == is_due(policy, looked, now)
    assert night_begin_ms(policy, next_ms) != NEVER_MS
    assert is_due(policy, min(looked, now), next_ms)
    assert not is_due(policy, next_ms, next_ms)


# -- what holds whatever the yard looks like -------------------------------------------------------

cells = st.lists(st.sampled_from("ABCDEFGHIJKLMNOP....."), min_size=4, max_size=4)


@st.composite
def yards(draw):
    """Four-GPU nodes; a letter is one job, wherever it stands: a gang if on several nodes."""
    rows = []
    for n in range(draw(st.integers(2, 6))):
        row = sorted(draw(cells))
        rows.append(f"n{n}: {''.join(row)}{draw(st.sampled_from(['', '', '', ' cordoned']))}")
    return "\n".join(_equal_members(rows))


def _equal_members(rows: list[str]) -> list[str]:
    """Members of a gang are equal: a letter with unequal counts is one job per node instead."""
    fresh = iter("abcdefghijklmnopqrstuvwxyz".upper()[::-1])
    counts: dict[str, set[int]] = {}
    for row in rows:
        for letter in set(row.partition(" ")[2]) & set("ABCDEFGHIJKLMNOP"):
            counts.setdefault(letter, set()).add(row.count(letter))
    found = []
    for row in rows:
        unequal = {letter for letter, sizes in counts.items() if len(sizes) > 1 and letter in row}
        table = {ord(letter): next(fresh, ".") for letter in sorted(unequal)}
        found.append(row.translate(table))
    return found


policies = st.builds(
    replace,
    st.just(NIGHT),
    moves_at_once=st.integers(1, 6),
    night_gpu_ms=st.sampled_from([10_000, 100_000, 10_000_000]),
    move_gain_pct=st.sampled_from([100, 300]),
    move_horizon_ms=st.sampled_from([MINUTE_MS, HOUR_MS]),
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(yards(), policies, st.integers(1, 4))
def test_no_move_that_does_not_pay_and_no_budget_is_broken(picture, policy, waiting):
    yard = yard_of(picture, policy=policy, checkpoints="abcdefghijklmnop")
    yard.submit(f"want: {waiting}")
    yard.state.apply(yard.facts.pop(), yard.now_ms)
    snapshot = yard.state.snapshot(yard.now_ms)
    draft = Draft(snapshot)
    defragment(draft)

    asked = [d for d in draft.decisions if isinstance(d, ev.ReleaseAsked)]
    promised = {d.job: d.seats for d in draft.decisions if isinstance(d, ev.JobNominated)}
    bill = sum(event.bill_gpu_ms for event in asked)
    assert len(asked) == len(promised) <= policy.moves_at_once
    assert bill <= policy.night_gpu_ms
    gain = _drop(snapshot, [snapshot.allocations[event.allocation] for event in asked], promised)
    worth = gain * policy.move_horizon_ms // 1000
    assert worth * 100 >= policy.move_gain_pct * bill
    assert not asked or gain > 0


def _drop(
    snapshot: Snapshot, moved: list[Allocation], promised: dict[str, tuple[Seat, ...]]
) -> int:
    """How much less idle GPU-milli typical requests could not use, all moves done: from scratch."""
    draft, pool = Draft(snapshot), snapshot.pool.scratch()
    for allocation in moved:
        pool.take(draft.places_of(promised[allocation.job]), allocation.shape)
    for allocation in moved:
        for one in draft.held_places(allocation):
            pool.give(one, allocation.shape)
    typical, rows = typical_requests(snapshot), np.arange(pool.nodes)
    drop = unusable(snapshot.pool, rows, typical) - unusable(pool, rows, typical)
    return int(drop.sum()) // typical.weight


def test_what_is_lost_to_typical_requests_is_fgds_measure():
    yard = yard_of("n1: A...\nn2: B...\nn3: CCCC")
    # Two ask for one GPU, one for four: a third of the six idle GPUs is lost.
    assert unusable_milli(yard.state.snapshot(yard.now_ms)) == (2_000, 6_000)
