"""Who waits for the same devices: what one job may hold back from those behind it.

A lane is what a job waits for, as far as the job alone tells: models, of all its shapes. Where
there are zones, what it competes for is lane × the zones open to it. As bit sets: for each zone one
bit for CPUs alone (those who need no GPU queue among themselves), then one bit per model code.
"""

from madang.core.live import Lane, lane_of
from madang.core.model import Job
from madang.core.snapshot import Snapshot
from madang.core.zones import access

_CPU_ONLY = 1


class Lanes:
    """The lanes of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._width = len(snapshot.models) + 1
        self._are_zoned = bool(snapshot.settings.zones) or len(snapshot.zones) > 1
        self._models = {lane: self._of_lane(lane) for lane in snapshot.waiting}

    def of(self, job: Job) -> int:
        """The bit set of what a job competes for."""
        lane = lane_of(job)
        bits = self._models.get(lane)
        if bits is None:
            bits = self._models[lane] = self._of_lane(lane)
        if not self._are_zoned:
            return bits
        allowed = access(self.snapshot, job)
        if allowed is None:
            return self._everywhere(bits)
        there = 0
        for code in allowed.all:
            there |= bits << code * self._width
        return there

    def all_held(self, held: int) -> bool:
        """True iff whatever anyone in the queue could use is held back, in every zone."""
        zones = len(self.snapshot.zones) if self._are_zoned else 1
        return all(
            bits << code * self._width & held
            for bits in self._models.values()
            for code in range(zones)
        )

    def _everywhere(self, bits: int) -> int:
        there = 0
        for code in range(len(self.snapshot.zones)):
            there |= bits << code * self._width
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
