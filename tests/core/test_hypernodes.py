"""Declared trees: where nodes come to lie, what is wrong with a tree, what a change of it does."""

import pytest

from madang.core import events as ev
from madang.core.hypernodes import Domain, Members, Placer, Topology, flaws, oddities
from madang.core.model import Node
from madang.core.policy import DEFAULT, Policy
from tests.core.yard import Yard

LEVELS = ("block", "leaf")


def domain(name: str, tier: int, *members: str) -> Domain:
    """`nodes:n0`, `nodes~n[1-2]`, `label:rack=r1`, `domains:l0`, `domains~l.`."""
    found = []
    for words in members:
        if words.startswith("label:"):
            found.append(Members("node", "label", words.removeprefix("label:")))
            continue
        kind, how = ("node", words[5:]) if words.startswith("nodes") else ("domain", words[7:])
        found.append(Members(kind, "exact" if how[0] == ":" else "regex", how[1:]))
    return Domain(name, tier, tuple(found))


# Volcano's own example: two leaves under a spine, by name and by expression.
TREE = Topology(
    LEVELS,
    domains=(
        domain("s0", 1, "nodes:n0", "nodes:n1"),
        domain("s1", 1, "nodes~n[2-3]"),
        domain("s2", 1, "label:rack=r1,row=b"),
        domain("p0", 2, "domains:s0", "domains:s1"),
        domain("p1", 2, "domains~s2|s9", "nodes:n5"),
    ),
)


@pytest.mark.parametrize(
    ("node", "domains"),
    [
        (Node("n0", 8, 0, 0), ("p0", "s0")),
        (Node("n1", 8, 0, 0), ("p0", "s0")),
        (Node("n3", 8, 0, 0), ("p0", "s1")),
        (Node("n30", 8, 0, 0), ("", "")),  # an expression is for the whole name
        (Node("x", 8, 0, 0, labels=(("rack", "r1"), ("row", "b"))), ("p1", "s2")),
        (Node("x", 8, 0, 0, labels=(("rack", "r1"),)), ("", "")),
        (Node("n5", 8, 0, 0), ("p1", "")),  # straight under a spine
        (Node("n9", 8, 0, 0, domains=("b", "l")), ("", "")),  # of the file's tree or of none
    ],
    ids=lambda value: value.id if isinstance(value, Node) else None,
)
def test_a_node_lies_where_the_tree_says(node, domains):
    assert Placer(TREE).domains_of(node) == domains


def test_labels_may_name_the_levels():
    by_label = Topology(LEVELS, labels=("net/block", "net/leaf"))
    node = Node("n0", 8, 0, 0, labels=(("net/block", "b7"), ("net/leaf", "l3")), domains=("x",))

    assert Placer(by_label).domains_of(node) == ("b7", "l3")
    assert Placer(by_label).domains_of(Node("n1", 8, 0, 0)) == ("", "")


def test_a_tree_of_levels_alone_names_what_the_nodes_say():
    node = Node("n0", 8, 0, 0, domains=("b0", "l0"))

    assert Placer(Topology(("pod", "rack"))).domains_of(node) == ("b0", "l0")


@pytest.mark.parametrize(
    ("topology", "flaw"),
    [
        (TREE, None),
        (Topology(()), "there is no level; name them from the root down"),
        (Topology(("leaf", "leaf")), "level 'leaf' is said twice"),
        (Topology(("node",)), "'node' cannot name a level"),
        (Topology(("2",)), "'2' is a number: that is a tier"),
        (Topology(LEVELS, labels=("a",)), "1 labels for 2 levels"),
        (Topology(LEVELS, within="rack"), "within: 'rack' is no level"),
        (Topology(LEVELS, domains=(domain("a", 3),)), "a: tier 3 is not between 1 (leaf) and 2"),
        (Topology(LEVELS, domains=(domain("a", 1), domain("a", 1))), "domain 'a' is there twice"),
        (Topology(LEVELS, domains=(domain("a", 1, "nodes~["),)), "a: '[' is not a regular"),
        (Topology(LEVELS, domains=(domain("a", 1, "label:x"),)), "a: 'x' is not a label"),
        (
            Topology(LEVELS, domains=(domain("a", 2, "domains:b"),)),
            "a holds b, which is not a domain",
        ),
        (
            Topology(LEVELS, domains=(domain("a", 1, "domains:b"), domain("b", 1))),
            "a (tier 1) holds b (tier 1): a domain's members are of lower tiers",
        ),
        (
            Topology(LEVELS, domains=(domain("a", 1, "domains:a"),)),
            "a (tier 1) holds a (tier 1): a domain's members are of lower tiers",
        ),
        (
            Topology(
                LEVELS,
                domains=(domain("a", 2, "domains:c"), domain("b", 2, "domains~c"), domain("c", 1)),
            ),
            "c is in a and in b",
        ),
    ],
)
def test_what_is_no_tree_is_told(topology, flaw):
    found = flaws(topology)

    assert (flaw is None) == (not found)
    if flaw is not None:
        assert found[0].startswith(flaw)


def test_what_is_odd_in_this_yard_is_told():
    twice = Topology(
        LEVELS,
        domains=(
            domain("s0", 1, "nodes:n0"),
            domain("s1", 1, "nodes~n[0-1]"),
            domain("s2", 1, "nodes:gone"),
            domain("p0", 2, "domains~s[02]"),
        ),
    )
    nodes = [Node(f"n{at}", 8, 0, 0) for at in range(3)]

    assert oddities(twice, nodes) == [
        "n0 is in s0 and in s1; s0 counts",
        "n1 is in no block",
        "n2 is in no domain",
        "s2 holds no node of this yard",
    ]


# -- in the fold -----------------------------------------------------------------------------------


def names(yard: Yard) -> list[tuple[str, ...]]:
    """The innermost known path of each node."""
    paths = {code: path for path, code in yard.state.domains.items()}
    return [
        max((paths[code] for code in row if code >= 0), key=len, default=())
        for row in yard.state.pool.domains.tolist()
    ]


def test_a_tree_is_in_force_from_the_turn_it_is_set_until_it_is_dropped():
    yard = Yard("n0: .. at=x\nn1: .. at=x/y\nn2: ..")
    assert names(yard) == [("x",), ("x", "y"), ()]

    yard.fact(ev.TopologySet(TREE)).turn()
    assert names(yard) == [("p0", "s0"), ("p0", "s0"), ("p0", "s1")]
    yard.seen("n2", gpus=4, domains=("z",)).turn()
    assert names(yard)[2] == ("p0", "s1")
    yard.fact(ev.SettingDropped("topologies", "tree")).turn()

    assert names(yard) == [("x",), ("x", "y"), ("z",)]


def test_the_levels_of_a_tree_are_the_policys_whatever_policy_is_set():
    yard = Yard("n0: ..")
    pods = Topology(("pod", "rack"), within="rack")

    yard.fact(ev.TopologySet(pods)).turn()
    assert (yard.state.policy.levels, yard.state.policy.within) == (("pod", "rack"), "rack")
    yard.fact(ev.PolicySet(Policy("other", levels=("a",), within="a"))).turn()
    assert yard.state.policy == Policy("other", levels=("pod", "rack"), within="rack")
    yard.fact(ev.SettingDropped("topologies", "tree")).turn()

    assert yard.state.policy.levels == DEFAULT.levels


def test_a_promise_is_void_when_the_tree_tears_it_apart():
    yard = Yard("n0: AA at=b0/l0\nn1: BB at=b0/l0")
    seats = tuple(yard.state.allocations[id].seats[0] for id in ("a.1", "b.1"))
    yard.submit("c: 2x2").stop("a").stop("b").turn()
    yard.state.apply(ev.JobNominated("c", seats), yard.now_ms)
    yard.seen("n0", cpu_milli=1).turn()  # it looks again, and waits for those who leave
    assert yard.state.nominations == {"c": seats}

    apart = Topology(LEVELS, domains=(domain("p0", 2, "nodes:n0"), domain("p1", 2, "nodes:n1")))
    yard.fact(ev.TopologySet(apart)).turn()

    assert "drop c" in yard.decisions()
