"""The part of the fold that is about what others let us take down: shields, whom they cover, and
releases that were held. See state.py.
"""

from bisect import insort
from dataclasses import replace

from madang.core import events as ev
from madang.core.lifecycle import goes_on, phase_of
from madang.core.live import LiveJob
from madang.core.model import Allocation, AllocationState, NodeState, ReleaseReason
from madang.core.settings import KIND_OF, Shield
from madang.core.state_rows import StateRows


class ShieldsFold(StateRows):
    """See the module's docstring."""

    def _running_if_all_started(
        self, allocation: Allocation, at_ms: int, now_ms: int
    ) -> Allocation:
        raise NotImplementedError

    def _shield_set(self, event: ev.ShieldSet, now_ms: int) -> bool:
        before = self.settings.shields.get(event.shield.id)
        if not self.settings.put(event.shield):
            return False
        self.changed.settings[KIND_OF[Shield], event.shield.id] = None
        # Who may be stopped now could not before; if fewer may, nobody can start who could not.
        self.stirs += before is None or event.shield.allowed > before.allowed
        return True

    def _job_shielded(self, event: ev.JobShielded, now_ms: int) -> bool:
        live = self.jobs.get(event.job)
        if live is None or live.standing.shields == event.by:
            return False
        self.stirs += bool(live.standing.shields)
        live.standing = replace(live.standing, shields=event.by)
        self.changed.jobs[event.job] = None
        return True

    def _release_held(self, event: ev.ReleaseHeld, now_ms: int) -> bool:
        """The allocation goes on; if it must end for another cause, that is asked anew."""
        allocation = self.allocations.get(event.allocation)
        if allocation is None or allocation.state is not AllocationState.RELEASING:
            return False
        if not self.is_newest(allocation):
            self.strays[allocation.id] = None  # its job goes by another by now
            return True
        self.unsettled.pop(allocation.job, None)
        allocation = goes_on(allocation)
        if allocation.state is AllocationState.RUNNING:
            self.begin_running(allocation)
        else:
            allocation = self._running_if_all_started(allocation, now_ms, now_ms)
        if (reason := self.trouble_of(allocation)) is not None:
            self.troubled[allocation.id] = reason
        self._put(allocation)
        self.stirs += 1
        return True

    def begin_running(self, allocation: Allocation) -> None:
        """The allocation runs: note all that may become due of it."""
        self.begin_sinking(allocation)
        self.note_short(allocation)
        live = self.jobs[allocation.job]
        if live.job.time_limit_ms:
            insort(self.deadlines, (allocation.running_ms + live.job.time_limit_ms, allocation.id))

    def trouble_of(self, allocation: Allocation) -> ReleaseReason | None:
        """Why one that is lively must be asked to end, if it must."""
        if self.jobs[allocation.job].standing.stop_asked:
            return ReleaseReason.STOP
        if any(
            allocation.holds(rank) and self.nodes[seat.node].state is NodeState.LOST
            for rank, seat in enumerate(allocation.seats)
        ):
            return ReleaseReason.NODE_LOST
        if not all(end.ok for _, end in allocation.exits):
            return ReleaseReason.MEMBER_FAILED
        return None

    def _put(self, allocation: Allocation) -> None:
        self.allocations[allocation.id] = allocation
        self.changed.allocations[allocation.id] = None
        live = self.jobs.get(allocation.job)
        if live is not None and live.allocation == allocation.id:
            self._show(live)

    def _show(self, live: LiveJob) -> None:
        allocation = self.allocations[live.allocation] if live.allocation else None
        phase = phase_of(live.standing, allocation)
        if phase is not live.standing.phase:
            live.standing = replace(live.standing, phase=phase)
        self.changed.jobs[live.job.id] = None
