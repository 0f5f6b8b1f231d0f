"""Where a job may sit and what it takes first: tables of little clusters, then properties."""

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.admission import judge
from madang.core.check import InvariantBroken, check
from madang.core.explain import guide, why
from madang.core.model import Category, Job, Node, Project, Shape
from madang.core.placement import Unplaced
from madang.core.seating import Gaps, likeness_in, seat, shape_at, spread_of
from madang.core.settings import Zone
from madang.core.state import State
from tests.core.yard import Yard, after, text

CASES = {
    "the preferred model comes first": (
        """n1: .. model=L4
           n2: .. model=H100""",
        ["b: 1 model=H100 then=L4"],
        """n1: ..
           n2: B.""",
    ),
    "where the preferred model is taken, the next one": (
        """n1: .. model=L4
           n2: AA model=H100
           n3: .. model=T4""",
        ["b: 1 model=H100 then=T4+L4"],
        """n1: ..
           n2: AA
           n3: B.""",
    ),
    "a gang takes one of its shapes, not two": (
        """n1: A. model=H100
           n2: .. model=L4""",
        ["b: 2x1 model=H100 then=L4"],
        """n1: A.
           n2: BB""",
    ),
    "a job that takes two models holds back those of both": (
        """n1: A. model=H100
           n2: D. model=L4""",
        ["b: 2 model=H100 then=L4", "c: 1 model=L4"],
        """n1: A.
           n2: D.
           waiting: b c""",
    ),
    "an exclusive job takes an empty node, however full others are": (
        """n1: A...
           n2: ....""",
        ["b: 1 exclusive=1"],
        """n1: A...
           n2: B...""",
    ),
    "nobody joins an exclusive job": (
        "n1: ....",
        ["b: 1 exclusive=1", "c: 1"],
        """n1: B...
           waiting: c""",
    ),
    "members of an exclusive gang share their node": (
        """n1: A...
           n2: ....""",
        ["b: 2x1 exclusive=1"],
        """n1: A...
           n2: BB..""",
    ),
    "an exclusive job waits where every node has somebody": (
        """n1: A...
           n2: {B}...""",
        ["c: 1 exclusive=1"],
        """n1: A...
           n2: {B}...
           waiting: c""",
    ),
    "what is flagged is taken last": (
        """n1: A... suspicion=1
           n2: ....""",
        ["b: 1"],
        """n1: A...
           n2: B...""",
    ),
    "of what is flagged, the least": (
        """n1: .... suspicion=3
           n2: .... suspicion=2""",
        ["b: 1"],
        """n1: ....
           n2: B...""",
    ),
    "a healthy node under a switch with two suspects comes after one elsewhere": (
        """n1: .... at=b0/l0 suspicion=1
           n2: .... at=b0/l0 suspicion=1
           n3: A... at=b0/l0
           n4: .... at=b1/l1""",
        ["b: 1"],
        """n1: ....
           n2: ....
           n3: A...
           n4: B...""",
    ),
    "one suspect does not speak against its switch": (
        """n1: .... at=b0/l0 suspicion=1
           n3: A... at=b0/l0
           n4: .... at=b1/l1""",
        ["b: 1"],
        """n1: ....
           n3: AB..
           n4: ....""",
    ),
    "a gang goes where nothing is flagged, if it fits there": (
        """n1: .... suspicion=1
           n2: ..
           n3: ..""",
        ["b: 4x1"],
        """n1: ....
           n2: BB
           n3: BB""",
    ),
    "and takes the flagged ones, too, if not": (
        """n1: .... suspicion=1
           n2: ..""",
        ["b: 6x1"],
        """n1: BBBB
           n2: BB""",
    ),
    "a node that has the data comes before a fuller one": (
        """n1: A...
           n2: .... cached=imagenet""",
        ["b: 1 data=imagenet:150000"],
        """n1: A...
           n2: B...""",
    ),
    "the most of the data counts": (
        """n1: .... cached=torch
           n2: .... cached=imagenet""",
        ["b: 1 data=imagenet:150000+torch:9000"],
        """n1: ....
           n2: B...""",
    ),
    "a few MiB are no reason to break a node": (
        """n1: A...
           n2: .... cached=notes""",
        ["b: 1 data=notes:10"],
        """n1: AB..
           n2: ....""",
    ),
    "a service spreads over three nodes, the fullest first": (
        """n1: ....
           n2: ....
           n3: A...
           n4: DD..""",
        ["b: 3x1 category=serving"],
        """n1: B...
           n2: ....
           n3: AB..
           n4: DDB.""",
    ),
    "and packs then": (
        """n1: ....
           n2: ....
           n3: ....
           n4: ....""",
        ["b: 8x1 category=serving"],
        """n1: BBBB
           n2: BBB.
           n3: B...
           n4: ....""",
    ),
    "over as many nodes as there are": (
        """n1: ....
           n2: ....""",
        ["b: 4x1 category=serving"],
        """n1: BBB.
           n2: B...""",
    ),
    "a service that asks not to spread packs": (
        """n1: ....
           n2: ....""",
        ["b: 3x1 category=serving spread=1"],
        """n1: BBB.
           n2: ....""",
    ),
}


@pytest.mark.parametrize(("picture", "jobs", "then"), CASES.values(), ids=CASES)
def test_after_one_turn(picture, jobs, then):
    assert after(picture, *jobs) == text(then)


ZONES = (
    Zone("small", gpus_max=2),
    Zone("large", gpus_min=8),
    Zone("lab", owners=("project:vision",)),
    Zone("dept", owners=("workspace:ml",)),
)
ZONE_CASES = {
    "a small job goes to the zone of small ones, a large one to its own": (
        """n1: ........ zone=large
           n2: ........ zone=small""",
        ["b: 1", "c: 8"],
        """n1: CCCCCCCC
           n2: B.......""",
    ),
    "the size is that of all members": (
        """n1: ........ zone=small
           n2: ........ zone=large""",
        ["b: 8x1"],
        """n1: ........
           n2: BBBBBBBB""",
    ),
    "a private zone takes nobody else": (
        "n1: ........ zone=lab",
        ["b: 1"],
        "n1: ........\nwaiting: b",
    ),
    "its own come there first": (
        """n1: ........
           n2: ........ zone=lab""",
        ["b: 1 project=vision"],
        """n1: ........
           n2: B.......""",
    ),
    "and to the public ones when it is full": (
        """n1: ........
           n2: AAAAAAAA zone=lab""",
        ["b: 1 project=vision"],
        """n1: B.......
           n2: AAAAAAAA""",
    ),
    "a zone of a workspace takes its projects": (
        """n1: ........ zone=dept
           n2: ........ zone=lab""",
        ["b: 1 project=speech", "c: 1 project=vision"],
        """n1: B.......
           n2: C.......""",
    ),
    "a job that names a zone waits for that": (
        """n1: ........ zone=lab
           n2: AAAAAAAA""",
        ["b: 1 project=vision zone=public"],
        """n1: ........
           n2: AAAAAAAA
           waiting: b""",
    ),
    "who waits for one zone holds back nobody of another": (
        """n1: AAAAAAAA zone=lab
           n2: ........""",
        ["b: 1 project=vision zone=lab", "c: 1"],
        """n1: AAAAAAAA
           n2: C.......
           waiting: b""",
    ),
    "a gang stays in its own zone if it fits there": (
        """n1: AAAAAA..
           n2: ........ zone=lab
           n3: ........ zone=lab""",
        ["b: 3x4 project=vision"],
        """n1: AAAAAA..
           n2: BBBBBBBB
           n3: BBBB....""",
    ),
}


@pytest.mark.parametrize(("picture", "jobs", "then"), ZONE_CASES.values(), ids=ZONE_CASES)
def test_zones_after_one_turn(picture, jobs, then):
    yard = zoned(picture)
    assert yard.submit(*jobs).turn().picture() == text(then)


def zoned(picture: str) -> Yard:
    yard = Yard(picture)
    yard.fact(ev.ProjectSet(Project("vision", workspace="arts")))
    yard.fact(ev.ProjectSet(Project("speech", workspace="ml")))
    for zone in ZONES:
        yard.fact(ev.ZoneSet(zone))
    return yard.turn()


REJECTED = {
    "of a size that no zone takes": ("b: 4", "zone_size"),
    "of a zone that is not there": ("b: 1 zone=moon", "unknown_zone"),
    "of a private zone": ("b: 1 zone=lab", "zone_private"),
    "of a zone for other sizes": ("b: 4 zone=small", "zone_size"),
}


@pytest.mark.parametrize(("job", "code"), REJECTED.values(), ids=REJECTED)
def test_a_job_is_rejected(job, code):
    yard = zoned("n1: ........ zone=small\nn2: ........ zone=lab")
    yard.fact(ev.ZoneSet(Zone("public", gpus_min=1, gpus_max=2))).turn()

    assert yard.submit(job).turn().decisions() == [f"reject b {code}"]


GUIDES = {
    "a size that no zone takes": (
        "b: 4",
        "4 GPUs asked in all, but zones take other sizes: large 8-, public 1-2, small 0-2 GPUs",
    ),
    "a zone for other sizes": (
        "b: 4 zone=small",
        "4 GPUs asked in all, but zone small takes other sizes: small 0-2 GPUs",
    ),
    "a zone that is not there": (
        "b: 1 zone=moon",
        "there is no zone moon; there are: dept lab large public small",
    ),
    "somebody else's zone": (
        "b: 1 zone=lab",
        "zone lab is private: it takes jobs of project:vision",
    ),
}


@pytest.mark.parametrize(("line", "said"), GUIDES.values(), ids=GUIDES)
def test_a_rejection_says_what_the_zones_take(line, said):
    yard = zoned("n1: ........ zone=small")
    yard.fact(ev.ZoneSet(Zone("public", gpus_min=1, gpus_max=2))).turn()
    job = yard.job(line)
    rejected = judge(yard.state.view(yard.now_ms), job)

    assert rejected is not None
    words = guide(job, rejected)
    assert words.text == said
    assert words.tries


WAITS = {
    "for an empty node": (
        "n1: A...\nn2: D...",
        "b: 1 exclusive=1",
        "it wants its nodes for itself, and 0 of them are empty",
    ),
    "for one of its profiles": (
        "n1: AA model=H100\nn2: DD model=L4",
        "b: 1 model=H100 then=L4",
        "or L4: 0 free",
    ),
    "in the zones that are open to it": (
        "n1: ........ zone=lab\nn2: AAAAAAAA",
        "b: 1",
        "with 1 GPU, project default may use zone public",
    ),
    "for a part of a GPU": (
        "n1: {A}{D}",
        "b: 1 share=600",
        "at most 0.5 of one GPU is free",
    ),
}


@pytest.mark.parametrize(("picture", "line", "said"), WAITS.values(), ids=WAITS)
def test_why_a_job_waits(picture, line, said):
    yard = zoned(picture).submit(line).turn()

    assert said in why(yard.state.view(yard.now_ms), "b").text


def test_a_job_whose_zone_has_no_nodes_yet_waits():
    yard = zoned("n1: ........ zone=lab").submit("b: 1 zone=small").turn()

    assert yard.picture() == text("n1: ........\nwaiting: b")


def test_a_promise_is_kept_in_the_shape_that_its_nodes_allow():
    yard = Yard("n1: AA model=H100\nn2: .. model=L4")
    job = yard.job("b: 1 model=H100 then=L4 cpus=8")
    job = replace(job, fallbacks=(replace(job.fallbacks[0], cpu_milli=2_000),))
    seats = yard.fact(ev.JobSubmitted(job)).turn().state.allocations["b.1"].seats

    assert yard.state.allocations["b.1"].shape == job.fallbacks[0]
    assert shape_at(yard.state.view(0), job, seats) == job.fallbacks[0]


def test_an_exclusive_node_with_a_guest_breaks_the_invariant():
    yard = Yard("n1: ....").submit("b: 1 exclusive=1").turn()
    state = yard.state
    state.pool.tenants[0] = 0
    guest = replace(state.allocations["b.1"], id="c.1", job="c", shape=Shape(1))
    state.apply(ev.JobSubmitted(yard.job("c: 1")), 0)
    state.apply(ev.AllocationBound(replace(guest, seats=(replace(guest.seats[0], gpus=(1,)),))), 0)

    with pytest.raises(InvariantBroken):
        check(state)


# -- properties: one member finds a node iff there is one, and the best in the stated order --------

MODELS = ("H100", "L4")
NODES: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        gpus=st.integers(0, 4),
        cpus=st.integers(0, 8),
        model=st.sampled_from(MODELS),
        zone=st.sampled_from(("", "lab", "small")),
        suspicion=st.sampled_from((0, 0, 0, 1, 2)),
        cached=st.sampled_from(((), ("a",), ("a", "b"))),
        cordoned=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
SHAPES = st.one_of(
    st.builds(
        Shape, gpus=st.integers(0, 4), cpu_milli=st.integers(0, 4_000), exclusive=st.booleans()
    ),
    st.builds(Shape, gpus=st.just(1), gpu_milli=st.integers(1, 1000)),
)
JOBS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    shape=SHAPES,
    members=st.integers(1, 5),
    models=st.sampled_from(((), ("L4",), ("H100", "L4"))),
    project=st.sampled_from(("default", "vision")),
    zone=st.sampled_from(("", "", "lab", "public")),
    data=st.sampled_from(((), (("a", 5_000), ("b", 3_000)))),
    category=st.sampled_from((Category.DATA, Category.SERVING)),
)


def state_of(nodes) -> State:
    state = State()
    state.apply(ev.ProjectSet(Project("default")), 0)
    state.apply(ev.ProjectSet(Project("vision")), 0)
    state.apply(ev.ZoneSet(Zone("lab", owners=("project:vision",))), 0)
    state.apply(ev.ZoneSet(Zone("small", gpus_max=2)), 0)
    for at, one in enumerate(nodes):
        id, cpus = f"n{at}", one["cpus"] * 1000
        node = Node(id, one["gpus"], cpus, 1024, one["model"])
        node = replace(node, zone=one["zone"], cached=one["cached"])
        state.apply(ev.NodeSeen(node), 0)
        state.apply(ev.NodeFlagged(id, one["suspicion"]), 0)
        state.apply(ev.NodeCordoned(id, one["cordoned"]), 0)
    return state


def job_of(words, number: int) -> Job:
    shape = replace(words["shape"], models=words["models"][:1], exclusive=False)
    then = tuple(replace(shape, models=(model,)) for model in words["models"][1:])
    return Job(
        f"j{number}",
        number,
        words["project"],
        shape,
        words["members"],
        category=words["category"],
        fallbacks=then,
        zone=words["zone"],
        data=words["data"],
        exclusive=words["shape"].exclusive,
    )


def could_sit(state: State, pool, job: Job, shape: Shape, row: int) -> bool:
    """One member on one node, by the rules as users read them."""
    node = state.nodes[state.node_ids[row]].node
    zone = node.zone or "public"
    gpus = -(-job.milli // 1000)
    if job.zone not in ("", zone) or (zone == "lab" and job.project != "vision"):
        return False
    if zone == "small" and gpus > 2:
        return False
    if not pool.open[row] or (shape.models and node.model not in shape.models):
        return False
    tenants = int(pool.tenants[row])
    if tenants if job.exclusive else tenants >= 1 << 20:
        return False
    fitting = int((pool.gpu_free[row] >= shape.gpu_milli).sum())
    has_gpus = not shape.gpus or fitting >= shape.gpus
    return has_gpus and bool(pool.cpu_free[row] >= shape.cpu_milli)


def room_by_hand(state: State, pool, job: Job, shape: Shape, row: int) -> int:
    """How many members fit on one node: taken one by one."""
    trial, count, width = pool.scratch(), 0, pool.gpu_free.shape[1]
    while count < job.members and could_sit(
        state, trial, replace(job, exclusive=False), shape, row
    ):
        if not count and not could_sit(state, trial, job, shape, row):
            return 0
        free = [gpu for gpu in range(width) if trial.gpu_free[row, gpu] >= shape.gpu_milli]
        free.sort(key=lambda gpu: (int(trial.gpu_free[row, gpu]), gpu))
        trial.take([(row, tuple(free[: shape.gpus]))], replace(shape, exclusive=False))
        count += 1
    return count


@settings(max_examples=150)
@given(NODES, st.lists(JOBS, min_size=1, max_size=6))
def test_a_job_finds_a_seat_iff_brute_force_does_and_no_device_goes_below_nothing(nodes, wishes):
    state = state_of(nodes)
    pool = state.pool.scratch()
    for number, words in enumerate(wishes):
        job = job_of(words, number)
        snapshot = state.view(0)
        found = seat(snapshot, pool, job)
        rows = range(pool.nodes)
        room = [
            sum(room_by_hand(state, pool, job, shape, row) for row in rows) for shape in job.shapes
        ]
        assert isinstance(found, Unplaced) == all(one < job.members for one in room)
        assert (Gaps(snapshot, pool.scratch(), job).missing <= 0) == (max(room) >= job.members)
        if isinstance(found, Unplaced):
            continue
        assert len(found.places) == job.members
        first = next(at for at, one in enumerate(room) if one >= job.members)
        assert found.shape == job.shapes[first]
        _sits_well(state, pool, job, found)
        pool.take(found.places, found.shape)
        assert (pool.gpu_free >= 0).all()
        assert (pool.cpu_free >= 0).all()


def _sits_well(state: State, pool, job: Job, found) -> None:
    """One member: of all nodes that take it, none is better by what comes before packing."""
    assert all(could_sit(state, pool, job, found.shape, row) for row, _ in found.places)
    nodes = {row for row, _ in found.places}
    able = [
        row for row in range(pool.nodes) if room_by_hand(state, pool, job, found.shape, row) > 0
    ]
    if job.category is Category.SERVING and job.members > 1:
        assert len(nodes) >= min(3, job.members, len(able)) or state.suspects or job.data
    if job.members == 1:
        assert _turn(state, job, *nodes) == min(_turn(state, job, row) for row in able)


def _turn(state: State, job: Job, row: int) -> tuple[int, bool, int]:
    live = state.nodes[state.node_ids[row]]
    own = live.node.zone == "lab" and not job.zone
    missing = sum(mib for name, mib in job.data if name not in live.node.cached)
    return live.suspicion, job.project == "vision" and not own, missing // 1024


@given(NODES, JOBS, JOBS)
def test_jobs_that_are_alike_fit_together_or_not_at_all(nodes, one, other):
    state = state_of(nodes)
    first, second = job_of(one, 1), job_of({**other, "shape": one["shape"]}, 2)
    snapshot = state.view(0)
    if likeness_in(snapshot, first) == likeness_in(snapshot, second):
        assert seat(snapshot, state.pool, first) == seat(snapshot, state.pool, second)


def test_a_service_of_two_members_spreads_over_two_nodes():
    job = Job("a", 1, "p", Shape(1), 2, category=Category.SERVING)
    sizes = [spread_of(replace(job, members=members)) for members in (1, 2, 3, 9)]
    assert sizes == [1, 2, 3, 3]
    assert spread_of(replace(job, within="leaf")) == 1


def test_of_equal_nodes_the_first_row_is_taken_whatever_was_asked():
    one = {"gpus": 2, "cpus": 8, "model": "L4", "zone": "", "cached": ()}
    state = state_of([{**one, "suspicion": 0, "cordoned": False}] * 4)
    for gpus, members in product((1, 2), (1, 2)):
        job = Job("a", 1, "default", Shape(gpus), members, category=Category.DATA)
        found = seat(state.view(0), state.pool, job)
        assert not isinstance(found, Unplaced)
        rows = {row for row, _ in found.places}
        same = [set(some) for some in combinations(range(4), len(rows))]
        assert rows == min(same, key=sorted)
        assert np.all(state.pool.whole_free == 2)
