"""The cells that there are: trees of GPUs, buddies, nodes and network domains, which stand still.

HiveD (Zhao et al., OSDI 2020) promises cells of a level instead of a number of GPUs. Its guarantee
needs all cells of a level to be alike, so that any of them will do. Here the likeness is made: a
chain holds the public nodes of one machine group and model; a cell of a level is exactly so many
cells of the level below. What is left over (a fifth node where leaves have four, a node with fewer
devices than its kind) belongs to no cell of that level and serves the levels below it.

Levels from below: `gpu`, `2gpu`, `4gpu`, … (aligned buddies inside a node), `node`, and then the
network tree's levels (`Policy.levels`) from the innermost out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from madang.core.live import LiveNode
from madang.core.model import Node, NodeState
from madang.core.policy import Policy
from madang.core.pool import Pool
from madang.core.settings import Settings

NODE = "node"
CellId = tuple[int, int, int]  # chain, level, index: see Chain.cell_of
Cells = NDArray[np.int32]
SLOTS = 64  # devices of a row that an index has room for
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Chain:
    """The cells of one machine group and model. L levels, Nc nodes, from below.

    `levels` and `sizes` (L): names, and GPUs of a cell. `inner`: how many levels lie inside a node,
    `node` among them. `rows` (Nc,): the nodes' rows in the pool, neighbours in the network side by
    side. `up[k]`: the cell of network level k that holds node n (k = 0) or cell n of level k-1, -1
    if none. `members[k][c]`: the nodes or cells that make up cell c of network level k.
    `host` (cpu_milli, memory_mib): what every node of the chain has for each of its GPUs.
    """

    group: str
    model: str
    levels: tuple[str, ...]
    sizes: tuple[int, ...]
    inner: int
    rows: NDArray[np.int64]
    up: tuple[Cells, ...]
    members: tuple[tuple[tuple[int, ...], ...], ...]
    host: tuple[int, int]

    @property
    def inner_sizes(self) -> tuple[int, ...]:
        """GPUs of the cells inside a node, from below."""
        return self.sizes[: self.inner]

    def above(self, level: int, slot: int) -> int:
        """The cell of a network level that holds a node of the chain, -1 if none does."""
        at = slot
        for k in range(level - self.inner + 1):
            at = self.up[k].item(at)
            if at < 0:
                return NOWHERE
        return at

    def slots_of(self, level: int, index: int) -> list[int]:
        """The nodes of a network cell, as indices into `rows`."""
        found = [index]
        for k in range(level - self.inner, -1, -1):
            found = [child for cell in found for child in self.members[k][cell]]
        return found


@dataclass(frozen=True, slots=True)
class Forest:
    """All chains. `chain_of` and `slot_of` say of each row where it is, -1 if in no chain.

    `gpus` is the number of devices of each row.
    """

    chains: tuple[Chain, ...]
    chain_of: tuple[int, ...]
    slot_of: tuple[int, ...]
    gpus: tuple[int, ...]

    def cell_at(self, level: int, row: int, gpu: int) -> CellId | None:
        """The cell of a level that holds a device; None if there is none."""
        at = self.chain_of[row]
        if at < 0:
            return None
        chain = self.chains[at]
        if level >= chain.inner:
            index = chain.above(level, self.slot_of[row])
            whole_node = index >= 0 and gpu < chain.sizes[chain.inner - 1]
            return (at, level, index) if whole_node else None
        size = chain.sizes[level]
        first = gpu - gpu % size
        is_node = level == chain.inner - 1
        if first + size > self.gpus[row] or (is_node and first):
            return None
        return (at, level, row * SLOTS + first)

    def devices(self, cell: CellId) -> list[tuple[int, int]]:
        """(row, bit set of devices) of a cell."""
        at, level, index = cell
        chain = self.chains[at]
        if level < chain.inner:
            row, first = divmod(index, SLOTS)
            return [(row, ((1 << chain.sizes[level]) - 1) << first)]
        whole = (1 << chain.sizes[chain.inner - 1]) - 1
        return [(chain.rows.item(slot), whole) for slot in chain.slots_of(level, index)]

    def built(self, chain: int) -> list[int]:
        """How many cells of each level the chain would have with every node in service."""
        found = self.chains[chain]
        counts = [0] * len(found.levels)
        for row in found.rows.tolist():
            cells = whole_cells((1 << self.gpus[row]) - 1, found.inner_sizes)
            for level, firsts in enumerate(cells):
                counts[level] += firsts.bit_count()
        for k, members in enumerate(found.members):
            counts[found.inner + k] = len(members)
        return counts


@cache
def whole_cells(good: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Per level inside a node, the first devices of the cells that are whole, as a bit set.

    `good` is the bit set of devices to build from; the last size is the node's.
    """
    found = []
    for level, size in enumerate(sizes):
        cell = (1 << size) - 1
        is_node = level == len(sizes) - 1
        firsts = (0,) if is_node else range(0, good.bit_length(), size)
        found.append(sum(1 << first for first in firsts if good >> first & cell == cell))
    return tuple(found)


class Machines(Protocol):
    """What a forest is made of; a State and a Snapshot are some."""

    @property
    def pool(self) -> Pool: ...
    @property
    def nodes(self) -> Mapping[str, LiveNode]: ...
    @property
    def domains(self) -> Mapping[tuple[str, ...], int]: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def policy(self) -> Policy: ...


@dataclass(frozen=True, slots=True)
class _Tree:
    """A node in its chain: where it hangs in the network, by names from the root down."""

    row: int
    node: Node
    paths: tuple[tuple[str, ...], ...]


def forest_of(yard: Machines) -> Forest:
    """The cells of a yard's nodes; the network's levels are the policy's.

    Nodes of a zone that is kept for some owners or sizes are in no chain: not everyone's cell may
    stand there.
    """
    rows = yard.pool.nodes
    chain_of, slot_of, gpus = [NOWHERE] * rows, [NOWHERE] * rows, [0] * rows
    path_of = {code: path for path, code in yard.domains.items()}
    codes = yard.pool.domains.tolist()
    kinds: dict[tuple[str, str], list[_Tree]] = {}
    for live in yard.nodes.values():
        node, row = live.node, live.row
        zone = yard.settings.zones.get(node.zone)
        gone = live.state is NodeState.REMOVED
        kept = zone is not None and bool(zone.owners or zone.gpus_min or zone.gpus_max)
        if node.gpus and not gone and not kept:
            gpus[row] = node.gpus
            paths = tuple([path_of.get(code, ()) for code in codes[row]])
            kinds.setdefault((node.group, node.model), []).append(_Tree(row, node, paths))
    chains = []
    for at, (kind, trees) in enumerate(sorted(kinds.items())):
        trees.sort(key=lambda tree: (tree.paths, tree.row))
        chains.append(_chain(kind, trees, yard.policy.levels))
        for slot, tree in enumerate(trees):
            chain_of[tree.row], slot_of[tree.row] = at, slot
    return Forest(tuple(chains), tuple(chain_of), tuple(slot_of), tuple(gpus))


def _chain(kind: tuple[str, str], trees: list[_Tree], levels: Sequence[str]) -> Chain:
    nodes = [tree.node for tree in trees]
    node_gpus = _usual(node.gpus for node in nodes)
    sizes = [1]
    while sizes[-1] * 2 < node_gpus and node_gpus % (sizes[-1] * 2) == 0:
        sizes.append(sizes[-1] * 2)
    names = ["gpu", *(f"{size}gpu" for size in sizes[1:]), NODE]
    sizes.append(node_gpus)
    inner = len(sizes)
    # The nodes that are whole cells, by the domain they are in; then cells, by theirs.
    children = [(n, one.paths) for n, one in enumerate(trees) if one.node.gpus >= node_gpus]
    up: list[Cells] = []
    members: list[tuple[tuple[int, ...], ...]] = []
    below = len(nodes)
    for depth in range(len(levels), 0, -1):
        chunks = _chunks(children, depth)
        if not chunks:
            continue
        parent = np.full(below, NOWHERE, np.int32)
        for cell, (_, chunk) in enumerate(chunks):
            parent[list(chunk)] = cell
        up.append(parent)
        members.append(tuple(chunk for _, chunk in chunks))
        names.append(levels[depth - 1])
        sizes.append(sizes[-1] * len(chunks[0][1]))
        paths_of = dict(children)
        children = [(cell, paths_of[chunk[0]]) for cell, (_, chunk) in enumerate(chunks)]
        below = len(chunks)
    host = (
        min(node.cpu_milli // node.gpus for node in nodes),
        min(node.memory_mib // node.gpus for node in nodes),
    )
    return Chain(
        *kind,
        levels=tuple(names),
        sizes=tuple(sizes),
        inner=inner,
        rows=np.array([tree.row for tree in trees], np.int64),
        up=tuple(up),
        members=tuple(members),
        host=host,
    )


def _chunks(
    children: list[tuple[int, tuple[tuple[str, ...], ...]]], depth: int
) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(domain, children) of each cell of the level at `depth`: as many children as is usual."""
    by_domain: dict[tuple[str, ...], list[int]] = {}
    for child, paths in children:
        if len(paths) >= depth and paths[depth - 1]:
            by_domain.setdefault(paths[depth - 1], []).append(child)
    if not by_domain:
        return []
    usual = _usual(len(found) for found in by_domain.values())
    return [
        (path, tuple(found[first : first + usual]))
        for path, found in sorted(by_domain.items())
        for first in range(0, len(found) - usual + 1, usual)
    ]


def _usual(numbers: Iterable[int]) -> int:
    """The number met most often; of several the largest."""
    counts = Counter(numbers)
    return max(counts, key=lambda number: (counts[number], number))
