"""Where windows go: the first place in a fixed order; nothing taken beside them moves any."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.model import Shape
from madang.core.settings import Reservation, Zone
from madang.core.windows import Places, Sites, Want, rest_of, whole
from tests.core.yard import Yard


def want(size: str, id: str = "r", near: tuple[int, ...] = (), **shape: object) -> Want:
    """What a window lacks: `members x GPUs`."""
    members, gpus = map(int, size.split("x"))
    asked = Shape(gpus, **shape)  # type: ignore[arg-type]
    return Want(Reservation(id, "default", asked, members, 0, 1), asked, members, frozenset(near))


def words(places: Places) -> str:
    """`0:01 2:0`: devices 0 and 1 of row 0, device 0 of row 2."""
    return " ".join(f"{row}:{''.join(map(str, gpus))}" for row, gpus in places)


# (the yard, what is wanted, where it goes)
FIT = {
    "the first node with room, however full the others are": (
        "n1: ....\nn2: A...\nn3: A...",
        want("1x1"),
        "0:0",
    ),
    "the lowest devices": ("n1: .A..", want("1x2"), "0:02"),
    "all members on the first node that holds them all": (
        "n1: A...\nn2: ....\nn3: ....",
        want("2x2"),
        "1:01 1:23",
    ),
    "else in the smallest domain of the network that does": (
        "n1: .. at=b0/l0\nn2: AA at=b0/l0\nn3: .. at=b0/l1\nn4: .. at=b0/l1",
        want("2x2"),
        "2:01 3:01",
    ),
    "of several the first": (
        "n1: .. at=b0/l0\nn2: AA at=b0/l0\nn3: .. at=b0/l1\nn4: AA at=b0/l1\nn5: .. at=b1/l2",
        want("2x2"),
        "0:01 2:01",
    ),
    "nodes without a name are near to nobody": (
        "n1: ..\nn2: .. at=b0/l0\nn3: .. at=b0/l0",
        want("2x2"),
        "1:01 2:01",
    ),
    "as many as there is room for if not all": (
        "n1: A...\nn2: BBBB\nn3: ....",
        want("4x2"),
        "0:12 2:01 2:23",
    ),
    "suspects last": ("n1: .... suspicion=9\nn2: ....", want("1x1"), "1:0"),
    "but before fewer members": ("n1: .... suspicion=9\nn2: ..AA", want("2x2"), "0:01 0:23"),
    "from where its own jobs sit on": ("n1: ....\nn2: A...", want("1x1", near=(1,)), "1:1"),
    "only models that it names": (
        "n1: .... model=L4\nn2: ....",
        want("1x1", models=("H100",)),
        "1:0",
    ),
    "nowhere if a node has no CPU left": ("n1: .... cpus=2", want("1x1", cpu_milli=4_000), ""),
    "shares on the lowest devices that have them": (
        "n1: A{B}..",
        want("3x1", gpu_milli=500),
        "0:1 0:2 0:2",
    ),
}


@pytest.mark.parametrize("case", FIT)
def test_where_a_window_goes(case):
    picture, wanted, expected = FIT[case]
    snapshot = Yard(picture).turn().state.snapshot(0)

    assert words(Sites(snapshot).fit(snapshot.pool, wanted)) == expected


def test_its_own_zone_goes_before_the_public_one():
    yard = Yard("n1: ....\nn2: .... zone=lab")
    yard.fact(ev.ZoneSet(Zone("lab", ("project:default",)))).turn()
    snapshot = yard.state.snapshot(0)

    assert words(Sites(snapshot).fit(snapshot.pool, want("1x2"))) == "1:01"


def test_what_its_jobs_hold_leaves_whole_members_and_the_rest_of_a_broken_one():
    window = want("3x4").window

    assert rest_of(window, 0) == [(Shape(4), 3)]
    assert rest_of(window, 5_000) == [(Shape(4), 1), (Shape(3), 1)]
    assert rest_of(window, 12_000) == []


NODES = st.lists(
    st.tuples(
        st.integers(1, 8),  # devices
        st.integers(0, 3),  # leaf; 3: none
        st.integers(0, 2),  # suspicion
        st.sampled_from((8, 32)),  # CPUs
    ),
    min_size=1,
    max_size=7,
)
WANTS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 8), st.sampled_from((0, 4_000)), st.booleans()),
    min_size=1,
    max_size=5,
)
TAKEN = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7)), max_size=30)


@given(NODES, WANTS, TAKEN, TAKEN)
@settings(max_examples=300, deadline=None)
def test_what_is_taken_beside_windows_moves_none_of_them(nodes, wants, before, beside):
    """The independence of irrelevant alternatives, for windows one after the other."""
    lines = []
    for at, (gpus, leaf, suspicion, cpus) in enumerate(nodes):
        place = "" if leaf == 3 else f" at=b{leaf // 2}/l{leaf}"
        lines.append(f"n{at}: {'.' * gpus} suspicion={suspicion} cpus={cpus}{place}")
    snapshot = Yard("\n".join(lines)).turn().state.snapshot(0)
    sites, pool = Sites(snapshot), snapshot.pool.scratch()
    wanted = [
        want(f"{members}x{gpus}", f"r{at}", cpu_milli=cpu, exclusive=alone)
        for at, (members, gpus, cpu, alone) in enumerate(wants)
    ]
    one = Shape(1, cpu_milli=1_000)
    devices = {(row, gpu) for row, (gpus, *_) in enumerate(nodes) for gpu in range(gpus)}
    for row, gpu in before:
        if (row, gpu) in devices and pool.has_free(((row, (gpu,)),), one):
            pool.take(((row, (gpu,)),), one)
    found = sites.in_turn(pool, wanted)
    left = pool.scratch()
    for places, lack in zip(found, wanted, strict=True):
        left.take(places, lack.shape)
    for row, gpu in beside:
        if (row, gpu) in devices and left.has_free(((row, (gpu,)),), one):
            left.take(((row, (gpu,)),), one)
            pool.take(((row, (gpu,)),), one)

    assert Sites(snapshot).in_turn(pool, wanted) == found


def test_whole_is_all_of_its_members():
    assert whole(want("3x4").window) == want("3x4")
