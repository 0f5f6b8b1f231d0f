"""What the state holds, and how its rows of the pool are written. See state.py."""

from bisect import insort
from collections.abc import Iterable
from dataclasses import replace

from madang.core import events as ev
from madang.core.cells.book import CellBook
from madang.core.cells.promises import book_of
from madang.core.fair import used_at
from madang.core.hypernodes import TREE, Placer
from madang.core.keys import sinks_ms, undisturbed_ms
from madang.core.learning import LEARNING, Learner
from madang.core.line import Ask, Line, drop
from madang.core.live import Changed, Lane, LiveJob, LiveNode, QueueKey
from madang.core.model import (
    Allocation,
    AllocationState,
    Job,
    Node,
    NodeState,
    Project,
    ReleaseReason,
    Seat,
)
from madang.core.needs import Ground
from madang.core.policy import DEFAULT, Policy
from madang.core.pool import Pool, Taken, avoided, empty_pool, widened
from madang.core.quotas import Book, HeldKey
from madang.core.seating import likeness
from madang.core.settings import KIND_OF, Learned, Settings, Used

SINKS_AHEAD_MS_MAX = 400 * 86_400_000  # levels further off matter to nobody


def ask_of(live: LiveJob) -> Ask:
    """What decides, besides its turn and back-offs, whether a job of a project may start."""
    return (live.job.provisioning, likeness(live.job))


class StateRows:
    """The fields of a State and the verbs that both halves of the fold use."""

    def __init__(self) -> None:
        self._roomy: Pool = empty_pool()  # the arrays, with rows to spare for nodes to come
        self.pool: Pool = self._roomy.followed()  # views of the rows there are
        self._read_only: Pool | None = None  # the same arrays for passes, made when first asked for
        self.jobs: dict[str, LiveJob] = {}
        self.allocations: dict[str, Allocation] = {}
        self.nodes: dict[str, LiveNode] = {}
        self.node_ids: list[str] = []
        self.projects: dict[str, Project] = {}
        self.usage_milli: dict[str, int] = {}
        self.now_ms = 0  # of the event that is folded
        self.line = Line(ask_of)
        self.queue: list[tuple[QueueKey, str]] = self.line.queue
        self.waiting: dict[Lane, int] = self.line.waiting
        self.backoffs: list[tuple[int, str]] = []  # (not_before_ms, waiting job), sorted
        self.insisting: list[tuple[int, str]] = []  # (until ms, waiting job): on few switches
        self.deadlines: list[tuple[int, str]] = []
        self.sinks: list[
            tuple[int, str]
        ] = []  # (when it sinks a level, running allocation), sorted
        self._sinking: dict[str, list[int]] = {}
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
        self.learner = Learner()
        self.short: dict[str, None] = {}  # running gangs that would start anew with more members
        # Who holds what of promised cells, None if none are promised; while it is stale, what the
        # fold keeps up is nothing, and it is made anew of the rows when it is next asked for.
        self._book: CellBook | None = None
        self._book_is_stale = False
        self.suspects: dict[str, None] = {}  # nodes that something speaks against
        self.cached: dict[str, dict[int, None]] = {}  # image or data set → rows that have it
        self._cached_on: dict[int, tuple[str, ...]] = {}
        self.ground = Ground()
        self.measured: dict[str, ev.JobMeasured] = {}  # running jobs whose sensors speak
        self.idle: dict[str, None] = {}  # jobs whose last measurement calls for something
        self.planned_ms = 0  # when the last plan was made; the controller's, in no row
        self.ended_jobs: dict[str, LiveJob] = {}
        self.ended_allocations: dict[str, Allocation] = {}
        self.changed = Changed()
        self._placer: Placer | None = None  # of the declared tree, made when first needed

    @property
    def book(self) -> CellBook | None:
        """The book of cells: a pure function of the rows, kept up by the fold."""
        if self._book_is_stale:
            self._book, self._book_is_stale = book_of(self), False
        return self._book

    def book_is_stale(self) -> None:
        """The book must be made anew before it is used."""
        self._book_is_stale = True

    @property
    def _kept_book(self) -> CellBook | None:
        """The book that the fold has to keep up, if there is one."""
        return None if self._book_is_stale else self._book

    @property
    def policy(self) -> Policy:
        """The rules of the yard; with others the queue is in another order at once."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self.line.refill(policy, [live for live in self.jobs.values() if live.allocation is None])
        for id in list(self._sinking):
            self.stop_sinking(id)
        for allocation in self.allocations.values():
            if allocation.state is AllocationState.RUNNING:
                self.begin_sinking(allocation)

    def begin_sinking(self, allocation: Allocation) -> None:
        """The allocation runs: note when its job may be moved aside, and sinks, level by level."""
        live, policy = self.jobs[allocation.job], self._policy
        if not policy.preempts or not live.job.checkpoints:
            return
        began_ms, times = allocation.running_ms, []
        if "level" in policy.order:
            times = sinks_ms(policy, live, began_ms, began_ms + SINKS_AHEAD_MS_MAX)
        if least_ms := max(policy.run_ms_min, live.job.run_ms_min):
            times.append(began_ms + least_ms)
            times.append(began_ms + undisturbed_ms(policy, live))
        self._sinking[allocation.id] = times
        for at_ms in times:
            insort(self.sinks, (at_ms, allocation.id))

    def stop_sinking(self, allocation_id: str) -> None:
        """The allocation leaves RUNNING."""
        for at_ms in self._sinking.pop(allocation_id, ()):
            drop(self.sinks, (at_ms, allocation_id))

    def note_short(self, allocation: Allocation) -> None:
        """The allocation runs: remember it if its gang may grow."""
        job = self.jobs[allocation.job].job
        if len(allocation.seats) < job.members and job.checkpoints:
            self.short[allocation.id] = None

    def is_newest(self, allocation: Allocation) -> bool:
        """True iff a live job still goes by this allocation."""
        live = self.jobs.get(allocation.job)
        return live is not None and live.allocation == allocation.id

    def charge(self, job: Job, allocation: Allocation, ranks: Iterable[int], sign: int) -> None:
        """Count what these members hold for (+1) or no longer for (-1) the job's project."""
        self.settle_use(job.project)
        self.count(job, allocation, ranks, sign)

    def settle_use(self, project: str) -> None:
        """Charge the project for what it has held until now, before that changes."""
        half_life_ms = self._policy.fair_half_life_ms
        if not half_life_ms:
            return
        before, milli_ms = self.settings.used.get(project), 0
        if before is not None:
            covered_milli = Book(self).covered_milli(project)
            beyond_milli = max(0, self.usage_milli.get(project, 0) - covered_milli)
            milli_ms = used_at(before, beyond_milli, self.now_ms, half_life_ms)
        if self.settings.put(Used(project, milli_ms, self.now_ms)):
            self.changed.settings[KIND_OF[Used], project] = None

    def count(self, job: Job, allocation: Allocation, ranks: Iterable[int], sign: int) -> None:
        """`charge`, with nothing to settle."""
        milli = sign * allocation.shape.milli
        if not milli:
            return
        for rank in ranks:
            group = self.nodes[allocation.seats[rank].node].node.group
            key = (job.project, group, job.provisioning)
            self.held_milli[key] = self.held_milli.get(key, 0) + milli
            self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + milli

    def learn(self, job: Job) -> None:
        """Placement learns of a job that was submitted."""
        if self.policy.placement not in LEARNING:
            self.learner.seen = job.seq
        elif self.learner.observe(job):
            self.keep_learned(self.learner.refresh(self.pool, self.models))

    def keep_learned(self, learned: Learned) -> None:
        """What was learned becomes a row."""
        self.settings.put(learned)
        self.changed.settings[KIND_OF[Learned], learned.key] = None

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
        self.pool, self._read_only = self._roomy.rows(nodes).followed(), None

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
        self._write_domains(row, self.domains_of(node))
        pool.write_row(row, node, taken)
        self._write_cached(row, node.cached)
        self.ground.write(row, node)
        if live.suspicion:
            self.suspects[live.node.id] = None
        else:
            self.suspects.pop(live.node.id, None)

    def _write_cached(self, row: int, cached: tuple[str, ...]) -> None:
        before = self._cached_on.get(row, ())
        if before == cached:
            return
        for name in before:
            self.cached[name].pop(row, None)
            if not self.cached[name]:
                del self.cached[name]
        for name in cached:
            self.cached.setdefault(name, {})[row] = None
        self._cached_on[row] = cached

    def weigh_suspects(self) -> None:
        """Write what is to be avoided anew: a suspect or the tree has changed."""
        self.pool.avoid[:] = avoided(self.pool) if self.suspects else 0

    # -- the network tree ----------------------------------------------------------------------

    def domains_of(self, node: Node) -> tuple[str, ...]:
        """Where the node lies: as the declared tree says, or else as the node itself does."""
        tree = self.settings.topologies.get(TREE)
        if tree is None:
            return node.domains
        if self._placer is None or self._placer.topology is not tree:
            self._placer = Placer(tree)
        return self._placer.domains_of(node)

    def write_domains(self) -> None:
        """Place every node anew: the tree is another one."""
        found = [self.domains_of(live.node) for live in self.nodes.values()]
        deepest = max(map(len, found), default=1)
        self.grow(nodes=self.pool.nodes, gpus=0, levels=deepest)
        for row, domains in enumerate(found):
            self._write_domains(row, domains)
        self.weigh_suspects()

    def _write_domains(self, row: int, domains: tuple[str, ...]) -> None:
        self.pool.domains[row] = -1
        for level, name in enumerate(domains):
            if name:
                path = domains[: level + 1]
                self.pool.domains[row, level] = self.domains.setdefault(path, len(self.domains))
