"""The topology file: `madang topology set FILE`, `madang up --topology FILE`, PUT /v1/topology.

    levels: [block, leaf]        # from the root down; tier 1 is the last
    within: block                # holds a training on several nodes unless its job says otherwise
    domains:
      - {name: b0, level: block, domains: [l0, l1]}
      - {name: l0, level: leaf, nodes: [n0, n1]}
      - {name: l1, level: leaf, nodes_regex: ["n[2-9]"], nodes_label: ["rack=r1"]}

Or `labels: [net/block, net/leaf]` instead of domains: node labels that name each level. A Volcano
installation's HyperNode objects are read, too (`from_hypernodes`). Unknown keys are errors.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TOPOLOGY_BYTES_MAX = 4 << 20
DOMAINS_MAX = 10_000
MEMBERS_MAX = 100_000
LEVELS_MAX = 8
TIER_NAMES = ("leaf", "block", "pod")  # what tiers 1, 2, 3 are called where nobody says
Name = Annotated[str, Field(min_length=1, max_length=253)]
Regex = Annotated[str, Field(min_length=1, max_length=512)]


class DomainFile(BaseModel):
    """A switch, a block, a pod, and what is under it. Regular expressions match whole names."""

    model_config = ConfigDict(extra="forbid", title="Domain")

    name: Name
    level: str = Field("", max_length=64, description="One of `levels`; or give its `tier`.")
    tier: int = Field(0, ge=0, le=LEVELS_MAX, description="1 is the leaf switch.")
    nodes: list[Name] = Field(default_factory=list, max_length=MEMBERS_MAX)
    nodes_regex: list[Regex] = Field(default_factory=list, max_length=64)
    nodes_label: list[Regex] = Field(
        default_factory=list, max_length=64, description="`key=value`, or several with commas."
    )
    domains: list[Name] = Field(default_factory=list, max_length=MEMBERS_MAX)
    domains_regex: list[Regex] = Field(default_factory=list, max_length=64)


class TopologyFile(BaseModel):
    """The network tree as operators write it."""

    model_config = ConfigDict(extra="forbid", title="Madang topology")

    levels: list[Name] = Field(min_length=1, max_length=LEVELS_MAX)
    labels: list[Name] = Field(default_factory=list, max_length=LEVELS_MAX)
    within: str = Field("", max_length=64, description="A level, `any`; empty: as the policy says.")
    domains: list[DomainFile] = Field(default_factory=list, max_length=DOMAINS_MAX)

    @model_validator(mode="after")
    def _tiers(self) -> "TopologyFile":
        for domain in self.domains:
            if domain.level and domain.level not in self.levels:
                raise ValueError(
                    f"{domain.name}: there is no level {domain.level}; "
                    f"there are: {' '.join(self.levels)}"
                )
            if not domain.level and not domain.tier:
                raise ValueError(f"{domain.name}: give its level: {' or '.join(self.levels)}")
            tier = self.tier_of(domain)
            if domain.tier not in (0, tier):
                raise ValueError(f"{domain.name}: level {domain.level} is tier {tier}")
        return self

    def tier_of(self, domain: DomainFile) -> int:
        """1 for a leaf."""
        if not domain.level:
            return domain.tier
        return len(self.levels) - self.levels.index(domain.level)


class TopologyError(ValueError):
    """A topology file that cannot be used. The text has a line for each finding."""


def topology_of(documents: Sequence[Any]) -> TopologyFile:
    """The topology of a file's documents: one of ours, or any number of HyperNodes.

    Raises:
        TopologyError: where it is wrong, what was given, what is allowed.
    """
    documents = [document for document in documents if document is not None]
    if documents and all(_is_hypernode(document) for document in documents):
        return from_hypernodes(documents)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise TopologyError(
            "a topology file is one mapping with levels and domains, or HyperNode objects"
        )
    if documents[0].get("kind") == "HyperNodeList":
        return from_hypernodes(documents[0].get("items") or [])
    return _validated(documents[0])


def _validated(values: Mapping[str, Any]) -> TopologyFile:
    try:
        return TopologyFile.model_validate(values)
    except ValidationError as wrong:
        raise TopologyError("\n".join(_finding(error) for error in wrong.errors())) from None


def _finding(error: Any) -> str:
    where = ", ".join(str(step) for step in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _is_hypernode(document: Any) -> bool:
    return isinstance(document, dict) and document.get("kind") == "HyperNode"


def from_hypernodes(documents: Sequence[Any]) -> TopologyFile:
    """A topology of Volcano's objects (topology.volcano.sh/v1alpha1 HyperNode).

    Their expressions match anywhere in a name, ours the whole of it, so they are widened.

    Raises:
        TopologyError: one is not as Volcano has them.
    """
    domains = []
    names: dict[int, str] = {}
    for document in documents:
        try:
            name, spec = str(document["metadata"]["name"]), document["spec"]
            tier = int(spec["tier"])
            domain: dict[str, Any] = {"name": name, "tier": tier}
            for member in spec.get("members") or []:
                _add_member(domain, member)
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            raise TopologyError(
                f"not a HyperNode: {wrong!r} in {str(document)[:200]}; it has metadata.name, "
                "spec.tier and spec.members with exactMatch, regexMatch or labelMatch"
            ) from None
        names.setdefault(tier, str(spec.get("tierName") or ""))
        domains.append(domain)
    tiers = range(max(names, default=1), 0, -1)
    default = dict(enumerate(TIER_NAMES, 1))
    levels = [names.get(tier) or default.get(tier, f"tier-{tier}") for tier in tiers]
    return _validated({"levels": levels, "domains": domains})


def _add_member(domain: dict[str, Any], member: Any) -> None:
    kind = {"Node": "nodes", "HyperNode": "domains"}[member["type"]]
    selector = member["selector"]
    if exact := selector.get("exactMatch"):
        domain.setdefault(kind, []).append(exact["name"])
    elif regex := selector.get("regexMatch"):
        domain.setdefault(f"{kind}_regex", []).append(f".*(?:{regex['pattern']}).*")
    else:
        labels = selector["labelMatch"]["matchLabels"]
        pairs = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        domain.setdefault("nodes_label", []).append(pairs)


class DomainView(BaseModel):
    """A domain as it is: its path from the root down, and what of it is free."""

    level: str
    path: list[str]
    nodes: int
    gpus: int
    gpus_free: int
    whole: bool = Field(description="Nobody has any part of its GPUs.")


class TopologyView(BaseModel):
    """The tree in force. `within` holds a training on several nodes by default."""

    levels: list[str]
    within: str
    declared: bool = Field(description="By a file; otherwise by the nodes themselves.")
    file: TopologyFile | None = None
    domains: list[DomainView]
    unplaced: list[str] = Field(description="Nodes in no domain.")
    findings: list[str] = Field(description="What is odd about it.")


class TopologyCheckView(BaseModel):
    """What would be wrong (`flaws`: it cannot be set) or odd with a topology here."""

    ok: bool
    flaws: list[str]
    findings: list[str]
