"""The network tree: what it is, whether another one would do, setting it."""

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.problems import Problem
from madang.core.events import SettingDropped, TopologySet
from madang.core.hypernodes import (
    DOMAINS,
    EXACT,
    LABEL,
    NODES,
    REGEX,
    TREE,
    Domain,
    Members,
    Topology,
    flaws,
    oddities,
)
from madang.core.model import WHOLE_GPU_MILLI, NodeState
from madang.core.snapshot import Snapshot
from madang.core.topology import depth_of, tree_of
from madang.wire import topology as wire

FINDINGS_SHOWN_MAX = 200


class Network:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def show(self) -> Response:
        """The tree in force: its domains, and what of each is free."""
        return answer(await self._desk.rows.read(self._show))

    async def set(self, body: wire.TopologyFile) -> Response:
        """Declare a tree; it is in force from the next turn on, and outlives the daemon.

        What runs stays where it is. Levels and default are the policy's from then on.
        """
        declared = topology_of(body)
        if wrong := flaws(declared):
            raise Problem(
                422,
                "invalid",
                f"the tree is not one: {wrong[0]}",
                tries=[*wrong[1:10], "madang topology check FILE"],
            )
        await self._yard.ask(TopologySet(declared))
        return answer(await self._desk.rows.read(self._show))

    async def check(self, body: wire.TopologyFile) -> Response:
        """What would be wrong with a tree, or odd with these nodes; changes nothing."""
        return answer(await self._desk.rows.read(self._check, topology_of(body)))

    async def drop(self) -> Response:
        """Forget the declared tree: nodes lie where they say themselves."""
        await self._yard.ask(SettingDropped("topologies", TREE))
        return answer(await self._desk.rows.read(self._show))

    def _check(self, declared: Topology) -> wire.TopologyCheckView:
        wrong = flaws(declared)
        nodes = [live.node for live in self._yard.snapshot().nodes.values()]
        odd = [] if wrong else oddities(declared, nodes)[:FINDINGS_SHOWN_MAX]
        return wire.TopologyCheckView(ok=not wrong, flaws=wrong, findings=odd)

    def _show(self) -> wire.TopologyView:
        return topology_view(self._yard.snapshot())


def topology_of(file: wire.TopologyFile) -> Topology:
    """The core's form of a topology file; `flaws` says what is wrong with it."""
    return Topology(
        levels=tuple(file.levels),
        labels=tuple(file.labels),
        domains=tuple(
            Domain(one.name, file.tier_of(one), _members_of(one)) for one in file.domains
        ),
        within=file.within,
    )


def _members_of(domain: wire.DomainFile) -> tuple[Members, ...]:
    words = (
        (NODES, EXACT, domain.nodes),
        (NODES, REGEX, domain.nodes_regex),
        (NODES, LABEL, domain.nodes_label),
        (DOMAINS, EXACT, domain.domains),
        (DOMAINS, REGEX, domain.domains_regex),
    )
    return tuple(Members(kind, how, value) for kind, how, values in words for value in values)


def file_of(topology: Topology) -> wire.TopologyFile:
    """A declared tree as its file."""
    keys = {
        (NODES, EXACT): "nodes",
        (NODES, REGEX): "nodes_regex",
        (NODES, LABEL): "nodes_label",
        (DOMAINS, EXACT): "domains",
        (DOMAINS, REGEX): "domains_regex",
    }
    domains = []
    for domain in topology.domains:
        one = wire.DomainFile(name=domain.name, level=topology.levels[-domain.tier])
        for members in domain.members:
            getattr(one, keys[members.kind, members.how]).append(members.value)
        domains.append(one)
    return wire.TopologyFile(
        levels=list(topology.levels),
        labels=list(topology.labels),
        within=topology.within,
        domains=domains,
    )


def topology_view(snapshot: Snapshot) -> wire.TopologyView:
    """The tree as it is. A domain comes before those under it."""
    there = [live for live in snapshot.nodes.values() if live.state is not NodeState.REMOVED]
    rows = np.array([live.row for live in there], np.intp)
    pool, policy, depth = snapshot.pool, snapshot.policy, depth_of(snapshot.pool.domains)
    tree = tree_of(pool.domains, rows)
    gpus, whole = pool.gpu_count[rows].astype(np.int64), pool.whole_free[rows].astype(np.int64)
    usable = pool.gpu_usable[rows].astype(np.int64)
    paths = {code: path for path, code in snapshot.domains.items()}
    found: list[tuple[tuple[str, ...], wire.DomainView]] = []
    for level in range(1, depth + 1):
        codes = pool.domains[rows, level - 1]
        for code in np.unique(codes[codes >= 0]).tolist():
            under = np.flatnonzero(tree.ids[level] == code)
            view = wire.DomainView(
                level=policy.levels[level - 1] if level <= len(policy.levels) else str(level),
                path=list(paths[code]),
                nodes=len(under),
                gpus=int(gpus[under].sum()),
                gpus_free=int((pool.gpu_free[rows[under]] == WHOLE_GPU_MILLI).sum()),
                whole=bool((whole[under] == usable[under]).all()),
            )
            found.append((paths[code], view))
    found.sort(key=lambda one: one[0])
    declared = snapshot.settings.topologies.get(TREE)
    nowhere = rows[(pool.domains[rows] < 0).all(axis=1)].tolist()
    odd = oddities(declared, [live.node for live in there]) if declared else []
    return wire.TopologyView(
        levels=list(policy.levels),
        within=policy.within or (policy.levels[0] if depth and policy.levels else "any"),
        declared=declared is not None,
        file=None if declared is None else file_of(declared),
        domains=[view for _, view in found],
        unplaced=[snapshot.node_ids[row] for row in nowhere],
        findings=odd[:FINDINGS_SHOWN_MAX],
    )


def topology_router(desk: Desk) -> APIRouter:
    """The table of what one can do with the network tree."""
    of = Network(desk)
    path, view = "/v1/topology", wire.TopologyView
    return router_of(
        "topology",
        [
            Route("GET", path, of.show, view),
            Route("PUT", path, of.set, view, 200, (422, 503)),
            Route("DELETE", path, of.drop, view, 200, (503,)),
            Route("POST", f"{path}/check", of.check, wire.TopologyCheckView, 200, (422,)),
        ],
    )
