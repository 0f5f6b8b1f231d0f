"""Who waits for the same devices: what one job may hold back from those behind it.

A lane is what a job waits for, as far as the job alone tells: models, of all its shapes. Where
there are zones, or nodes that are not open to all, what it competes for is lane × the zones open to
it × the parts of the yard that its terms allow. As bit sets: for each zone and part one bit for
CPUs alone (those who need no GPU queue among themselves), then one bit per model code.
"""

from madang.core.live import Lane, lane_of
from madang.core.model import Job
from madang.core.needs import NOTHING, Demands, demands_of
from madang.core.snapshot import Snapshot
from madang.core.zones import access

_CPU_ONLY = 1
_TERMS_MAX = 16  # beyond it who waits with terms is taken to compete everywhere


class Lanes:
    """The lanes of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._width = len(snapshot.models) + 1
        self._are_zoned = bool(snapshot.settings.zones) or len(snapshot.zones) > 1
        self._models = {lane: self._of_lane(lane) for lane in snapshot.waiting}
        self._parts = _parts_of(snapshot)
        self._part_count = max((bits.bit_length() for bits in self._parts.values()), default=1)

    def of(self, job: Job) -> int:
        """The bit set of what a job competes for."""
        lane = lane_of(job)
        bits = self._models.get(lane)
        if bits is None:
            bits = self._models[lane] = self._of_lane(lane)
        if self._parts:
            bits = self._in_parts(bits, demands_of(job))
        if not self._are_zoned:
            return bits
        allowed = access(self.snapshot, job)
        codes = range(len(self.snapshot.zones)) if allowed is None else allowed.all
        there = 0
        for code in codes:
            there |= bits << code * self._width * self._part_count
        return there

    def all_held(self, held: int) -> bool:
        """True iff whatever anyone in the queue could use is held back, in every zone and part."""
        zones = len(self.snapshot.zones) if self._are_zoned else 1
        return all(
            bits << place * self._width & held
            for bits in self._models.values()
            for place in range(zones * self._part_count)
        )

    def _in_parts(self, bits: int, terms: Demands) -> int:
        everywhere = (1 << self._part_count) - 1
        parts, there = self._parts.get(terms, everywhere), 0
        for part in range(self._part_count):
            if parts >> part & 1:
                there |= bits << part * self._width
        return there

    def _of_lane(self, lane: Lane) -> int:
        if lane is None:
            return _CPU_ONLY
        models = self.snapshot.models
        if not lane:
            return (1 << (len(models) + 1)) - 2
        bits = 0
        for model in lane:
            if model in models:
                bits |= 2 << models[model]
        return bits


def _parts_of(snapshot: Snapshot) -> dict[Demands, int]:
    """Demands → the parts of the yard that they allow; {} where everybody may use every part."""
    asked = snapshot.line.terms
    ground = snapshot.ground
    if ground.is_plain and (not asked or (len(asked) == 1 and NOTHING in asked)):
        return {}
    most = sorted(asked, key=lambda terms: (-asked[terms], repr(terms)))[:_TERMS_MAX]
    return ground.parts((NOTHING, *most))
