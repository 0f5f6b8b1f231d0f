"""A frozen picture of the yard at one moment: all that the passes may look at.

Arrays and mappings are read-only views of the state, which nothing writes to while a plan is made;
`detached` is a copy of its own for other threads. What-ifs copy `pool.scratch()`.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from madang.core.cells.book import CellBook
from madang.core.events import JobMeasured
from madang.core.line import Line
from madang.core.live import Lane, LiveJob, LiveNode, QueueKey
from madang.core.model import Allocation, Job, NodeState, Project, ReleaseReason, Seat, Standing
from madang.core.needs import Ground
from madang.core.policy import Policy
from madang.core.pool import Pool
from madang.core.scoring import Policy as PlacementPolicy
from madang.core.settings import Settings
from madang.core.topology import depth_of


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the module's docstring.

    `line` is who waits; `queue` its (key, job id) in the policy's order, patience and fair share
    aside, `waiting` how many wait in each lane. `sinks` is (when, running job that sinks a level).
    `node_ids[row]` names the pool's row. `nominations` maps a waiting job to the seats promised to
    it, `lingering` a job to older attempts that may still run on nodes that were lost.
    `held_milli` splits what projects hold by (project, machine group, provisioning); `zones` and
    `domains` name the codes in the pool; `measured` is what sensors say of running jobs.
    `idle` are jobs whose last measurement calls for something; `planned_ms` is when the last plan
    was made (0: none since the start), by which passes that look now and then know if it is time.
    `short` are the running allocations of elastic gangs that could do with more members.
    `scorer` says how good a node is for one member. `suspects` are the nodes that something speaks
    against; `cached` maps an image or data set to the rows that have it; `ground` is what nodes say
    of themselves. `cells` is who holds what of promised cells, None if none are promised.
    `troubled`, `unsettled`, `strays`, `deadlines` are what the release and settle passes look at.
    """

    now_ms: int
    pool: Pool
    node_ids: Sequence[str]
    nodes: Mapping[str, LiveNode]
    models: Mapping[str, int]
    groups: Mapping[str, int]
    queue: Sequence[tuple[QueueKey, str]]
    waiting: Mapping[Lane, int]
    jobs: Mapping[str, LiveJob]
    allocations: Mapping[str, Allocation]
    projects: Mapping[str, Project]
    usage_milli: Mapping[str, int]
    deadlines: Sequence[tuple[int, str]]
    troubled: Mapping[str, ReleaseReason]
    unsettled: Mapping[str, None]
    strays: Mapping[str, None]
    lingering: Mapping[str, Mapping[str, None]]
    nominations: Mapping[str, tuple[Seat, ...]]
    policy: Policy
    settings: Settings
    zones: Mapping[str, int]
    domains: Mapping[tuple[str, ...], int]
    held_milli: Mapping[tuple[str, str, str], int]
    measured: Mapping[str, JobMeasured]
    idle: Mapping[str, None]
    planned_ms: int
    short: Mapping[str, None]
    line: Line
    sinks: Sequence[tuple[int, str]]
    scorer: PlacementPolicy
    suspects: Mapping[str, None]
    cached: Mapping[str, Mapping[int, None]]
    ground: Ground
    cells: CellBook | None = None

    def still_runs(self, job_id: str) -> str:
        """The older attempt of a waiting job that still runs where it can be seen, or "".

        A job must not run beside itself: both would write the same checkpoints.
        """
        for id in self.lingering.get(job_id, ()):
            allocation = self.allocations[id]
            for rank, seat in enumerate(allocation.seats):
                if allocation.holds(rank) and self.nodes[seat.node].state is not NodeState.LOST:
                    return id
        return ""

    def domain_name(self, row: int, level: int) -> str:
        """The name of what a row of the pool lies in: at level 1 of the tree the outermost domain,
        below the innermost the node; "" if there is none. O(domains), for people."""
        depth = depth_of(self.pool.domains)
        if row < 0 or level < 1:
            return ""
        if level > depth:
            return self.node_ids[row]
        code = int(self.pool.domains[row, level - 1])
        return next((path[-1] for path, its in self.domains.items() if its == code), "")

    def joined(self, job: Job) -> "Snapshot":
        """The same moment with one more job in line: for the question what would become of it."""
        live, line = LiveJob(job, Standing()), self.line.copy()
        line.add(self.policy, live)
        jobs = {**self.jobs, job.id: live}
        return replace(self, jobs=jobs, line=line, queue=line.queue, waiting=line.waiting)

    def detached(self) -> "Snapshot":
        """A snapshot that shares nothing with the state: for readers of other threads. O(live)."""
        line = self.line.copy()
        return replace(
            self,
            pool=self.pool.frozen(),
            node_ids=tuple(self.node_ids),
            nodes=dict(self.nodes),
            models=dict(self.models),
            groups=dict(self.groups),
            queue=line.queue,
            jobs={id: replace(live) for id, live in self.jobs.items()},
            allocations=dict(self.allocations),
            projects=dict(self.projects),
            usage_milli=dict(self.usage_milli),
            deadlines=tuple(self.deadlines),
            troubled=dict(self.troubled),
            unsettled=dict(self.unsettled),
            strays=dict(self.strays),
            lingering={job: dict(ids) for job, ids in self.lingering.items()},
            nominations=dict(self.nominations),
            waiting=line.waiting,
            line=line,
            sinks=tuple(self.sinks),
            settings=self.settings.copy(),
            zones=dict(self.zones),
            domains=dict(self.domains),
            held_milli=dict(self.held_milli),
            measured=dict(self.measured),
            scorer=copy(self.scorer),
            idle=dict(self.idle),
            short=dict(self.short),
            suspects=dict(self.suspects),
            cached={name: dict(rows) for name, rows in self.cached.items()},
            ground=self.ground.copy(),
            cells=self.cells.scratch() if self.cells is not None else None,
        )
