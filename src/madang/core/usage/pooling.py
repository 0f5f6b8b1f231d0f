"""What pooling private zones would free: each zone's past demand alone, and all of it together.

The sum of the zones' peaks is at least the peak of their sum, because they are not busy at the same
time; the difference is what hoarding costs. A peak is taken at a waiting-time target: the fewest
GPUs at which `share_pct` of the jobs wait at most `target_ms`. GPUs of one model are pooled, never
two models with each other.

How a number of GPUs is tried: first come first served, a gang whole, no gaps between nodes; every
stay of the history arrives when it began to wait and takes as long as it took. So CPU, memory and
fragmentation are left out, for the zones and for the pool alike.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from madang.core.model import WHOLE_GPU_MILLI
from madang.core.usage.books import Books
from madang.core.usage.keys import ANY, NONE, PUBLIC

TARGET_MS = 600_000
SHARE_PCT = 95


@dataclass(frozen=True, slots=True)
class Demand:
    """One stay of the history: so much, from then on, for so long."""

    arrived_ms: int
    milli: int
    ran_ms: int


@dataclass(frozen=True, slots=True)
class ZoneNeed:
    """One zone's GPUs of one model: what it has, what it needs alone, and its jobs' waits with
    what it has now, alone and as a part of the pool. Waits are ms of all its jobs together.
    """

    zone: str
    model: str
    jobs: int
    has_milli: int
    peak_milli: int
    needs_milli: int
    wait_alone_ms: int
    wait_pooled_ms: int


@dataclass(frozen=True, slots=True)
class PoolNeed:
    """All zones of one model together. `freed_milli` is what the zones need more than the pool."""

    model: str
    zones: tuple[ZoneNeed, ...]
    has_milli: int
    peak_milli: int
    needs_milli: int

    @property
    def sum_of_needs_milli(self) -> int:
        return sum(zone.needs_milli for zone in self.zones)

    @property
    def freed_milli(self) -> int:
        return max(0, self.sum_of_needs_milli - self.needs_milli)

    @property
    def wait_saved_ms(self) -> int:
        return sum(zone.wait_alone_ms - zone.wait_pooled_ms for zone in self.zones)


@dataclass(frozen=True, slots=True)
class Advice:
    """One PoolNeed for each model that more than one zone has."""

    since_ms: int
    until_ms: int
    target_ms: int
    share_pct: int
    pools: tuple[PoolNeed, ...]


def advise(
    books: Books,
    since_ms: int,
    until_ms: int,
    *,
    target_ms: int = TARGET_MS,
    share_pct: int = SHARE_PCT,
) -> Advice:
    """What pooling would free, by the demand of the window."""
    has = _capacity(books)
    pools = []
    for model, zones in sorted(_history(books, since_ms, until_ms).items()):
        for zone, milli in has.get(model, {}).items():
            if milli:
                zones.setdefault(zone, [])
        if len(zones) > 1:
            pools.append(pool_need(model, zones, has.get(model, {}), (target_ms, share_pct)))
    return Advice(since_ms, until_ms, target_ms, share_pct, tuple(pools))


def _capacity(books: Books) -> dict[str, dict[str, int]]:
    """Model → zone → GPU-milli on offer now."""
    has: dict[str, dict[str, int]] = {}
    for code, _, _, milli in books.floor.open_capacity(books.at_ms):
        model, zone = books.floor.places[code]
        zones = has.setdefault(model or NONE, {})
        zones[zone or PUBLIC] = zones.get(zone or PUBLIC, 0) + milli
    return has


def _history(books: Books, since_ms: int, until_ms: int) -> dict[str, dict[str, list[Demand]]]:
    """Model → zone → stays, cut at the window's ends: who held GPUs as it began arrives then."""
    closed = [tuple(int(value) for value in row) for row in books.stays.table()]
    still = [(*stay, until_ms) for stay in books.staying()]
    found: dict[str, dict[str, list[Demand]]] = {}
    for code, arrived_ms, milli, bound_ms, released_ms in (*closed, *still):
        key = books.keys[code]
        ran_ms = min(released_ms, until_ms) - max(bound_ms, since_ms)
        if milli and key.model not in (ANY, NONE) and arrived_ms < until_ms and ran_ms > 0:
            zones = found.setdefault(key.model, {})
            came_ms = max(arrived_ms, since_ms)
            zones.setdefault(key.zone, []).append(Demand(came_ms, milli, ran_ms))
    return found


def pool_need(
    model: str,
    zones: dict[str, list[Demand]],
    has: dict[str, int],
    target: tuple[int, int],
) -> PoolNeed:
    """What the zones need alone and together; `target` is (wait_ms, percent of the jobs)."""
    names = sorted(zones)
    tagged = sorted(
        (each.arrived_ms, at, number, each)
        for at, zone in enumerate(names)
        for number, each in enumerate(zones[zone])
    )
    together = [each for _, _, _, each in tagged]
    total_milli = sum(has.get(zone, 0) for zone in names)
    pooled_ms = [0] * len(names)
    for (_, at, _, _), wait_ms in zip(tagged, waits_ms(together, total_milli), strict=True):
        pooled_ms[at] += wait_ms
    needs = []
    for at, zone in enumerate(names):
        alone = sorted(zones[zone], key=lambda each: each.arrived_ms)
        has_milli = has.get(zone, 0)
        needs.append(
            ZoneNeed(
                zone,
                model,
                len(alone),
                has_milli,
                peak_milli(alone),
                needed_milli(alone, *target),
                sum(waits_ms(alone, has_milli)),
                pooled_ms[at],
            )
        )
    return PoolNeed(
        model, tuple(needs), total_milli, peak_milli(together), needed_milli(together, *target)
    )


def peak_milli(demands: Sequence[Demand]) -> int:
    """The most that is wanted at once if nobody ever waits."""
    changes = sorted(
        change
        for each in demands
        for change in (
            (each.arrived_ms, 1, each.milli),
            (each.arrived_ms + each.ran_ms, 0, -each.milli),
        )
    )
    level = peak = 0
    for _, _, milli in changes:
        level += milli
        peak = max(peak, level)
    return peak


def needed_milli(demands: Sequence[Demand], target_ms: int, share_pct: int) -> int:
    """The fewest whole GPUs at which that share of the demands waits at most the target.

    By halving between the largest job and the peak, where nobody waits at all.
    """
    if not demands:
        return 0
    low = -(-max(each.milli for each in demands) // WHOLE_GPU_MILLI)
    high = max(low, -(-peak_milli(demands) // WHOLE_GPU_MILLI))
    while low < high:
        middle = (low + high) // 2
        waits = waits_ms(demands, middle * WHOLE_GPU_MILLI)
        good = sum(wait_ms <= target_ms for wait_ms in waits)
        if good * 100 >= share_pct * len(demands):
            high = middle
        else:
            low = middle + 1
    return high * WHOLE_GPU_MILLI


def waits_ms(demands: Sequence[Demand], has_milli: int) -> list[int]:
    """How long each waits, first come first served, with so much; in the order given (by arrival).

    One that asks for more than there is gets it all.
    """
    free, now_ms = has_milli, 0
    ends: list[tuple[int, int]] = []
    waits = []
    for each in demands:
        now_ms = max(now_ms, each.arrived_ms)
        while ends and ends[0][0] <= now_ms:
            free += heapq.heappop(ends)[1]
        milli = min(each.milli, has_milli)
        while free < milli:
            end_ms, given = heapq.heappop(ends)
            now_ms, free = max(now_ms, end_ms), free + given
        free -= milli
        heapq.heappush(ends, (now_ms + each.ran_ms, milli))
        waits.append(now_ms - each.arrived_ms)
    return waits
