"""What the state holds, and how its rows of the pool are written. See state.py."""

from collections.abc import Iterable
from dataclasses import replace

from madang.core import events as ev
from madang.core.live import Changed, Lane, LiveJob, LiveNode, QueueKey
from madang.core.model import (
    Allocation,
    Job,
    NodeState,
    Project,
    ReleaseReason,
    Seat,
)
from madang.core.ordering import level_of
from madang.core.policy import DEFAULT, Policy
from madang.core.pool import Pool, Taken, empty_pool, widened
from madang.core.settings import Settings

HeldKey = tuple[str, str, str]  # project, machine group, provisioning


class StateRows:
    """The fields of a State and the verbs that both halves of the fold use."""

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
        self.insisting: list[tuple[int, str]] = []  # (until ms, waiting job): on few switches
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
        self.settings = Settings()
        self.zones: dict[str, int] = {"": 0}
        # A domain's code by its path from the root: two leaves of one name are two.
        self.domains: dict[tuple[str, ...], int] = {}
        # GPU-milli by project, machine group and provisioning; the parts of `usage_milli`.
        self.held_milli: dict[HeldKey, int] = {}
        self.measured: dict[str, ev.JobMeasured] = {}  # running jobs whose sensors speak
        self.ended_jobs: dict[str, LiveJob] = {}
        self.ended_allocations: dict[str, Allocation] = {}
        self.changed = Changed()

    @property
    def policy(self) -> Policy:
        """By what waiting jobs are chosen."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        for live in self.jobs.values():
            live.level = level_of(policy, live.job, live.standing.attained_ms)
        self.stirs += 1

    def is_newest(self, allocation: Allocation) -> bool:
        """True iff a live job still goes by this allocation."""
        live = self.jobs.get(allocation.job)
        return live is not None and live.allocation == allocation.id

    def charge(self, job: Job, allocation: Allocation, ranks: Iterable[int], sign: int) -> None:
        """Count what these members hold for (+1) or no longer for (-1) the job's project."""
        milli = sign * allocation.shape.milli
        if not milli:
            return
        for rank in ranks:
            group = self.nodes[allocation.seats[rank].node].node.group
            key = (job.project, group, job.provisioning)
            self.held_milli[key] = self.held_milli.get(key, 0) + milli
            self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + milli

    # -- rows of the pool ----------------------------------------------------------------------

    def grow(self, *, nodes: int, gpus: int, levels: int = 1) -> None:
        """Make room in the arrays; rows double, so that a fleet is admitted in linear time."""
        rows, width = self._roomy.gpu_free.shape
        depth = self._roomy.domains.shape[1]
        if nodes > rows or gpus > width or levels > depth:
            rows = max(2 * rows, 16, nodes) if nodes > rows else rows
            self._roomy = widened(
                self._roomy, nodes=rows, gpus=max(gpus, width), levels=max(levels, depth)
            )
        elif nodes == self.pool.nodes:
            return
        self.pool, self._read_only = self._roomy.rows(nodes), None

    def write_row(self, live: LiveNode, taken: Taken) -> None:
        """Write the node's row of the pool, given what its members hold."""
        row, pool, node = live.row, self.pool, live.node
        if live.state is NodeState.REMOVED:
            node = replace(node, gpus=0, cpu_milli=0, memory_mib=0)
        pool.model[row] = self.models.setdefault(node.model, len(self.models))
        pool.group[row] = self.groups.setdefault(node.group, len(self.groups))
        pool.zone[row] = self.zones.setdefault(node.zone, len(self.zones))
        pool.suspicion[row] = live.suspicion
        pool.open[row] = live.state is NodeState.READY
        pool.domains[row] = -1
        for level in range(len(node.domains)):
            path = node.domains[: level + 1]
            pool.domains[row, level] = self.domains.setdefault(path, len(self.domains))
        pool.write_row(row, node, taken)
