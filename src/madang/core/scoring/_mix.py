"""The recent mix of requests, learned as they arrive: what madang knows instead of the future.

Counts are integers per kind of request (gpus, gpu_milli, allowed models), and per band of CPU and
of memory asked per GPU. When they reach `MIX_REQUESTS_MAX` all are halved, so an old habit fades
with a half-life of some thousand arrivals.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from madang.core.scoring._base import WHOLE_MILLI, Int64s, Shape

MIX_REQUESTS_MAX = 8192  # enough to see a kind of 1 in 1,000 several times; days, not months
MIX_KINDS_MAX = 1024  # bounds memory if every request is its own kind; the rarest are forgotten

BANDS_PER_OCTAVE_BITS = 3  # bands of a per-GPU amount are an eighth of an octave wide
SERVED_STEPS = 256  # of the served curve between nothing and the mean
SERVED_BITS = 20  # the curve's values are in 1/2^20

Models = int | tuple[str, ...]  # allowed models: a mask of codes, or names where codes may change
Kind = tuple[int, int, Models]


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """share (SERVED_STEPS + 2,) in 1/2^20: what share of its GPUs a node serves that has
    step/SERVED_STEPS of `per_gpu` (the mean asked per GPU; 0: nothing asked) for each of them."""

    per_gpu: int
    share: Int64s


@dataclass(slots=True)
class Appetite:
    """How much of one other resource comes with a GPU: bands of amount per GPU, each with the
    GPU-milli asked and the amount asked with them."""

    bands: dict[int, tuple[int, int]] = field(default_factory=dict)

    def observe(self, gpu_milli: int, amount: int) -> None:
        band = band_of(amount * WHOLE_MILLI // gpu_milli)
        milli, amounts = self.bands.get(band, (0, 0))
        self.bands[band] = (milli + gpu_milli, amounts + amount)

    def halve(self) -> None:
        halved = {band: (milli // 2, amount // 2) for band, (milli, amount) in self.bands.items()}
        self.bands = {band: pair for band, pair in halved.items() if pair[0] > 0}

    def served(self) -> Served:
        """How much of its GPU a node can serve, by what it has of the resource per GPU.

        If every GPU met the whole mix and a node served the least hungry requests first, a node
        with q per GPU would serve the share F(q): ∫_0^F Q(u) du = q, with Q the quantiles of the
        amount per GPU. F is concave, F(mean) = 1.
        """
        milli_total = sum(milli for milli, _ in self.bands.values())
        amount_total = sum(amount for _, amount in self.bands.values())
        share = np.full(SERVED_STEPS + 2, 1 << SERVED_BITS, dtype=np.int64)
        if amount_total == 0:
            return Served(per_gpu=0, share=share)
        milli_done, amount_done, step = 0, 0, 0
        for _, (milli, amount) in sorted(self.bands.items()):
            while (
                step < SERVED_STEPS and amount_total * step <= (amount_done + amount) * SERVED_STEPS
            ):
                part = amount_total * step - amount_done * SERVED_STEPS
                done = milli_done * SERVED_STEPS * amount + milli * part if amount else 0
                whole = milli_total * SERVED_STEPS * amount
                share[step] = (done << SERVED_BITS) // whole if amount else 0
                step += 1
            milli_done += milli
            amount_done += amount
        return Served(per_gpu=amount_total * WHOLE_MILLI // milli_total, share=share)


def band_of(amount: int) -> int:
    """The eighth-of-an-octave band of a non-negative amount; bands ascend with it."""
    bits = amount.bit_length()
    if bits <= BANDS_PER_OCTAVE_BITS + 1:
        return amount
    top = amount >> (bits - BANDS_PER_OCTAVE_BITS - 1)
    return (
        (bits - BANDS_PER_OCTAVE_BITS) * (1 << BANDS_PER_OCTAVE_BITS)
        + top
        - (1 << BANDS_PER_OCTAVE_BITS)
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What the requests of one kind asked for in all. Counted twice, so that a lone request is
    still there after one halving."""

    gpu_milli: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0
    count: int = 0

    def plus(self, shape: Shape, times: int = 1) -> "Asked":
        return Asked(
            gpu_milli=self.gpu_milli + 2 * times * shape.total_milli,
            cpu_milli=self.cpu_milli + 2 * times * shape.cpu_milli,
            memory_mib=self.memory_mib + 2 * times * shape.memory_mib,
            count=self.count + 2 * times,
        )

    def halved(self) -> "Asked":
        return Asked(
            gpu_milli=self.gpu_milli // 2,
            cpu_milli=self.cpu_milli // 2,
            memory_mib=self.memory_mib // 2,
            count=self.count // 2,
        )


Seen = dict[Kind, Asked]


@dataclass(slots=True)
class Mix:
    """`observe` is the one mutating verb.

    kinds by (gpus, gpu_milli, models); gangs, the requests of several whole GPUs on one node, by
    (gpus, band of CPU, models), since which nodes can host one depends on its CPU.
    """

    requests: int = 0
    kinds: Seen = field(default_factory=dict)
    gangs: Seen = field(default_factory=dict)
    cpu: Appetite = field(default_factory=Appetite)
    memory: Appetite = field(default_factory=Appetite)

    def observe(self, shape: Shape, models: Models | None = None, times: int = 1) -> None:
        """`times` requests of the shape; `models` name what it allows, else its mask does."""
        self.requests += times
        if shape.gpus:
            allowed = shape.model_mask if models is None else models
            _count(self.kinds, (shape.gpus, shape.gpu_milli, allowed), shape, times)
            if shape.gpus > 1 and shape.gpu_milli == WHOLE_MILLI:
                _count(self.gangs, (shape.gpus, band_of(shape.cpu_milli), allowed), shape, times)
            self.cpu.observe(times * shape.total_milli, times * shape.cpu_milli)
            self.memory.observe(times * shape.total_milli, times * shape.memory_mib)
        if self.requests >= MIX_REQUESTS_MAX or len(self.kinds) + len(self.gangs) > MIX_KINDS_MAX:
            self._halve()

    def _halve(self) -> None:
        self.requests //= 2
        self.cpu.halve()
        self.memory.halve()
        for seen in (self.kinds, self.gangs):
            halved = {kind: asked.halved() for kind, asked in seen.items() if asked.count > 1}
            seen.clear()
            seen.update(halved)

    @property
    def gpu_milli(self) -> int:
        """Asked by all kinds that are remembered, counted twice as they are."""
        return sum(asked.gpu_milli for asked in self.kinds.values())


def most_gpu(seen: Seen, kinds_max: int) -> list[tuple[Kind, Asked]]:
    """The kinds that ask for the most GPU, most first; ties by kind."""

    def rank(item: tuple[Kind, Asked]) -> tuple[Any, ...]:
        return (-item[1].gpu_milli, item[0])

    return sorted(seen.items(), key=rank)[:kinds_max]


def _count(seen: Seen, kind: Kind, shape: Shape, times: int) -> None:
    seen[kind] = seen.get(kind, Asked()).plus(shape, times)
