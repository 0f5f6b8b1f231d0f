"""Bid prices: what a slice of a GPU, and a group of idle GPUs, is worth to the requests to come.

The question "how much of what is left can the recent mix still use?" is a cutting-stock linear
program (Gilmore, Gomory 1961): holes of r milli are cut into requests, each kind of request being
available in a limited quantity. Its dual gives every hole a value v(r) and every kind a rent π,
and choosing the placement that loses least value is bid-price control (Talluri, van Ryzin 1998).
We solve the dual smoothed by entropy, so that it can be balanced like a matrix (Sinkhorn) with no
solver and no float:

    v_c(r) = T·log2(1 + Σ_i 2^((m_i − π_i + v_c(r − m_i))/T))        one GPU with r milli left
    h_c(k) = T·log2(2^((v_c(1000) + h_c(k−1))/T) + Σ_i 2^((n_i(m_i − π_i) + h_c(k − n_i))/T))
    π_i   += T/2·log2(use_i / demand_i) / n_i                        kept within [0, m_i]

for each class c of GPU models that the same kinds may use; i runs over kinds of n_i GPUs of m_i
milli; use_i is what flows to i when every hole of the pool is cut in those proportions. T also
stands for what a fluid forgets: arrivals come in random order.

All numbers are integers: prices in 1/128 milli-GPU, counts in 1/65536. The jitted kernel and its
NumPy twin agree bit for bit.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from madang.core.scoring._accelerate import compiles, jit
from madang.core.scoring._base import WHOLE_MILLI, Bools, Int64s, PoolArrays

UNIT = 128  # price units a milli-GPU
SPREAD_BITS = 10  # T = 1024 units = 8 milli: differences below it are noise of the arrival order
SPREAD = 1 << SPREAD_BITS
COUNT_BITS = 16  # flows are counted in 1/65536 of a hole
SHARE_BITS = 16  # and divided in shares of 1/65536
MANTISSA_BITS = 30  # of a power of two in the table below
ROUNDS = 24  # of balancing; prices start from the last ones, so a refresh only follows the drift


def _powers() -> Int64s:
    """(SPREAD,) round-down of 2^30·2^(−j/SPREAD), exact: by repeated integer square roots."""
    precision = 160
    roots = []  # 2^(−1/2), 2^(−1/4), ... scaled by 2^precision
    root = 1 << (precision - 1)
    for _ in range(SPREAD_BITS):
        root = isqrt(root << precision)
        roots.append(root)
    powers = []
    for j in range(SPREAD):
        power = 1 << precision
        for bit in range(SPREAD_BITS):
            if j >> (SPREAD_BITS - 1 - bit) & 1:
                power = power * roots[bit] >> precision
        powers.append(power >> (precision - MANTISSA_BITS))
    return np.array(powers, dtype=np.int64)


POWERS: Int64s = _powers()
# LOGS[x] = SPREAD·log2(1 + x/1024), rounded down: the inverse of POWERS, read from it.
LOGS: Int64s = (
    np.searchsorted(
        np.concatenate((POWERS[:1], 2 * POWERS[:0:-1])),
        (1024 + np.arange(1024, dtype=np.int64)) << (MANTISSA_BITS - 10),
        "right",
    ).astype(np.int64)
    - 1
)


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """I kinds of request, C classes of models: gpus (I,), milli (I,), demand (I,) expected requests
    in 1/65536, usable (I, C) bool: the class may host the kind."""

    gpus: Int64s
    milli: Int64s
    demand: Int64s
    usable: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Holes:
    """What is left: slices (C, 1001) GPUs with that many milli (1..999), groups (C, G + 1) nodes
    with that many wholly idle GPUs."""

    slices: Int64s
    groups: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """slice (C, 1001) and group (C, G + 1): values in price units; rent (I,) of the kinds."""

    slice: Int64s
    group: Int64s
    rent: Int64s


def holes_of(pool: PoolArrays, class_of: Int64s, classes: int) -> Holes:
    """Counts what is left on open nodes; class_of (N,) is each node's class."""
    rows = np.flatnonzero(pool.open)
    width = pool.gpu_free.shape[1]
    free = pool.gpu_free[rows].astype(np.int64)
    base = class_of[rows, None] * (WHOLE_MILLI + 1)
    slices = np.bincount((base + free).ravel(), minlength=classes * (WHOLE_MILLI + 1))
    slices = slices.reshape(classes, WHOLE_MILLI + 1).astype(np.int64)
    slices[:, 0] = 0
    slices[:, WHOLE_MILLI] = 0
    idle = (free == WHOLE_MILLI).sum(axis=1)
    groups = np.bincount(class_of[rows] * (width + 1) + idle, minlength=classes * (width + 1))
    return Holes(slices=slices, groups=groups.reshape(classes, width + 1).astype(np.int64))


def balance(kinds: Kinds, holes: Holes, rent: Int64s, rounds: int = ROUNDS) -> Prices:
    """Values of slices and groups after `rounds` of balancing that start from `rent` (I,)."""
    classes, width = holes.groups.shape
    slice_value = np.zeros((classes, WHOLE_MILLI + 1), dtype=np.int64)
    group_value = np.zeros((classes, width), dtype=np.int64)
    rent = rent.copy()
    reached = _reached(kinds, holes)
    solve = _solve if compiles(int(holes.groups.sum())) else solve_numpy
    arrays = (kinds.gpus, kinds.milli, kinds.demand, kinds.usable, holes.slices, holes.groups)
    solve(arrays, reached, rounds, rent, slice_value, group_value)
    return Prices(slice=slice_value, group=group_value, rent=rent)


def _reached(kinds: Kinds, holes: Holes) -> NDArray[np.bool_]:
    """(C, 1001) the levels that cutting can ever meet; the others take the value just below."""
    reached: Bools = holes.slices > 0
    reached[:, WHOLE_MILLI] = True
    sharing = kinds.gpus == 1
    for c in range(len(reached)):
        sizes = np.unique(kinds.milli[sharing & kinds.usable[:, c]])
        for level in range(WHOLE_MILLI, 0, -1):
            if reached[c, level]:
                reached[c, level - sizes[sizes <= level]] = True
    return reached


Arrays = tuple[Int64s, Int64s, Int64s, Bools, Int64s, Int64s]
Flowing = tuple[Int64s, Int64s, Int64s]  # indices of kinds; their gpus or milli; their profit


@jit
def _log2(value: int) -> int:
    """SPREAD·log2(value) for value >= 1, rounded down to the table's step."""
    bits = 0
    rest = value
    while rest > 1:
        rest >>= 1
        bits += 1
    if bits > 10:
        mantissa = (value >> (bits - 10)) - 1024
    else:
        mantissa = (value << (10 - bits)) - 1024
    log: int = bits * 1024 + LOGS[mantissa]
    return log


@jit
def _power(below: int) -> int:
    """2^30·2^(−below/SPREAD) for below >= 0, rounded down."""
    steps = below >> 10
    if steps > 30:
        return 0
    power: int = POWERS[below & 1023] >> steps
    return power


@jit
def _solve(
    arrays: Arrays,
    reached: Bools,
    rounds: int,
    rent: Int64s,
    slice_value: Int64s,
    group_value: Int64s,
) -> None:
    gpus, milli, demand, usable, slices, groups = arrays
    use = np.zeros(len(gpus), dtype=np.int64)
    for turn in range(rounds + 1):
        use[:] = 0
        for c in range(len(groups)):
            profit = milli * UNIT - rent
            singles = np.flatnonzero((gpus == 1) & usable[:, c])
            gangs = np.flatnonzero((gpus > 1) & usable[:, c])
            _value_slices(singles, milli, profit, reached[c], slice_value[c])
            _value_groups(gangs, gpus, profit, slice_value[c, 1000], group_value[c])
            if turn < rounds:
                single = slice_value[c, 1000]
                here = groups[c] << 16
                opened = _flow_groups((gangs, gpus, profit), here, single, group_value[c], use)
                here = slices[c] << 16
                here[1000] += opened
                _flow_slices((singles, milli, profit), here, slice_value[c], use)
        if turn < rounds:
            for i in range(len(gpus)):
                step = (_log2(use[i] + 1) - _log2(demand[i] + 1)) >> 1
                rent[i] = min(max(rent[i] + step // gpus[i], 0), milli[i] * UNIT)


@jit
def _value_slices(
    singles: Int64s, milli: Int64s, profit: Int64s, reached: Bools, value: Int64s
) -> None:
    for level in range(1, 1001):
        if not reached[level]:
            value[level] = value[level - 1]
            continue
        most = 0
        for i in singles:
            if milli[i] <= level:
                most = max(most, profit[i] + value[level - milli[i]])
        weight = _power(most)
        for i in singles:
            if milli[i] <= level:
                weight += _power(most - profit[i] - value[level - milli[i]])
        value[level] = most + _log2(weight) - 30 * 1024


@jit
def _value_groups(gangs: Int64s, gpus: Int64s, profit: Int64s, single: int, value: Int64s) -> None:
    for k in range(1, len(value)):
        alone = value[k - 1] + single
        most = alone
        for i in gangs:
            if gpus[i] <= k:
                most = max(most, gpus[i] * profit[i] + value[k - gpus[i]])
        weight = _power(most - alone)
        for i in gangs:
            if gpus[i] <= k:
                weight += _power(most - gpus[i] * profit[i] - value[k - gpus[i]])
        value[k] = most + _log2(weight) - 30 * 1024


@jit
def _flow_groups(kinds: Flowing, here: Int64s, single: int, value: Int64s, use: Int64s) -> int:
    """Cuts the groups `here` (G + 1,) of idle GPUs, in 1/65536; returns the GPUs opened singly."""
    gangs, gpus, profit = kinds
    opened = 0
    for k in range(len(value) - 1, 0, -1):
        if here[k] == 0:
            continue
        alone = _power(max(value[k] - value[k - 1] - single, 0))
        weight = alone
        for i in gangs:
            if gpus[i] <= k:
                weight += _power(max(value[k] - gpus[i] * profit[i] - value[k - gpus[i]], 0))
        if weight == 0:
            continue
        part = here[k] * ((alone << 16) // weight) >> 16
        opened += part
        here[k - 1] += part
        for i in gangs:
            if gpus[i] <= k:
                share = _power(max(value[k] - gpus[i] * profit[i] - value[k - gpus[i]], 0))
                part = here[k] * ((share << 16) // weight) >> 16
                use[i] += part
                here[k - gpus[i]] += part
    return opened


@jit
def _flow_slices(kinds: Flowing, here: Int64s, value: Int64s, use: Int64s) -> None:
    """Cuts the slices `here` (1001,), in 1/65536, and adds what each kind gets to `use`."""
    singles, milli, profit = kinds
    for level in range(1000, 0, -1):
        if here[level] == 0:
            continue
        weight = _power(max(value[level], 0))
        for i in singles:
            if milli[i] <= level:
                weight += _power(max(value[level] - profit[i] - value[level - milli[i]], 0))
        if weight == 0:
            continue
        for i in singles:
            if milli[i] <= level:
                share = _power(max(value[level] - profit[i] - value[level - milli[i]], 0))
                part = here[level] * ((share << 16) // weight) >> 16
                use[i] += part
                here[level - milli[i]] += part


def log2_numpy(value: Int64s) -> Int64s:
    """The NumPy twin of `_log2`, for any shape."""
    bits = np.frexp(value.astype(np.float64))[1].astype(np.int64) - 1  # exact below 2^53
    high = value >> np.maximum(bits - 10, 0)
    mantissa = (high << np.maximum(10 - bits, 0)) - 1024
    logs: Int64s = bits * SPREAD + LOGS[mantissa]
    return logs


def power_numpy(below: Int64s) -> Int64s:
    """The NumPy twin of `_power`, for any shape."""
    powers: Int64s = POWERS[below & (SPREAD - 1)] >> np.minimum(below >> SPREAD_BITS, 40)
    return powers


def solve_numpy(
    arrays: Arrays,
    reached: Bools,
    rounds: int,
    rent: Int64s,
    slice_value: Int64s,
    group_value: Int64s,
) -> None:
    """The NumPy twin of `_solve`."""
    gpus, milli, demand, usable, _, groups = arrays
    classes, width = groups.shape
    for turn in range(rounds + 1):
        use = np.zeros(len(gpus), dtype=np.int64)
        profit = milli * UNIT - rent
        for c in range(classes):
            singles = np.flatnonzero((gpus == 1) & usable[:, c])
            gangs = np.flatnonzero((gpus > 1) & usable[:, c])
            value, group = slice_value[c], group_value[c]
            for level in range(1, WHOLE_MILLI + 1):
                if not reached[c, level]:
                    value[level] = value[level - 1]
                    continue
                fit = singles[milli[singles] <= level]
                worth = np.append(profit[fit] + value[level - milli[fit]], 0)
                value[level] = _soft_most(worth)
            for k in range(1, width):
                fit = gangs[gpus[gangs] <= k]
                worth = gpus[fit] * profit[fit] + group[k - gpus[fit]]
                group[k] = _soft_most(np.append(worth, group[k - 1] + value[WHOLE_MILLI]))
            if turn < rounds:
                _flow_numpy(arrays, c, profit, value, group, use)
        if turn < rounds:
            step = (log2_numpy(use + 1) - log2_numpy(demand + 1)) >> 1
            rent[:] = np.clip(rent + step // gpus, 0, milli * UNIT)


def _soft_most(worth: Int64s) -> int:
    most = worth.max()
    weight = power_numpy(most - worth).sum()
    return int(most + log2_numpy(weight[None])[0] - MANTISSA_BITS * SPREAD)


def _flow_numpy(
    arrays: Arrays, c: int, profit: Int64s, value: Int64s, group: Int64s, use: Int64s
) -> None:
    gpus, milli, _, usable, slices, groups = arrays
    singles = np.flatnonzero((gpus == 1) & usable[:, c])
    gangs = np.flatnonzero((gpus > 1) & usable[:, c])
    here = groups[c] << COUNT_BITS
    opened = 0
    for k in range(len(group) - 1, 0, -1):
        if here[k] == 0:
            continue
        fit = gangs[gpus[gangs] <= k]
        worth = gpus[fit] * profit[fit] + group[k - gpus[fit]]
        worth = np.append(worth, group[k - 1] + value[WHOLE_MILLI])
        parts = _parts(here[k], group[k], worth, worth)
        opened += int(parts[-1])
        use[fit] += parts[:-1]
        np.add.at(here, np.append(k - gpus[fit], k - 1), parts)
    here = slices[c] << COUNT_BITS
    here[WHOLE_MILLI] += opened
    for level in range(WHOLE_MILLI, 0, -1):
        if here[level] == 0:
            continue
        fit = singles[milli[singles] <= level]
        worth = profit[fit] + value[level - milli[fit]]
        parts = _parts(here[level], value[level], worth, np.append(worth, 0))
        use[fit] += parts
        np.add.at(here, level - milli[fit], parts)


def _parts(here: int, value: int, worth: Int64s, rivals: Int64s) -> Int64s:
    """How `here` splits over `worth`, among all `rivals`, in proportion to 2^(worth/T)."""
    weight = power_numpy(np.maximum(value - rivals, 0)).sum()
    if weight == 0:
        return np.zeros(len(worth), dtype=np.int64)
    share = power_numpy(np.maximum(value - worth, 0))
    parts: Int64s = here * ((share << SHARE_BITS) // weight) >> SHARE_BITS
    return parts
