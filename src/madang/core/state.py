"""The state of the yard: everything the scheduler knows, changed by `apply` alone.

`apply(event)` keeps the derived data (free arrays, the sorted queue, usage, what needs attention);
getters derive nothing. Ended jobs and released allocations leave at once: their rows are the
ledger's. `apply` returns whether the event was news; late and doubled facts are not.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from madang.core import events as ev
from madang.core.cells.promises import leave_behind, seat_in, unseat
from madang.core.cells.room import is_firm
from madang.core.history import Runs, forgotten, learn
from madang.core.hypernodes import TREE, Topology
from madang.core.lifecycle import LIVELY, moved
from madang.core.line import drop
from madang.core.live import Changed, LiveJob
from madang.core.model import (
    Allocation,
    AllocationState,
    Job,
    NodeState,
    ReleaseReason,
    Seat,
    Standing,
    grace_ms_of,
)
from madang.core.policy import DEFAULT, Policy
from madang.core.pool import Place, Pool
from madang.core.rules import Rule
from madang.core.settings import KIND_OF, KINDS, Factors, Setting
from madang.core.snapshot import Snapshot
from madang.core.state_nodes import NodeFold
from madang.core.state_rules import RulesFold
from madang.core.state_shields import ShieldsFold
from madang.core.state_upkeep import UpkeepFold


def _sits_on(allocation: Allocation, node: str) -> bool:
    return any(allocation.holds(rank) for rank, s in enumerate(allocation.seats) if s.node == node)


class State(NodeFold, UpkeepFold, RulesFold, ShieldsFold):
    """See the module's docstring. One verb changes it: `apply`."""

    # -- the fold ------------------------------------------------------------------------------

    def apply(self, event: ev.Event, now_ms: int) -> bool:
        """Fold one event in. True iff it was news."""
        self.now_ms = now_ms
        return _FOLD[type(event)](self, event, now_ms)

    def snapshot(self, now_ms: int) -> Snapshot:
        """The picture that passes plan on, good until the next `apply`. All of it are views."""
        if self._read_only is None:
            self._read_only = self.pool.read_only()
        return self.view(now_ms, self._read_only)

    def view(self, now_ms: int, pool: Pool | None = None) -> Snapshot:
        """A snapshot of the live arrays, for a question that is answered at once."""
        return Snapshot(
            now_ms=now_ms,
            pool=self.pool if pool is None else pool,
            node_ids=self.node_ids,
            nodes=self.nodes,
            models=self.models,
            groups=self.groups,
            queue=self.queue,
            waiting=self.waiting,
            jobs=self.jobs,
            allocations=self.allocations,
            projects=self.projects,
            usage_milli=self.usage_milli,
            deadlines=self.deadlines,
            troubled=self.troubled,
            unsettled=self.unsettled,
            strays=self.strays,
            lingering=self.lingering,
            nominations=self.nominations,
            policy=self.policy,
            settings=self.settings,
            zones=self.zones,
            domains=self.domains,
            held_milli=self.held_milli,
            measured=self.measured,
            idle=self.idle,
            planned_ms=self.planned_ms,
            short=self.short,
            cells=self.book,
            line=self.line,
            sinks=self.sinks,
            scorer=self.learner.policy(self.policy.placement, self.pool, self.models),
            suspects=self.suspects,
            cached=self.cached,
            ground=self.ground,
        )

    @property
    def needs_attention(self) -> bool:
        """True iff the release or the settle pass has something to look at, deadlines aside."""
        return bool(self.troubled or self.unsettled or self.strays or self.idle)

    def planned(self, now_ms: int) -> None:
        """A plan was made of all this: what called for attention has had it."""
        self.planned_ms = now_ms
        self.idle.clear()

    def knows_job(self, job: str) -> bool:
        """True iff the job is live, or ended so lately that the ledger has not taken it yet."""
        return job in self.jobs or job in self.ended_jobs

    def take_changed(self) -> Changed:
        """What changed since the last call."""
        changed, self.changed = self.changed, Changed()
        return changed

    def forget_ended(self) -> None:
        """Drop what has ended; called once the ledger has it."""
        self.ended_jobs.clear()
        self.ended_allocations.clear()

    # -- jobs ----------------------------------------------------------------------------------

    def _job_submitted(self, event: ev.JobSubmitted, now_ms: int) -> bool:
        job = event.job
        if self.knows_job(job.id):
            return False
        live = self.jobs[job.id] = LiveJob(job, Standing())
        self._enqueue(live)
        self.learn(job)
        self.changed.jobs[job.id] = None
        return True

    def _job_stop_asked(self, event: ev.JobStopAsked, now_ms: int) -> bool:
        live = self.jobs.get(event.job)
        if live is None:
            return False
        before = live.standing
        after = replace(before, stop_asked=True, stop_grace_ms=event.grace_ms)
        shorter = grace_ms_of(live.job, after) < grace_ms_of(live.job, before)
        if before.stop_asked and not shorter:
            return False
        live.standing = after if shorter else replace(before, stop_asked=True)
        held = self.allocations[live.allocation] if live.allocation is not None else None
        if held is not None and held.state is AllocationState.RELEASING and shorter:
            self.strays[held.id] = None  # asked once more, with the shorter grace
        self._interrupt(live, ReleaseReason.STOP)
        self.stirs += event.job in self.nominations  # what was kept for it may go to others
        self._show(live)
        return True

    def _job_requeue_asked(self, event: ev.JobRequeueAsked, now_ms: int) -> bool:
        live = self.jobs.get(event.job)
        if live is None or live.allocation is None:
            return False
        if self.allocations[live.allocation].state not in LIVELY:
            return False
        self._interrupt(live, ReleaseReason.REQUEUE)
        return True

    def _interrupt(self, live: LiveJob, reason: ReleaseReason) -> None:
        """Ask the release pass to end what the job holds, or the settle pass to end the job."""
        if live.allocation is None:
            self.unsettled[live.job.id] = None
        elif self.allocations[live.allocation].state in LIVELY:
            self.troubled.setdefault(live.allocation, reason)
        else:
            # Already on its way out, maybe from a lost node.
            self.look_for_settling(live.allocation)

    def _job_rejected(self, event: ev.JobRejected, now_ms: int) -> bool:
        return True

    def _job_requeued(self, event: ev.JobRequeued, now_ms: int) -> bool:
        live = self.jobs[event.job]
        ran_ms = self._ran_ms(live, now_ms)
        self._detach(live)
        live.standing = replace(
            live.standing,
            failures=event.failures,
            not_before_ms=event.not_before_ms,
            reason=event.reason,
            running_ms=0,
            attained_ms=live.standing.attained_ms + ran_ms,
            preemptions=live.standing.preemptions + (event.reason == ReleaseReason.PREEMPTED),
            waiting_ms=now_ms,
            warned_ms=0,
            idle_since_ms=0,
            idle_until_ms=0,
        )
        self._enqueue(live)
        self.unsettled.pop(event.job, None)
        self._show(live)
        return True

    def _ran_ms(self, live: LiveJob, now_ms: int) -> int:
        """How long the attempt that the job is about to leave has run."""
        assert live.allocation is not None, f"has no allocation to leave: {live}"
        allocation = self.allocations[live.allocation]
        until_ms = allocation.released_ms or now_ms
        return max(0, until_ms - allocation.running_ms) if allocation.running_ms else 0

    def _job_ended(self, event: ev.JobEnded, now_ms: int) -> bool:
        live = self.jobs.pop(event.job)
        self.nominations.pop(event.job, None)
        if live.allocation is None:
            self._unqueue(live)
            self.stirs += 1  # what it held back may go
        else:
            self._learn(live, now_ms)
            self._detach(live)
        live.standing = replace(
            live.standing, phase=event.phase, reason=event.reason, ended_ms=now_ms
        )
        self.ended_jobs[event.job] = live
        self.unsettled.pop(event.job, None)
        self.changed.jobs[event.job] = None
        return True

    def _learn(self, live: LiveJob, now_ms: int) -> None:
        """How long the job has run is what such jobs take, however it ended."""
        ran_ms = live.standing.attained_ms + self._ran_ms(live, now_ms)
        if not ran_ms:
            return  # it never ran
        known = self.settings.runs
        for runs in learn(known, live.job, ran_ms, now_ms):
            known[runs.key] = runs
            self.changed.settings[KIND_OF[Runs], runs.key] = None
        for family in forgotten(known):
            del known[family]
            self.changed.settings[KIND_OF[Runs], family] = None

    def _detach(self, live: LiveJob) -> None:
        """The job leaves its allocation, which stays only while it holds devices out of sight.

        Those no longer count against the project: a dead node must not eat its quota.
        """
        assert live.allocation is not None, f"has no allocation to leave: {live}"
        allocation = self.allocations[live.allocation]
        live.allocation = None
        self.measured.pop(live.job.id, None)
        if allocation.state is AllocationState.RELEASED:
            self._bury(allocation.id)
            return
        self.charge(live.job, allocation, _held(allocation), -1)
        for rank in _held(allocation):
            self._unseat(live.job, allocation, rank)
        if self._kept_book is not None:
            leave_behind(self._kept_book, self.nodes, allocation)
        self.lingering.setdefault(allocation.job, {})[allocation.id] = None

    def _enqueue(self, live: LiveJob) -> None:
        self.line.add(self.policy, live)
        if live.standing.not_before_ms:
            insort(self.backoffs, (live.standing.not_before_ms, live.job.id))
        if live.job.insists_until_ms:
            insort(self.insisting, (live.job.insists_until_ms, live.job.id))
        self.stirs += 1

    def _unqueue(self, live: LiveJob) -> None:
        self.line.remove(self.policy, live)
        if live.standing.not_before_ms:
            drop(self.backoffs, (live.standing.not_before_ms, live.job.id))
        if live.job.insists_until_ms:
            drop(self.insisting, (live.job.insists_until_ms, live.job.id))

    # -- allocations ---------------------------------------------------------------------------

    def _allocation_bound(self, event: ev.AllocationBound, now_ms: int) -> bool:
        allocation = event.allocation
        live = self.jobs[allocation.job]
        assert live.allocation is None, f"bound a job that is bound: {live}"
        self.nominations.pop(allocation.job, None)
        self._unqueue(live)
        self._seat(live.job, allocation)
        live.allocation = allocation.id
        live.standing = replace(
            live.standing, attempt=allocation.attempt, reason="", not_before_ms=0
        )
        self._show(live)
        return True

    def _seat(self, job: Job, allocation: Allocation) -> None:
        """Take what the allocation's members hold."""
        self.allocations[allocation.id] = allocation
        held = _held(allocation)
        self.pool.take([self._place(allocation.seats[r]) for r in held], allocation.shape)
        self.charge(job, allocation, held, 1)
        if self._kept_book is not None:
            seat_in(self._kept_book, self.nodes, allocation, firm=is_firm(job))
        for rank in held:
            self.on_node[allocation.seats[rank].node][allocation.id] = None
        self.changed.allocations[allocation.id] = None

    def _unseat(self, job: Job | None, allocation: Allocation, rank: int) -> None:
        """Tell the book of cells; `job` is None if nobody goes by the allocation any more."""
        book = self._kept_book
        if book is None:
            return
        if job is None:
            seat = allocation.seats[rank]
            book.give((self.nodes[seat.node].row, seat.gpus), allocation.shape)
            return
        unseat(book, self.nodes, allocation, rank, firm=is_firm(job))
        # Cells came free that somebody may now go back into: only the whole picture tells who.
        self._book_is_stale = bool(book.demoted)

    def _place(self, seat: Seat) -> Place:
        """Where the member sits in the pool; a device that is ill is not in the pool at all."""
        live = self.nodes[seat.node]
        usable = live.node.usable
        return (live.row, tuple([gpu for gpu in seat.gpus if usable >> gpu & 1]))

    def _job_nominated(self, event: ev.JobNominated, now_ms: int) -> bool:
        assert event.job not in self.nominations, f"promised twice: {event}"
        self.nominations[event.job] = event.seats
        self.changed.jobs[event.job] = None
        return True

    def _nomination_dropped(self, event: ev.NominationDropped, now_ms: int) -> bool:
        del self.nominations[event.job]
        self.changed.jobs[event.job] = None
        self.stirs += 1
        return True

    def _release_asked(self, event: ev.ReleaseAsked, now_ms: int) -> bool:
        self.troubled.pop(event.allocation, None)
        self.strays.pop(event.allocation, None)
        allocation = self.allocations.get(event.allocation)
        if allocation is None or allocation.state not in LIVELY:
            return True
        allocation = moved(allocation, AllocationState.RELEASING, now_ms)
        self._put(
            replace(
                allocation,
                release_reason=event.reason,
                released_for=event.by,
                bill_gpu_ms=event.bill_gpu_ms,
            )
        )
        self._drop_deadline(allocation)
        if event.reason is ReleaseReason.MOVED:
            self.count_move(allocation.job, event, now_ms)
        self.look_for_settling(allocation.id)
        return True

    def _member_started(self, event: ev.MemberStarted, now_ms: int) -> bool:
        allocation = self.allocations.get(event.allocation)
        if allocation is None:
            # It was given up while nobody could see it: it must not run on.
            if event.allocation not in self.ended_allocations:
                self.strays[event.allocation] = None
            return False
        if not 0 <= event.rank < len(allocation.seats):
            return False
        bit = 1 << event.rank
        if (allocation.started | allocation.ended) & bit:
            return False
        allocation = replace(allocation, started=allocation.started | bit)
        self._put(self._running_if_all_started(allocation, event.at_ms, now_ms))
        return True

    def _running_if_all_started(
        self, allocation: Allocation, at_ms: int, now_ms: int
    ) -> Allocation:
        """A gang runs from the moment its last member started; an end implies a start."""
        if allocation.state is not AllocationState.BOUND:
            return allocation
        if allocation.started | allocation.ended != allocation.all_ranks:
            return allocation
        at_ms = min(max(at_ms, allocation.bound_ms), now_ms)
        allocation = moved(allocation, AllocationState.RUNNING, at_ms)
        live = self.jobs[allocation.job]
        live.standing = replace(live.standing, running_ms=at_ms)
        self.begin_running(allocation)
        return allocation

    def _member_ended(self, event: ev.MemberEnded, now_ms: int) -> bool:
        allocation = self.allocations.get(event.allocation)
        if allocation is None or not 0 <= event.rank < len(allocation.seats):
            return False
        if not allocation.holds(event.rank):
            return False
        bit = 1 << event.rank
        seat = allocation.seats[event.rank]
        self.pool.give(self._place(seat), allocation.shape)
        self.stirs += 1
        job = self.jobs[allocation.job].job if self.is_newest(allocation) else None
        if job is not None:
            self.charge(job, allocation, (event.rank,), -1)
        self._unseat(job, allocation, event.rank)
        allocation = replace(
            allocation,
            ended=allocation.ended | bit,
            exits=(*allocation.exits, (event.rank, event.exit)),
        )
        if not _sits_on(allocation, seat.node):
            self.on_node[seat.node].pop(allocation.id, None)
        if allocation.ended == allocation.all_ranks:
            self._released(allocation, min(max(event.at_ms, allocation.bound_ms), now_ms))
            return True
        allocation = self._running_if_all_started(allocation, event.at_ms, now_ms)
        if not event.exit.ok and allocation.state in LIVELY:
            self.troubled.setdefault(allocation.id, ReleaseReason.MEMBER_FAILED)
        self._put(allocation)
        self.look_for_settling(allocation.id)
        return True

    def _released(self, allocation: Allocation, at_ms: int) -> None:
        allocation = moved(allocation, AllocationState.RELEASED, at_ms)
        self._put(allocation)
        self._drop_deadline(allocation)
        self.look_for_settling(allocation.id)
        self.troubled.pop(allocation.id, None)
        self.strays.pop(allocation.id, None)
        if not self.is_newest(allocation):
            self._bury(allocation.id)

    def _bury(self, allocation_id: str) -> None:
        """A released allocation leaves once its job has been settled."""
        allocation = self.allocations.pop(allocation_id)
        self.ended_allocations[allocation_id] = allocation
        lingering = self.lingering.get(allocation.job, {})
        if allocation_id in lingering:
            del lingering[allocation_id]
            if not lingering:
                del self.lingering[allocation.job]

    def _drop_deadline(self, allocation: Allocation) -> None:
        """The allocation leaves RUNNING: its time limit has no more to say."""
        self.stop_sinking(allocation.id)
        self.end_violations(allocation.id)
        self.short.pop(allocation.id, None)
        live = self.jobs.get(allocation.job)
        if live is None or not live.job.time_limit_ms or not allocation.running_ms:
            return
        entry = (allocation.running_ms + live.job.time_limit_ms, allocation.id)
        at = bisect_left(self.deadlines, entry)
        if at < len(self.deadlines) and self.deadlines[at] == entry:
            del self.deadlines[at]

    def look_for_settling(self, allocation_id: str) -> None:
        """Mark the job iff all that its allocation still holds is out of sight, or nothing."""
        allocation = self.allocations[allocation_id]
        if allocation.state in LIVELY or not self.is_newest(allocation):
            return
        if all(
            not allocation.holds(rank) or self.nodes[seat.node].state is NodeState.LOST
            for rank, seat in enumerate(allocation.seats)
        ):
            self.unsettled[allocation.job] = None
        else:
            self.unsettled.pop(allocation.job, None)

    # -- projects and settings -----------------------------------------------------------------

    def _project_set(self, event: ev.ProjectSet, now_ms: int) -> bool:
        if self.projects.get(event.project.id) == event.project:
            return False
        self.projects[event.project.id] = event.project
        self.usage_milli.setdefault(event.project.id, 0)
        self._book_is_stale = True
        self.changed.projects[event.project.id] = None
        self.stirs += 1
        return True

    def _setting_set(self, event: Any, now_ms: int) -> bool:
        """Any of the facts that set one setting: its only field."""
        setting: Setting = getattr(event, _FIELD[type(event)])
        if self.settings.get(KIND_OF[type(setting)], setting.key) == setting:
            return False
        self._book_is_stale = True
        self._settle_uses()
        self.settings.put(setting)
        self.changed.settings[KIND_OF[type(setting)], setting.key] = None
        self.stirs += 1
        if isinstance(setting, Topology):
            self._set_policy(self.policy)
            self.write_domains()
        return True

    def _setting_dropped(self, event: ev.SettingDropped, now_ms: int) -> bool:
        if event.kind not in KINDS or self.settings.get(event.kind, event.key) is None:
            return False
        self._book_is_stale = True
        self._settle_uses()
        self.settings.drop(event.kind, event.key)
        self.changed.settings[event.kind, event.key] = None
        self.stirs += 1
        if event.kind == KIND_OF[Rule]:
            self.forget_rule(event.key)
        if event.kind == KIND_OF[Topology]:
            policy = replace(self.policy, levels=DEFAULT.levels, within=DEFAULT.within)
            self._set_policy(policy)
            self.write_domains()
        return True

    def _policy_set(self, event: ev.PolicySet, now_ms: int) -> bool:
        return self._set_policy(event.policy)

    def _set_policy(self, policy: Policy) -> bool:
        """True iff it was news. The levels of a declared tree are nobody else's to name."""
        tree = self.settings.topologies.get(TREE)
        if tree is not None:
            policy = replace(policy, levels=tree.levels, within=tree.within or policy.within)
        if self.policy == policy:
            return False
        self._settle_uses()
        if policy.placement != self.policy.placement:
            self.keep_learned(self.learner.restart())
        self.policy = policy
        self._book_is_stale = True
        self._settle_uses()
        self.changed.settings["policy", ""] = None
        self.stirs += 1
        return True

    def _settle_uses(self) -> None:
        """Charge everyone up to now: from here on, charges may be counted in another way."""
        for project in self.projects:
            self.settle_use(project)

    def _project_measured(self, event: ev.ProjectMeasured, now_ms: int) -> bool:
        factors = Factors(event.project, event.month_gpu_ms, event.util_pct)
        if not self.settings.put(factors):
            return False
        self.changed.settings[KIND_OF[Factors], factors.key] = None
        return True


def _held(allocation: Allocation) -> list[int]:
    """The ranks that still hold devices."""
    return [rank for rank in range(len(allocation.seats)) if allocation.holds(rank)]


_FIELD: dict[type, str] = {
    ev.WorkspaceSet: "workspace",
    ev.QuotaSet: "quota",
    ev.ZoneSet: "zone",
    ev.ReservationSet: "reservation",
    ev.BudgetSet: "budget",
    ev.TopologySet: "topology",
}
_FOLD: dict[type, Callable[[State, Any, int], bool]] = {
    ev.JobSubmitted: State._job_submitted,
    ev.JobStopAsked: State._job_stop_asked,
    ev.JobRequeueAsked: State._job_requeue_asked,
    ev.ProjectSet: State._project_set,
    ev.NodeSeen: State._node_seen,
    ev.NodeLost: State._node_lost,
    ev.NodeCordoned: State._node_cordoned,
    ev.MemberStarted: State._member_started,
    ev.MemberEnded: State._member_ended,
    **dict.fromkeys(_FIELD, State._setting_set),
    ev.PolicySet: State._policy_set,
    ev.SettingDropped: State._setting_dropped,
    ev.NodeFlagged: State._node_flagged,
    ev.NodeRemoved: State._node_removed,
    ev.CheckpointSaved: State._checkpoint_saved,
    ev.JobMeasured: State._job_measured,
    ev.ProjectMeasured: State._project_measured,
    ev.HoleAsked: State._hole_asked,
    ev.RuleSet: State._rule_set,
    ev.RuleBroken: State._rule_broken,
    ev.RuleKept: State._rule_kept,
    ev.ShieldSet: State._shield_set,
    ev.JobShielded: State._job_shielded,
    ev.ReleaseHeld: State._release_held,
    ev.JobRejected: State._job_rejected,
    ev.AllocationBound: State._allocation_bound,
    ev.JobNominated: State._job_nominated,
    ev.NominationDropped: State._nomination_dropped,
    ev.ReleaseAsked: State._release_asked,
    ev.JobWarned: State._job_warned,
    ev.HoleMade: State._hole_made,
    ev.HoleDropped: State._hole_dropped,
    ev.JobRequeued: State._job_requeued,
    ev.JobEnded: State._job_ended,
}
assert set(_FOLD) == {*ev.FACTS, *ev.DECISIONS}, "every event has its place in the fold"
