"""Placement and the pool as properties over random little clusters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.model import Node, Shape
from madang.core.placement import (
    Unplaced,
    could_hold,
    eligible_rows,
    members_room,
    place,
    room_for_one,
    room_when_empty,
)
from madang.core.policy import DEFAULT
from madang.core.pool import MOVING, Pool, empty_pool, widened
from madang.core.state import State
from tests.core.yard import Yard

NODES = st.lists(
    st.tuples(
        st.integers(0, 8),  # devices
        st.integers(0, 255),  # healthy
        st.integers(0, 16),  # CPUs
        st.sampled_from(["H100", "L4"]),
        st.booleans(),  # cordoned
    ),
    max_size=6,
)
SHAPES = st.one_of(
    st.builds(Shape, gpus=st.integers(0, 8), cpu_milli=st.integers(0, 9_000)),
    st.builds(Shape, gpus=st.just(1), gpu_milli=st.integers(1, 1000)),
)
GANGS = st.lists(st.tuples(SHAPES, st.integers(1, 9)), min_size=1, max_size=8)


def pool_of(nodes) -> Pool:
    state = State()
    for index, (gpus, healthy, cpus, model, cordoned) in enumerate(nodes):
        node = Node(f"n{index}", gpus, cpus * 1000, 1024, model, healthy=healthy)
        state.apply(ev.NodeSeen(node), 0)
        state.apply(ev.NodeCordoned(node.id, cordoned), 0)
    return state.pool.scratch()


def filled(nodes, gangs) -> Pool:
    pool = pool_of(nodes)
    for shape, members in gangs:
        places = place(pool, shape, members)
        if not isinstance(places, Unplaced):
            pool.take(places, shape)
    return pool


@given(NODES, GANGS)
def test_a_gang_is_placed_whole_or_not_at_all_and_only_where_there_is_room(nodes, gangs):
    pool = pool_of(nodes)
    for shape, members in gangs:
        before = pool.scratch()
        places = place(pool, shape, members)
        assert all(np.array_equal(getattr(pool, name), getattr(before, name)) for name in MOVING)
        if isinstance(places, Unplaced):
            room = np.minimum(members_room(pool, shape), members)
            assert places.room == room.sum() or members == 1
            assert room.sum() < members
            continue
        assert len(places) == members
        pool.take(places, shape)  # asserts that each device was free
        for row, gpus in places:
            assert len(set(gpus)) == shape.gpus
            assert pool.open[row]
            assert all(nodes[row][1] >> gpu & 1 for gpu in gpus)
        assert (pool.gpu_free >= 0).all()
        assert (pool.cpu_free >= 0).all() or not shape.cpu_milli
        assert np.array_equal(pool.whole_free, (pool.gpu_free == 1000).sum(axis=1))


@given(NODES, GANGS, SHAPES, st.integers(1, 9), st.integers(0, 6))
def test_a_free_node_more_never_unplaces(nodes, gangs, shape, members, at):
    pool = filled(nodes, gangs)
    placed = place(pool, shape, members)

    larger = pool_of([*nodes, (8, 255, 16, "H100", False)])
    for name in MOVING:
        rows = getattr(pool, name)
        if name == "gpu_free":
            larger.gpu_free[: rows.shape[0], : rows.shape[1]] = rows
        else:
            getattr(larger, name)[: len(rows)] = rows
    if not isinstance(placed, Unplaced):
        assert not isinstance(place(larger, shape, members), Unplaced)


@given(NODES, GANGS)
def test_what_was_taken_is_given_back_to_the_last_share(nodes, gangs):
    pool = pool_of(nodes)
    empty = pool.scratch()
    taken = []
    for shape, members in gangs:
        places = place(pool, shape, members)
        if not isinstance(places, Unplaced):
            pool.take(places, shape)
            taken += [(one, shape) for one in places]

    for one, shape in taken:
        pool.give(one, shape)

    assert all(np.array_equal(getattr(pool, name), getattr(empty, name)) for name in MOVING)


@given(NODES, GANGS)
def test_a_scratch_is_its_own_and_a_frozen_pool_is_read_only(nodes, gangs):
    pool = pool_of(nodes)
    frozen = pool.frozen()
    scratch = frozen.scratch()
    for shape, members in gangs:
        places = place(scratch, shape, members)
        if not isinstance(places, Unplaced):
            scratch.take(places, shape)

    assert all(np.array_equal(getattr(pool, name), getattr(frozen, name)) for name in MOVING)
    assert not any(getattr(frozen, name).flags.writeable for name in (*MOVING, "open"))


@given(NODES, SHAPES, st.integers(1, 9))
def test_what_fits_in_the_empty_open_nodes_is_what_can_be_placed_there(nodes, shape, members):
    pool = pool_of(nodes)

    placed = place(pool, shape, members)

    fits = room_when_empty(pool, shape, members) >= members
    assert fits is not isinstance(placed, Unplaced)
    assert could_hold(pool, pool.gpu_usable, shape, members, pool.open) is fits


@given(NODES, GANGS, SHAPES)
def test_there_is_room_for_one_exactly_where_there_is_room_for_some(nodes, gangs, shape):
    pool = filled(nodes, gangs)

    assert (room_for_one(pool, shape) == (members_room(pool, shape) > 0)).all()


@given(NODES, SHAPES, st.integers(2, 9))
def test_a_gang_of_whole_devices_takes_the_fewest_nodes(nodes, shape, members):
    pool = pool_of(nodes)
    placed = place(pool, shape, members)
    if isinstance(placed, Unplaced):
        return

    room = sorted(np.minimum(members_room(pool, shape), members).tolist(), reverse=True)
    fewest = next(count for count in range(1, 9) if sum(room[:count]) >= members)
    assert len({row for row, _ in placed}) == fewest


@given(NODES)
def test_only_rows_of_the_models_are_eligible(nodes):
    pool = pool_of(nodes)
    codes: dict[str, int] = {}
    for row, node in enumerate(nodes):
        codes.setdefault(node[3], int(pool.model[row]))

    assert eligible_rows(pool, ()) is None
    for model, code in codes.items():
        rows = eligible_rows(pool, (code,))
        assert rows is not None
        assert rows.tolist() == [node[3] == model for node in nodes]
    both = eligible_rows(pool, (*codes.values(), -1))
    assert both is not None
    assert both.all()


def test_an_empty_pool_places_nothing_and_grows():
    assert place(empty_pool(), Shape(1), 1) == Unplaced(0, 0)
    assert place(empty_pool(), Shape(1), 2) == Unplaced(0, 0)

    wide = widened(empty_pool(), nodes=2, gpus=8, levels=1)
    assert wide.nodes == 2
    assert wide.gpu_free.shape == (2, 8)


def test_a_large_gang_takes_whole_nodes_and_the_fullest_rest():
    pool = pool_of([(8, 255, 16, "H100", False)] * 5)
    pool.take([(3, (0, 1, 2, 3))], Shape(4))

    placed = place(pool, Shape(2), 13)
    assert not isinstance(placed, Unplaced)
    assert [row for row, _ in placed] == [0] * 4 + [1] * 4 + [2] * 4 + [3]


@pytest.mark.parametrize("placement", ["fullest", "madang"])
def test_a_small_job_does_not_break_an_empty_node(placement):
    yard = Yard("n1: ....\nn2: AA..")
    yard.fact(ev.PolicySet(replace(DEFAULT, placement=placement))).submit("b: 1").turn()

    assert yard.picture() == "n1: ....\nn2: AAB."
