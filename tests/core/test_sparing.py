"""Sums, and what did not change, tell the same as placing windows anew."""

from random import Random

import pytest

from madang.core.filling import Due, Filling
from madang.core.model import Shape
from madang.core.pool import Pool
from madang.core.settings import Reservation
from madang.core.sparing import Sparing
from madang.core.windows import Places, Sites, Want
from tests.core.yard import Yard

SHAPES = (Shape(1), Shape(2), Shape(4), Shape(4), Shape(1, 500), Shape(2, cpu_milli=8_000))
Held = list[tuple[Places, Shape]]


def yard(random: Random) -> tuple[Sites, Pool]:
    nodes = range(random.randint(2, 8))
    models = [random.choice(("H100", "H100", "L4")) for _ in nodes]
    lines = [f"n{at}: .... model={models[at]} cpus=24 at=b0/l{at // 2}" for at in nodes]
    snapshot = Yard("\n".join(lines)).turn().state.snapshot(0)
    return Sites(snapshot), snapshot.pool.scratch()


def wants(random: Random, count: int) -> list[Want]:
    made = []
    for at in range(count):
        shape = random.choice(SHAPES)
        if random.random() < 0.3:
            shape = Shape(shape.gpus, shape.gpu_milli, models=("H100",))
        members = random.randint(1, 6)
        made.append(Want(Reservation(f"r{at}", "default", shape, members, at, 99), shape, members))
    return made


def held(random: Random, sites: Sites, pool: Pool) -> Held:
    """Who holds what, taken from the pool, in no order."""
    found: Held = []
    for want in wants(random, 30):
        places = sites.fit(pool, want)[:1]
        if places and random.random() < 0.8:
            pool.take(places, want.shape)
            found.append((places, want.shape))
    random.shuffle(found)
    return found


def give(pool: Pool, places: Places, shape: Shape) -> None:
    for place in places:
        pool.give(place, shape)


@pytest.mark.parametrize("seed", range(60))
def test_who_is_spared_is_who_windows_have_as_many_members_beside(seed):
    random = Random(seed)
    sites, pool = yard(random)
    asked, wanted = held(random, sites, pool), wants(random, random.randint(1, 4))
    for places, shape in asked:
        give(pool, places, shape)
    plain = pool.scratch()
    sparing = Sparing(sites, pool, wanted)

    for places, shape in asked:
        before = [len(some) for some in sites.in_turn(plain, wanted)]
        plain.take(places, shape)
        anew = sites.in_turn(plain, wanted)
        spared = [len(some) for some in anew] >= before
        if not spared:
            give(plain, places, shape)

        assert sparing.stays(places, shape) == spared
        assert sparing.found == sites.in_turn(plain, wanted)


@pytest.mark.parametrize("seed", range(60))
def test_windows_are_at_each_time_where_they_would_be_if_placed_anew(seed):
    random = Random(seed)
    sites, pool = yard(random)
    there, wanted = held(random, sites, pool), wants(random, 8)
    plain = pool.scratch()
    due = [Due(at // 2, places, shape) for at, (places, shape) in enumerate(there)]
    filling = Filling(sites, pool, due)

    for at_ms in range(len(there) // 2 + 2):
        for one in due:
            if one.at_ms == at_ms:
                give(plain, one.places, one.shape)
        opened = [want for at, want in enumerate(wanted) if at <= at_ms < at + 2 + at % 5]
        filling.until(at_ms)

        assert filling.in_turn(opened) == sites.in_turn(plain, opened)
        for want in opened:
            assert filling.has_room(want) == (len(sites.fit(plain, want)) == want.members)


def test_many_whole_devices_are_taken_as_one_by_one():
    random = Random(0)
    sites, pool = yard(random)
    places = sites.fit(pool, Want(Reservation("r", "default", Shape(1), 32, 0, 1), Shape(1), 32))
    shape, other = Shape(1, cpu_milli=1_000, memory_mib=7), pool.scratch()
    assert len(places) >= 16

    pool.take(places, shape)
    for place in places:
        other.take((place,), shape)

    for name in ("gpu_free", "whole_free", "cpu_free", "memory_free", "tenants"):
        assert (getattr(pool, name) == getattr(other, name)).all(), name
