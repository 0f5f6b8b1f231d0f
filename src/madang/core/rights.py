"""Who may take whose devices, and for what cause.

Being allowed is not being chosen: the passes that move others aside ask here which running jobs a
waiting one has a right over, and choose among them by what their stop costs. Least run times and
disruption budgets bind on top of any right and are looked at there.
"""

from enum import StrEnum

from madang.core.model import Allocation, Job
from madang.core.ordering import Key, key_of
from madang.core.snapshot import Snapshot


class Cause(StrEnum):
    """Why a job may displace another; NONE when it may not."""

    NONE = ""
    ORDER = "order"  # its turn comes before the other's, who can go on later


class Claim:
    """What one waiting job may displace. Made once a job and asked for each victim."""

    def __init__(self, snapshot: Snapshot, waiting: Job) -> None:
        self.snapshot = snapshot
        self.waiting = waiting
        self.key: Key = key_of(snapshot, snapshot.jobs[waiting.id])

    def over(self, victim: Allocation) -> Cause:
        """Why the job may take what the victim holds."""
        live = self.snapshot.jobs.get(victim.job)
        if live is None or live.allocation != victim.id or victim.job == self.waiting.id:
            return Cause.NONE
        if not self.snapshot.policy.preempts or not live.job.checkpoints:
            return Cause.NONE
        return Cause.ORDER if self.key < key_of(self.snapshot, live) else Cause.NONE


def may_displace(snapshot: Snapshot, waiting: Job, victim: Allocation) -> bool:
    """True iff the waiting job has a right over what the victim holds."""
    return Claim(snapshot, waiting).over(victim) is not Cause.NONE
