"""A reserved job's claim: which cells of its promise it gets, first without moving anybody.

A tenant's own room is what is left inside its opened cells and the virtual cells that it has not
opened. Claims are seated by the same `seat` as everything else, in a view of the pool that shows
only that room: the opened cells first, then ever larger virtual ones, so that as little as possible
is opened. Only where that is not enough do preemptible holders count as gone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from madang.core.cells.book import CellBook, label_of
from madang.core.cells.forest import CellId
from madang.core.cells.room import Bits, Picked, only, pick
from madang.core.model import WHOLE_GPU_MILLI, Job, Project, Provisioning, Shape
from madang.core.pool import Place, Pool

_ONE_GPU = Shape(1)
_ILL_WEIGHT = 1 << 40  # one device out of service outweighs every other reason against a cell
_SUSPICION_WEIGHT = 1 << 20


@dataclass(frozen=True, slots=True)
class Claimed:
    """The shape and places that the job gets, and the label of each seat's virtual cell."""

    shape: Shape
    places: tuple[Place, ...]
    labels: tuple[str, ...]


SeatIn = Callable[[Pool, Job], tuple[Shape, tuple[Place, ...]] | None]


def may_claim(book: CellBook | None, project: Project, job: Job) -> tuple[str, ...]:
    """The owners whose promised cells the job may claim; none if it may claim nothing."""
    if book is None or job.provisioning is not Provisioning.RESERVED or not job.shape.gpus:
        return ()
    if job.exclusive:
        return ()  # it wants more of a node than a cell gives
    return book.owners(project)


def claim(
    book: CellBook, pool: Pool, owners: Sequence[str], job: Job, seat: SeatIn
) -> Claimed | None:
    """Cells for the whole job in this pool, or None. Takes nothing.

    Args:
        pool: what is free; with preemptible work given back, what could be.
    """
    for at, upto in _steps(book, owners):
        modest = _within_host(book, at, job)
        if modest is None:
            continue
        room, names = _room(book, pool, owners, at, upto)
        if not room.any():
            continue
        found = seat(only(pool, room), modest)
        if found is None:
            continue
        shape, places = found
        labels = label(book, owners, places, shape, names)
        if labels is not None:
            return Claimed(shape, places, labels)
    return None


def _steps(book: CellBook, owners: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(chain, up to which level virtual cells may be opened), -1 for none."""
    mine = [(at, level) for owner, at, level in book.promised if owner in owners]
    for at in sorted({at for at, _ in mine}):
        yield at, -1
        for level in sorted({level for where, level in mine if where == at}):
            yield at, level


def _within_host(book: CellBook, at: int, job: Job) -> Job | None:
    """The job with those of its shapes that ask for no more of a host than goes with their GPUs.

    A cell is its GPUs and their share of the node: who wants more is not inside its promise.
    """
    shapes = [shape for shape in job.shapes if _is_within_host(book, at, shape)]
    return replace(job, shape=shapes[0], fallbacks=tuple(shapes[1:])) if shapes else None


def _is_within_host(book: CellBook, at: int, shape: Shape) -> bool:
    cpu_milli, memory_mib = book.forest.chains[at].host
    return bool(
        shape.gpus
        and shape.cpu_milli * WHOLE_GPU_MILLI <= cpu_milli * shape.milli
        and shape.memory_mib * WHOLE_GPU_MILLI <= memory_mib * shape.milli
    )


class Names:
    """Which virtual cell each picked cell would be: `counts` per level, and labels by device."""

    def __init__(self, book: CellBook, owners: Sequence[str], at: int, upto: int) -> None:
        self._forest, self._at = book.forest, at
        levels = book.forest.chains[at].levels
        self._left: list[list[str]] = [
            [
                label_of(owner, name)
                for owner in owners
                for _ in range(max(0, book.left.get((owner, at, level), 0)))
            ]
            if level <= upto
            else []
            for level, name in enumerate(levels)
        ]
        self.counts = [len(names) for names in self._left]
        self._by_cell: dict[CellId, str] = {}

    def note(self, picked: Picked) -> None:
        """These cells are the virtual ones, in the order of the owners."""
        for level, indices in enumerate(picked.cells):
            for index in indices:
                self._by_cell[self._at, level, index] = self._left[level].pop(0)

    def of(self, row: int, gpu: int) -> str:
        """The label of a device, "" if it is in no picked cell."""
        for level in range(len(self.counts)):
            cell = self._forest.cell_at(level, row, gpu)
            if cell in self._by_cell:
                return self._by_cell[cell]
        return ""


def _room(
    book: CellBook, pool: Pool, owners: Sequence[str], at: int, upto: int
) -> tuple[Bits, Names]:
    """(N,) the devices in the tenant's opened cells, and in real cells for its virtual ones.

    Cells in good health come first: those with devices out of service only when there are too few
    whole ones, and suspected nodes after others. Then those where fewer holders stand. Also the
    label that goes with each device of a virtual cell.
    """
    room = np.zeros(pool.nodes, np.int64)
    for cell, one in book.opened.items():
        if one.owner in owners and cell[0] == at:
            for row, bits in book.forest.devices(cell):
                room[row] |= bits & book.usable.item(row)
    chain, names = book.forest.chains[at], Names(book, owners, at, upto)
    if not any(names.counts):
        return room, names
    rows = chain.rows
    held = np.bitwise_count(book.good[rows]).astype(np.int64) - pool.whole_free[rows]
    rank = pool.suspicion[rows] * _SUSPICION_WEIGHT + np.maximum(held, 0)
    chosen = pick(book, at, names.counts, rank)
    names.note(chosen)
    room[rows] |= chosen.devices
    if any(chosen.missing):
        clean, ill = _with_ill(book, at, chosen.devices)
        broken = pick(book, at, chosen.missing, rank + ill * _ILL_WEIGHT, clean)
        names.note(broken)
        room[rows] |= broken.devices & book.usable[rows]
    return room, names


def _with_ill(book: CellBook, at: int, chosen: Bits) -> tuple[Bits, Bits]:
    """(Nc,) the devices in nobody's hands, in service or not, less the chosen; and how many not."""
    chain = book.forest.chains[at]
    rows = chain.rows
    bit = np.int64(1) << np.arange(book.firm.shape[1], dtype=np.int64)
    held = ((book.firm[rows] > 0) * bit).sum(axis=1)
    there = np.array([(1 << book.forest.gpus[row]) - 1 for row in rows.tolist()], np.int64)
    clean = there & ~held & ~book.bound[rows] & ~chosen
    return clean, np.bitwise_count(there & ~book.usable[rows]).astype(np.int64)


def _chain_at(book: CellBook, row: int) -> int:
    return book.forest.chain_of[row] if row < len(book.forest.chain_of) else -1


def label(
    book: CellBook,
    owners: Sequence[str],
    places: Sequence[Place],
    shape: Shape,
    names: Names | None = None,
) -> tuple[str, ...] | None:
    """The virtual cells that each of these places would stand in; None if they are in none.

    An opened cell of the tenant; else the one it was picked as; else the smallest promised one
    whose opening leaves every other promise as it was, or if that leads nowhere the largest.
    """
    chains = {_chain_at(book, row): None for row, _ in places}
    if not all(at >= 0 and _is_within_host(book, at, shape) for at in chains):
        return None
    for largest_first in (False, True):
        trial = book.scratch()
        labels: list[str] = []
        for row, gpus in places:
            search = _Labels(trial, owners, row, largest_first=largest_first, names=names)
            found = search.of(gpus) or search.of_each(gpus)
            if not found:
                break
            trial.take(((row, gpus),), shape, (found,))
            labels.append(found)
        else:
            return tuple(labels)
    return None


class _Labels:
    """Labels for one member's devices on a row."""

    def __init__(
        self,
        book: CellBook,
        owners: Sequence[str],
        row: int,
        *,
        largest_first: bool,
        names: Names | None,
    ) -> None:
        self.book, self.owners, self.row, self.names = book, owners, row, names
        self.at = book.forest.chain_of[row]
        levels = list(enumerate(book.forest.chains[self.at].levels))
        self.levels = levels[::-1] if largest_first else levels

    def of(self, gpus: Sequence[int]) -> str:
        """One label for all the devices, "" if there is none."""
        picked = {self.names.of(self.row, gpu): None for gpu in gpus} if self.names else {}
        fresh: list[tuple[int, str]] = []
        for level, name in self.levels:
            cells = self.book.cells_of(level, self.row, gpus)
            for found in [label_of(owner, name) for owner in self.owners]:
                if not self.book.can_enter(found, self.row, gpus):
                    continue
                if all(cell in self.book.opened for cell in cells):
                    return found
                fresh.append((level, found))
        fresh.sort(key=lambda one: one[1] not in picked)
        for level, found in fresh:
            if not _splits_too_much(self.book, self.at, level, self.row, gpus):
                return found
        return ""

    def of_each(self, gpus: Sequence[int]) -> str:
        """A label for each device, "" if one has none: a member may span a tenant's cells."""
        trial, before = self.book.scratch(), self.book
        labels = []
        self.book = trial
        for gpu in gpus:
            found = self.of((gpu,))
            if not found:
                break
            trial.take(((self.row, (gpu,)),), _ONE_GPU, (found,))
            labels.append(found)
        self.book = before
        return ",".join(labels) if len(labels) == len(gpus) else ""


def _splits_too_much(book: CellBook, at: int, level: int, row: int, gpus: Sequence[int]) -> bool:
    """True iff opening the cells of a level there would break a promise of larger ones."""
    goods: dict[int, int] = {}
    for cell in book.cells_of(level, row, gpus):
        for where, bits in book.forest.devices(cell):
            goods[where] = goods.get(where, book.good.item(where)) & ~bits
    lost = book.losses(goods).get(at, [])
    return any(
        count and book.need[at][upper] and book.slack(at, upper) < count
        for upper, count in enumerate(lost)
        if upper > level
    )
