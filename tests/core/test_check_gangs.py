"""The check of a gang at its binding finds each hard term that is broken."""

from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.check import InvariantBroken, check, check_binding
from tests.core.yard import Yard

YARD = """n0: .... at=b0/l0
          n1: .... at=b0/l1
          n2: .... at=b1/l2"""


@pytest.mark.parametrize(
    ("job", "torn"),
    [
        ("b: 2x1", ("n0", "n2")),  # the default: one block
        ("b: 2x1 within=leaf", ("n0", "n1")),
        ("b: 4x1 segments=node:2", ("n0", "n1", "n0", "n1")),
        ("b: 4x1 segments=leaf:4", ("n0", "n0", "n0", "n1")),
        ("b: 2x1 switches=1", ("n0", "n1")),
    ],
)
def test_a_gang_that_breaks_a_hard_term_is_found(job, torn):
    yard = Yard(YARD).submit(job).turn()
    allocation = yard.state.allocations["b.1"]
    check_binding(yard.state, allocation)
    seats = tuple(
        replace(seat, node=node) for seat, node in zip(allocation.seats, torn, strict=True)
    )

    with pytest.raises(InvariantBroken):
        check_binding(yard.state, replace(allocation, seats=seats))


def test_a_node_that_the_pool_places_elsewhere_is_found():
    yard = Yard(YARD)
    check(yard.state)

    yard.state.pool.domains[1] = yard.state.pool.domains[2]

    with pytest.raises(InvariantBroken, match="domains"):
        check(yard.state)


def test_a_wait_for_few_switches_that_is_not_known_is_found():
    yard = Yard(YARD.replace("....", "AAAA")).submit("b: 2x1 switches=1 wait_s=60").turn()
    check(yard.state)

    yard.state.insisting.clear()

    with pytest.raises(InvariantBroken, match="insisting"):
        check(yard.state)


def test_a_gang_that_runs_short_and_is_not_known_is_found():
    yard = Yard("n0: .. at=b0/l0").submit("b: 4x1 min=1 checkpoints=1").turn()
    yard.started("b.1").turn()
    assert list(yard.state.short) == ["b.1"]

    yard.fact(ev.JobRequeueAsked("b")).turn()
    assert not yard.state.short
    yard.state.short["b.1"] = None

    with pytest.raises(InvariantBroken, match="short"):
        check(yard.state)
