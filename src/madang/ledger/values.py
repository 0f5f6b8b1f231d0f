"""What goes into the ledger and what comes out of it, as frozen values. No SQL here.

A `Turn` is one transaction: the events of a step and the rows they changed. `Loaded` is what a
start reads; `JobRecord`, `EventRecord` and `Token` are what the API shows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from madang.core.events import Event
from madang.core.live import LiveJob, LiveNode
from madang.core.model import Allocation, Job, Node, NodeState, Project, Seat, Standing
from madang.core.policy import Policy
from madang.core.settings import Setting
from madang.core.state import State

POLICY = "policy"  # the kind of the one policy in the table of settings


@dataclass(frozen=True, slots=True)
class JobWrite:
    """A job as a turn left it.

    `allocation` is the one it has now; None if it waits or has ended. `nominated` are the seats
    promised to it, one per member; empty if none are.
    """

    job: Job
    standing: Standing
    allocation: str | None = None
    nominated: tuple[Seat, ...] = ()


@dataclass(frozen=True, slots=True)
class NewJob:
    """What the scheduler never looks at, written once with the job's first row.

    `request` is the JobRequest as submitted (JSON). `key` is the submitter's idempotency key, ""
    for none; the database takes each (owner, key) once.
    """

    job_id: str
    owner: str
    request: str
    key: str = ""
    memo: str = ""


@dataclass(frozen=True, slots=True)
class NodeWrite:
    """A node as a turn left it. `row` is its row in the pool, never reused."""

    node: Node
    state: NodeState
    row: int
    cordoned: bool = False
    suspicion: int = 0


@dataclass(frozen=True, slots=True)
class SettingWrite:
    """A setting or the policy (key "") as a turn left it; `value` None: it was dropped."""

    kind: str
    key: str
    value: Setting | Policy | None

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.key}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One transaction: all of it is there after the commit, or none.

    Rows are written once each. Every job that the ledger has not seen yet comes with its `NewJob`.
    `memos` are (job id, text); one for a job that is not there is dropped.
    """

    epoch: int
    at_ms: int
    events: tuple[Event, ...] = ()
    jobs: tuple[JobWrite, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    nodes: tuple[NodeWrite, ...] = ()
    projects: tuple[Project, ...] = ()
    new: tuple[NewJob, ...] = ()
    memos: tuple[tuple[str, str], ...] = ()
    settings: tuple[SettingWrite, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that a start needs: `core.restore.restored` makes the State of it.

    `nodes` in row order, `jobs` in the order of submission, `allocations` in the order they were
    bound; among these are those that a lost node may still hold though their job left them.
    `nominations` are (job, the seats promised to it). `next_n` is the next job's number; numbers of
    rejected jobs are not used again. `last_ms` is the time of the last turn: a clock that was set
    back must not run behind it. `recent` are the jobs, ended ones too, that were submitted since
    placement last wrote what it learned; never more than it learns from at once.
    """

    nodes: tuple[LiveNode, ...]
    projects: tuple[Project, ...]
    jobs: tuple[LiveJob, ...]
    allocations: tuple[Allocation, ...]
    nominations: tuple[tuple[str, tuple[Seat, ...]], ...]
    next_n: int
    last_seq: int
    last_ms: int
    settings: tuple[Setting | Policy, ...] = ()
    recent: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the ledger knows it, live or ended. `newest` is its newest allocation, if any."""

    job: Job
    standing: Standing
    owner: str
    request: str
    memo: str
    newest: Allocation | None

    @property
    def name(self) -> str:
        return name_of(self.job.id)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One line of the journal. `job` and `node` are "" where the event has none.

    `line` is what `core.codec.encode_event` made; `decode_event` reads it.
    """

    seq: int
    at_ms: int
    kind: str
    job: str
    node: str
    line: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token's name and digest, and what its holder may do. The token itself is nowhere.

    `role` is a word of the API's; the ledger only keeps it.
    """

    name: str
    digest: str
    made_ms: int
    role: str


def name_of(job_id: str) -> str:
    """`digits` of `digits-42`."""
    return job_id.rpartition("-")[0] or job_id


def turn_of(
    state: State,
    events: Iterable[Event],
    *,
    epoch: int,
    at_ms: int,
    new: Iterable[NewJob] = (),
    memos: Iterable[tuple[str, str]] = (),
) -> Turn:
    """The turn that brings the ledger up to this state.

    Takes the state's `changed`: keep the turn and commit it again if a commit failed. Call
    `state.forget_ended()` once it is committed.
    """
    changed = state.take_changed()
    jobs = [state.jobs.get(id) or state.ended_jobs[id] for id in changed.jobs]
    nodes = [state.nodes[id] for id in changed.nodes]
    return Turn(
        epoch=epoch,
        at_ms=at_ms,
        events=tuple(events),
        jobs=tuple(
            JobWrite(
                live.job, live.standing, live.allocation, state.nominations.get(live.job.id, ())
            )
            for live in jobs
        ),
        allocations=tuple(
            state.allocations.get(id) or state.ended_allocations[id] for id in changed.allocations
        ),
        nodes=tuple(
            NodeWrite(live.node, live.state, live.row, live.cordoned, live.suspicion)
            for live in nodes
        ),
        projects=tuple(state.projects[id] for id in changed.projects),
        new=tuple(new),
        memos=tuple(memos),
        settings=tuple(
            SettingWrite(
                kind, key, state.policy if kind == POLICY else state.settings.get(kind, key)
            )
            for kind, key in changed.settings
        ),
    )
