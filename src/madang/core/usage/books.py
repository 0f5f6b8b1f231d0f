"""The books: the journal folded into rows of who held what, who waited, and what was lost.

`apply(event, at_ms)` takes the journal's events in their order. Rows are stretches in GPU-milli, so
that a report may cut them at any time; `held` with `open_held` is, to the millisecond, the integral
of what `State` charges to each project, and with `stranded` that of all that it has in allocations.
The fold mirrors `state.py` in what frees a device, and in nothing else.

Memory: what is live, and 32 to 48 bytes for each stretch that ended after `since_ms`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from madang.core import events as ev
from madang.core.model import Allocation, Job, Phase, Project, ReleaseReason
from madang.core.usage.floor import Floor
from madang.core.usage.keys import Key, seated_key, waiting_key
from madang.core.usage.rows import Rows

# Causes of lost work, the last column of `wasted`; `failed` is the job's own doing.
CAUSES = ("preempted", "moved", "reclaimed", "requeued", "node_lost", "failed")
_CAUSE = {
    ReleaseReason.PREEMPTED: 0,
    ReleaseReason.MOVED: 1,
    ReleaseReason.RECLAIMED: 2,
    ReleaseReason.REQUEUE: 3,
    ReleaseReason.NODE_LOST: 4,
}
FAILED = 5
PHASES = (Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED)  # the last column of `ended`
# A stop and a new start, where neither the job nor a checkpoint says more (as the simulator pays).
RESTART_MS = ((1_000, 7_000), (8_000, 30_000), (1 << 62, 60_000))


@dataclass(slots=True)
class _Job:
    """A job that has not ended. `waiting_ms` is since when it waits, -1 while it does not."""

    job: Job
    key: Key
    code: int
    waiting_ms: int
    is_first: bool = True
    stay: "_Stay | None" = None
    checkpoint_ms: int = 0
    measured_ms: int = 0


@dataclass(slots=True)
class _Stay:
    """An allocation that still holds something. `codes` are per rank.

    `tail` are members that left at `tail_ms`: a gang that leaves at once is one row, not 512.
    """

    allocation: Allocation
    owner: _Job
    codes: tuple[int, ...]
    bound_ms: int
    begin_ms: int
    held: int
    arrived_ms: int
    charged: bool = True
    lively: bool = True
    releasing_ms: int = 0
    ended_ms: int = 0
    reason: ReleaseReason = ReleaseReason.NONE
    bill_gpu_ms: int = 0
    tail_ms: int = 0
    tail: dict[int, int] = field(default_factory=dict)

    @property
    def held_milli(self) -> int:
        return self.held.bit_count() * self.allocation.shape.milli


class Books:
    """See the module's docstring. Tables are public; their columns are named beside them."""

    def __init__(self, since_ms: int = 0) -> None:
        self.since_ms = since_ms  # what ended before is not written down
        self.at_ms = 0
        self.events = 0
        self.begins_ms = 0  # before this, nothing is known: the journal was pruned
        self.strangers = 0  # events about what these books never saw begin: a pruned journal
        self.keys: list[Key] = []
        self._codes: dict[Key, int] = {}
        self.held = Rows(4)  # key, begin_ms, end_ms, milli
        self.stranded = Rows(4)  # the same, of lost nodes: held, and charged to nobody
        self.waited = Rows(6)  # key, begin_ms, end_ms, milli, is the first wait, ended in a start
        self.measured = Rows(5)  # key, begin_ms, end_ms, milli measured, milli used
        self.wasted = Rows(4)  # key, at_ms, GPU·µs thrown away, cause
        self.ended = Rows(4)  # key, at_ms, ms since submission, phase
        self.stays = Rows(5)  # key, arrived_ms, milli, bound_ms, released_ms
        self.floor = Floor()
        self._jobs: dict[str, _Job] = {}
        self._stays: dict[str, _Stay] = {}
        self._on_node: dict[str, dict[str, None]] = {}
        self._lost: dict[str, None] = {}
        self._workspaces: dict[str, str] = {}

    def apply(self, event: ev.Event, at_ms: int) -> None:
        """Fold one event of the journal in; times never go back."""
        assert at_ms >= self.at_ms, f"the journal goes back from {self.at_ms} to {at_ms}: {event}"
        self.at_ms = at_ms
        self.events += 1
        self.floor.pass_to(at_ms)
        fold = _FOLD.get(type(event))
        if fold is not None:
            fold(self, event, at_ms)

    def open_held(self, now_ms: int, *, charged: bool) -> list[tuple[int, int, int, int]]:
        """(key, begin_ms, end_ms, milli) of what is not written down yet: held until now, or by
        members that left since their gang's last row. Of stays that are charged, or of the others.
        """
        rows: list[tuple[int, int, int, int]] = []
        for stay in self._stays.values():
            if stay.charged is not charged:
                continue
            rows += [
                (code, stay.begin_ms, stay.tail_ms, milli) for code, milli in stay.tail.items()
            ]
            still: dict[int, int] = {}
            for rank, code in enumerate(stay.codes):
                if stay.held >> rank & 1:
                    still[code] = still.get(code, 0) + stay.allocation.shape.milli
            rows += [(code, stay.begin_ms, now_ms, milli) for code, milli in still.items()]
        return rows

    def waiting(self) -> list[tuple[int, int, int, bool]]:
        """(key, since when, milli, whether it never ran) of each job that waits now."""
        return [
            (one.code, one.waiting_ms, one.job.milli, one.is_first)
            for one in self._jobs.values()
            if one.waiting_ms >= 0
        ]

    def staying(self) -> list[tuple[int, int, int, int]]:
        """(key, arrived_ms, milli, bound_ms) of each allocation that still holds devices."""
        return [
            (stay.codes[0], stay.arrived_ms, stay.owner.job.milli, stay.bound_ms)
            for stay in self._stays.values()
            if stay.held
        ]

    def forget(self, before_ms: int) -> None:
        """Drop the rows that ended before: the books begin later from now on."""
        tables = (
            (self.held, 2),
            (self.stranded, 2),
            (self.waited, 2),
            (self.measured, 2),
            (self.wasted, 1),
            (self.ended, 1),
            (self.stays, 4),
            (self.floor.capacity, 2),
            (self.floor.samples, 0),
        )
        for rows, column in tables:
            ends = rows.table()[:, column]
            later = (ends >= before_ms).nonzero()[0]
            rows.drop_first(int(later[0]) if len(later) else len(ends))
        self.since_ms = max(self.since_ms, before_ms)
        self.begins_ms = max(self.begins_ms, before_ms)

    def rows(self) -> int:
        """How many rows the books hold, which is what they weigh."""
        tables = (self.held, self.stranded, self.waited, self.measured, self.wasted)
        return sum(map(len, (*tables, self.ended, self.stays)))

    def key_code(self, key: Key) -> int:
        """The number that rows write for this key."""
        if key not in self._codes:
            self._codes[key] = len(self.keys)
            self.keys.append(key)
        return self._codes[key]

    # -- jobs ----------------------------------------------------------------------------------

    def _job_submitted(self, event: ev.JobSubmitted, at_ms: int) -> None:
        job = event.job
        if job.id in self._jobs:
            return
        key = waiting_key(job, self._workspaces.get(job.project, "default"))
        code = self.key_code(key)
        self._jobs[job.id] = _Job(job, key, code, min(job.submitted_ms, at_ms))
        self.floor.ask(job.shape, job.members)

    def _allocation_bound(self, event: ev.AllocationBound, at_ms: int) -> None:
        allocation = event.allocation
        owner = self._jobs.get(allocation.job)
        if owner is None:
            self.strangers += 1
            return
        codes = tuple([self._seat_code(owner, seat.node) for seat in allocation.seats])
        arrived_ms = owner.waiting_ms if owner.waiting_ms >= 0 else at_ms
        self._end_wait(owner, codes[0], at_ms, starts=True)
        held = allocation.all_ranks & ~allocation.ended
        stay = _Stay(allocation, owner, codes, at_ms, at_ms, held, arrived_ms)
        owner.stay, owner.is_first = stay, False
        owner.checkpoint_ms = 0
        self._stays[allocation.id] = stay
        for rank, seat in enumerate(allocation.seats):
            if held >> rank & 1:
                self._on_node.setdefault(seat.node, {})[allocation.id] = None
                self.floor.take(seat.node, seat.gpus, allocation.shape.gpu_milli)

    def _seat_code(self, owner: _Job, node: str) -> int:
        spot = self.floor.nodes.get(node)
        return owner.code if spot is None else self.key_code(seated_key(owner.key, spot.node))

    def _end_wait(self, owner: _Job, code: int, at_ms: int, *, starts: bool) -> None:
        begin_ms, owner.waiting_ms = owner.waiting_ms, -1
        if begin_ms >= 0 and at_ms >= self.since_ms:
            self.waited.add(code, begin_ms, at_ms, owner.job.milli, owner.is_first, starts)

    def _job_requeued(self, event: ev.JobRequeued, at_ms: int) -> None:
        owner = self._jobs.get(event.job)
        if owner is None:
            self.strangers += 1
            return
        stay = owner.stay
        if stay is not None:
            asked = stay.reason
            cause = _CAUSE.get(asked, FAILED)
            if cause == FAILED and event.reason == ReleaseReason.NODE_LOST:
                cause = _CAUSE[ReleaseReason.NODE_LOST]
            self._waste(stay, cause, at_ms)
            self._detach(owner, at_ms)
        owner.waiting_ms = at_ms

    def _job_ended(self, event: ev.JobEnded, at_ms: int) -> None:
        owner = self._jobs.pop(event.job, None)
        if owner is None:
            self.strangers += 1
            return
        stay = owner.stay
        code = stay.codes[0] if stay is not None else owner.code
        if stay is not None:
            if event.phase is Phase.FAILED and event.reason != ReleaseReason.TIME_LIMIT:
                self._waste(stay, FAILED, at_ms)
            self._detach(owner, at_ms)
        self._end_wait(owner, code, at_ms, starts=False)
        if at_ms >= self.since_ms:
            took_ms = at_ms - min(owner.job.submitted_ms, at_ms)
            self.ended.add(code, at_ms, took_ms, PHASES.index(event.phase))

    def _waste(self, stay: _Stay, cause: int, at_ms: int) -> None:
        """What the stay leaves undone: as the scheduler billed it, or as the books reckon it."""
        if at_ms < self.since_ms:
            return
        job = stay.owner.job
        milli = sum(stay.allocation.shape.milli for _ in stay.allocation.seats)
        ran_ms = (stay.ended_ms or at_ms) - stay.bound_ms
        lost_ms = ran_ms
        if cause != FAILED and job.checkpoints:
            lost_ms = job.restart_ms or restart_ms(milli)
            if stay.owner.checkpoint_ms > stay.bound_ms:
                lost_ms += max(0, (stay.ended_ms or at_ms) - stay.owner.checkpoint_ms)
        gpu_us = stay.bill_gpu_ms * 1_000 or min(lost_ms, ran_ms) * milli
        self.wasted.add(stay.codes[0], at_ms, gpu_us, cause)

    def _detach(self, owner: _Job, at_ms: int) -> None:
        """The job leaves its stay; what that still holds is charged to nobody from now on."""
        stay, owner.stay = owner.stay, None
        assert stay is not None, f"has no stay to leave: {owner}"
        if stay.held:
            self._close(stay, at_ms)
            stay.charged = False
        else:
            self._bury(stay)

    # -- stays ---------------------------------------------------------------------------------

    def _member_ended(self, event: ev.MemberEnded, at_ms: int) -> None:
        self._leave(event.allocation, event.rank, at_ms)

    def _leave(self, id: str, rank: int, at_ms: int) -> None:
        """The member holds nothing from now on."""
        stay = self._stays.get(id)
        if stay is None or not stay.held >> rank & 1:
            return
        if stay.tail_ms != at_ms:
            self._flush(stay)
            stay.tail_ms = at_ms
        shape, seat = stay.allocation.shape, stay.allocation.seats[rank]
        code = stay.codes[rank]
        stay.tail[code] = stay.tail.get(code, 0) + shape.milli
        stay.held &= ~(1 << rank)
        self.floor.take(seat.node, seat.gpus, -shape.gpu_milli)
        if not stay.held:
            stay.ended_ms = at_ms
            self._flush(stay)
            if at_ms >= self.since_ms:
                milli = len(stay.codes) * shape.milli
                self.stays.add(stay.codes[0], stay.arrived_ms, milli, stay.bound_ms, at_ms)
            if not stay.charged:
                self._bury(stay)

    def _flush(self, stay: _Stay) -> None:
        """Write down those who left last."""
        if stay.tail_ms > stay.begin_ms and stay.tail_ms >= self.since_ms:
            table = self.held if stay.charged else self.stranded
            for code, milli in stay.tail.items():
                if milli:
                    table.add(code, stay.begin_ms, stay.tail_ms, milli)
        stay.tail.clear()

    def _close(self, stay: _Stay, at_ms: int) -> None:
        """Write down all that was held until now; the rest begins anew."""
        self._flush(stay)
        for rank, code in enumerate(stay.codes):
            if stay.held >> rank & 1:
                stay.tail[code] = stay.tail.get(code, 0) + stay.allocation.shape.milli
        stay.tail_ms = at_ms
        self._flush(stay)
        stay.begin_ms = at_ms

    def _bury(self, stay: _Stay) -> None:
        del self._stays[stay.allocation.id]
        for seat in stay.allocation.seats:
            self._on_node[seat.node].pop(stay.allocation.id, None)

    def _release_asked(self, event: ev.ReleaseAsked, at_ms: int) -> None:
        stay = self._stays.get(event.allocation)
        if stay is None or not stay.lively or not stay.held:
            return
        stay.lively, stay.releasing_ms = False, at_ms
        stay.reason, stay.bill_gpu_ms = event.reason, event.bill_gpu_ms

    def _release_held(self, event: ev.ReleaseHeld, at_ms: int) -> None:
        """It goes on: it was not asked to end after all."""
        stay = self._stays.get(event.allocation)
        if stay is not None and not stay.lively and stay.held:
            stay.lively, stay.releasing_ms = True, 0
            stay.reason, stay.bill_gpu_ms = ReleaseReason.NONE, 0

    def _checkpoint_saved(self, event: ev.CheckpointSaved, at_ms: int) -> None:
        owner = self._jobs.get(event.job)
        if owner is not None:
            owner.checkpoint_ms = max(owner.checkpoint_ms, min(event.at_ms, at_ms))

    def _job_measured(self, event: ev.JobMeasured, at_ms: int) -> None:
        """A mean utilisation over a window: so much of what was held in it was used."""
        owner = self._jobs.get(event.job)
        stay = owner.stay if owner is not None else None
        if owner is None or stay is None or not stay.held:
            return
        end_ms = min(event.at_ms, at_ms)
        begin_ms = max(end_ms - event.window_ms, owner.measured_ms, stay.bound_ms)
        if end_ms > begin_ms and end_ms >= self.since_ms:
            milli, percent = stay.held_milli, min(max(event.util_pct, 0), 100)
            used = milli * percent // 100
            self.measured.add(stay.codes[0], begin_ms, end_ms, milli, used)
            owner.measured_ms = end_ms

    # -- nodes and projects --------------------------------------------------------------------

    def _node_seen(self, event: ev.NodeSeen, at_ms: int) -> None:
        node = event.node
        was_lost = node.id in self._lost
        self._lost.pop(node.id, None)
        self.floor.see(node, node.zone, at_ms)
        if was_lost:
            self._reconcile(event, at_ms)

    def _reconcile(self, event: ev.NodeSeen, at_ms: int) -> None:
        """As `State._reconcile`: what a lost node no longer runs has ended."""
        runs = dict.fromkeys(event.holds)
        made_ms = event.at_ms or at_ms
        for id in list(self._on_node.get(event.node.id, ())):
            stay = self._stays[id]
            if stay.lively or made_ms < stay.releasing_ms:
                continue
            for rank, seat in enumerate(stay.allocation.seats):
                if seat.node == event.node.id and (id, rank) not in runs:
                    self._leave(id, rank, at_ms)

    def _node_lost(self, event: ev.NodeLost, at_ms: int) -> None:
        self._lost[event.node] = None
        self.floor.lose(event.node, at_ms)

    def _node_removed(self, event: ev.NodeRemoved, at_ms: int) -> None:
        self._lost.pop(event.node, None)
        self.floor.lose(event.node, at_ms)

    def _project_set(self, event: ev.ProjectSet, at_ms: int) -> None:
        project: Project = event.project
        self._workspaces[project.id] = project.workspace


def restart_ms(milli: int) -> int:
    """What it is taken to cost a job of so many GPU-milli to be stopped and started again."""
    return next(ms for most, ms in RESTART_MS if milli <= most)


_FOLD: dict[type, Callable[[Books, Any, int], None]] = {
    ev.JobSubmitted: Books._job_submitted,
    ev.AllocationBound: Books._allocation_bound,
    ev.JobRequeued: Books._job_requeued,
    ev.JobEnded: Books._job_ended,
    ev.MemberEnded: Books._member_ended,
    ev.ReleaseAsked: Books._release_asked,
    ev.ReleaseHeld: Books._release_held,
    ev.CheckpointSaved: Books._checkpoint_saved,
    ev.JobMeasured: Books._job_measured,
    ev.NodeSeen: Books._node_seen,
    ev.NodeLost: Books._node_lost,
    ev.NodeRemoved: Books._node_removed,
    ev.ProjectSet: Books._project_set,
}
KINDS_READ = frozenset(kind.__name__ for kind in _FOLD)  # the journal's kinds that the books want
