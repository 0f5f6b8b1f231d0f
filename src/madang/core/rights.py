"""Who may take whose devices, and for what cause.

Being allowed is not being chosen: the passes that move others aside ask here which running jobs a
waiting one has a right over, and choose among them by what their stop costs. Least run times and
disruption budgets bind on top of any right and are looked at there.

- A job within a guarantee may take what no guarantee covers from other projects, and spot from
  anyone, whatever their class: what was borrowed is given back.
- What a guarantee covers, or stands in promised cells, is taken by nobody of another project; what
  stands in cells by nobody for his turn alone: it would claim them again, whoever stands there. Nor
  does spot take from its own project what a guarantee covers: that would take it back at once.
- A job that does not preempt (`Job.preempts`) takes from nobody.
- A job of a higher priority may take from a lower one that its class lets be preempted.
- A job whose turn comes first may take from one of no higher priority that checkpoints, and that
  has run undisturbed for the least run time, which doubles for those moved aside again and again:
  two who take turns on the same devices both end, even if their checkpoints save them nothing.
"""

from enum import StrEnum

from madang.core.draft import Draft
from madang.core.keys import undisturbed_ms
from madang.core.live import LiveJob
from madang.core.model import Allocation, Job, Provisioning
from madang.core.ordering import Key, key_of
from madang.core.quotas import Book, by_group, covered
from madang.core.settings import ANY
from madang.core.snapshot import Snapshot


class Cause(StrEnum):
    """Why a job may displace another; NONE when it may not."""

    NONE = ""
    GUARANTEE = "guarantee"  # it is within its guarantee, the other lives on borrowed devices
    CLASS = "class"  # its priority is higher
    ORDER = "order"  # its turn comes first, and the other can go on later


class Rights:
    """Rights in one plan. What is covered is counted once; what is entitled follows the draft."""

    def __init__(self, snapshot: Snapshot, book: Book | None = None) -> None:
        self.snapshot = snapshot
        self.book = Book(snapshot) if book is None else book
        self._covered: frozenset[str] | None = None
        self._keys: dict[str, Key] = {}

    @property
    def covered(self) -> frozenset[str]:
        """The allocations that a guarantee covers: counted when first asked for."""
        if self._covered is None:
            self._covered = covered(self.snapshot)
        return self._covered

    @staticmethod
    def of(draft: Draft) -> "Rights":
        """Rights as the draft's decisions so far leave them."""
        return Rights(draft.snapshot, draft.book)

    def claim(self, waiting: Job) -> "Claim":
        """What one waiting job may displace."""
        return Claim(self, waiting)

    def any_preemption(self) -> bool:
        """False iff nobody who waits may displace anybody."""
        if self.snapshot.policy.preempts or not self.book.has_guarantees:
            return self.snapshot.policy.preempts
        jobs, lots = self.snapshot.jobs, self.snapshot.line.lots
        return any(
            self.book.entitled_groups(jobs[lot[0][1]].job)  # all of a lot alike
            for project in self.book.guaranteed_projects()
            for lot in lots.get(project, {}).values()
        )

    def key_of(self, live: LiveJob) -> Key:
        """`ordering.key_of`, worked out once a plan."""
        key = self._keys.get(live.job.id)
        if key is None:
            key = self._keys[live.job.id] = key_of(self.snapshot, live)
        return key


class Claim:
    """What one waiting job may displace. Made once a job and asked for each victim."""

    def __init__(self, rights: Rights, waiting: Job) -> None:
        self._rights = rights
        self.snapshot = rights.snapshot
        self.waiting = waiting
        self.key: Key = key_of(self.snapshot, self.snapshot.jobs[waiting.id])
        # Machine groups where the job is within a guarantee; `*` alone: anywhere.
        self.groups = rights.book.entitled_groups(waiting)

    def over(self, victim: Allocation) -> Cause:
        """Why the job may take what the victim holds."""
        live = self.snapshot.jobs.get(victim.job)
        if live is None or live.allocation != victim.id or victim.job == self.waiting.id:
            return Cause.NONE
        theirs, policy = live.job, self.snapshot.policy
        if not self.waiting.preempts:
            return Cause.NONE
        same_project = theirs.project == self.waiting.project
        if (victim.id in self._rights.covered or victim.cells) and not same_project:
            return Cause.NONE
        if victim.id in self._rights.covered and _is_spot(self.waiting):
            return Cause.NONE
        if self._is_of_use(victim) and (not same_project or _is_spot(theirs)):
            return Cause.GUARANTEE
        if not policy.preempts or not theirs.preemptible:
            return Cause.NONE
        ranked = "priority" in policy.order
        if ranked and self.waiting.priority > theirs.priority:
            return Cause.CLASS
        if ranked and self.waiting.priority < theirs.priority:
            return Cause.NONE
        if victim.cells or not theirs.checkpoints or self.key >= self._rights.key_of(live):
            return Cause.NONE
        if self.snapshot.now_ms - victim.running_ms >= undisturbed_ms(policy, live):
            return Cause.ORDER
        return Cause.NONE

    def _is_of_use(self, victim: Allocation) -> bool:
        """True iff the victim holds something where the job is within a guarantee."""
        if not self.groups or self.groups == (ANY,):
            return bool(self.groups)
        held = by_group(self.snapshot, victim)
        return any(group in held for group in self.groups)


def _is_spot(job: Job) -> bool:
    return job.provisioning is Provisioning.SPOT


def may_displace(snapshot: Snapshot, waiting: Job, victim: Allocation) -> bool:
    """True iff the waiting job has a right over what the victim holds."""
    return Rights(snapshot).claim(waiting).over(victim) is not Cause.NONE
