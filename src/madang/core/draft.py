"""A plan in the making: the snapshot, the decisions so far, and the pool they leave behind."""

from madang.core.events import AllocationBound, Decision, ReleaseAsked
from madang.core.model import UNLIMITED, Allocation, AllocationState, Job, ReleaseReason, Seat
from madang.core.pool import Place, Pool
from madang.core.snapshot import Snapshot


class Draft:
    """Passes read the snapshot and write only through these verbs.

    `pool` and `usage_milli` show the yard as the decisions so far will leave it. Devices of a
    release that was only asked stay taken.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.decisions: list[Decision] = []
        self.pool: Pool = snapshot.pool.scratch()
        self.usage_milli = dict(snapshot.usage_milli)
        self.releasing: set[str] = set()

    def add(self, decision: Decision) -> None:
        """A decision that takes no device."""
        self.decisions.append(decision)

    def release(self, allocation: str, reason: ReleaseReason, grace_ms: int) -> None:
        """Ask an allocation to end, once a plan."""
        if allocation in self.releasing:
            return
        self.releasing.add(allocation)
        self.decisions.append(ReleaseAsked(allocation, reason, grace_ms))

    def within_quota(self, job: Job) -> bool:
        """True iff the job fits in what its project may still hold."""
        quota_milli = self.snapshot.projects[job.project].quota_milli
        if quota_milli == UNLIMITED:
            return True
        return self.usage_milli.get(job.project, 0) + job.milli <= quota_milli

    def bind(self, job: Job, places: tuple[Place, ...]) -> None:
        """Give the job these places, one per member in rank order."""
        assert len(places) == job.members, f"a gang is placed whole: {job} {places}"
        attempt = self.snapshot.jobs[job.id].standing.attempt + 1
        self.pool.take(places, job.shape)
        self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + job.milli
        self.decisions.append(
            AllocationBound(
                Allocation(
                    id=f"{job.id}.{attempt}",
                    job=job.id,
                    project=job.project,
                    attempt=attempt,
                    shape=job.shape,
                    seats=tuple(Seat(self.snapshot.node_ids[row], gpus) for row, gpus in places),
                    state=AllocationState.BOUND,
                    bound_ms=self.snapshot.now_ms,
                )
            )
        )
