"""The network tree of a cluster: from Volcano's HyperNodes, or from labels of nodes.

Operators may declare a tree of their own, which goes before all here. Else HyperNodes are read if
there are any, else the first family of labels in `FAMILIES` of which some node has one. A gang's
wish (a label, a tier, a level's name) becomes the core's level; a wish that no level answers to is
refused where it is a condition.

Sources: volcano-sh/volcano v1.13 HyperNode (topology.volcano.sh/v1alpha1: tier, tierName, members
by exactMatch, regexMatch, labelMatch; tier 1 is the nearest); NVIDIA Topograph v0.5 and v1.0 "Node
Labels and Annotations"; GKE "topology" labels; EC2 instance topology labels.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madang.core.hypernodes import (
    ANYWHERE,
    DOMAINS,
    EXACT,
    LABEL,
    NODE,
    NODES,
    REGEX,
    Domain,
    Members,
    Topology,
    flaws,
)
from madang.engines.kubernetes.podspec import HOSTNAME
from madang.engines.kubernetes.reading import (
    Malformed,
    items,
    mapping,
    named,
    pairs,
    text,
    value,
    whole,
)
from madang.engines.kubernetes.values import NodeFacts

# What each family calls its levels, from the root down, and the label of each.
FAMILIES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("core", "fabric.topograph.run/tier-2"),
        ("spine", "fabric.topograph.run/tier-1"),
        ("leaf", "fabric.topograph.run/tier-0"),
    ),
    (
        ("core", "network.topology.nvidia.com/core"),
        ("spine", "network.topology.nvidia.com/spine"),
        ("leaf", "network.topology.nvidia.com/leaf"),
    ),
    (
        ("block", "cloud.google.com/gce-topology-block"),
        ("subblock", "cloud.google.com/gce-topology-subblock"),
    ),
    (
        ("layer-1", "topology.k8s.aws/network-node-layer-1"),
        ("layer-2", "topology.k8s.aws/network-node-layer-2"),
        ("layer-3", "topology.k8s.aws/network-node-layer-3"),
    ),
    (
        ("zone", "topology.kubernetes.io/zone"),
        ("rack", "topology.kubernetes.io/rack"),
    ),
)
TIER_NAMES = ("leaf", "block", "pod")  # what tiers 1, 2, 3 are called where nobody says
TIERS_MAX = 8
_TIER = re.compile(r"tier (\d{1,4})")


@dataclass(frozen=True, slots=True)
class HyperFacts:
    """One HyperNode."""

    domain: Domain
    tier_name: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The tree, and by which label each of its levels is known: `labels` is () or one a level.
    `flaws` says what is wrong with the HyperNodes: then there is no tree of them."""

    topology: Topology | None = None
    labels: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        return self.topology.levels if self.topology else ()


def hypernode(of: Mapping[str, Any]) -> HyperFacts | None:
    """One HyperNode, trimmed; None if it has no name."""
    try:
        name = named(of, "metadata", "name")
    except Malformed:
        return None
    try:
        tier = _tier(value(of, "spec", "tier"))
        members = tuple(_members(one) for one in items(of, "spec", "members"))
        return HyperFacts(Domain(name, tier, members), text(of, "spec", "tierName"))
    except Malformed as failure:
        return HyperFacts(Domain(name, 0), refused=f"HyperNode {name} cannot be read: {failure}")


def _tier(said: object) -> int:
    """A number; a text before Volcano 1.11."""
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 4:
        said = int(said)
    return whole({"tier": said}, "tier", least=1, most=TIERS_MAX)


def _members(of: Mapping[str, Any]) -> Members:
    said = named(of, "type")
    if said not in ("Node", "HyperNode"):
        raise Malformed(f"members are of type Node or HyperNode, not {said!r}")
    kind = NODES if said == "Node" else DOMAINS
    selector = mapping(of, "selector")
    if "exactMatch" in selector:
        return Members(kind, EXACT, named(selector, "exactMatch", "name"))
    if "regexMatch" in selector:
        pattern = named(selector, "regexMatch", "pattern")
        # Volcano's match anywhere in a name, ours the whole of it.
        return Members(kind, REGEX, f".*(?:{pattern}).*")
    labels = pairs(selector, "labelMatch", "matchLabels")
    if not labels:
        raise Malformed("a member has exactMatch, regexMatch or labelMatch")
    return Members(kind, LABEL, ",".join(f"{key}={labels[key]}" for key in sorted(labels)))


def layout_of(
    nodes: Iterable[NodeFacts],
    hypernodes: Sequence[HyperFacts] = (),
    families: Sequence[Sequence[tuple[str, str]]] = FAMILIES,
) -> Layout:
    """The tree that the cluster itself declares; none if it declares none."""
    wrong = tuple(one.refused for one in hypernodes if one.refused)
    if hypernodes:
        if wrong:
            return Layout(flaws=wrong)
        found = _of_hypernodes(hypernodes)
        wrong = tuple(flaws(found))
        return Layout(flaws=wrong) if wrong else Layout(found)
    have = {key for node in nodes for key, _ in node.labels}
    for family in families:
        there = [(level, label) for level, label in family if label in have]
        if there:
            levels, labels = zip(*there, strict=True)
            return Layout(Topology(levels=tuple(levels), labels=tuple(labels)), tuple(labels))
    return Layout()


def _of_hypernodes(hypernodes: Sequence[HyperFacts]) -> Topology:
    ordered = sorted(hypernodes, key=lambda one: (-one.domain.tier, one.domain.name))
    names: dict[int, str] = {}
    for one in ordered:
        names[one.domain.tier] = names.get(one.domain.tier) or one.tier_name
    levels = []
    for tier in range(max(names), 0, -1):
        usual = TIER_NAMES[tier - 1] if tier <= len(TIER_NAMES) else f"tier-{tier}"
        levels.append(names.get(tier) or usual)
    return Topology(levels=tuple(levels), domains=tuple(one.domain for one in ordered))


NO_TREE = Layout()


@dataclass(frozen=True, slots=True)
class Wish:
    """`level` as the core has it ("": nothing asked); `refused` if no level answers to it."""

    level: str = ""
    soft: bool = False
    refused: str = ""


def wish_of(within: str, soft: bool, layout: Layout) -> Wish:
    """What the core calls it: a label of a level, a level, `tier N`, `any` or a hostname."""
    if not within:
        return Wish()
    levels = layout.levels
    if within in (ANYWHERE, NODE):
        return Wish(within, soft)
    if within == HOSTNAME:
        return Wish(NODE, soft)
    if within in levels:
        return Wish(within, soft)
    if within in layout.labels:
        return Wish(levels[layout.labels.index(within)], soft)
    tier = _TIER.fullmatch(within)
    if tier and levels:
        number = int(tier[1])
        if number == 0:
            return Wish(NODE, soft)
        return Wish(levels[-number] if number <= len(levels) else ANYWHERE, soft)
    if soft:
        return Wish()
    known = ", ".join((*levels, *layout.labels)) or "none: no HyperNodes and no topology labels"
    return Wish(refused=f"it must be within one {within}, and there is no such level ({known})")
