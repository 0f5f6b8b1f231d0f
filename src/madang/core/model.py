"""The values the scheduler thinks in: jobs, nodes, allocations, projects.

All are frozen. A number carries its unit in its name; a GPU is counted in thousandths
(`gpu_milli`, 1000 = a whole device) so that shares stay integers. Nothing here reads a clock.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

WHOLE_GPU_MILLI = 1000
UNLIMITED = -1


class Provisioning(StrEnum):
    """How a job pays for its GPUs."""

    RESERVED = "reserved"
    ON_DEMAND = "on_demand"
    SPOT = "spot"


class Category(StrEnum):
    """What kind of work a job is."""

    SERVING = "serving"
    TRAINING = "training"
    DATA = "data"
    INTERACTIVE = "interactive"


class Purpose(StrEnum):
    """What a job is for."""

    SERVICE = "service"
    QA = "qa"
    PRODUCE = "produce"
    TEST = "test"


class Phase(StrEnum):
    """A job's shown state, derived from its standing and its newest allocation."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_final(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED)


class AllocationState(StrEnum):
    """See lifecycle.py, which owns the moves."""

    NOMINATED = "nominated"
    BOUND = "bound"
    RUNNING = "running"
    RELEASING = "releasing"
    RELEASED = "released"


class ReleaseReason(StrEnum):
    """Why the scheduler asked an allocation to end; NONE when its members ended by themselves."""

    NONE = ""
    STOP = "stop"
    REQUEUE = "requeue"
    TIME_LIMIT = "time_limit"
    MEMBER_FAILED = "member_failed"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    STRAY = "stray"
    RECLAIMED = "reclaimed"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Shape:
    """What one member needs of one node.

    `models` are the GPU models it may run on, in no order; empty means any. `exclusive`: the node
    runs members of this job and nothing else.
    """

    gpus: int
    gpu_milli: int = WHOLE_GPU_MILLI
    cpu_milli: int = 0
    memory_mib: int = 0
    models: tuple[str, ...] = ()
    exclusive: bool = False

    @property
    def milli(self) -> int:
        """GPU-milli of one member."""
        return self.gpus * self.gpu_milli

    def __post_init__(self) -> None:
        assert self.gpus >= 0, f"fewer than no GPUs: {self}"
        assert 0 < self.gpu_milli <= WHOLE_GPU_MILLI, f"neither a share nor a whole GPU: {self}"
        assert self.gpus <= 1 or self.gpu_milli == WHOLE_GPU_MILLI, f"shares of many GPUs: {self}"


@dataclass(frozen=True, slots=True)
class Segment:
    """Each run of `members` consecutive ranks lies in one domain of `level` ("node": innermost)."""

    level: str
    members: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a label of a node must be: `how` is one of needs.HOWS (in, not_in, exists, absent, gt,
    lt), `values` what it is compared with."""

    key: str
    how: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps members off a node that do not tolerate it; `effect` as Kubernetes names it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class Toleration:
    """Of taints with this key ("": any) and effect ("": any); `how` is `equal` or `exists`."""

    key: str = ""
    how: str = "equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the scheduler sees it: fixed from submission to the end.

    What a member executes (command, environment, code) is not here: no pass looks at it.
    `seq` is the order of acknowledgement and the last key of every order between jobs.
    `estimate_ms` is how long it is expected to run (0: nobody knows); `checkpoints` says that it
    can be stopped and go on later, so that it may be moved aside.

    Shape: `fallbacks` are other shapes it takes, in order of preference after `shape`; with
    `members_min` (0: all) an elastic gang starts with fewer members.
    Place: `within` is the level of the network tree one domain of which holds the gang ("": the
    policy's, "any": anywhere), a wish if `within_soft`; `switches` the most leaf switches, given
    up after `switches_wait_ms`; `segments` from the outermost in; `data` what it needs as (image
    or data set, MiB to fetch where it is absent); `spread_nodes` the fewest nodes to spread over;
    `exclusive`: its nodes run nothing else; `zone` as asked ("": public and its own); `needs` an
    OR of ANDs over labels of nodes, `tolerates` the taints of nodes that do not keep it off.
    Right: `preemptible`, `head_start_ms`, `run_ms_min` are of its class's row; `nice` orders within
    a project; `restart_ms` is what a stop and a new start cost (0: guessed by size); `budget` and
    `reservation` name settings it counts under; `idle_ok`: it is never reclaimed for idleness;
    unless it `preempts`, nobody is ever asked to leave for it.
    """

    id: str
    seq: int
    project: str
    shape: Shape
    members: int = 1
    provisioning: Provisioning = Provisioning.ON_DEMAND
    category: Category = Category.TRAINING
    purpose: Purpose = Purpose.PRODUCE
    priority: int = 0
    submitted_ms: int = 0
    time_limit_ms: int = 0
    grace_ms: int = 30_000
    retries_max: int = 0
    estimate_ms: int = 0
    checkpoints: bool = False
    fallbacks: tuple[Shape, ...] = ()
    members_min: int = 0
    segments: tuple[Segment, ...] = ()
    within: str = ""
    within_soft: bool = False
    switches: int = 0
    switches_wait_ms: int = 0
    data: tuple[tuple[str, int], ...] = ()
    spread_nodes: int = 0
    exclusive: bool = False
    zone: str = ""
    preemptible: bool = True
    head_start_ms: int = 0
    nice: int = 0
    run_ms_min: int = 0
    restart_ms: int = 0
    owner: str = ""
    image: str = ""
    reservation: str = ""
    budget: str = ""
    idle_ok: bool = False
    needs: tuple[tuple[Need, ...], ...] = ()
    tolerates: tuple[Toleration, ...] = ()
    preempts: bool = True

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every shape it takes, the preferred one first."""
        shapes = (self.shape, *self.fallbacks)
        return tuple([replace(one, exclusive=True) for one in shapes]) if self.exclusive else shapes

    @property
    def milli(self) -> int:
        """GPU-milli of all members."""
        return self.members * self.shape.milli

    @property
    def insists_until_ms(self) -> int:
        """Until when it wants few switches; 0 if it wants none, or for ever."""
        wait_ms = self.switches_wait_ms if self.switches else 0
        return self.submitted_ms + wait_ms if wait_ms else 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands: everything about it that changes.

    `attempt` counts allocations made so far (the newest is `{job}.{attempt}`); `failures` counts
    the attempts that the job itself broke, and only those use up its retries. `attained_ms` is the
    run time of the attempts before the newest; `waiting_ms` is since when it waits again, 0 if it
    has not run yet. `stop_grace_ms` is what a stop asked for, -1 if nothing: see `grace_ms_of`.
    `preemptions` counts how often it was moved aside; `checkpoint_ms` is when it was last seen to
    have saved a checkpoint, `warned_ms` when it was last told that it holds idle GPUs. `moved_ms`
    is when it was last moved to make room; from `idle_since_ms` until `idle_until_ms` its GPUs were
    measured idle without a gap (0: they are not). `shields` names what keeps how many of its
    members from being taken down, by others' word; see `settings.Shield`.
    """

    attempt: int = 0
    failures: int = 0
    not_before_ms: int = 0
    stop_asked: bool = False
    phase: Phase = Phase.WAITING
    reason: str = ""
    running_ms: int = 0
    ended_ms: int = 0
    attained_ms: int = 0
    waiting_ms: int = 0
    stop_grace_ms: int = -1
    preemptions: int = 0
    checkpoint_ms: int = 0
    warned_ms: int = 0
    moved_ms: int = 0
    idle_since_ms: int = 0
    idle_until_ms: int = 0
    shields: tuple[tuple[str, int], ...] = ()


def grace_ms_of(job: Job, standing: Standing) -> int:
    """What the job's members get between SIGTERM and SIGKILL: a stop may shorten it."""
    asked_ms = standing.stop_grace_ms
    return job.grace_ms if asked_ms < 0 else min(asked_ms, job.grace_ms)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a member ended: `signal` is 0 unless a signal did it; `lost` when nobody could see it."""

    code: int
    signal: int = 0
    lost: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0 and self.signal == 0 and not self.lost


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one member sits: a node and the devices it holds there."""

    node: str
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Allocation:
    """One stay of a job on given devices. Never reused: a retry is a new one.

    `started` and `ended` are bit sets over ranks. A member that ended holds nothing any more.
    `exits` grows in the order the ends were observed: (rank, exit). `cells` names the promised cell
    that each seat stands in (`project:a/node`); empty if in none. If it was asked to end for
    somebody, `released_for` names the job or the cause, `bill_gpu_ms` is the work that cost.
    """

    id: str
    job: str
    project: str
    attempt: int
    shape: Shape
    seats: tuple[Seat, ...]
    state: AllocationState
    bound_ms: int
    running_ms: int = 0
    releasing_ms: int = 0
    released_ms: int = 0
    release_reason: ReleaseReason = ReleaseReason.NONE
    started: int = 0
    ended: int = 0
    exits: tuple[tuple[int, Exit], ...] = ()
    cells: tuple[str, ...] = ()
    released_for: str = ""
    bill_gpu_ms: int = 0

    @property
    def all_ranks(self) -> int:
        """The bit set of every rank."""
        return (1 << len(self.seats)) - 1

    def holds(self, rank: int) -> bool:
        """True iff the member's devices are still taken."""
        return not self.ended >> rank & 1


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that offers devices. All devices of a node are of one model.

    `healthy` is a bit set over device indices. `domains` names the network tree from the root down
    (block, leaf switch). `group` is the machine group that its profile belongs to. `cached` are the
    images and data sets that are there, `mig` the MIG profile of its devices ("": whole GPUs),
    `labels` whatever its operators call it by (key, value); `taints` what it will not have. `taken`
    is the bit set of devices that others than this yard use: not offered, and not ill.
    """

    id: str
    gpus: int
    cpu_milli: int
    memory_mib: int
    model: str = ""
    group: str = "default"
    domains: tuple[str, ...] = ()
    healthy: int = UNLIMITED
    gpu_memory_mib: int = 0
    zone: str = ""
    cached: tuple[str, ...] = ()
    mig: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    taken: int = 0

    @property
    def well(self) -> int:
        """The bit set of devices that exist and are healthy."""
        return self.healthy & ((1 << self.gpus) - 1)

    @property
    def usable(self) -> int:
        """The bit set of devices that the yard may use: well, and not taken by others."""
        return self.well & ~self.taken


class NodeState(StrEnum):
    """READY takes work; CORDONED keeps what it has and takes no more; LOST is out of sight; REMOVED
    has left the yard for good, as far as anyone knows."""

    READY = "ready"
    CORDONED = "cordoned"
    LOST = "lost"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Project:
    """Where jobs are submitted. `quota_milli`: the GPU-milli it may hold at once (-1: no limit)."""

    id: str
    workspace: str = "default"
    quota_milli: int = UNLIMITED
