"""Quantiles since the start: exact for integer percents, a sketch for the rest. Both merge.

`at(p)` is the nearest rank: the smallest value that at least a share p of all values does not
exceed (`numpy.quantile(..., method="inverted_cdf")`), for a sketch one whose rank is off by at most
1 % of the count with 99.99 % confidence (KLL: Karnin, Lang, Liberty 2016, k = 512; the standard
error is about 0.2 % of the count). Merging is exact for histograms and costs a sketch nothing of
its bound, in any order.
"""

import struct
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.ring import Floats

BINS = 101  # an integer percent: 0 to 100
K = 512
_SHRINK = 2 / 3
_LEVEL_MIN = 8
_HISTOGRAM, _SKETCH = b"H", b"K"
_SKETCH_HEAD = struct.Struct("<QQffB")


class Quantiles(Protocol):
    """See the module."""

    @property
    def count(self) -> int: ...
    @property
    def is_exact(self) -> bool: ...
    @property
    def mergeable(self) -> bool: ...
    def at(self, p: float) -> float:
        """The value at p in [0, 1]; NaN if there is none."""

    def to_bytes(self) -> bytes: ...


class Histogram:
    """Counts of 0 to 100. `bins` (101,) int64."""

    is_exact = True
    mergeable = True

    def __init__(self, bins: NDArray[np.integer] | None = None) -> None:
        self.bins = np.zeros(BINS, np.int64) if bins is None else bins.astype(np.int64)

    @property
    def count(self) -> int:
        return int(self.bins.sum())

    def add(self, values: Floats) -> None:
        """Integer percents; NaN is left out."""
        known = values[~np.isnan(values)]
        self.bins += np.bincount(np.rint(known).astype(np.int64), minlength=BINS)

    def at(self, p: float) -> float:
        """See the module."""
        total = self.count
        if total == 0:
            return float("nan")
        return float(np.searchsorted(np.cumsum(self.bins), _rank(p, total)))

    def merged(self, other: "Histogram") -> "Histogram":
        """Of the values of both."""
        return Histogram(self.bins + other.bins)

    def to_bytes(self) -> bytes:
        return _HISTOGRAM + self.bins.astype("<u8").tobytes()


class Sketch:
    """KLL: levels of float32 items, each of level h standing for 2^h values."""

    __slots__ = ("_coins", "_levels", "count", "high", "low")
    is_exact = False
    mergeable = True

    def __init__(self, seed: int = 0) -> None:
        self.count = 0
        self.low = float("inf")
        self.high = float("-inf")
        self._levels: list[Floats] = [np.zeros(0, np.float32)]
        self._coins = (seed * 2 + 1) & 0xFFFFFFFFFFFFFFFF

    def add(self, values: Floats) -> None:
        """Any numbers; NaN is left out."""
        known = values[~np.isnan(values)]
        if not len(known):
            return
        self.count += len(known)
        self.low = min(self.low, float(known.min()))
        self.high = max(self.high, float(known.max()))
        self._levels[0] = np.concatenate((self._levels[0], known))
        self._compress()

    def merged(self, other: "Sketch") -> "Sketch":
        """Of the values of both."""
        made = Sketch()
        made._coins = self._coins ^ (other._coins << 1) & 0xFFFFFFFFFFFFFFFF | 1
        made.count = self.count + other.count
        made.low = min(self.low, other.low)
        made.high = max(self.high, other.high)
        none = np.zeros(0, np.float32)
        made._levels = [
            np.concatenate(
                [(one._levels[h] if h < len(one._levels) else none) for one in (self, other)]
            )
            for h in range(max(len(self._levels), len(other._levels)))
        ]
        made._compress()
        return made

    def at(self, p: float) -> float:
        """See the module. The ends are exact."""
        if self.count == 0:
            return float("nan")
        if p <= 0 or p >= 1:
            return self.low if p <= 0 else self.high
        items = np.concatenate(self._levels)
        weights = np.repeat(
            np.left_shift(1, np.arange(len(self._levels), dtype=np.int64)),
            [len(level) for level in self._levels],
        )
        order = np.argsort(items, kind="stable")
        reached = np.cumsum(weights[order])
        return float(items[order[np.searchsorted(reached, _rank(p, self.count))]])

    def copied(self) -> "Sketch":
        """One that may be added to beside this one."""
        made = Sketch()
        made.count, made.low, made.high = self.count, self.low, self.high
        made._levels, made._coins = list(self._levels), self._coins
        return made

    @property
    def size_bytes(self) -> int:
        return sum(level.nbytes for level in self._levels)

    def _compress(self) -> None:
        """Halve the lowest level that is too full, until the whole is small enough."""
        while sum(map(len, self._levels)) > self._room():
            top = len(self._levels) - 1
            for height, level in enumerate(self._levels):
                if len(level) > _capacity(top - height):
                    break
            if height == top:
                self._levels.append(np.zeros(0, np.float32))
            level = np.sort(level)
            even = len(level) & ~1
            self._levels[height + 1] = np.concatenate(
                (self._levels[height + 1], level[self._coin() : even : 2])
            )
            self._levels[height] = level[even:]

    def _room(self) -> int:
        return sum(_capacity(depth) for depth in range(len(self._levels)))

    def _coin(self) -> int:
        self._coins = (self._coins * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return self._coins >> 63

    def to_bytes(self) -> bytes:
        head = _SKETCH_HEAD.pack(self.count, self._coins, self.low, self.high, len(self._levels))
        lengths = np.array([len(level) for level in self._levels], "<u4").tobytes()
        return b"".join((_SKETCH, head, lengths, *(level.tobytes() for level in self._levels)))


def from_bytes(packed: bytes) -> Histogram | Sketch:
    """What `to_bytes` wrote.

    Raises:
        ValueError: it did not.
    """
    if packed[:1] == _HISTOGRAM and len(packed) == 1 + 8 * BINS:
        return Histogram(np.frombuffer(packed, "<u8", offset=1))
    if packed[:1] != _SKETCH or len(packed) < 1 + _SKETCH_HEAD.size:
        raise ValueError("not a histogram and not a sketch")
    made = Sketch()
    made.count, made._coins, made.low, made.high, height = _SKETCH_HEAD.unpack_from(packed, 1)
    at = 1 + _SKETCH_HEAD.size
    lengths = np.frombuffer(packed, "<u4", height, at).tolist()
    at += 4 * height
    if len(packed) != at + 4 * sum(lengths):
        raise ValueError("a sketch that breaks off")
    made._levels = []
    for length in lengths:
        made._levels.append(np.frombuffer(packed, "<f4", length, at).astype(np.float32))
        at += 4 * length
    return made


def merged(parts: Iterable[Histogram | Sketch]) -> Histogram | Sketch | None:
    """Of the values of all; None of none. All must be of one kind."""
    whole: Histogram | Sketch | None = None
    for part in parts:
        if whole is None:
            whole = part
        elif isinstance(whole, Histogram) and isinstance(part, Histogram):
            whole = whole.merged(part)
        else:
            assert isinstance(whole, Sketch), f"a sketch with a histogram: {part}"
            assert isinstance(part, Sketch), f"a histogram with a sketch: {part}"
            whole = whole.merged(part)
    return whole


def _rank(p: float, total: int) -> int:
    """The rank, from 1, of the value at p: the smallest r with r >= p * total."""
    return min(max(int(np.ceil(p * total)), 1), total)


def _capacity(depth: int) -> int:
    """How many items a level may have, `depth` below the top."""
    return max(_LEVEL_MIN, int(K * _SHRINK**depth) + 1)
