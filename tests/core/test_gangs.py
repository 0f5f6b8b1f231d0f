"""Gangs over little network trees: tables of cases, and a brute force that knows every way."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.gangs import place_gang, terms_of
from madang.core.model import Category, Job, Node, Segment, Shape
from madang.core.placement import Unplaced
from madang.core.policy import Policy
from madang.core.pool import Pool
from madang.core.state import State
from madang.core.topology import ROOT, depth_of, level_of
from tests.core.yard import Yard, after, text

LEVELS = ("block", "leaf")

# -- tables ----------------------------------------------------------------------------------------

CASES = {
    "the smallest domain that holds it: one node before one leaf": (
        """n1: CC.. at=b0/l0
           n2: .... at=b0/l0
           n3: A... at=b0/l1""",
        "b: 4x1",
        """n1: CC..
           n2: BBBB
           n3: A...""",
    ),
    "one leaf before two, though an emptier node is elsewhere": (
        """n1: DDD. at=b0/l0
           n2: .... at=b0/l1
           n3: CC.. at=b0/l1""",
        "b: 3x2",
        """n1: DDD.
           n2: BBBB
           n3: CCBB""",
    ),
    "the tightest of the leaves that hold it, so that whole switches stay whole": (
        """n1: .... at=b0/l0
           n2: .... at=b0/l0
           n3: .... at=b0/l0
           n4: EEEE at=b0/l1
           n5: .... at=b0/l1
           n6: .... at=b0/l1""",
        "b: 2x4",
        """n1: ....
           n2: ....
           n3: ....
           n4: EEEE
           n5: BBBB
           n6: BBBB""",
    ),
    "of equally roomy leaves the one that somebody uses already": (
        """n1: .... at=b0/l0
           n2: .... at=b0/l0
           n3: EEEE at=b0/l1
           n4: .... at=b0/l1
           n5: .... at=b0/l1""",
        "b: 2x4",
        """n1: ....
           n2: ....
           n3: EEEE
           n4: BBBB
           n5: BBBB""",
    ),
    "several nodes of a training stay within one block though two would do": (
        """n1: .... at=b0/l0
           n2: EEEE at=b0/l1
           n3: .... at=b1/l2""",
        "b: 2x4",
        """n1: ....
           n2: EEEE
           n3: ....
           waiting: b""",
    ),
    "anywhere if it says so": (
        """n1: .... at=b0/l0
           n2: EEEE at=b0/l1
           n3: .... at=b1/l2""",
        "b: 2x4 within=any",
        """n1: BBBB
           n2: EEEE
           n3: BBBB""",
    ),
    "anywhere if its wish cannot be had": (
        """n1: .... at=b0/l0
           n2: EEEE at=b0/l1
           n3: .... at=b1/l2""",
        "b: 2x4 within=leaf soft=1",
        """n1: BBBB
           n2: EEEE
           n3: BBBB""",
    ),
    "a service is not a training and may spread": (
        """n1: .... at=b0/l0
           n2: EEEE at=b0/l1
           n3: .... at=b1/l2""",
        "b: 2x4 category=serving",
        """n1: BBBB
           n2: EEEE
           n3: BBBB""",
    ),
    "nodes without a place in the network hold to no default": (
        """n1: ....
           n2: EEEE
           n3: ....""",
        "b: 2x4",
        """n1: BBBB
           n2: EEEE
           n3: BBBB""",
    ),
    "nodes without a place do not mix with those that have one": (
        """n1: .... at=b0/l0
           n2: EEEE at=b0/l0
           n3: ....
           n4: ....""",
        "b: 2x4",
        """n1: ....
           n2: EEEE
           n3: BBBB
           n4: BBBB""",
    ),
    "a tier is a level counted from the leaf": (
        """n1: .... at=b0/l0
           n2: .... at=b0/l1
           n3: CC.. at=b0/l1
           n4: CC.. at=b0/l1""",
        "b: 2x4 within=1",
        """n1: ....
           n2: ....
           n3: CC..
           n4: CC..
           waiting: b""",
    ),
    "tensor groups of two stay on a node": (
        """n1: .... at=b0/l0
           n2: DDD. at=b0/l0
           n3: .DDD at=b0/l0
           n4: CC.. at=b0/l0""",
        "b: 6x1 segments=node:2",
        """n1: BBBB
           n2: DDD.
           n3: .DDD
           n4: CCBB""",
    ),
    "pipeline stages of four stay in a leaf, whatever its nodes": (
        """n1: CC.. at=b0/l0
           n2: CC.. at=b0/l0
           n3: CC.. at=b0/l1
           n4: DDD. at=b0/l1
           n5: A... at=b0/l2
           n6: DDD. at=b0/l2""",
        "b: 8x1 segments=leaf:4",
        """n1: CCBB
           n2: CCBB
           n3: CC..
           n4: DDD.
           n5: ABBB
           n6: DDDB""",
    ),
    "an elastic gang starts with what fits": (
        """n1: CC.. at=b0/l0
           n2: EEEE at=b0/l0
           n3: A... at=b0/l1
           n4: .... at=b1/l2""",
        "b: 8x1 min=2",
        """n1: CCBB
           n2: EEEE
           n3: ABBB
           n4: ....""",
    ),
    "but not with fewer than it needs": (
        """n1: CC.. at=b0/l0
           n2: EEEE at=b0/l0
           n3: A... at=b0/l1""",
        "b: 8x1 min=6",
        """n1: CC..
           n2: EEEE
           n3: A...
           waiting: b""",
    ),
    "an elastic gang starts with whole segments": (
        """n1: .... at=b0/l0
           n2: CC.. at=b0/l0
           n3: A... at=b0/l1""",
        "b: 12x1 min=4 segments=leaf:4,node:2",
        """n1: BBBB
           n2: CC..
           n3: A...""",
    ),
    "few switches first, if it waits for them": (
        """n1: CC.. at=b0/l0
           n2: CC.. at=b0/l1
           n3: CC.. at=b0/l2""",
        "b: 5x1 switches=2 wait_s=60",
        """n1: CC..
           n2: CC..
           n3: CC..
           waiting: b""",
    ),
    "few switches though they are under two blocks": (
        """n1: A... at=b0/l0
           n2: DDD. at=b0/l1
           n3: DDD. at=b0/l2
           n4: CC.. at=b1/l3""",
        "b: 5x1 switches=2 within=any",
        """n1: ABBB
           n2: DDD.
           n3: DDD.
           n4: CCBB""",
    ),
    "switches are not counted where nobody knows them": (
        """n1: CC..
           n2: CC..""",
        "b: 4x1 switches=1",
        """n1: CCBB
           n2: CCBB""",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_gang_goes(name):
    picture, job, expected = CASES[name]

    assert after(picture, job) == text(expected)


def test_ranks_follow_the_tree_whatever_the_order_of_the_rows():
    yard = Yard(
        """n1: .. at=b0/l0
           n2: .. at=b0/l1
           n3: .. at=b0/l0
           n4: .. at=b0/l1"""
    )

    yard.submit("b: 8x1").turn()

    seats = [seat.node for seat in yard.state.allocations["b.1"].seats]
    assert seats == ["n1", "n1", "n3", "n3", "n2", "n2", "n4", "n4"]


def test_a_gang_stops_to_insist_on_few_switches_when_its_wait_is_over():
    yard = Yard(
        """n1: CC.. at=b0/l0
           n2: CC.. at=b0/l1"""
    )
    yard.submit("b: 4x1 switches=1 wait_s=60").settled()
    due_ms = yard.controller.due_ms(yard.now_ms)
    assert due_ms == yard.state.jobs["b"].job.submitted_ms + 60_000

    yard.turn(wait_ms=due_ms - yard.now_ms - 1)
    assert "b" in [id for _, id in yard.state.queue]
    yard.turn(wait_ms=1)

    assert yard.decisions() == ["bind b.1"]


# -- against a brute force ---------------------------------------------------------------------

NAMES = st.tuples(
    st.sampled_from(["", "b0", "b1"]), st.sampled_from(["", "l0", "l1"]), st.sampled_from(["", "x"])
)
NODES = st.lists(st.tuples(st.integers(0, 3), NAMES), min_size=1, max_size=5)


@st.composite
def gangs(draw) -> Job:
    unit = draw(st.sampled_from([1, 1, 2, 3]))
    outer = unit * draw(st.sampled_from([1, 1, 2]))
    segments = []
    if outer > unit:
        segments.append(Segment(draw(st.sampled_from(["block", "leaf"])), outer))
    if unit > 1:
        segments.append(Segment(draw(st.sampled_from(["leaf", "node"])), unit))
    members = outer * draw(st.integers(1 + (outer == 1), max(1, 6 // outer)))
    return Job(
        "g",
        1,
        "p",
        Shape(1),
        members,
        members_min=draw(st.sampled_from([0, 0, 1])),
        segments=tuple(segments),
        within=draw(st.sampled_from(["", "any", "block", "leaf", "node"])),
        category=draw(st.sampled_from([Category.TRAINING, Category.DATA])),
    )


def pool_of(nodes, depth: int = 3) -> Pool:
    state = State()
    for index, (free, names) in enumerate(nodes):
        domains = names[:depth]
        state.apply(ev.NodeSeen(Node(f"n{index}", free, 0, 0, domains=domains)), 0)
    return state.pool.scratch()


def paths(pool: Pool, job: Job, policy: Policy) -> list[list[tuple[int, ...]]]:
    """Per level, per row: a name of its domain; what has none is a domain of its own."""
    depth = depth_of(pool.domains)
    terms = terms_of(job, policy, depth, 0)
    assert terms is not None
    found: list[list[tuple[int, ...]]] = [[(row,) for row in range(pool.nodes)]]
    for level in range(depth, 0, -1):
        names = []
        for row, code in enumerate(pool.domains[:, level - 1].tolist()):
            unnamed = (1,) if terms.shared == level else (2, *found[-1][row])
            names.append((0, code) if code >= 0 else unnamed)
        found.append(names)
    found.append([(0,)] * pool.nodes)
    return found[::-1]


def all_placements(pool: Pool, job: Job, policy: Policy, members: int) -> list[tuple[int, ...]]:
    """Every (members on each node) that keeps the hard terms; `switches` is not looked at."""
    names = paths(pool, job, policy)
    terms = terms_of(job, policy, depth_of(pool.domains), 0)
    assert terms is not None
    found = []
    for counts in product(*[range(free + 1) for free in pool.whole_free.tolist()]):
        if sum(counts) != members:
            continue
        if len({names[terms.within][row] for row, n in enumerate(counts) if n}) > 1:
            continue
        for segment in job.segments:
            under = Counter[tuple[int, ...]]()
            level = level_of(policy.levels, depth_of(pool.domains), segment.level)
            for row, n in enumerate(counts):
                under[names[level][row]] += n
            if any(n % segment.members for n in under.values()):
                break
        else:
            found.append(counts)
    return found


def domains_of(names: list[tuple[int, ...]], counts: tuple[int, ...]) -> int:
    return len({names[row] for row, n in enumerate(counts) if n})


@given(NODES, gangs(), st.integers(0, 3), st.sampled_from(["", "leaf", "any"]))
def test_a_gang_is_placed_iff_it_can_be_in_the_smallest_domain_that_holds_it(
    nodes, job, depth, within
):
    pool, policy = pool_of(nodes, depth), Policy("p", levels=LEVELS, within=within)
    unit = max((segment.members for segment in job.segments), default=1)
    least = -(-(job.members_min or job.members) // unit) * unit
    names = paths(pool, job, policy)

    places = place_gang(pool, job, job.shape, None, 0, policy)

    for members in range(job.members, 0, -1):
        possible = all_placements(pool, job, policy, members) if members % unit == 0 else []
        if possible:
            break
    if not possible or members < least:
        assert isinstance(places, Unplaced)
        return
    assert not isinstance(places, Unplaced)
    assert len(places) == members
    pool.take(places, job.shape)
    on = Counter(row for row, _ in places)
    counts = tuple(on[row] for row in range(pool.nodes))
    assert counts in possible
    smallest = max(
        level
        for level in range(len(names))
        if any(domains_of(names[level], one) == 1 for one in possible)
    )
    assert domains_of(names[smallest], counts) == 1
    inside = [one for one in possible if domains_of(names[smallest], one) == 1]
    if smallest < len(names) - 1:
        below = names[smallest + 1]
        assert domains_of(below, counts) == min(domains_of(below, one) for one in inside)
    _ranks_are_near(names, [row for row, _ in places])
    _segments_are_kept(names, job, policy, pool, [row for row, _ in places])


def _ranks_are_near(names, rows) -> None:
    """The ranks of each domain are consecutive."""
    for level in names:
        runs = [
            level[row] for at, row in enumerate(rows) if not at or level[row] != level[rows[at - 1]]
        ]
        assert len(runs) == len(set(runs))


def _segments_are_kept(names, job, policy, pool, rows) -> None:
    for segment in job.segments:
        level = names[level_of(policy.levels, depth_of(pool.domains), segment.level)]
        for first in range(0, len(rows), segment.members):
            assert len({level[row] for row in rows[first : first + segment.members]}) == 1


@given(NODES, st.integers(2, 6), st.integers(1, 3), st.sampled_from(["any", "block"]))
def test_a_limit_on_switches_is_kept_iff_it_can_be(nodes, members, switches, within):
    pool, policy = pool_of(nodes, 2), Policy("p", levels=LEVELS)
    job = Job("g", 1, "p", Shape(1), members, switches=switches, within=within)
    names = paths(pool, job, policy)
    possible = [
        one
        for one in all_placements(pool, job, policy, members)
        if depth_of(pool.domains) < 1
        or domains_of(names[min(2, depth_of(pool.domains))], one) <= switches
    ]

    places = place_gang(pool, job, job.shape, None, 0, policy)

    if isinstance(places, Unplaced):
        assert not possible
    else:
        on = Counter(row for row, _ in places)
        assert tuple(on[row] for row in range(pool.nodes)) in possible
        pool.take(places, job.shape)


@given(NODES, st.integers(2, 6))
def test_without_a_tree_a_gang_goes_where_it_always_went(nodes, members):
    from madang.core.placement import place

    pool = pool_of(nodes, 0)
    job = Job("g", 1, "p", Shape(1), members)

    assert place_gang(pool, job, job.shape, None, 0, Policy("p")) == place(pool, job.shape, members)


def test_a_level_that_nobody_names_holds_one_node():
    assert [level_of(LEVELS, 2, name) for name in ("any", "block", "leaf", "node")] == [0, 1, 2, 3]
    assert [level_of(LEVELS, 2, tier) for tier in ("2", "1", "0")] == [1, 2, 3]
    assert [level_of(LEVELS, 0, name) for name in ("block", "leaf", "node")] == [1, 1, 1]
    assert [level_of(LEVELS, 1, name) for name in ("block", "leaf", "node")] == [1, 2, 2]
    assert [level_of(LEVELS, 2, name) for name in ("rack", "3", "")] == [-1, -1, -1]
    assert ROOT == 0
