"""What the API answers, version 1. A field that is added here stays; none is ever renamed.

Times are milliseconds since 1970, 0 for "not yet"; GPUs are numbers (0.25 is a quarter of one).
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from madang.wire.jobs import DurationMs, JobRequest
from madang.wire.problems import ProblemView
from madang.wire.rules import BrokenView

BATCH_JOBS_MAX = 1_000
PHASES = ("waiting", "starting", "running", "stopping", "succeeded", "failed", "stopped")
PhaseWord = Literal["waiting", "starting", "running", "stopping", "succeeded", "failed", "stopped"]


class HealthView(BaseModel):
    """The daemon answers."""

    status: Literal["ok"] = "ok"
    version: str
    role: str = Field(description="`leader` or `standby`.", examples=["leader"])


# -- jobs ----------------------------------------------------------------------------------------


class ExitView(BaseModel):
    """How a member ended. `signal` is 0 unless a signal ended it; `lost`: nobody could see it."""

    code: int
    signal: int
    lost: bool


class SeatView(BaseModel):
    """Where one member sits."""

    rank: int
    node: str
    gpus: list[int]
    started: bool
    exit: ExitView | None


class WaitsView(BaseModel):
    """Why a job waits."""

    code: str = Field(examples=["capacity"])
    text: str = Field(examples=["needs 8 GPUs; 3 of 16 GPUs are free, at most 2 on one node"])
    earliest_ms: int = Field(description="When it could start at the earliest; 0: nobody can say.")
    basis: str = Field(description="What `earliest_ms` is reckoned from.")


class WhyView(WaitsView):
    """Why a job does not run, or how it ended."""

    numbers: dict[str, int | str] = Field(examples=[{"free": 3, "total": 16}])
    tries: list[str] = Field(
        default_factory=list,
        serialization_alias="try",
        description="What is nearest to it and would start now.",
        examples=[["--members 3 would start now"]],
    )


class JobView(BaseModel):
    """A job as it stands."""

    id: str = Field(examples=["digits-42"])
    n: int = Field(description="The number in its id.", examples=[42])
    name: str
    project: str
    owner: str
    phase: PhaseWord
    reason: str
    provisioning: str
    category: str
    purpose: str
    priority: int
    members: int
    gpus: float = Field(description="Per member.")
    profile: str
    command: list[str]
    image: str
    code: str
    env_names: list[str] = Field(description="Names only: values are in `/request`.")
    time_ms: int
    grace_ms: int
    retries: int
    failures: int
    attempt: int = Field(description="The newest; 0 while it never had GPUs.")
    allocation: str = Field(description="The newest; empty while it never had GPUs.")
    submitted_ms: int
    running_ms: int
    ended_ms: int
    exit_code: int | None = Field(
        description="Of an ended job: 0, or that of the first member that ended badly "
        "(128 + signal for signals); null if none could be seen."
    )
    seats: list[SeatView] = Field(description="Of the newest attempt.")
    memo: str
    warning: str = Field("", description="That it holds idle GPUs; empty if nothing is wrong.")
    broken: list[BrokenView] = Field(
        default_factory=list, description="Violation rules that it breaks now, gravest first."
    )
    forked_from: str
    waits: WaitsView | None = Field(
        description="Why it waits: for one job, and for the first 50 waiting ones of a list."
    )


class JobListView(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobView]
    next: int | None = Field(description="`before` of the next page; null: no more.")


class BatchRequest(BaseModel):
    """Many jobs at once; each is judged by itself, all are committed together."""

    model_config = ConfigDict(extra="forbid")

    jobs: list[JobRequest] = Field(min_length=1, max_length=BATCH_JOBS_MAX)


class BatchView(BaseModel):
    """An answer for each job, in the order of the request."""

    jobs: list[JobView | ProblemView]


class StopRequest(BaseModel):
    """How to stop. An empty body will do."""

    model_config = ConfigDict(extra="forbid")

    grace: DurationMs | None = Field(
        None,
        description="Between SIGTERM and SIGKILL: `10s`; at most the job's own grace.",
        examples=["10s"],
    )


class MemoRequest(BaseModel):
    """A note for people."""

    model_config = ConfigDict(extra="forbid")

    memo: str = Field(max_length=4096, examples=["the run with the larger batch"])


class PlaceView(BaseModel):
    """Where one member would go."""

    node: str
    gpus: list[int]


class TrialView(BaseModel):
    """What would happen to a job if it were submitted now."""

    code: Literal["starts_now", "waits", "never"]
    text: str
    places: list[PlaceView]
    tries: list[str] = Field(serialization_alias="try", description="What would fit.")
    earliest_ms: int = Field(description="0: nobody can say.")


class EventView(BaseModel):
    """One entry of the journal."""

    seq: int
    at_ms: int
    kind: str = Field(examples=["AllocationBound"])
    job: str
    node: str
    text: str = Field(examples=["digits-42 got 2 GPUs on node-1 (attempt 1)"])


class EventListView(BaseModel):
    """Oldest first."""

    events: list[EventView]


class ReportsView(BaseModel):
    """What a member reported by `madang.report`. Ask again with `offset`."""

    offset: int
    reports: list[dict[str, Any]]


# -- nodes ---------------------------------------------------------------------------------------


class HolderView(BaseModel):
    """A member that holds a device, or a share of it (`milli` thousandths)."""

    job: str
    member: int
    milli: int


class GpuView(BaseModel):
    """One device."""

    index: int
    healthy: bool
    taken: bool = Field(False, description="Used by others than this yard.")
    free_milli: int
    jobs: list[HolderView]
    model: str
    memory_mib: int


class NodeView(BaseModel):
    """A machine."""

    id: str
    state: Literal["ready", "cordoned", "lost"]
    model: str
    group: str
    domains: list[str]
    cpus: float
    memory_mib: int
    gpus: list[GpuView]
    labels: dict[str, str] = Field(default_factory=dict)
    taints: list[str] = Field(default_factory=list)


class NodeListView(BaseModel):
    """All nodes, in the order they came."""

    nodes: list[NodeView]


class GpuTopView(BaseModel):
    """What a device's sensors say; null: no such sensor."""

    index: int
    util_percent: float | None
    memory_used_mib: int | None
    power_w: float | None
    temperature_c: float | None


class NodeTopView(BaseModel):
    """What a node's sensors say."""

    id: str
    cpu_percent: float | None
    memory_used_mib: int | None
    gpus: list[GpuTopView]


class MemberTopView(BaseModel):
    """What a running member uses."""

    job: str
    allocation: str
    rank: int
    cpu_percent: float | None
    memory_mib: int | None


class TopView(BaseModel):
    """Use of nodes and members, now."""

    nodes: list[NodeTopView]
    members: list[MemberTopView]


# -- the rest ------------------------------------------------------------------------------------


class GpuCountsView(BaseModel):
    """Devices. `free` and `held` are of the healthy ones; a share counts as its fraction."""

    total: int
    held: float
    free: float
    unhealthy: int


class OverviewView(BaseModel):
    """The yard in one picture. Events after `seq` tell what has changed since."""

    seq: int
    now_ms: int
    version: str
    cluster: str
    counts: dict[str, int] = Field(
        description="Live jobs by phase.", examples=[{"waiting": 3, "running": 2}]
    )
    gpus: GpuCountsView
    nodes: int


class ProjectView(BaseModel):
    """Where jobs are submitted. `quota_gpus` null: no limit."""

    id: str
    workspace: str
    quota_gpus: float | None
    used_gpus: float


class ProjectListView(BaseModel):
    """All projects, by name."""

    projects: list[ProjectView]


class ProjectRequest(BaseModel):
    """A project's limit."""

    model_config = ConfigDict(extra="forbid")

    quota_gpus: float | None = Field(
        ge=0, le=1_000_000, description="GPUs it may hold at once; null: no limit.", examples=[8]
    )
    workspace: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?)?$",
        description="Who pays; default: as it is, `default` for a new one.",
    )


class CodeView(BaseModel):
    """A stored code snapshot."""

    digest: str
    size_bytes: int


class LiveHistoryView(BaseModel):
    """The last day in columns: at each of `times` (Unix ms), how many devices were in each state
    and the mean utilization of those that have a sensor, in percent.
    """

    times: list[int]
    states: list[str]
    counts: dict[str, list[int]]
    util: list[float | None]
