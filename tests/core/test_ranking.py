"""Scores kept from choice to choice, and what placement learns: the same as if made anew."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.check import InvariantBroken, check
from madang.core.codec import from_json, to_json
from madang.core.learning import PLACEMENTS, REFRESH_LEAST, Learner, leaning
from madang.core.model import Job, Node, Project, Shape
from madang.core.policy import Policy
from madang.core.ranking import best
from madang.core.restore import restored, with_recent
from madang.core.scoring.madang import unpriced
from madang.core.settings import Learned
from madang.core.state import State
from madang.wire.policy import Placement

SHAPES = (
    Shape(1, cpu_milli=4_000, memory_mib=100),
    Shape(2, cpu_milli=2_000),
    Shape(4, cpu_milli=30_000, models=("H100",)),
    Shape(1, 500, 1_000),
    Shape(1, 300, 9_000, models=("L4",)),
    Shape(0, cpu_milli=6_000),
    Shape(1, exclusive=True),
)
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, len(SHAPES) - 1), st.integers(0, 99)), max_size=24
)


def yard(placement: str, jobs: int = 0) -> State:
    """Six nodes of two models; placement has learned of so many jobs."""
    state = State()
    state.policy = replace(state.policy, placement=placement)
    state.apply(ev.ProjectSet(Project("default")), 0)
    for at in range(6):
        model = ("H100", "L4")[at % 2]
        node = Node(f"n{at}", (4, 8)[at // 3], 64_000, 1_000, model, domains=(f"l{at // 2}",))
        state.apply(ev.NodeSeen(node), 0)
    for number in range(1, jobs + 1):
        shape = replace(SHAPES[number % 5], exclusive=False)
        state.apply(ev.JobSubmitted(Job(f"j-{number}", number, "default", shape)), 0)
    return state


@settings(max_examples=60)
@given(st.sampled_from(PLACEMENTS), st.sampled_from((0, 70)), STEPS)
def test_what_is_kept_gives_the_same_node_as_what_is_made_anew(placement, jobs, steps):
    state = yard(placement, jobs)
    policy = state.view(0).scorer
    pools = [state.pool, state.pool.scratch().followed(state.pool)]
    taken: list[list[tuple[object, Shape]]] = [[], []]
    for kind, which, number in steps:
        at, shape = number % 2, SHAPES[which]
        pool = pools[at]
        rows = None
        if shape.models:
            rows = pool.model == state.models[shape.models[0]]
        if kind == 3:
            pool = pool.with_open(np.arange(pool.nodes) % 3 != number % 3)
        found = best(pool, policy, state.models, shape, rows)
        assert found == best(replace(pool, changes=None), policy, state.models, shape, rows)
        if found is not None and kind < 2:
            pools[at].take([found], shape)
            taken[at].append((found, shape))
        elif taken[at] and kind == 2:
            place, held = taken[at].pop(number % len(taken[at]))
            pools[at].give(place, held)


def test_a_long_list_of_changes_begins_anew_and_nothing_is_missed(monkeypatch):
    monkeypatch.setattr("madang.core.pool.CHANGES_MAX", 5)
    state = yard("madang")
    policy = state.view(0).scorer
    for _ in range(40):
        found = best(state.pool, policy, state.models, SHAPES[0])
        assert found == best(replace(state.pool, changes=None), policy, state.models, SHAPES[0])
        if found is None:
            break
        state.pool.take([found], SHAPES[0])
    assert found is None


def test_a_score_that_is_kept_wrongly_breaks_the_invariant():
    state = yard("madang", 1)
    assert best(state.pool, state.view(0).scorer, state.models, SHAPES[0]) is not None
    check(state)
    assert state.pool.changes is not None
    (kept,) = state.pool.changes.kept.values()
    kept.scores.value[3] += 1

    with pytest.raises(InvariantBroken, match="kept scores"):
        check(state)


@pytest.mark.parametrize("placement", ["madang", "fgd"])
@pytest.mark.parametrize("since", [0, 7])
def test_what_was_learned_is_read_again_from_its_row(placement, since):
    state = yard(placement, REFRESH_LEAST + since)
    (learned,) = state.settings.learned.values()
    assert learned.seq == REFRESH_LEAST
    row = from_json(Learned, to_json(learned))
    again = with_recent(
        restored([*state.nodes.values()], [], [], [], [], [state.policy, row]), state.learner.since
    )

    assert again.learner.madang.mix == state.learner.madang.mix
    assert again.learner.madang.rents == state.learner.madang.rents
    for shape in SHAPES:
        rows = state.pool.model == state.models[shape.models[0]] if shape.models else None
        before = best(state.pool, state.view(0).scorer, state.models, shape, rows)
        assert best(again.pool, again.view(0).scorer, again.models, shape, rows) == before


def test_a_policy_with_another_placement_learns_from_there_on():
    state = yard("madang", REFRESH_LEAST + 3)
    state.apply(ev.PolicySet(replace(state.policy, placement="fgd")), 1)

    (learned,) = state.settings.learned.values()
    assert learned.seq == REFRESH_LEAST + 3
    assert not state.learner.madang.mix.kinds
    assert not state.learner.since


def test_a_model_and_a_wider_node_that_come_later_have_a_price():
    state = yard("madang", REFRESH_LEAST)
    state.apply(ev.NodeSeen(Node("wide", 16, 640_000, 9_000, "B200")), 0)
    policy = state.view(0).scorer

    found = best(state.pool, policy, state.models, Shape(16))
    assert found == (6, tuple(range(16)))


def test_a_member_of_more_gpus_than_any_mix_has_is_placed_all_the_same():
    learner = Learner()
    learner.observe(Job("a", 1, "default", Shape(128)))
    assert not learner.madang.mix.kinds


def test_the_policy_file_knows_every_placement():
    assert set(get_args(Placement)) == set(PLACEMENTS)
    assert Policy("x").placement in PLACEMENTS


@pytest.mark.parametrize("looks", [(), (1,), (1, 80), (1, 80, 150)], ids=str)
def test_where_nothing_is_left_to_price_the_row_is_the_same_however_often_somebody_looked(looks):
    """Also that prices which stay are not made to lean once more."""
    state = yard("madang")
    for at in range(6):
        node = state.nodes[f"n{at}"].node
        state.apply(ev.NodeSeen(replace(node, healthy=0)), 0)
    rows = []
    for number in range(1, 2 * REFRESH_LEAST + 1):
        shape = replace(SHAPES[number % 5], exclusive=False)
        state.apply(ev.JobSubmitted(Job(f"j-{number}", number, "default", shape)), 0)
        if number in looks:
            state.snapshot(0)
        if number % REFRESH_LEAST == 0:
            rows.append(state.settings.learned["placement"].tables)

    assert rows == [rows[0], rows[0]]
    assert state.learner.madang.tables.group[0].tolist() == leaning(unpriced(8)).group[0].tolist()
