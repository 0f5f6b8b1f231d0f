"""Promises as operators write them, and whether the yard could ever keep them together.

`Quota.cells` holds (level, count); a level may name the model: `leaf`, `node@H100`. Only reserved
jobs claim cells. Static admission (HiveD §3): counted with every node in service and nothing
running, the promises of all owners must fit side by side on every level of their chain.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from madang.core.admission import Rejected
from madang.core.cells.book import OTHERS, CellBook, OwnerLevel
from madang.core.cells.forest import Forest, Machines, forest_of
from madang.core.cells.room import is_firm
from madang.core.live import LiveJob, LiveNode
from madang.core.model import Allocation, NodeState, Provisioning
from madang.core.settings import ANY, Quota

OWNERS_SHOWN_MAX = 8


class Yard(Machines, Protocol):
    """What a book is made of; a State and a Snapshot are some."""

    @property
    def jobs(self) -> Mapping[str, LiveJob]: ...
    @property
    def allocations(self) -> Mapping[str, Allocation]: ...


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a level names no cell: `code` of the rejection, `known` what there is instead."""

    code: str
    known: str


def promises_cells(quotas: Iterable[Quota]) -> bool:
    """True iff any of the quotas does."""
    return any(quota.cells for quota in quotas)


def found(forest: Forest, quota: Quota, level: str) -> tuple[int, int] | Missing:
    """(chain, level) that a level of a quota means: of several chains the one with most GPUs."""
    name, _, model = level.partition("@")
    mine = [
        at
        for at, chain in enumerate(forest.chains)
        if quota.group in (ANY, chain.group) and model in ("", chain.model)
    ]
    if not mine:
        known = sorted({f"{chain.group} ({chain.model})" for chain in forest.chains})
        return Missing("cells_no_machines", ", ".join(known))
    having = [at for at in mine if name in forest.chains[at].levels]
    if not having:
        names = dict.fromkeys(known for at in mine for known in forest.chains[at].levels)
        return Missing("cells_unknown_level", " ".join(names))
    most = max(having, key=lambda at: (forest.built(at)[0], -at))
    return (most, forest.chains[most].levels.index(name))


def judge_quota(yard: Machines, quota: Quota) -> Rejected | None:
    """None if the quota's cells can be promised beside all others', else why they cannot.

    A yard without nodes promises anything: nodes may come.
    """
    if not quota.cells:
        return None
    if quota.provisioning not in (ANY, Provisioning.RESERVED):
        return Rejected("cells_not_reserved", (("provisioning", quota.provisioning),))
    forest = forest_of(yard)
    if not forest.chains:
        return None
    for level, count in quota.cells:
        if count < 0:
            return Rejected("cells_negative", (("level", level), ("count", count)))
        where = found(forest, quota, level)
        if isinstance(where, Missing):
            numbers = (("level", level), ("group", quota.group), ("known", where.known))
            return Rejected(where.code, numbers)
        models = _models(forest, quota, level)
        if len(models) > 1:
            numbers = (("level", level), ("group", quota.group), ("known", ", ".join(models)))
            return Rejected("cells_ambiguous", numbers)
    quotas = {**yard.settings.quotas, quota.key: quota}
    promised = promised_by(forest, quotas.values())
    for at in dict.fromkeys(at for owner, at, _ in promised if owner == quota.owner):
        too_many = _too_many(forest, at, promised)
        if too_many is not None:
            return too_many
    return None


def _models(forest: Forest, quota: Quota, level: str) -> list[str]:
    """Chains that a level could mean, as words to choose one with."""
    name, _, model = level.partition("@")
    return [
        f"{name}@{chain.model} of group {chain.group}"
        for chain in forest.chains
        if quota.group in (ANY, chain.group) and model in ("", chain.model) and name in chain.levels
    ]


def _too_many(forest: Forest, at: int, promised: Mapping[OwnerLevel, int]) -> Rejected | None:
    """The highest level of a chain of which more is promised than there is."""
    chain, built = forest.chains[at], forest.built(at)
    for level in range(len(chain.levels) - 1, -1, -1):
        mine = [
            (owner, upper, count)
            for (owner, where, upper), count in promised.items()
            if where == at and upper >= level
        ]
        needed = sum(count * (chain.sizes[upper] // chain.sizes[level]) for _, upper, count in mine)
        if needed > built[level]:
            by = [f"{owner} {count} {chain.levels[upper]}" for owner, upper, count in mine if count]
            return Rejected(
                "cells_too_many",
                (
                    ("level", chain.levels[level]),
                    ("group", chain.group),
                    ("model", chain.model),
                    ("needed", needed),
                    ("there", built[level]),
                    ("by", ", ".join(by[:OWNERS_SHOWN_MAX])),
                ),
            )
    return None


def promised_by(forest: Forest, quotas: Iterable[Quota]) -> dict[OwnerLevel, int]:
    """Virtual cells by (owner, chain, level). What names no cell of these trees is left out."""
    promised: dict[OwnerLevel, int] = {}
    for quota in sorted(quotas, key=lambda quota: quota.key):
        if quota.provisioning not in (ANY, Provisioning.RESERVED):
            continue
        for level, count in quota.cells:
            where = found(forest, quota, level)
            if not isinstance(where, Missing) and count > 0:
                key = (quota.owner, *where)
                promised[key] = promised.get(key, 0) + count
    return promised


def book_of(yard: Yard) -> CellBook | None:
    """The book of a yard as it stands; None if no quota promises cells. O(nodes + allocations)."""
    if not promises_cells(yard.settings.quotas.values()):
        return None
    forest = forest_of(yard)
    book = _empty(forest, yard)
    for live in yard.nodes.values():
        serve(book, live)
    left_behind = []
    for allocation in yard.allocations.values():
        live_job = yard.jobs.get(allocation.job)
        if live_job is not None and live_job.allocation == allocation.id:
            seat_in(book, yard.nodes, allocation, firm=is_firm(live_job.job))
        else:
            left_behind.append(allocation)
    for allocation in left_behind:  # after those whose cells they may stand in
        leave_behind(book, yard.nodes, allocation)
    return book


def _empty(forest: Forest, yard: Yard) -> CellBook:
    nodes, width = yard.pool.gpu_free.shape
    promised = promised_by(forest, yard.settings.quotas.values())
    book = CellBook(
        forest,
        promised,
        dict.fromkeys(promised, 0),
        firm=np.zeros((nodes, width), np.int32),
        usable=np.zeros(nodes, np.int64),
        bound=np.zeros(nodes, np.int64),
        good=np.zeros(nodes, np.int64),
        host_cpu=np.zeros(nodes, np.int64),
        host_memory=np.zeros(nodes, np.int64),
        whole=[[0] * len(chain.levels) for chain in forest.chains],
        need=[[0] * len(chain.levels) for chain in forest.chains],
        filled=[[np.zeros(len(c), np.int32) for c in chain.members] for chain in forest.chains],
        cpu_total=yard.pool.cpu_total,
        memory_total=yard.pool.memory_total,
    )
    for key, count in promised.items():
        book.spend(key, -count)
    return book


# -- what the fold tells the book -----------------------------------------------------------------


def serve(book: CellBook, live: LiveNode) -> None:
    """A node's devices went out of service, or are back."""
    if book.forest.chain_of[live.row] >= 0:
        book.serve(live.row, live.node.usable if live.state is NodeState.READY else 0)


def seat_in(
    book: CellBook, nodes: Mapping[str, LiveNode], allocation: Allocation, *, firm: bool
) -> None:
    """The members of a live job's allocation that hold devices stand where they sit."""
    for rank, seat in enumerate(allocation.seats):
        if not allocation.holds(rank):
            continue
        place = (nodes[seat.node].row, seat.gpus)
        label = allocation.cells[rank] if allocation.cells else OTHERS
        if label and book.can_enter(label, *place):
            book.take((place,), allocation.shape, (label,))
        elif label or firm:
            book.take((place,), allocation.shape)
            if label:
                book.demoted.add((allocation.id, rank))


def leave_behind(book: CellBook, nodes: Mapping[str, LiveNode], allocation: Allocation) -> None:
    """Nobody goes by this allocation any more; what it still holds cannot be had at will."""
    for rank, seat in enumerate(allocation.seats):
        if allocation.holds(rank):
            book.take(((nodes[seat.node].row, seat.gpus),), allocation.shape)


def unseat(
    book: CellBook, nodes: Mapping[str, LiveNode], allocation: Allocation, rank: int, *, firm: bool
) -> None:
    """A member of a live job's allocation, seated before, holds its devices no longer."""
    seat = allocation.seats[rank]
    place = (nodes[seat.node].row, seat.gpus)
    label = allocation.cells[rank] if allocation.cells else OTHERS
    if label and (allocation.id, rank) not in book.demoted:
        book.give(place, allocation.shape, label)
    elif label or firm:
        book.give(place, allocation.shape)
