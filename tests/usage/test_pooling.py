"""What pooling frees, on examples whose answer is known, and what holds of any demand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.model import Allocation, AllocationState, Exit, Job, Node, Project, Seat, Shape
from madang.core.usage.books import Books
from madang.core.usage.pooling import (
    Demand,
    advise,
    needed_milli,
    peak_milli,
    pool_need,
    waits_ms,
)

HOUR = 3_600_000


def demands(*stays: tuple[int, int, int]) -> list[Demand]:
    """(hour, GPUs, hours) of each."""
    return [Demand(at * HOUR, gpus * 1000, hours * HOUR) for at, gpus, hours in stays]


@pytest.mark.parametrize(
    ("zones", "alone", "together"),
    [
        ({"a": demands((0, 8, 4)), "b": demands((5, 8, 4))}, [8, 8], 8),
        ({"a": demands((0, 8, 4)), "b": demands((1, 8, 4))}, [8, 8], 16),
        ({"a": demands((0, 8, 4)), "b": []}, [8, 0], 8),
        ({"a": demands((0, 4, 9), (1, 4, 1)), "b": demands((3, 4, 1))}, [8, 4], 8),
    ],
)
def test_a_pool_needs_the_peak_of_the_sum_and_zones_the_sum_of_their_peaks(zones, alone, together):
    found = pool_need("H100", zones, {"a": 8000, "b": 8000}, (0, 100))

    assert [zone.needs_milli // 1000 for zone in found.zones] == alone
    assert found.needs_milli // 1000 == together
    assert found.freed_milli // 1000 == sum(alone) - together


def test_a_job_that_may_wait_an_hour_needs_no_gpus_of_its_own():
    busy = demands((0, 4, 1), (0, 4, 1))

    assert needed_milli(busy, 0, 100) == 8_000
    assert needed_milli(busy, HOUR, 100) == 4_000
    assert needed_milli(busy, 0, 50) == 4_000
    assert waits_ms(busy, 4_000) == [0, HOUR]


def test_waiting_is_saved_where_one_zone_is_full_and_the_other_empty():
    zones = {"full": demands((0, 8, 2), (0, 8, 2)), "idle": []}
    found = pool_need("H100", zones, {"full": 8_000, "idle": 8_000}, (0, 100))

    assert found.wait_saved_ms == 2 * HOUR
    assert found.zones[0].wait_alone_ms == 2 * HOUR
    assert found.zones[0].wait_pooled_ms == 0


STAYS = st.lists(
    st.builds(
        Demand,
        arrived_ms=st.integers(0, 50),
        milli=st.sampled_from((250, 1_000, 2_000, 8_000)),
        ran_ms=st.integers(1, 30),
    ),
    max_size=20,
).map(lambda stays: sorted(stays, key=lambda stay: stay.arrived_ms))


@given(STAYS, STAYS)
def test_with_no_waiting_allowed_pooling_never_needs_more_and_never_less_than_the_larger(a, b):
    found = pool_need("H100", {"a": a, "b": b}, {}, (0, 100))
    needs = [zone.needs_milli for zone in found.zones]

    assert max(needs) <= found.needs_milli <= sum(needs)
    assert found.peak_milli <= peak_milli(a) + peak_milli(b)


@given(STAYS, st.integers(1, 20))
def test_nobody_waits_at_the_peak_and_nobody_starts_before_it_came(stays, gpus):
    assert not any(waits_ms(stays, peak_milli(stays)))
    assert all(wait_ms >= 0 for wait_ms in waits_ms(stays, gpus * 1_000))


# -- from the journal ------------------------------------------------------------------------------


def stay(id: str, node: str, gpus: int, at: tuple[int, int, int]) -> list[tuple[int, ev.Event]]:
    """The journal of a job on one node: (submitted, bound, ended) in hours."""
    submitted_ms, bound_ms, ended_ms = (hour * HOUR for hour in at)
    shape = Shape(gpus, models=("H100",))
    job = Job(id, 1, "p", shape, submitted_ms=submitted_ms)
    seats = (Seat(node, tuple(range(gpus))),)
    state = AllocationState.BOUND
    allocation = Allocation(f"{id}.1", id, "p", 1, shape, seats, state, bound_ms)
    return [
        (submitted_ms, ev.JobSubmitted(job)),
        (bound_ms, ev.AllocationBound(allocation)),
        (ended_ms, ev.MemberEnded(allocation.id, 0, Exit(0), ended_ms)),
    ]


def test_advice_comes_from_the_journal_by_zone_and_model():
    nodes = [Node(f"{zone}1", 8, 0, 0, model="H100", zone=zone) for zone in ("a", "b")]
    nodes.append(Node("c1", 8, 0, 0, model="A100", zone="c"))
    journal: list[tuple[int, ev.Event]] = [(0, ev.NodeSeen(node)) for node in nodes]
    journal += [
        (0, ev.ProjectSet(Project("p"))),
        *stay("mornings", "a1", 8, (1, 1, 5)),
        *stay("late", "b1", 8, (6, 6, 9)),
    ]
    books = Books()
    for at_ms, event in journal:
        books.apply(event, at_ms)
    advice = advise(books, 0, 24 * HOUR, target_ms=0, share_pct=100)

    [pool] = advice.pools
    assert pool.model == "H100"
    assert [(zone.zone, zone.has_milli) for zone in pool.zones] == [("a", 8_000), ("b", 8_000)]
    assert (pool.sum_of_needs_milli, pool.needs_milli, pool.freed_milli) == (16_000, 8_000, 8_000)
    assert advise(books, 23 * HOUR, 24 * HOUR).pools == ()
    half = advise(books, 3 * HOUR, 7 * HOUR, target_ms=0, share_pct=100).pools[0]
    assert half.freed_milli == 8_000, "who runs across an end of the window counts while in it"
