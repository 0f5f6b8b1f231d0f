"""The search for the cheapest holders to move aside, held against trying every set of them."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core.clearing import NO_LIMITS, Field, Gang, Limits, cheapest_on_one
from madang.core.model import Shape
from madang.core.placement import members_room
from madang.core.pool import Place, Pool, empty_pool, widened

GPUS = 4
GANG_FACTOR = 1.5  # a gang's victims cost at most so many times the optimum; hardly ever more


@dataclass(frozen=True)
class Stays:
    cost: int
    shape: Shape
    places: tuple[Place, ...]


def pool_of(nodes: int, cpus: int = 64_000) -> Pool:
    pool = widened(empty_pool(), nodes=nodes, gpus=GPUS, levels=1)
    pool.gpu_free[:] = 1000
    pool.whole_free[:] = pool.gpu_count[:] = pool.gpu_usable[:] = GPUS
    pool.cpu_free[:] = pool.cpu_total[:] = cpus
    pool.memory_free[:] = pool.memory_total[:] = 1 << 20
    pool.open[:] = True
    return pool


@st.composite
def yards(draw, gangs=True):
    """A pool in which somebody sits, and who of them could leave."""
    pool = pool_of(draw(st.integers(1, 4)), cpus=draw(st.sampled_from((64_000, 6_000))))
    holders = []
    for _ in range(draw(st.integers(1, 8))):
        share = draw(st.sampled_from((1000, 1000, 1000, 500, 300)))
        gpus = draw(st.integers(1, GPUS)) if share == 1000 else 1
        shape = Shape(gpus, share, cpu_milli=draw(st.sampled_from((0, 1000))) * gpus)
        places = []
        for row in draw(st.lists(st.integers(0, pool.nodes - 1), min_size=1, max_size=3)):
            free = [gpu for gpu in range(GPUS) if pool.gpu_free[row, gpu] >= share]
            if len(free) < gpus or pool.cpu_free[row] < shape.cpu_milli:
                continue
            place = (row, tuple(free[:gpus]))
            pool.take([place], shape)
            places.append(place)
            if not gangs:
                break
        if places:
            holders.append(Stays(draw(st.integers(1, 60)), shape, tuple(places)))
    for row in range(pool.nodes):  # some of what is left is taken by those who stay
        free = [gpu for gpu in range(GPUS) if pool.gpu_free[row, gpu] == 1000]
        pool.take([(row, tuple(free[: draw(st.integers(0, GPUS))]))], Shape(1))
    active = np.array([draw(st.integers(0, 5)) > 0 for _ in holders], np.bool_)
    return pool, holders, active


def shapes():
    return st.one_of(
        st.builds(Shape, st.integers(1, GPUS), cpu_milli=st.sampled_from((0, 2000))),
        st.builds(Shape, st.just(1), st.sampled_from((200, 500, 700))),
        st.builds(Shape, st.just(0), cpu_milli=st.sampled_from((1000, 4000))),
    )


def has_room(field: Field, pool: Pool, who, shape: Shape, members: int) -> bool:
    room = np.minimum(members_room(field.gone(pool, who), shape), members)
    return int(room.sum()) >= members


def price(holders, who) -> int:
    return sum(holders[number].cost for number in who)


def cheapest_by_trying(field, pool, holders, active, shape, members, limits=NO_LIMITS):
    """The least cost of any set of active holders that makes room, None if none does."""
    numbers = np.flatnonzero(active).tolist()
    found = [
        price(holders, who)
        for size in range(len(numbers) + 1)
        for who in combinations(numbers, size)
        if limits.allows(who) and has_room(field, pool, who, shape, members)
    ]
    return min(found) if found else None


def all_rows(pool: Pool):
    return np.ones(pool.nodes, np.bool_)


@settings(max_examples=600, deadline=None)
@given(yards(), shapes(), st.integers(0, 4))
def test_for_one_member_the_cheapest_leave_and_nobody_breaks_a_limit(yard, shape, most):
    pool, holders, active = yard
    field = Field(holders)
    # All are under one limit; each third is under another one, which allows one less, too.
    counts = {
        number: [(0, 1 + number % 2), *([(1, 1)] if number % 3 == 0 else [])]
        for number in range(len(holders))
    }
    if not holders or has_room(field, pool, (), shape, 1):
        return
    for limits in (NO_LIMITS, Limits(counts, (most, max(0, most - 1)))):
        who = cheapest_on_one(field, pool, active, shape, all_rows(pool), limits)
        best = cheapest_by_trying(field, pool, holders, active, shape, 1, limits)

        assert (price(holders, who) if who else None) == best
        assert all(active[number] for number in who)
        assert limits.allows(who)
        assert not who or has_room(field, pool, who, shape, 1)


@settings(max_examples=600, deadline=None)
@given(yards(), shapes(), st.integers(2, 5))
def test_a_gang_gets_room_whenever_there_is_some_to_be_made_and_nobody_leaves_in_vain(
    yard, shape, members
):
    pool, holders, active = yard
    field = Field(holders)
    if not holders or has_room(field, pool, (), shape, members):
        return
    gang = Gang(field, pool, active, shape, members)
    who = gang.cheapest(all_rows(pool))
    best = cheapest_by_trying(field, pool, holders, active, shape, members)

    assert bool(who) == (best is not None)
    if best is None:
        return
    assert has_room(field, pool, who, shape, members)
    for number in who:
        assert active[number]
        assert not has_room(field, pool, [n for n in who if n != number], shape, members)
    assert gang.least_cost(all_rows(pool)) <= best <= price(holders, who) <= GANG_FACTOR * best


@settings(max_examples=300, deadline=None)
@given(yards(gangs=False), st.integers(1, GPUS), st.integers(2, 5))
def test_among_those_who_sit_on_one_node_each_a_gang_takes_the_cheapest(yard, gpus, members):
    pool, holders, active = yard
    if any(holder.shape.gpu_milli != 1000 for holder in holders):
        return
    field, shape = Field(holders), Shape(gpus)
    if not holders or has_room(field, pool, (), shape, members):
        return
    who = Gang(field, pool, active, shape, members).cheapest(all_rows(pool))
    best = cheapest_by_trying(field, pool, holders, active, shape, members)

    assert (price(holders, who) if who else None) == best


def test_of_many_who_share_a_node_the_cheapest_make_room():
    pool = pool_of(1)
    holders = []
    for number in range(GPUS * 5):  # more than all choices can be tried of
        place = (0, (number // 5,))
        pool.take([place], Shape(1, 200))
        holders.append(Stays(10 + number % 7, Shape(1, 200), (place,)))
    field, active = Field(holders), np.ones(GPUS * 5, np.bool_)

    who = cheapest_on_one(field, pool, active, Shape(2), all_rows(pool))
    devices = [sum(h.cost for h in holders[at * 5 : at * 5 + 5]) for at in range(GPUS)]
    assert price(holders, who) == sum(sorted(devices)[:2])
    who = cheapest_on_one(field, pool, active, Shape(1, 200), all_rows(pool))
    assert price(holders, who) == 10


@pytest.mark.parametrize("gpus", [1, GPUS])
def test_nobody_leaves_a_node_that_takes_no_more(gpus):
    pool = pool_of(2)
    holders = [
        Stays(1, Shape(GPUS), ((0, (0, 1, 2, 3)),)),
        Stays(9, Shape(GPUS), ((1, (0, 1, 2, 3)),)),
    ]
    for holder in holders:
        pool.take(holder.places, holder.shape)
    pool.open[0] = False

    assert cheapest_on_one(
        Field(holders), pool, np.ones(2, np.bool_), Shape(gpus), all_rows(pool)
    ) == [1]
