"""The floor of the books: which devices there are and who has taken them, for capacity and
fragmentation over time.

N nodes, G devices of the widest node. A node that is lost or was removed offers nothing.

Fragmentation is FGD's F (Weng et al., ATC 2023) in its plain form: what a member drawn from the
recent requests cannot use of the free GPUs, on average. A member of g whole GPUs can use the whole
GPUs of a node that has g of them free, and nothing of another; a share can use each GPU that has as
much left. CPU, memory and models are left out: the figure is about GPUs cut into pieces.
"""

from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.model import WHOLE_GPU_MILLI, Node, Shape
from madang.core.usage.rows import Rows

SAMPLE_MS = 300_000  # a month has 8,640 samples; a report shows 400 of them
MIX_JOBS_MAX = 1_000  # "recent": so many submissions, days rather than months
KINDS_MAX = 16  # of the mix that a sample looks at; the rest is noise

# Columns of `samples`. GPU-milli, but for the time.
AT, CAPACITY, FREE, STUCK = range(4)


@dataclass(slots=True)
class _Spot:
    node: Node
    row: int
    offers: bool
    code: int
    since_ms: int


class Floor:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.nodes: dict[str, _Spot] = {}
        self.capacity = Rows(4)  # code of (model, zone), begin_ms, end_ms, milli
        self.samples = Rows(4)
        self.places: list[tuple[str, str]] = []  # code → (model, zone)
        self._codes: dict[tuple[str, str], int] = {}
        self._held = np.zeros((16, 8), np.int32)
        self._usable = np.zeros((16, 8), np.bool_)
        self._rows = 0
        self._mix: deque[tuple[int, int, int]] = deque()  # (gpus, gpu_milli, members), oldest first
        self._asked: Counter[tuple[int, int]] = Counter()  # its members by (gpus, gpu_milli)
        self._next_ms = 0
        self._stirred = True

    # -- nodes ---------------------------------------------------------------------------------

    def see(self, node: Node, zone: str, now_ms: int) -> None:
        """The node is there, like this, from now on."""
        known = self.nodes.get(node.id)
        code = self._code((node.model, zone))
        if known is None:
            known = self.nodes[node.id] = _Spot(node, self._rows, True, code, now_ms)
            self._rows += 1
        else:
            self._close(known, now_ms)
            known.node, known.offers, known.code = node, True, code
        self._grow(self._rows, node.gpus)
        self._write(known)

    def lose(self, node: str, now_ms: int) -> None:
        """The node offers nothing from now on."""
        known = self.nodes.get(node)
        if known is not None:
            self._close(known, now_ms)
            known.offers = False
            self._write(known)

    def _close(self, spot: _Spot, now_ms: int) -> None:
        """Write down what the node offered until now."""
        milli = spot.node.usable.bit_count() * WHOLE_GPU_MILLI
        if spot.offers and milli and now_ms > spot.since_ms:
            self.capacity.add(spot.code, spot.since_ms, now_ms, milli)
        spot.since_ms = now_ms

    def _write(self, spot: _Spot) -> None:
        width = self._usable.shape[1]
        bits = spot.node.usable if spot.offers else 0
        self._usable[spot.row] = [bits >> gpu & 1 == 1 for gpu in range(width)]
        self._stirred = True

    def _code(self, place: tuple[str, str]) -> int:
        if place not in self._codes:
            self._codes[place] = len(self.places)
            self.places.append(place)
        return self._codes[place]

    def _grow(self, rows: int, gpus: int) -> None:
        have_rows, have_gpus = self._held.shape
        if rows <= have_rows and gpus <= have_gpus:
            return
        shape = (2 * have_rows if rows > have_rows else have_rows, max(gpus, have_gpus))
        held, usable = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)
        held[:have_rows, :have_gpus], usable[:have_rows, :have_gpus] = self._held, self._usable
        self._held, self._usable = held, usable

    def open_capacity(self, now_ms: int) -> list[tuple[int, int, int, int]]:
        """(code, begin_ms, end_ms, milli) of what each node has offered since its last change."""
        return [
            (spot.code, spot.since_ms, now_ms, spot.node.usable.bit_count() * WHOLE_GPU_MILLI)
            for spot in self.nodes.values()
            if spot.offers
        ]

    # -- members -------------------------------------------------------------------------------

    def take(self, node: str, gpus: tuple[int, ...], milli: int) -> None:
        """A member has sat down (or, with a negative number, has left)."""
        spot = self.nodes.get(node)
        if spot is None or not gpus:
            return
        self._grow(self._rows, max(gpus) + 1)
        row = self._held[spot.row]
        for gpu in gpus:
            row[gpu] += milli
        self._stirred = True

    def ask(self, shape: Shape, members: int) -> None:
        """Somebody has asked for members like this."""
        if not shape.gpus:
            return
        self._mix.append((shape.gpus, shape.gpu_milli, members))
        self._asked[shape.gpus, shape.gpu_milli] += members
        if len(self._mix) > MIX_JOBS_MAX:
            gpus, milli, gone = self._mix.popleft()
            self._asked[gpus, milli] -= gone

    # -- samples -------------------------------------------------------------------------------

    def pass_to(self, now_ms: int) -> None:
        """Time goes on: sample what stands, if a sample is due."""
        if now_ms < self._next_ms:
            return
        if self._stirred and self.nodes:
            self.samples.add(self._next_ms, *self.picture())
            self._stirred = False
        # Nothing stirs between two events: the next sample is of what the coming ones make.
        self._next_ms = (now_ms // SAMPLE_MS + 1) * SAMPLE_MS

    def picture(self) -> tuple[int, int, int]:
        """(capacity, free, stuck) GPU-milli as things stand."""
        usable = self._usable[: self._rows]
        free = np.where(usable, np.maximum(WHOLE_GPU_MILLI - self._held[: self._rows], 0), 0)
        capacity = int(usable.sum()) * WHOLE_GPU_MILLI
        return capacity, int(free.sum()), stuck_milli(free, self._kinds())

    def _kinds(self) -> list[tuple[int, int, int]]:
        most = sorted(self._asked.items(), key=lambda each: (-each[1], each[0]))[:KINDS_MAX]
        return [(gpus, milli, count) for (gpus, milli), count in most]


def stuck_milli(free: NDArray[np.integer], kinds: list[tuple[int, int, int]]) -> int:
    """FGD's F of the free devices (N, G), for (gpus, gpu_milli, how often) of the members asked."""
    total = sum(count for _, _, count in kinds)
    if not total:
        return 0
    wholes = (free == WHOLE_GPU_MILLI).sum(axis=1)
    nodes = np.bincount(wholes, minlength=free.shape[1] + 1).tolist()  # by their whole free GPUs
    all_free = int(free.sum())
    expected = 0
    for gpus, milli, count in kinds:
        if milli < WHOLE_GPU_MILLI:
            useful = int(free[free >= milli].sum())
        else:
            useful = WHOLE_GPU_MILLI * sum(
                number * nodes[number] for number in range(gpus, len(nodes))
            )
        expected += count * (all_free - useful)
    return expected // total
