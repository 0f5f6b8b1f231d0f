"""Everything that can happen, as values: facts come from outside, decisions from `plan()`.

Both are folded by `State.apply` and both are journalled; nothing else changes the state. A fact may
come late, twice or out of order: the fold accepts what is news and drops the rest.
"""

from dataclasses import dataclass

from madang.core.hypernodes import Topology
from madang.core.model import (
    Allocation,
    Exit,
    Job,
    Node,
    Phase,
    Project,
    ReleaseReason,
    Seat,
)
from madang.core.policy import Policy
from madang.core.rules import Rule
from madang.core.settings import (
    DisruptionBudget,
    Hole,
    Quota,
    Reservation,
    Shield,
    Workspace,
    Zone,
)

# -- facts: what users asked and engines saw ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    job: Job


@dataclass(frozen=True, slots=True)
class JobStopAsked:
    """Stop the job for good. `grace_ms` may shorten the job's own grace; -1: as it is.

    Asked again it is news only if the grace is shorter than before.
    """

    job: str
    by: str = ""
    grace_ms: int = -1


@dataclass(frozen=True, slots=True)
class JobRequeueAsked:
    """Stop the newest allocation and put the job back in the queue."""

    job: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class ProjectSet:
    project: Project


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node reports what it is and the members it hosts: (allocation, rank) pairs, also those that
    it has only been told to start.

    `holds` decides about members only when the node was out of sight, and only about those that
    had been asked to end when the report was made (`at_ms`; 0: just now): a report may be older
    than the newest member.
    """

    node: Node
    holds: tuple[tuple[str, int], ...] = ()
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class NodeLost:
    node: str


@dataclass(frozen=True, slots=True)
class NodeCordoned:
    node: str
    cordoned: bool
    by: str = ""


@dataclass(frozen=True, slots=True)
class MemberStarted:
    allocation: str
    rank: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class MemberEnded:
    allocation: str
    rank: int
    exit: Exit
    at_ms: int


@dataclass(frozen=True, slots=True)
class WorkspaceSet:
    workspace: Workspace


@dataclass(frozen=True, slots=True)
class QuotaSet:
    quota: Quota


@dataclass(frozen=True, slots=True)
class ZoneSet:
    zone: Zone


@dataclass(frozen=True, slots=True)
class ReservationSet:
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class BudgetSet:
    budget: DisruptionBudget


@dataclass(frozen=True, slots=True)
class ShieldSet:
    """How many members others let us take down now; see `settings.Shield`."""

    shield: Shield


@dataclass(frozen=True, slots=True)
class JobShielded:
    """`by`: the shields over the job's members, and how many of them each covers; none: no more.

    Told of a job before it is known to run, and again when it changes.
    """

    job: str
    by: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """The engine was not let end any member of an allocation that the scheduler ended by choice:
    all of them go on as if it had not been asked. `text` is whose word that was."""

    allocation: str
    text: str


@dataclass(frozen=True, slots=True)
class TopologySet:
    """The network tree; its levels become the policy's."""

    topology: Topology


@dataclass(frozen=True, slots=True)
class PolicySet:
    policy: Policy


@dataclass(frozen=True, slots=True)
class SettingDropped:
    """`kind` is one of `settings.KINDS`."""

    kind: str
    key: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class NodeFlagged:
    """What speaks against a node, or for it again (0)."""

    node: str
    suspicion: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    """A lost node that holds nothing leaves the yard; seen again, it is back."""

    node: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    job: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class JobMeasured:
    """Mean GPU utilisation of a running job over the last `window_ms`. Unknown is not sent.

    Windows of one attempt do not overlap. `busiest_pct` is the mean of its busiest device (-1: as
    `util_pct`), rounded up: a device that did anything is not at 0.
    """

    job: str
    util_pct: int
    window_ms: int
    at_ms: int
    busiest_pct: int = -1


@dataclass(frozen=True, slots=True)
class HoleAsked:
    """Somebody wants room; see `settings.Hole`. It is made in the same turn, or dropped."""

    hole: Hole


@dataclass(frozen=True, slots=True)
class ProjectMeasured:
    """What a project consumed this month, and its past jobs' GPU utilisation (-1: unknown)."""

    project: str
    month_gpu_ms: int
    util_pct: int = -1


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A violation rule; see core/rules.py."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class RuleBroken:
    """What sensors say of a running allocation breaks a rule, and has for as long as it must.

    `value` is what was measured, `text` the same in words: the rule may be another one by the time
    somebody reads this.
    """

    rule: str
    allocation: str
    at_ms: int
    value: str
    severity: str = "warning"
    text: str = ""


@dataclass(frozen=True, slots=True)
class RuleKept:
    """The allocation keeps a rule again that it broke. One that ends is not told to."""

    rule: str
    allocation: str
    at_ms: int
    value: str


# -- decisions: what the passes chose -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobRejected:
    """The job can never run here. `numbers` are what explain.py words the guide from."""

    job: str
    project: str
    code: str
    numbers: tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True)
class AllocationBound:
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class JobNominated:
    """The job is promised these seats, one per member, once those who hold them have left."""

    job: str
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class NominationDropped:
    """The promise is void: the job must look again."""

    job: str


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """The engine shall end these members: a signal, `grace_ms`, then force.

    `by` is the job or the cause it serves, `bill_gpu_ms` the work that is thrown away for it.
    """

    allocation: str
    reason: ReleaseReason
    grace_ms: int
    by: str = ""
    bill_gpu_ms: int = 0


@dataclass(frozen=True, slots=True)
class HoleMade:
    """The hole has these seats, one per member, once those who hold them have left."""

    hole: str
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class HoleDropped:
    """The hole is no more: taken by whom it was for, expired, broken, or never to be made."""

    hole: str
    code: str
    job: str = ""


@dataclass(frozen=True, slots=True)
class JobWarned:
    """The job is told that it will lose its GPUs at `until_ms` unless it uses them (0: never)."""

    job: str
    code: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class JobRequeued:
    job: str
    reason: str
    failures: int
    not_before_ms: int


@dataclass(frozen=True, slots=True)
class JobEnded:
    job: str
    phase: Phase
    reason: str


Fact = (
    JobSubmitted
    | JobStopAsked
    | JobRequeueAsked
    | ProjectSet
    | NodeSeen
    | NodeLost
    | NodeCordoned
    | MemberStarted
    | MemberEnded
    | WorkspaceSet
    | QuotaSet
    | ZoneSet
    | ReservationSet
    | BudgetSet
    | TopologySet
    | PolicySet
    | SettingDropped
    | NodeFlagged
    | NodeRemoved
    | CheckpointSaved
    | JobMeasured
    | ProjectMeasured
    | HoleAsked
    | RuleSet
    | RuleBroken
    | RuleKept
    | ShieldSet
    | JobShielded
    | ReleaseHeld
)
Decision = (
    JobRejected
    | AllocationBound
    | JobNominated
    | NominationDropped
    | ReleaseAsked
    | JobWarned
    | HoleMade
    | HoleDropped
    | JobRequeued
    | JobEnded
)
Event = Fact | Decision

FACTS: tuple[type, ...] = (
    JobSubmitted,
    JobStopAsked,
    JobRequeueAsked,
    ProjectSet,
    NodeSeen,
    NodeLost,
    NodeCordoned,
    MemberStarted,
    MemberEnded,
    WorkspaceSet,
    QuotaSet,
    ZoneSet,
    ReservationSet,
    BudgetSet,
    TopologySet,
    PolicySet,
    SettingDropped,
    NodeFlagged,
    NodeRemoved,
    CheckpointSaved,
    JobMeasured,
    ProjectMeasured,
    HoleAsked,
    RuleSet,
    RuleBroken,
    RuleKept,
    ShieldSet,
    JobShielded,
    ReleaseHeld,
)
DECISIONS: tuple[type, ...] = (
    JobRejected,
    AllocationBound,
    JobNominated,
    NominationDropped,
    ReleaseAsked,
    JobWarned,
    HoleMade,
    HoleDropped,
    JobRequeued,
    JobEnded,
)
