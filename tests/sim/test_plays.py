"""Plays by number: what no turn may do to those who wait, run or were promised something.

Together with the whole scenarios of test_seeds.py more than 5,000: docs/benchmarks/scenarios.md.
"""

from collections import Counter

import pytest

from madang.core.check_turns import (
    BUDGETS,
    CALENDAR,
    CELLS,
    GUARANTEES,
    QUEUE,
    STARVATION,
    VICTIMS,
)
from madang.sim.plays import KINDS, play

QUICK = 120
MANY = 4_000
AT_ONCE = 500
# Of so many plays at least these put a property to the test: eight times as many of all of them.
LEAST = {
    GUARANTEES: 50,
    STARVATION: 80,
    CELLS: 25,
    CALENDAR: 40,
    QUEUE: 60,
    BUDGETS: 50,
    VICTIMS: 150,
}


# Not mended yet: a window is placed anew each turn, one after the other, and a start elsewhere may
# change where an older one goes so that a younger one has no place. docs/benchmarks/scenarios.md.
KNOWN = (1255, 1459, 3931)


def test_a_play_breaks_nothing_and_some_of_each_kind_test_what_they_are_for():
    outcomes = [play(number) for number in range(QUICK)]
    tested = {
        kind: {name for one in outcomes if one.kind == kind for name, count in one.seen if count}
        for kind in KINDS
    }

    assert {GUARANTEES, CELLS, BUDGETS, VICTIMS} <= tested["tenants"]
    assert CALENDAR in tested["windows"]
    assert QUEUE in tested["heads"]
    assert STARVATION in tested["streams"]
    assert sum(one.moved_aside for one in outcomes) > 100


# An elastic gang in promised cells, and spot that took from a guarantee of its own project.
@pytest.mark.parametrize("number", [326, 418])
def test_a_play_that_once_broke_something_does_so_no_more(number):
    assert play(number).started


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, QUICK + MANY, AT_ONCE))
def test_many_plays_break_nothing_and_each_property_is_put_to_the_test(first):
    broken, tested = {}, Counter[str]()
    for number in range(first, first + AT_ONCE):
        try:
            tested.update(name for name, count in play(number).seen if count)
        except AssertionError as failure:
            broken[number] = f"{type(failure).__name__}: {failure}"

    known = {number for number in KNOWN if first <= number < first + AT_ONCE}
    said = "replay with: python -m madang.sim.plays --verbose --play NUMBER"
    assert broken.keys() == known, f"{said}; {broken}"
    assert all("in the way of a window" in broken[number] for number in known)
    assert {name: tested[name] for name in LEAST if tested[name] < LEAST[name]} == {}
