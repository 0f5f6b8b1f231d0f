"""Labels that a job needs, taints that keep it off, devices that others took."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core.admission import judge
from madang.core.explain import guide, why
from madang.core.lanes import Lanes
from madang.core.model import Need, Node, Taint, Toleration
from madang.core.needs import EFFECTS, HOWS, Ground, meets, unmet
from madang.core.policies import MADANG, POLICIES
from tests.core.yard import Yard, after, text

LEVELS = POLICIES["tiresias"]
CASES = {
    "a need is met or the node is not used": (
        """n1: A... labels=rack:r1
           n2: .... labels=rack:r2""",
        ["b: 1 need=rack:r2"],
        """n1: A...
           n2: B...""",
    ),
    "all of an alternative must hold": (
        """n1: .... labels=rack:r1
           n2: .... labels=rack:r1+fast:1""",
        ["b: 1 need=rack:r1+fast"],
        """n1: ....
           n2: B...""",
    ),
    "any of the alternatives will do": (
        """n1: ....
           n2: .... labels=rack:r2""",
        ["b: 1 need=rack:r1/rack:r2"],
        """n1: ....
           n2: B...""",
    ),
    "a gang stays on the nodes that it may use, or waits": (
        """n1: .... labels=rack:r1
           n2: A... labels=rack:r1
           n3: .... labels=rack:r3""",
        ["b: 2x4 need=rack:r1", "c: 2x2 need=rack:r3"],
        """n1: ....
           n2: A...
           n3: CCCC
           waiting: b""",
    ),
    "a taint keeps off who does not tolerate it": (
        """n1: A... taints=team:a
           n2: ....""",
        ["b: 1", "c: 1 tolerate=team:a", "d: 1 tolerate=team:b", "e: 1 tolerate=team"],
        """n1: ACE.
           n2: BD..""",
    ),
    "devices that others use are not offered": (
        """n1: A###
           n2: ....""",
        ["b: 1"],
        """n1: A###
           n2: B...""",
    ),
    "who waits for a label lets those pass who could never use it": (
        """n1: A labels=rack:r1
           n2: . labels=rack:r2""",
        ["b: 1 need=rack:r1", "c: 1 need=rack:r2"],
        """n1: A
           n2: C
           waiting: b""",
    ),
}


@pytest.mark.parametrize(("picture", "jobs", "then"), CASES.values(), ids=CASES)
def test_after_one_turn(picture, jobs, then):
    assert after(picture, *jobs) == text(then)


def test_who_lost_patience_holds_back_only_what_it_could_use():
    yard = Yard("n1: AA labels=rack:r1\nn2: CC labels=rack:r2\nn3: DD labels=rack:r1")
    yard.under(replace(MADANG, patience_ms=60_000))
    yard.submit("b: 2x2 need=rack:r1").turn()
    yard.turn(wait_ms=120_000)
    yard.submit("e: 1 need=rack:r2", "f: 1 need=rack:r1").ended("c.1").ended("a.1").turn()
    assert yard.picture() == text("n1: ..\nn2: E.\nn3: DD\nwaiting: b f")


def test_lanes_are_told_apart_only_where_somebody_needs_something():
    plain = Yard("n1: A\nn2: .").submit("b: 2").turn()
    lanes = Lanes(plain.state.snapshot(plain.now_ms))
    assert lanes.of(plain.job("c: 1")) < 1 << len(plain.state.models) + 1
    yard = Yard("n1: A labels=rack:r1\nn2: C labels=rack:r2").submit("b: 1 need=rack:r1").turn()
    yard.submit("d: 1 need=rack:r2", "e: 1").turn()
    lanes = Lanes(yard.state.snapshot(yard.now_ms))
    b, d, e = (lanes.of(yard.state.jobs[id].job) for id in "bde")
    assert (b & d, b & e, d & e) == (0, b, d)
    other = lanes.of(yard.job("f: 1 need=rack:r9"))
    assert other & b, "what nobody waits with competes everywhere"
    assert other & d


REJECTED = {
    "no node has the label": (
        "n1: . labels=rack:r1\nn2: . labels=rack:r2",
        "b: 1 need=rack:r3",
        "none of 2 nodes is rack=r3 (nodes that are, one by one: rack=r3: 0)",
        "rack is r1 r2: choose one of these",
    ),
    "each label is there, but not on one node": (
        "n1: . labels=rack:r1\nn2: . labels=fast:1",
        "b: 1 need=rack:r1+fast",
        "none of 2 nodes is rack=r1, fast (nodes that are, one by one: rack=r1: 1, fast: 1)",
        "leave --need out, or change it",
    ),
    "every node is tainted": (
        "n1: . taints=team:a\nn2: . taints=team:b+old",
        "b: 1",
        (
            "each of the 2 nodes that could take it has a taint that it does not tolerate: "
            "old:NoSchedule on 1, team=a:NoSchedule on 1, team=b:NoSchedule on 1"
        ),
        "tolerate it: --tolerate KEY=VALUE:EFFECT",
    ),
}


@pytest.mark.parametrize(("picture", "job", "said", "tries"), REJECTED.values(), ids=REJECTED)
def test_what_no_node_is_is_refused_with_what_there_is(picture, job, said, tries):
    yard = Yard(picture).turn()
    asked = yard.job(job)
    rejected = judge(yard.state.snapshot(yard.now_ms), asked)
    assert rejected is not None
    found = guide(asked, rejected)
    assert found.text == said
    assert tries in found.tries


def test_why_says_how_many_nodes_terms_leave():
    yard = Yard("n1: A labels=rack:r1\nn2: . labels=rack:r1 taints=team:a\nn3: .")
    yard.submit("b: 1 need=rack:r1").turn()
    said = why(yard.state.snapshot(yard.now_ms), "b").text
    assert "2 of 3 nodes are rack=r1; taints leave it 1 (team=a:NoSchedule on 1)" in said


def test_a_promise_is_void_when_its_node_gets_a_taint():
    yard = Yard("n1: AA\nn2: DD").under(LEVELS, "a").ran("a", 100 * LEVELS.level_ms)
    yard.submit("b: 2").turn()
    assert [seat.node for seat in yard.state.nominations["b"]] == ["n1"]
    yard.seen("n1", ("a.1", 0), taints=(Taint("old"),)).ended("d.1").turn()
    assert yard.state.nominations == {}
    yard.ended("a.1").settled()
    assert yard.picture() == text("n1: ..\nn2: BB\nwaiting: a")


def test_a_label_that_goes_does_not_move_who_runs():
    yard = Yard("n1: .. labels=rack:r1").submit("b: 1 need=rack:r1").turn().started("b.1").turn()
    yard.seen("n1", labels=(), taints=(Taint("old"),)).settled()
    assert yard.picture() == "n1: B."


# -- the meaning, against Kubernetes' own words -------------------------------------------------

KEYS, VALUES = st.sampled_from("ab"), st.sampled_from(("", "1", "2", "-3", "x"))


def needs_():
    return st.builds(Need, KEYS, st.sampled_from(HOWS), st.tuples(VALUES))


def number(value):
    return int(value) if value.lstrip("-").isdigit() else None


def expected(labels, need):
    """The reference's sentences, one by one."""
    value, stated = labels.get(need.key), need.values[0]
    if need.how in ("gt", "lt"):
        if value is None or number(value) is None or number(stated) is None:
            return False
        more = number(value) > number(stated)
        return more if need.how == "gt" else number(value) < number(stated)
    return {
        "in": value in need.values,
        "not_in": value not in need.values,
        "exists": need.key in labels,
        "absent": need.key not in labels,
    }[need.how]


@given(
    st.dictionaries(KEYS, VALUES),
    st.lists(st.lists(needs_(), max_size=2).map(tuple), max_size=2).map(tuple),
)
def test_needs_mean_what_kubernetes_says(labels, needs):
    held = not needs or any(all(expected(labels, need) for need in all_of) for all_of in needs)
    assert meets(tuple(labels.items()), needs) == held


TAINTS = st.builds(Taint, KEYS, VALUES, st.sampled_from((*EFFECTS, "PreferNoSchedule")))
TOLERATIONS = st.builds(
    Toleration,
    st.sampled_from(("", "a", "b")),
    st.sampled_from(("equal", "exists")),
    VALUES,
    st.sampled_from(("", *EFFECTS)),
)


@given(st.lists(TAINTS, max_size=3), st.lists(TOLERATIONS, max_size=3))
def test_taints_mean_what_kubernetes_says(taints, tolerates):
    def tolerated(taint, by):
        if by.effect not in ("", taint.effect):
            return False
        if by.how == "exists":
            return by.key in ("", taint.key)
        return by.key == taint.key and by.value == taint.value

    left = [
        taint
        for taint in taints
        if taint.effect != "PreferNoSchedule"
        and not any(tolerated(taint, one) for one in tolerates)
    ]
    assert list(unmet(tuple(taints), tuple(tolerates))) == left


@given(st.data())
def test_the_ground_is_kept_up_as_nodes_change(data):
    """However nodes changed, a mask is what a fresh look says."""
    ground, now = Ground(), {}
    labels = st.dictionaries(KEYS, VALUES).map(lambda has: tuple(sorted(has.items())))
    terms = (data.draw(st.lists(st.tuples(needs_()), max_size=2).map(tuple)), ())
    for _ in range(data.draw(st.integers(1, 6))):
        row = data.draw(st.integers(0, 3))
        node = Node("n", 1, 1, 1, labels=data.draw(labels), taints=data.draw(st.tuples(TAINTS)))
        node = replace(node, taints=node.taints if data.draw(st.booleans()) else ())
        ground.write(row, node)
        now[row] = node
        mask = ground.mask(terms)
        for at in range(max(now) + 1):
            one = now.get(at, Node("n", 1, 1, 1))
            allowed = meets(one.labels, terms[0]) and not unmet(one.taints, ())
            assert (mask is None or bool(mask[at])) == allowed


def test_a_node_that_is_seen_again_with_other_labels_is_taken_in():
    yard = Yard("n1: .").submit("b: 1 need=rack:r1").turn()
    assert yard.decisions() == ["reject b unmet_needs"]
    yard.seen("n1", labels=(("rack", "r1"),)).turn()
    yard.submit("c: 1 need=rack:r1").turn()
    assert yard.picture() == "n1: C"
