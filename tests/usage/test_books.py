"""The books against the state itself: what reports say was held is what was held."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core.events import Event
from madang.core.model import WHOLE_GPU_MILLI
from madang.core.state import State
from madang.core.usage.books import Books
from madang.core.usage.report import BY, BadWindow, report
from madang.sim.run import _Play as Play
from madang.sim.scenario import scenario

Journal = list[tuple[int, Event]]


def played(seed: int) -> Journal:
    """The journal of a random scenario with all its faults."""
    play = Play(scenario(seed), None)
    try:
        play.disturbed()
        play.calm()
    except AssertionError:
        pass  # tests/sim/test_seeds.py finds that; the books of what came before must be right
    return play.world.journal


def brute_force(journal: Journal, since_ms: int, until_ms: int):
    """(project → GPU·µs charged, GPU·µs in allocations, GPU·µs of capacity) by the state's fold."""
    state, last_ms = State(), 0
    charged: Counter[str] = Counter()
    held = capacity = 0
    for at_ms, event in [*journal, (until_ms, None)]:
        span_ms = max(0, min(at_ms, until_ms) - max(last_ms, since_ms))
        if span_ms:
            for project, milli in state.usage_milli.items():
                charged[project] += milli * span_ms
            held += span_ms * sum(
                allocation.holds(rank) * allocation.shape.milli
                for allocation in state.allocations.values()
                for rank in range(len(allocation.seats))
            )
            capacity += span_ms * sum(
                live.node.usable.bit_count() * WHOLE_GPU_MILLI
                for live in state.nodes.values()
                if live.state != "lost"
            )
        last_ms = at_ms
        if event is None or at_ms >= until_ms:
            break
        state.apply(event, at_ms)
    return +charged, held, capacity


def kept(journal: Journal, **limits: int) -> Books:
    books = Books(**limits)
    for at_ms, event in journal:
        books.apply(event, at_ms)
    return books


def check_window(journal: Journal, books: Books, since_ms: int, until_ms: int) -> None:
    charged, held, capacity = brute_force(journal, since_ms, until_ms)
    found = report(books, since_ms, until_ms, ("project",))
    per_project = {line.group[0]: line.amounts.held_gpu_us for line in found.lines}
    total = found.total.amounts

    assert {name: amount for name, amount in per_project.items() if amount} == charged
    assert total.held_gpu_us + total.stranded_gpu_us == held
    assert total.capacity_gpu_us == capacity


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_what_a_report_says_was_held_is_what_the_state_held_to_the_ms(seed, data):
    journal = played(seed)
    last_ms = journal[-1][0]
    since_ms = data.draw(st.integers(0, last_ms))
    until_ms = data.draw(st.integers(since_ms + 1, last_ms + 10_000))
    read = data.draw(st.integers(0, len(journal)))

    check_window(journal, kept(journal), since_ms, until_ms)
    check_window(journal, kept(journal, since_ms=since_ms), since_ms, until_ms)
    if read:
        part = journal[:read]  # much is still open there
        check_window(part, kept(part), 0, part[-1][0] + 5_000)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_however_a_report_is_grouped_its_lines_add_up_to_the_total(seed):
    journal = played(seed)
    books, last_ms = kept(journal), journal[-1][0] + 1
    total = report(books, 0, last_ms).total

    for name in BY:
        lines = report(books, 0, last_ms, (name,)).lines
        for what in ("held_gpu_us", "waited_gpu_us", "wasted_gpu_us", "stranded_gpu_us", "ended"):
            assert sum(getattr(line.amounts, what) for line in lines) == getattr(
                total.amounts, what
            ), (name, what)
        assert sum(line.waits.count for line in lines) == total.waits.count


def test_every_job_that_came_is_counted_once_as_ended_or_waiting():
    journal = played(7)
    books = kept(journal)
    amounts = report(books, 0, journal[-1][0] + 1).total.amounts

    assert amounts.submitted == amounts.ended + amounts.waiting > 5


@pytest.mark.parametrize(
    ("since_ms", "until_ms", "by"),
    [(5, 5, ()), (9, 3, ()), (0, 9, ("colour",)), (0, 9, ("size", "size"))],
)
def test_a_report_that_cannot_be_says_why(since_ms, until_ms, by):
    with pytest.raises(BadWindow):
        report(Books(), since_ms, until_ms, by)


def test_forgetting_keeps_what_ends_later():
    journal = played(3)
    half_ms = journal[len(journal) // 2][0]
    books = kept(journal)
    before = books.rows()
    books.forget(half_ms)

    assert books.rows() < before
    check_window(journal, books, half_ms, journal[-1][0] + 1)
    assert report(books, 0, journal[-1][0] + 1).begins_ms == half_ms
