"""Topology files: ours, Volcano's HyperNodes, and what is wrong with others."""

import pytest
import yaml

from madang.wire.topology import TopologyError, topology_of

OURS = """
levels: [block, leaf]
within: block
domains:
  - {name: b0, level: block, domains: [l0], domains_regex: ["l[1-3]"]}
  - {name: l0, level: leaf, nodes: [n0, n1]}
  - {name: l2, tier: 1, nodes_label: ["rack=r7,row=b"]}
"""

# As in Volcano's documentation.
HYPERNODES = """
apiVersion: topology.volcano.sh/v1alpha1
kind: HyperNode
metadata: {name: s0}
spec:
  tier: 1
  members:
  - {type: Node, selector: {exactMatch: {name: node-0}}}
  - {type: Node, selector: {regexMatch: {pattern: "node-[12]"}}}
---
apiVersion: topology.volcano.sh/v1alpha1
kind: HyperNode
metadata: {name: s1}
spec:
  tier: 1
  members:
  - {type: Node, selector: {labelMatch: {matchLabels: {rack: r1, row: b}}}}
---
apiVersion: topology.volcano.sh/v1alpha1
kind: HyperNode
metadata: {name: s6}
spec:
  tier: 2
  tierName: supernode
  members:
  - {type: HyperNode, selector: {exactMatch: {name: s0}}}
  - {type: HyperNode, selector: {exactMatch: {name: s1}}}
"""


def read(text: str):
    return topology_of(list(yaml.safe_load_all(text)))


def test_a_file_of_ours_says_what_it_says():
    file = read(OURS)

    assert (file.levels, file.within) == (["block", "leaf"], "block")
    assert [file.tier_of(domain) for domain in file.domains] == [2, 1, 1]
    assert file.domains[0].domains_regex == ["l[1-3]"]


def test_hypernodes_are_read_as_they_are():
    file = read(HYPERNODES)

    assert file.levels == ["supernode", "leaf"]
    assert [(domain.name, file.tier_of(domain)) for domain in file.domains] == [
        ("s0", 1),
        ("s1", 1),
        ("s6", 2),
    ]
    leaf, labelled, spine = file.domains
    assert leaf.nodes == ["node-0"]
    assert leaf.nodes_regex == [".*(?:node-[12]).*"]  # theirs match anywhere in a name
    assert labelled.nodes_label == ["rack=r1,row=b"]
    assert spine.domains == ["s0", "s1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a topology file is one mapping with levels and domains, or HyperNode objects"),
        ("- a", "a topology file is one mapping with levels and domains, or HyperNode objects"),
        ("levels: []", "levels: List should have at least 1 item after validation, not 0"),
        ("levels: [a]\nleafs: []", "leafs: Extra inputs are not permitted"),
        (
            "levels: [a]\ndomains: [{name: x, level: b}]",
            "x: there is no level b; there are: a",
        ),
        ("levels: [a]\ndomains: [{name: x}]", "x: give its level: a"),
        ("levels: [a, b]\ndomains: [{name: x, level: a, tier: 1}]", "x: level a is tier 2"),
        ("kind: HyperNode\nmetadata: {name: s0}", "not a HyperNode: KeyError('spec') in"),
        (
            (
                "kind: HyperNode\nmetadata: {name: s0}\n"
                "spec: {tier: 1, members: [{type: Pod, selector: {}}]}"
            ),
            "not a HyperNode: KeyError('Pod') in",
        ),
    ],
)
def test_what_is_no_topology_is_told_with_its_place(text, told):
    with pytest.raises(TopologyError) as wrong:
        read(text)

    assert str(wrong.value).startswith(told)
