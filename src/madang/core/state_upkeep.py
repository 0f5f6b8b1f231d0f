"""The part of the fold that is about what is seen of running jobs: that they saved, are idle, were
moved; and about holes. See state.py.
"""

from dataclasses import replace

from madang.core import events as ev
from madang.core import idle
from madang.core.night import DEFRAGMENT, NEVER_MS, night_begin_ms
from madang.core.settings import KIND_OF, Hole, Night
from madang.core.state_rows import StateRows


class UpkeepFold(StateRows):
    """See the module's docstring."""

    def _checkpoint_saved(self, event: ev.CheckpointSaved, now_ms: int) -> bool:
        live = self.jobs.get(event.job)
        at_ms = min(event.at_ms, now_ms)
        if live is None or at_ms <= live.standing.checkpoint_ms:
            return False
        live.standing = replace(live.standing, checkpoint_ms=at_ms)
        self.changed.jobs[event.job] = None
        return True

    def _job_measured(self, event: ev.JobMeasured, now_ms: int) -> bool:
        live = self.jobs.get(event.job)
        if live is None or live.allocation is None:
            return False
        allocation, before = self.allocations[live.allocation], self.measured.get(event.job)
        event = replace(event, at_ms=min(event.at_ms, now_ms))
        if not allocation.running_ms or event.at_ms <= allocation.running_ms:
            return False  # it is about an attempt that is over
        if before is not None and event.at_ms <= before.at_ms:
            return False
        self.measured[event.job] = event
        standing = idle.after(self.policy, live.job, live.standing, allocation, event)
        if standing != live.standing:
            live.standing = standing
            self.changed.jobs[event.job] = None
        if idle.verdict(self.policy, live.job, standing, allocation) is not idle.Verdict.NOTHING:
            self.idle[event.job] = None
        return True

    def _job_warned(self, event: ev.JobWarned, now_ms: int) -> bool:
        live = self.jobs[event.job]
        live.standing = replace(live.standing, warned_ms=now_ms)
        self.changed.jobs[event.job] = None
        return True

    def count_move(self, job: str, event: ev.ReleaseAsked, now_ms: int) -> None:
        """The job has had its move; what it costs is of this night, if the night asked for it."""
        live = self.jobs[job]
        live.standing = replace(live.standing, moved_ms=now_ms)
        self.changed.jobs[job] = None
        begin_ms = night_begin_ms(self.policy, now_ms)
        if event.by != DEFRAGMENT or begin_ms == NEVER_MS:
            return
        night = self.settings.nights.get(event.by)
        if night is None or night.begin_ms != begin_ms:
            night = Night(event.by, begin_ms)
        bill_gpu_ms = night.bill_gpu_ms + event.bill_gpu_ms
        self.settings.put(replace(night, moves=night.moves + 1, bill_gpu_ms=bill_gpu_ms))
        self.changed.settings[KIND_OF[Night], night.key] = None

    # -- holes ---------------------------------------------------------------------------------

    def _hole_asked(self, event: ev.HoleAsked, now_ms: int) -> bool:
        if event.hole.id in self.settings.holes:
            return False
        self._put_hole(replace(event.hole, seats=()))
        self.stirs += 1
        return True

    def _hole_made(self, event: ev.HoleMade, now_ms: int) -> bool:
        hole = self.settings.holes[event.hole]
        assert not hole.seats, f"made twice: {hole} {event}"
        self._put_hole(replace(hole, seats=event.seats))
        return True

    def _hole_dropped(self, event: ev.HoleDropped, now_ms: int) -> bool:
        del self.settings.holes[event.hole]
        self.changed.settings[KIND_OF[Hole], event.hole] = None
        self.stirs += 1
        return True

    def _put_hole(self, hole: Hole) -> None:
        self.settings.put(hole)
        self.changed.settings[KIND_OF[Hole], hole.key] = None
