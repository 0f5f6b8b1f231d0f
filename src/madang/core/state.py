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
from madang.core.lifecycle import LIVELY, moved, phase_of
from madang.core.live import Changed, Lane, LiveJob, LiveNode, QueueKey, lane_of, queue_key
from madang.core.model import (
    Allocation,
    AllocationState,
    Exit,
    Node,
    NodeState,
    Project,
    ReleaseReason,
    Seat,
    Shape,
    Standing,
    grace_ms_of,
)
from madang.core.ordering import level_of
from madang.core.policy import DEFAULT, Policy
from madang.core.pool import Place, Pool, Taken, empty_pool, widened
from madang.core.snapshot import Snapshot

LOST_EXIT = Exit(code=0, lost=True)


def _sits_on(allocation: Allocation, node: str) -> bool:
    return any(allocation.holds(rank) for rank, s in enumerate(allocation.seats) if s.node == node)


class State:
    """See the module's docstring. One verb changes it: `apply`."""

    def __init__(self) -> None:
        self._roomy: Pool = empty_pool()  # the arrays, with rows to spare for nodes to come
        self.pool: Pool = self._roomy  # views of the rows there are
        self._read_only: Pool | None = None  # the same arrays for passes, made when first asked for
        self.jobs: dict[str, LiveJob] = {}
        self.allocations: dict[str, Allocation] = {}
        self.nodes: dict[str, LiveNode] = {}
        self.node_ids: list[str] = []
        self.projects: dict[str, Project] = {}
        self.usage_milli: dict[str, int] = {}
        self.queue: list[tuple[QueueKey, str]] = []
        self.waiting: dict[Lane, int] = {}  # waiting jobs per lane, none of them 0
        self.backoffs: list[tuple[int, str]] = []  # (not_before_ms, waiting job), sorted
        self.deadlines: list[tuple[int, str]] = []
        self.on_node: dict[str, dict[str, None]] = {}
        # What the release and settle passes must look at, so that they need not look at the rest.
        self.troubled: dict[str, ReleaseReason] = {}
        self.unsettled: dict[str, None] = {}
        self.strays: dict[str, None] = {}
        # Job → its older attempts that may still run, on nodes that were lost.
        self.lingering: dict[str, dict[str, None]] = {}
        self.models: dict[str, int] = {"": 0}
        self.groups: dict[str, int] = {}
        self.nominations: dict[str, tuple[Seat, ...]] = {}  # job → seats promised to it
        self._policy = DEFAULT
        # Counts whatever may let a waiting job start: while it stands still, none can.
        self.stirs = 0
        self.ended_jobs: dict[str, LiveJob] = {}
        self.ended_allocations: dict[str, Allocation] = {}
        self.changed = Changed()

    # -- the fold ------------------------------------------------------------------------------

    def apply(self, event: ev.Event, now_ms: int) -> bool:
        """Fold one event in. True iff it was news."""
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
        )

    @property
    def policy(self) -> Policy:
        """By what waiting jobs are chosen. It is no event: whoever starts a state sets it."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        for live in self.jobs.values():
            live.level = level_of(policy, live.job, live.standing.attained_ms)
        self.stirs += 1

    @property
    def needs_attention(self) -> bool:
        """True iff the release or the settle pass has something to look at, deadlines aside."""
        return bool(self.troubled or self.unsettled or self.strays)

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

    def _show(self, live: LiveJob) -> None:
        allocation = self.allocations[live.allocation] if live.allocation else None
        phase = phase_of(live.standing, allocation)
        if phase is not live.standing.phase:
            live.standing = replace(live.standing, phase=phase)
        self.changed.jobs[live.job.id] = None

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
            waiting_ms=now_ms,
        )
        live.level = level_of(self._policy, live.job, live.standing.attained_ms)
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
            self._detach(live)
        live.standing = replace(
            live.standing, phase=event.phase, reason=event.reason, ended_ms=now_ms
        )
        self.ended_jobs[event.job] = live
        self.unsettled.pop(event.job, None)
        self.changed.jobs[event.job] = None
        return True

    def _detach(self, live: LiveJob) -> None:
        """The job leaves its allocation, which stays only while it holds devices out of sight.

        Those no longer count against the project: a dead node must not eat its quota.
        """
        assert live.allocation is not None, f"has no allocation to leave: {live}"
        allocation = self.allocations[live.allocation]
        live.allocation = None
        if allocation.state is AllocationState.RELEASED:
            self._bury(allocation.id)
            return
        held = sum(allocation.holds(rank) for rank in range(len(allocation.seats)))
        self.use(allocation.project, -held * allocation.shape.milli)
        self.lingering.setdefault(allocation.job, {})[allocation.id] = None

    def _enqueue(self, live: LiveJob) -> None:
        insort(self.queue, (queue_key(live.job), live.job.id))
        lane = lane_of(live.job)
        self.waiting[lane] = self.waiting.get(lane, 0) + 1
        if live.standing.not_before_ms:
            insort(self.backoffs, (live.standing.not_before_ms, live.job.id))
        self.stirs += 1

    def _unqueue(self, live: LiveJob) -> None:
        _drop(self.queue, (queue_key(live.job), live.job.id))
        lane = lane_of(live.job)
        self.waiting[lane] -= 1
        if not self.waiting[lane]:
            del self.waiting[lane]
        if live.standing.not_before_ms:
            _drop(self.backoffs, (live.standing.not_before_ms, live.job.id))

    # -- allocations ---------------------------------------------------------------------------

    def _allocation_bound(self, event: ev.AllocationBound, now_ms: int) -> bool:
        allocation = event.allocation
        live = self.jobs[allocation.job]
        assert live.allocation is None, f"bound a job that is bound: {live}"
        self.nominations.pop(allocation.job, None)
        self._unqueue(live)
        self._seat(allocation)
        live.allocation = allocation.id
        live.standing = replace(
            live.standing, attempt=allocation.attempt, reason="", not_before_ms=0
        )
        self._show(live)
        return True

    def _seat(self, allocation: Allocation) -> None:
        """Take what the allocation's members hold."""
        self.allocations[allocation.id] = allocation
        held = [r for r in range(len(allocation.seats)) if allocation.holds(r)]
        self.pool.take([self._place(allocation.seats[r]) for r in held], allocation.shape)
        self.use(allocation.project, len(held) * allocation.shape.milli)
        for rank in held:
            self.on_node[allocation.seats[rank].node][allocation.id] = None
        self.changed.allocations[allocation.id] = None

    def _place(self, seat: Seat) -> Place:
        """Where the member sits in the pool; a device that is ill is not in the pool at all."""
        live = self.nodes[seat.node]
        usable = live.node.usable
        return (live.row, tuple([gpu for gpu in seat.gpus if usable >> gpu & 1]))

    def use(self, project: str, milli: int) -> None:
        self.usage_milli[project] = self.usage_milli.get(project, 0) + milli

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
        self._put(replace(allocation, release_reason=event.reason))
        self._drop_deadline(allocation)
        self.look_for_settling(allocation.id)
        return True

    def _put(self, allocation: Allocation) -> None:
        self.allocations[allocation.id] = allocation
        self.changed.allocations[allocation.id] = None
        live = self.jobs.get(allocation.job)
        if live is not None and live.allocation == allocation.id:
            self._show(live)

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
        if live.job.time_limit_ms:
            insort(self.deadlines, (at_ms + live.job.time_limit_ms, allocation.id))
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
        if self.is_newest(allocation):
            self.use(allocation.project, -allocation.shape.milli)
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

    def is_newest(self, allocation: Allocation) -> bool:
        """True iff a live job still goes by this allocation."""
        live = self.jobs.get(allocation.job)
        return live is not None and live.allocation == allocation.id

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

    # -- nodes and projects --------------------------------------------------------------------

    def _node_seen(self, event: ev.NodeSeen, now_ms: int) -> bool:
        known = self.nodes.get(event.node.id)
        self._note_strays(event)
        if known is None:
            self._admit_node(event.node, NodeState.READY)
            return True
        was_lost = known.state is NodeState.LOST
        if known.node == event.node and not was_lost:
            return False
        state = NodeState.CORDONED if known.cordoned else NodeState.READY
        self._set_node(replace(known, node=event.node, state=state))
        if was_lost:
            self._reconcile(event, now_ms)
        return True

    def _note_strays(self, event: ev.NodeSeen) -> None:
        for allocation, _ in event.holds:
            if allocation in self.allocations or allocation in self.ended_allocations:
                continue
            self.strays[allocation] = None

    def _reconcile(self, event: ev.NodeSeen, now_ms: int) -> None:
        """A lost node is back: what it no longer runs has ended, what it must not is a stray."""
        runs = dict.fromkeys(event.holds)
        made_ms = event.at_ms or now_ms
        for id in list(self.on_node[event.node.id]):
            allocation = self.allocations[id]
            if allocation.state in LIVELY or made_ms < allocation.releasing_ms:
                continue  # its Start may be younger than the report; its Stop will bring the end
            for rank, seat in enumerate(allocation.seats):
                if seat.node != event.node.id or not allocation.holds(rank):
                    continue
                if (id, rank) not in runs:
                    self._member_ended(ev.MemberEnded(id, rank, LOST_EXIT, now_ms), now_ms)
        for id in self.on_node[event.node.id]:
            if self.allocations[id].state is AllocationState.RELEASING:
                self.strays[id] = None  # it was asked to end while nobody could hear
                self.look_for_settling(id)  # what it holds is in sight again: wait for its end

    def _node_lost(self, event: ev.NodeLost, now_ms: int) -> bool:
        known = self.nodes.get(event.node)
        if known is None or known.state is NodeState.LOST:
            return False
        self._set_node(replace(known, state=NodeState.LOST))
        for id in self.on_node[event.node]:
            if self.allocations[id].state not in LIVELY:
                self.look_for_settling(id)
            else:
                self.troubled.setdefault(id, ReleaseReason.NODE_LOST)
        return True

    def _node_cordoned(self, event: ev.NodeCordoned, now_ms: int) -> bool:
        known = self.nodes.get(event.node)
        if known is None or known.cordoned is event.cordoned:
            return False
        state = NodeState.CORDONED if event.cordoned else NodeState.READY
        if known.state is NodeState.LOST:
            state = known.state
        self._set_node(replace(known, state=state, cordoned=event.cordoned))
        return True

    def _admit_node(self, node: Node, state: NodeState) -> None:
        row = len(self.node_ids)
        self.grow(nodes=row + 1, gpus=node.gpus)
        self.node_ids.append(node.id)
        self.on_node[node.id] = {}
        self._set_node(LiveNode(node, state, row))

    def grow(self, *, nodes: int, gpus: int) -> None:
        """Make room in the arrays; rows double, so that a fleet is admitted in linear time."""
        rows, width = self._roomy.gpu_free.shape
        if nodes > rows or gpus > width:
            rows = max(2 * rows, 16, nodes) if nodes > rows else rows
            self._roomy = widened(self._roomy, nodes=rows, gpus=max(gpus, width))
        elif nodes == self.pool.nodes:
            return
        self.pool, self._read_only = self._roomy.rows(nodes), None

    def _set_node(self, live: LiveNode) -> None:
        """Store the node and write its row: capacity less what its members hold."""
        self.grow(nodes=self.pool.nodes, gpus=live.node.gpus)
        self.nodes[live.node.id] = live
        self.changed.nodes[live.node.id] = None
        self.stirs += 1
        taken = Taken()
        for shape, gpus in self._held_on(live.node.id):
            taken.add(shape, gpus)
        self.write_row(live, taken)

    def write_row(self, live: LiveNode, taken: Taken) -> None:
        """Write the node's row of the pool, given what its members hold."""
        row, pool = live.row, self.pool
        pool.model[row] = self.models.setdefault(live.node.model, len(self.models))
        pool.group[row] = self.groups.setdefault(live.node.group, len(self.groups))
        pool.open[row] = live.state is NodeState.READY
        pool.write_row(row, live.node, taken)

    def _held_on(self, node: str) -> list[tuple[Shape, tuple[int, ...]]]:
        return [
            (allocation.shape, seat.gpus)
            for allocation in (self.allocations[id] for id in self.on_node[node])
            for rank, seat in enumerate(allocation.seats)
            if seat.node == node and allocation.holds(rank)
        ]

    def _project_set(self, event: ev.ProjectSet, now_ms: int) -> bool:
        if self.projects.get(event.project.id) == event.project:
            return False
        self.projects[event.project.id] = event.project
        self.usage_milli.setdefault(event.project.id, 0)
        self.changed.projects[event.project.id] = None
        self.stirs += 1
        return True


def _drop(entries: list[Any], entry: Any) -> None:
    at = bisect_left(entries, entry)
    assert entries[at : at + 1] == [entry], f"not there to be dropped: {entry}"
    del entries[at]


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
    ev.JobRejected: State._job_rejected,
    ev.AllocationBound: State._allocation_bound,
    ev.JobNominated: State._job_nominated,
    ev.NominationDropped: State._nomination_dropped,
    ev.ReleaseAsked: State._release_asked,
    ev.JobRequeued: State._job_requeued,
    ev.JobEnded: State._job_ended,
}
assert set(_FOLD) == {*ev.FACTS, *ev.DECISIONS}, "every event has its place in the fold"
