"""Who holds which cells, and what is left to honour the promises: HiveD's buddy allocation.

A promise of k cells of a level is k virtual cells. A virtual cell is opened on a whole cell when
the first reserved job of its tenant enters it, and closed when the last one has left; meanwhile no
firm work of others may enter. Firm is what cannot be displaced; what can be may stand anywhere and
does not appear in this book at all. The invariant, per chain and level, for hardware that is whole:

    whole cells that no firm work touches  ≥  virtual cells not yet opened, of this level and above

counted in cells of the level (HiveD: free-or-splittable ≥ promised). All cells of a level being
alike (forest.py), it is enough: any whole cell serves any virtual one of its level. It also says
which binding would break it, and that opening the least split cell never does.

The book is a pure function of nodes, settings and allocations: kept up by the fold, made anew when
the trees change. A what-if has its own `scratch()`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from madang.core.cells.forest import CellId, Forest, whole_cells
from madang.core.model import WHOLE_GPU_MILLI, Project, Shape
from madang.core.pool import Place

OwnerLevel = tuple[str, int, int]  # owner, chain, level
OTHERS = ""  # the label of a seat that stands in nobody's cell


@dataclass(slots=True)
class Opened:
    """A virtual cell that stands on a real one. `members` counts those who are in it."""

    owner: str
    members: int


def owners_of(project: Project) -> tuple[str, str]:
    """Whose promises a project's jobs may claim, in this order."""
    return (f"project:{project.id}", f"workspace:{project.workspace}")


def label_of(owner: str, level: str) -> str:
    """What an allocation keeps of the virtual cell that a seat stands in: `project:a/node`."""
    return f"{owner}/{level}"


def parts_of(label: str, gpus: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """(name, devices) of a label: one name for all devices, or one for each, by commas."""
    names = label.split(",")
    if len(names) != len(gpus):
        return [(label, tuple(gpus))]
    parts: dict[str, list[int]] = {}
    for name, gpu in zip(names, gpus, strict=True):
        parts.setdefault(name, []).append(gpu)
    return [(name, tuple(part)) for name, part in parts.items()]


@dataclass(slots=True)
class CellBook:
    """See the module's docstring. N rows, G devices, L levels of a chain.

    `promised` and `left`: virtual cells by (owner, chain, level), and those not opened. `firm`
    (N, G) int32: GPU-milli held by firm work. `usable`, `bound`, `good` (N,) int64: bit sets of the
    devices that are in service, that lie in opened cells, and that a virtual cell could still use.
    `host_cpu`, `host_memory` (N,) int64: what firm work outside opened cells holds of a node.
    `whole[chain][level]`: whole cells; `need[chain][level]`: what `left` takes of them.
    `filled[chain][k]`: per cell of network level k, how many of its members are whole.
    `demoted`: (allocation, rank) that sat in a cell which is not promised any more; they count as
    work of others. `shields` keeps `room.shield` per chain while `version` stands still.
    """

    forest: Forest
    promised: dict[OwnerLevel, int]
    left: dict[OwnerLevel, int]
    firm: NDArray[np.int32]
    usable: NDArray[np.int64]
    bound: NDArray[np.int64]
    good: NDArray[np.int64]
    host_cpu: NDArray[np.int64]
    host_memory: NDArray[np.int64]
    whole: list[list[int]]
    need: list[list[int]]
    filled: list[list[NDArray[np.int32]]]
    cpu_total: NDArray[np.int64]
    memory_total: NDArray[np.int64]
    opened: dict[CellId, Opened] = field(default_factory=dict)
    demoted: set[tuple[str, int]] = field(default_factory=set)
    version: int = 0
    shields: dict[int, tuple[int, NDArray[np.int64]]] = field(default_factory=dict)

    def scratch(self) -> "CellBook":
        """A copy that may be written to: what moves is copied, what stands still is shared."""
        return CellBook(
            self.forest,
            self.promised,
            dict(self.left),
            self.firm.copy(),
            self.usable.copy(),
            self.bound.copy(),
            self.good.copy(),
            self.host_cpu.copy(),
            self.host_memory.copy(),
            [list(counts) for counts in self.whole],
            [list(counts) for counts in self.need],
            [[one.copy() for one in filled] for filled in self.filled],
            self.cpu_total,
            self.memory_total,
            {cell: Opened(one.owner, one.members) for cell, one in self.opened.items()},
            self.demoted,
            self.version,
            dict(self.shields),
        )

    # -- what is promised ----------------------------------------------------------------------

    def owners(self, project: Project) -> tuple[str, ...]:
        """The owners with promises whose cells the project's reserved jobs may claim."""
        known = {owner for owner, _, _ in self.promised}
        return tuple([owner for owner in owners_of(project) if owner in known])

    def slack(self, chain: int, level: int) -> int:
        """Whole cells of the level beyond what promises need; below 0 some cannot be honoured."""
        return self.whole[chain][level] - self.need[chain][level]

    def spend(self, key: OwnerLevel, count: int) -> None:
        """A virtual cell is opened (1) or closed (-1)."""
        self.left[key] -= count
        self.version += 1
        _, at, level = key
        sizes = self.forest.chains[at].sizes
        for lower in range(level + 1):
            self.need[at][lower] -= count * (sizes[level] // sizes[lower])

    # -- what stands where ---------------------------------------------------------------------

    def take(self, places: Sequence[Place], shape: Shape, labels: Sequence[str] = ()) -> None:
        """Firm members take these places: in the virtual cells of their labels, or among others."""
        for rank, (row, gpus) in enumerate(places):
            label = labels[rank] if labels else OTHERS
            for cell, owner in self._cells(label, row, gpus):
                self._enter(cell, owner)
            self._hold(row, gpus, shape, 1, outside=label == OTHERS)

    def give(self, place: Place, shape: Shape, label: str = OTHERS) -> None:
        """One firm member leaves. Its place is as it was taken, ill devices included."""
        row, gpus = place
        self._hold(row, gpus, shape, -1, outside=label == OTHERS)
        for cell, _ in self._cells(label, row, gpus):
            one = self.opened[cell]
            one.members -= 1
            if not one.members:
                self._close(cell)

    def can_enter(self, label: str, row: int, gpus: Sequence[int]) -> bool:
        """True iff these devices are, or can be, in virtual cells of that label.

        An unopened one needs a cell that nobody's firm work touches; devices may be out of service.
        """
        return all(self._can_enter(name, row, part) for name, part in parts_of(label, gpus))

    def _can_enter(self, name: str, row: int, gpus: Sequence[int]) -> bool:
        owner, level = self._level(name, row)
        cells = self.cells_of(level, row, gpus) if level >= 0 else []
        if not cells or any(self.forest.cell_at(level, row, gpu) is None for gpu in gpus):
            return False
        fresh = 0
        for cell in cells:
            one = self.opened.get(cell)
            if one is None:
                if any(self._touched(at, bits) for at, bits in self.forest.devices(cell)):
                    return False
                fresh += 1
            elif one.owner != owner:
                return False
        return not fresh or self.left.get((owner, self.forest.chain_of[row], level), 0) >= fresh

    def _touched(self, row: int, bits: int) -> bool:
        """True iff firm work or an opened cell is on some of these devices."""
        if self.bound.item(row) & bits:
            return True
        held = self.firm[row].tolist()
        return any(bits >> gpu & 1 and milli for gpu, milli in enumerate(held))

    def cells_of(self, level: int, row: int, gpus: Iterable[int]) -> list[CellId]:
        """The cells of a level that hold these devices, each once."""
        found = {self.forest.cell_at(level, row, gpu): None for gpu in gpus}
        return [cell for cell in found if cell is not None]

    def _level(self, label: str, row: int) -> tuple[str, int]:
        """The owner of a label and its level in the row's chain, -1 if it is not known there."""
        owner, _, name = label.rpartition("/")
        at = self.forest.chain_of[row] if row < len(self.forest.chain_of) else -1
        levels = self.forest.chains[at].levels if at >= 0 else ()
        return owner, levels.index(name) if name in levels else -1

    def _cells(self, label: str, row: int, gpus: Sequence[int]) -> list[tuple[CellId, str]]:
        """The cells that a seat of this label stands in, each once, with its owner."""
        found: dict[CellId, str] = {}
        for name, part in parts_of(label, gpus) if label else ():
            owner, level = self._level(name, row)
            found.update((cell, owner) for cell in self.cells_of(level, row, part))
        return list(found.items())

    def _enter(self, cell: CellId, owner: str) -> None:
        one = self.opened.get(cell)
        if one is not None:
            one.members += 1
            return
        self.opened[cell] = Opened(owner, 1)
        self.spend((owner, cell[0], cell[1]), 1)
        for row, bits in self.forest.devices(cell):
            self.bound[row] |= bits
            self._refresh(row)

    def _close(self, cell: CellId) -> None:
        owner = self.opened.pop(cell).owner
        self.spend((owner, cell[0], cell[1]), -1)
        for row, bits in self.forest.devices(cell):
            self.bound[row] &= ~bits
            self._refresh(row)

    def _hold(
        self, row: int, gpus: Sequence[int], shape: Shape, sign: int, *, outside: bool
    ) -> None:
        held, milli = gpus, shape.gpu_milli
        if shape.exclusive:  # what it leaves free of its node nobody else may take
            held, milli = range(self.forest.gpus[row]), WHOLE_GPU_MILLI
        for gpu in held:
            self.firm[row, gpu] += sign * milli
            assert self.firm.item(row, gpu) >= 0, f"gave what was not taken: {row}/{gpu}"
        if outside:
            self.host_cpu[row] += sign * shape.cpu_milli
            self.host_memory[row] += sign * shape.memory_mib
        self._refresh(row)

    def serve(self, row: int, usable: int) -> None:
        """These devices of a node are in service now."""
        self.usable[row] = usable
        self._refresh(row)

    # -- counting ------------------------------------------------------------------------------

    def _refresh(self, row: int) -> None:
        """Count a row anew, and what it changes above it."""
        at = self.forest.chain_of[row] if row < len(self.forest.chain_of) else -1
        if at < 0:
            return
        old = self.good.item(row)
        new = self.good_of(row)
        if new == old:
            return
        self.good[row] = new
        self.version += 1
        chain, counts = self.forest.chains[at], self.whole[at]
        before, after = whole_cells(old, chain.inner_sizes), whole_cells(new, chain.inner_sizes)
        for level in range(chain.inner):
            counts[level] += after[level].bit_count() - before[level].bit_count()
        turn = after[-1].bit_count() - before[-1].bit_count()
        cell = self.forest.slot_of[row]
        for k, up in enumerate(chain.up):
            cell = up.item(cell)
            if not turn or cell < 0:
                return
            filled, full = self.filled[at][k], len(chain.members[k][cell])
            was = filled.item(cell) == full
            filled[cell] += turn
            turn = int(filled.item(cell) == full) - int(was)
            counts[chain.inner + k] += turn

    def good_of(self, row: int, taken: int = 0, cpu_milli: int = 0, memory_mib: int = 0) -> int:
        """The devices of a row that virtual cells could still use, were these taken, too.

        Firm work that holds more of the host than goes with its devices starves other devices of
        theirs: so many, the least whole first, are of no use either.
        """
        held = taken
        for gpu, milli in enumerate(self.firm[row].tolist()):
            held |= (milli > 0) << gpu
        bound, gpus = self.bound.item(row), self.forest.gpus[row]
        good = self.usable.item(row) & ~bound & ~held
        outside = gpus - (good | bound).bit_count()  # taken or out of service: theirs to use up
        starved = self.host_gpus(row, cpu_milli, memory_mib) - outside
        sizes = self.forest.chains[self.forest.chain_of[row]].inner_sizes
        return good if starved <= 0 else _without(good, starved, sizes)

    def host_gpus(self, row: int, cpu_milli: int = 0, memory_mib: int = 0) -> int:
        """The devices whose share of the host is held by firm work outside opened cells."""
        gpus, most = self.forest.gpus[row], 0
        for used, total in (
            (self.host_cpu.item(row) + cpu_milli, self.cpu_total.item(row)),
            (self.host_memory.item(row) + memory_mib, self.memory_total.item(row)),
        ):
            if total:
                most = max(most, -(-used * gpus // total))
        return most

    def losses(self, goods: Mapping[int, int]) -> dict[int, list[int]]:
        """Whole cells per chain and level that would be lost, were these rows' devices so."""
        lost: dict[int, list[int]] = {}
        broken: dict[int, list[int]] = {}
        for row, new in goods.items():
            at = self.forest.chain_of[row]
            if at < 0:
                continue
            chain, old = self.forest.chains[at], self.good.item(row)
            counts = lost.setdefault(at, [0] * len(chain.levels))
            before, after = whole_cells(old, chain.inner_sizes), whole_cells(new, chain.inner_sizes)
            for level in range(chain.inner):
                counts[level] += before[level].bit_count() - after[level].bit_count()
            if before[-1] and not after[-1]:
                broken.setdefault(at, []).append(self.forest.slot_of[row])
        for at, nodes in broken.items():
            chain, torn = self.forest.chains[at], nodes
            for k, up in enumerate(chain.up):
                filled, members = self.filled[at][k], chain.members[k]
                parents = dict.fromkeys(up.item(cell) for cell in torn)
                torn = [
                    cell
                    for cell in parents
                    if cell >= 0 and filled.item(cell) == len(members[cell])
                ]
                lost[at][chain.inner + k] += len(torn)
        return lost

    def shortage(self) -> list[tuple[int, int, int]]:
        """(chain, level, cells) that promises lack now."""
        return [
            (at, level, -self.slack(at, level))
            for at, needs in enumerate(self.need)
            for level, needed in enumerate(needs)
            if needed and self.slack(at, level) < 0
        ]


def _without(good: int, count: int, sizes: tuple[int, ...]) -> int:
    """The devices less so many of them, those in the smallest whole cells first."""
    for _ in range(min(count, good.bit_count())):
        outside = good
        for level in range(1, len(sizes)):
            cell = (1 << sizes[level]) - 1
            firsts = whole_cells(good, sizes)[level]
            covered = sum(cell << at for at in range(firsts.bit_length()) if firsts >> at & 1)
            if good & ~covered:
                outside = good & ~covered
                break
        good &= ~(outside & -outside)
    return good
