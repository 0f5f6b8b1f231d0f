"""A network tree that operators declare: domains by tier, with their members by name or label.

The meaning is that of Volcano's HyperNode: tier 1 is the leaf switch, larger tiers are further up;
a domain's members are nodes or domains of a lower tier, given by exact names, by a regular
expression (the whole name) or by a label. A node label for each level may stand for domains. A
tree without either only names the levels of the nodes' own `domains`.

`Placer` turns it into each node's domains; `flaws` says what is wrong with it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from madang.core.model import Node

TREE = "tree"  # there is one tree
ANYWHERE = "any"
NODE = "node"  # the innermost level, in every yard

NODES: Literal["node"] = "node"
DOMAINS: Literal["domain"] = "domain"
EXACT, REGEX, LABEL = "exact", "regex", "label"


@dataclass(frozen=True, slots=True)
class Members:
    """Nodes or domains (`kind`) that a domain holds; `how`: EXACT, REGEX or LABEL
    (`key=value`, or several of them with commas)."""

    kind: str
    how: str
    value: str


@dataclass(frozen=True, slots=True)
class Domain:
    """A switch, a block, a pod: what is under it is near."""

    name: str
    tier: int
    members: tuple[Members, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """`levels` name the tiers from the root down, so that the last is tier 1; `labels` a node label
    for each level, or none at all; `within` the level that holds a training on several nodes.
    """

    levels: tuple[str, ...]
    labels: tuple[str, ...] = ()
    domains: tuple[Domain, ...] = ()
    within: str = ""

    @property
    def key(self) -> str:
        return TREE


class Placer:
    """Where each node lies in a declared tree."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._exact: dict[str, list[Domain]] = {}
        self._looked_at: list[tuple[Domain, Members, re.Pattern[str] | None]] = []
        for domain in topology.domains:
            for members in domain.members:
                if members.kind == NODES and members.how == EXACT:
                    self._exact.setdefault(members.value, []).append(domain)
                elif members.kind == NODES:
                    regex = re.compile(members.value) if members.how == REGEX else None
                    self._looked_at.append((domain, members, regex))
        self._parents = parents_of(topology)

    def domains_of(self, node: Node) -> tuple[str, ...]:
        """The node's domains from the root down; "" where it has none of a level."""
        names = [""] * len(self.topology.levels)
        for found in self.holding(node):
            domain: Domain | None = found
            while domain is not None:
                names[-domain.tier] = names[-domain.tier] or domain.name
                domain = self._parents.get(domain.name)
        labels = dict(node.labels)
        for level, label in enumerate(self.topology.labels):
            names[level] = names[level] or labels.get(label, "")
        says_where = bool(self.topology.domains or self.topology.labels)
        return tuple(names) if says_where else node.domains

    def holding(self, node: Node) -> list[Domain]:
        """The domains that hold the node themselves, the lowest first, in the tree's order."""
        found = list(self._exact.get(node.id, ()))
        found += [d for d, members, regex in self._looked_at if _holds(members, regex, node)]
        order = {domain.name: at for at, domain in enumerate(self.topology.domains)}
        return sorted(found, key=lambda domain: (domain.tier, order[domain.name]))


def _holds(members: Members, regex: re.Pattern[str] | None, node: Node) -> bool:
    if regex is not None:
        return regex.fullmatch(node.id) is not None
    wanted = [word.partition("=") for word in members.value.split(",")]
    return all((key.strip(), value.strip()) in node.labels for key, _, value in wanted)


def parents_of(topology: Topology) -> dict[str, Domain]:
    """The domain above each domain; the first that says so."""
    parents: dict[str, Domain] = {}
    for upper in topology.domains:
        for lower in _lower_members(topology, upper):
            if lower.tier < upper.tier:
                parents.setdefault(lower.name, upper)
    return parents


def _lower_members(topology: Topology, upper: Domain) -> Iterator[Domain]:
    """The domains that a domain says it holds."""
    exact = {m.value for m in upper.members if m.kind == DOMAINS and m.how == EXACT}
    regexes = [re.compile(m.value) for m in upper.members if m.kind == DOMAINS and m.how == REGEX]
    for domain in topology.domains if exact or regexes else ():
        if domain.name in exact or any(regex.fullmatch(domain.name) for regex in regexes):
            yield domain


def flaws(topology: Topology) -> list[str]:
    """What is wrong with the tree itself; it may be set when there is nothing."""
    levels, domains = topology.levels, topology.domains
    found = [f"level {name!r} is said twice" for name in _twice(levels)]
    found += [f"{name!r} cannot name a level" for name in levels if name in (NODE, ANYWHERE, "")]
    found += [f"{name!r} is a number: that is a tier" for name in levels if name.isdecimal()]
    if not levels:
        found.append("there is no level; name them from the root down, for example [block, leaf]")
    if topology.labels and len(topology.labels) != len(levels):
        found.append(f"{len(topology.labels)} labels for {len(levels)} levels: give one for each")
    if topology.within not in ("", ANYWHERE, NODE, *levels):
        found.append(f"within: {topology.within!r} is no level; there are: {' '.join(levels)} any")
    found += [f"domain {name!r} is there twice" for name in _twice(d.name for d in domains)]
    for domain in domains:
        found += [f"{domain.name}: {flaw}" for flaw in _flaws_of(domain, len(levels))]
    return found or _flaws_between(topology)


def _flaws_of(domain: Domain, levels: int) -> Iterator[str]:
    if not 1 <= domain.tier <= levels:
        yield f"tier {domain.tier} is not between 1 (leaf) and {levels}, the number of levels"
    for members in domain.members:
        if members.how == REGEX:
            try:
                re.compile(members.value)
            except re.error as failure:
                yield f"{members.value!r} is not a regular expression: {failure}"
        elif members.how == LABEL and members.kind == DOMAINS:
            yield "labels are of nodes; name the domains it holds, or give an expression"
        elif members.how == LABEL and not all("=" in one for one in members.value.split(",")):
            yield f"{members.value!r} is not a label; write key=value"


def _flaws_between(topology: Topology) -> list[str]:
    """Domains that are not there, under two others, or not above what they hold."""
    found, names = [], {domain.name for domain in topology.domains}
    above: dict[str, str] = {}
    for upper in topology.domains:
        found += [
            f"{upper.name} holds {members.value}, which is not a domain"
            for members in upper.members
            if members.kind == DOMAINS and members.how == EXACT and members.value not in names
        ]
        for lower in _lower_members(topology, upper):
            if lower.tier >= upper.tier:
                found.append(
                    f"{upper.name} (tier {upper.tier}) holds {lower.name} (tier {lower.tier}): "
                    "a domain's members are of lower tiers"
                )
            elif above.setdefault(lower.name, upper.name) != upper.name:
                found.append(f"{lower.name} is in {above[lower.name]} and in {upper.name}")
    return found


def oddities(topology: Topology, nodes: Iterable[Node]) -> list[str]:
    """What is odd about the tree in this yard: nodes in no domain or in two, empty domains."""
    placer, found = Placer(topology), []
    seen: set[str] = set()
    for node in nodes:
        holding = placer.holding(node)
        by_tier: dict[int, str] = {}
        for domain in holding:
            first = by_tier.setdefault(domain.tier, domain.name)
            if first != domain.name:
                found.append(f"{node.id} is in {first} and in {domain.name}; {first} counts")
        domains = placer.domains_of(node)
        seen.update(domains)
        if not any(domains):
            found.append(f"{node.id} is in no domain")
        elif "" in domains or len(domains) < len(topology.levels):
            missing = [
                level
                for at, level in enumerate(topology.levels)
                if at >= len(domains) or not domains[at]
            ]
            found.append(f"{node.id} is in no {' and no '.join(missing)}")
    found += [
        f"{d.name} holds no node of this yard" for d in topology.domains if d.name not in seen
    ]
    return found


def _twice(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for name in names:
        if name in seen:
            twice[name] = None
        seen.add(name)
    return list(twice)
