"""A state from the ledger's rows: what a start begins with.

It is the state that wrote the rows, down to the order of its lists, and decides the same from then
on. What no row says (what needs attention, deadlines, usage, free arrays) is derived here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from madang.core.lifecycle import LIVELY
from madang.core.live import LiveJob, LiveNode
from madang.core.model import (
    Allocation,
    AllocationState,
    Job,
    Project,
    Seat,
)
from madang.core.policy import Policy
from madang.core.pool import Taken
from madang.core.settings import Setting
from madang.core.state import State


def restored(
    nodes: Sequence[LiveNode],
    projects: Iterable[Project],
    jobs: Iterable[LiveJob],
    allocations: Iterable[Allocation],
    nominations: Iterable[tuple[str, tuple[Seat, ...]]],
    settings: Iterable[Setting | Policy] = (),
) -> State:
    """The state that wrote these rows, as if it had been folded up to there.

    What the rows do not say is derived from them, so that a crash after any commit goes on as if
    there had been none. The one thing lost would be a JobRequeueAsked without its ReleaseAsked; a
    turn always has both.

    Args:
        nodes: every row, in row order.
        jobs: those that have not ended, in the order of submission.
        allocations: in the order they were bound: all that hold devices (also on a lost node after
            their job left them), and what a live job has not been settled for.
        nominations: (job, the seats promised to it).
        settings: the policy among them, if one was ever set.
    """
    state = State()
    for setting in settings:
        if isinstance(setting, Policy):
            state.policy = setting
        else:
            state.settings.put(setting)
    state.book_is_stale()
    state.nominations = dict(nominations)
    state.projects = {project.id: project for project in projects}
    state.usage_milli = dict.fromkeys(state.projects, 0)
    state.jobs = {live.job.id: replace(live) for live in jobs}
    state.allocations = {allocation.id: allocation for allocation in allocations}
    _restore_nodes(state, nodes)
    _restore_queue(state)
    for allocation in state.allocations.values():
        _restore_attention(state, allocation)
    for live in state.jobs.values():
        if live.allocation is None and live.standing.stop_asked:
            state.unsettled[live.job.id] = None
    for learned in state.settings.learned.values():
        state.learner.restore(learned, state.models)
    return state


def with_recent(state: State, recent: Iterable[Job]) -> State:
    """The state, once placement has seen the jobs that came since it last wrote what it learned.

    Args:
        recent: in order, ended ones too; older ones may be among them.
    """
    for job in recent:
        if job.seq > state.learner.seq:
            state.learn(job)
    return state


def _restore_nodes(state: State, nodes: Sequence[LiveNode]) -> None:
    """The rows of the pool, in one pass over what is held."""
    taken = {live.node.id: Taken() for live in nodes}
    state.nodes = {live.node.id: live for live in nodes}
    state.node_ids = [live.node.id for live in nodes]
    state.on_node = {id: {} for id in state.node_ids}
    # A device that its node no longer reports may still be held.
    gpus = [live.node.gpus for live in nodes]
    for allocation in state.allocations.values():
        charged = state.is_newest(allocation)
        if not charged:
            state.lingering.setdefault(allocation.job, {})[allocation.id] = None
        for rank, seat in enumerate(allocation.seats):
            if not allocation.holds(rank):
                continue
            taken[seat.node].add(allocation.shape, seat.gpus)
            state.on_node[seat.node][allocation.id] = None
            gpus.append(max(seat.gpus, default=-1) + 1)
            if charged:
                state.count(state.jobs[allocation.job].job, allocation, (rank,), 1)
    levels = max((len(state.domains_of(live.node)) for live in nodes), default=1)
    state.grow(nodes=len(nodes), gpus=max(gpus, default=0), levels=levels)
    for row, live in enumerate(nodes):
        assert live.row == row, f"rows have no gaps: {live}"
        state.write_row(live, taken[live.node.id])
    state.weigh_suspects()


def _restore_queue(state: State) -> None:
    for live in state.jobs.values():
        if live.allocation is not None:
            continue
        state.line.add(state.policy, live)
        if live.standing.not_before_ms:
            state.backoffs.append((live.standing.not_before_ms, live.job.id))
        if live.job.insists_until_ms:
            state.insisting.append((live.job.insists_until_ms, live.job.id))
    state.backoffs.sort()
    state.insisting.sort()


def _restore_attention(state: State, allocation: Allocation) -> None:
    """Deadlines, and what the release and settle passes must look at."""
    state.look_for_settling(allocation.id)
    if allocation.state not in LIVELY:
        return
    if allocation.state is AllocationState.RUNNING:
        state.begin_running(allocation)
    if (reason := state.trouble_of(allocation)) is not None:
        state.troubled[allocation.id] = reason
