"""Every invariant of the yard, stated once: tests, simulator and daemon call this.

Derived data are computed again from the allocations alone and compared with what the fold kept.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from madang.core.budgets import BY_CHOICE, budget_of, down_by_budget, leaving_by_shield
from madang.core.cells.promises import book_of
from madang.core.events import Decision, ReleaseAsked
from madang.core.gangs import keeps_terms, least_members
from madang.core.keys import queue_key
from madang.core.lifecycle import LIVELY, phase_of
from madang.core.line import Line
from madang.core.live import Lane, LiveJob, lane_of
from madang.core.model import (
    UNLIMITED,
    WHOLE_GPU_MILLI,
    Allocation,
    AllocationState,
    Job,
    NodeState,
    ReleaseReason,
    Seat,
    Shape,
)
from madang.core.pool import SOLE
from madang.core.quotas import Book, limit_of
from madang.core.ranking import untrue
from madang.core.state import State
from madang.core.state_rows import ask_of

RUNNING = AllocationState.RUNNING


class InvariantBroken(AssertionError):
    """The yard is not as it must be; the message holds the objects."""


def check(state: State, *, scores: bool = True) -> None:
    """Raise if any invariant does not hold. O(nodes × devices + live jobs).

    Args:
        scores: whether what placement keeps of scores is made anew and compared, which costs as
            much as all else. A score that is kept wrongly stays wrong until its row is written.

    Raises:
        InvariantBroken: always a bug of ours.
    """
    _devices(state)
    _gangs(state)
    _jobs(state)
    _line(state)
    _attention(state)
    _lingering(state)
    _usage(state)
    if scores:
        _scores(state)
    _nominations(state)
    _upkeep(state)
    _cells(state)
    _network(state)


def require(claim: bool, *what: object) -> None:
    """Raise InvariantBroken with these objects unless the claim holds."""
    if not claim:
        raise InvariantBroken(" | ".join(map(str, what)))


def _devices(state: State) -> None:
    """No device (or share) is in two live allocations; free is exactly what nobody holds."""
    pool = state.pool
    held = np.zeros(pool.gpu_free.shape, np.int64)
    cpu = pool.cpu_total.copy()
    memory = pool.memory_total.copy()
    tenants = np.zeros(pool.nodes, np.int64)
    on_node: dict[str, set[str]] = {id: set() for id in state.nodes}
    for allocation in state.allocations.values():
        for rank, seat in enumerate(allocation.seats):
            if not allocation.holds(rank):
                continue
            row = state.nodes[seat.node].row
            on_node[seat.node].add(allocation.id)
            cpu[row] -= allocation.shape.cpu_milli
            memory[row] -= allocation.shape.memory_mib
            tenants[row] += SOLE if allocation.shape.exclusive else 1
            require(len(set(seat.gpus)) == allocation.shape.gpus, "seat", seat, allocation)
            for gpu in seat.gpus:
                held[row, gpu] += allocation.shape.gpu_milli
    _require_none(held > WHOLE_GPU_MILLI, "a GPU is held twice", state)
    usable = _usable(state)
    free = np.where(usable, WHOLE_GPU_MILLI - held, 0)
    _require_none(pool.gpu_free != free, "free", state)
    _require_none(pool.whole_free != (free == WHOLE_GPU_MILLI).sum(axis=1), "whole_free", state)
    _require_none(pool.gpu_usable != usable.sum(axis=1), "gpu_usable", state)
    _require_none(pool.cpu_free != cpu, "cpu_free", state)
    _require_none(pool.memory_free != memory, "memory_free", state)
    _require_none(pool.tenants != tenants, "tenants", state)
    _exclusive(state, on_node)
    is_open = pool.open.tolist()
    for row, (id, live) in enumerate(state.nodes.items()):
        require(live.row == row and state.node_ids[row] == id == live.node.id, "row", live)
        require(is_open[row] == (live.state is NodeState.READY), "open", live)
        marked = live.state is NodeState.CORDONED
        away = live.state in (NodeState.LOST, NodeState.REMOVED)
        require(live.cordoned == marked or away, "cordoned", live)
        require(state.on_node[id].keys() == on_node[id], "on_node", id, on_node[id])


def _scores(state: State) -> None:
    """What placement keeps of scores is what it would be if made anew."""
    scorer = state.learner.policy(state.policy.placement, state.pool, state.models)
    wrong = untrue(state.pool, scorer, state.models)
    require(not wrong, "kept scores", wrong)


def _exclusive(state: State, on_node: dict[str, set[str]]) -> None:
    """A node that an exclusive job sits on has no other allocation."""
    for node, ids in on_node.items():
        shared = len(ids) > 1 and any(state.allocations[id].shape.exclusive for id in ids)
        require(not shared, "an exclusive node is shared", node, ids)


def _usable(state: State) -> NDArray[np.bool_]:
    """(N, G) the devices that exist and are healthy."""
    width = state.pool.gpu_free.shape[1]
    there = [
        live.node.usable if live.state is not NodeState.REMOVED else 0
        for live in state.nodes.values()
    ]
    bits = np.array(there, np.uint64)
    return (bits[:, None] >> np.arange(width, dtype=np.uint64) & np.uint64(1)).astype(np.bool_)


def _require_none(broken: NDArray[np.bool_], what: str, state: State) -> None:
    """No cell is broken; if one is, the message names its node."""
    if broken.any():
        row, *rest = (int(at) for at in np.argwhere(broken)[0])
        id = state.node_ids[row]
        raise InvariantBroken(f"{what}: node {id}, {rest}: {state.nodes[id]} {state.on_node[id]}")


def _gangs(state: State) -> None:
    """A gang was given all its members' devices; a live job has at most one attempt that runs."""
    running: dict[str, str] = {}
    for id, allocation in state.allocations.items():
        require(id == allocation.id == f"{allocation.job}.{allocation.attempt}", "id", allocation)
        _one_allocation(state, allocation)
        live = state.jobs.get(allocation.job)
        if live is None or live.allocation != id:
            # Only what a lost node may still hold outlives its job's interest in it.
            require(allocation.state is AllocationState.RELEASING, "left behind", allocation)
            continue
        require(_is_whole(live.job, allocation.seats), "gang is not whole", allocation)
        require(allocation.job not in running, "two attempts", allocation.job)
        running[allocation.job] = id


def _network(state: State) -> None:
    """The pool places each node where the tree does, by the names of its domains."""
    names = {code: path for path, code in state.domains.items()}
    width = state.pool.domains.shape[1]
    for row, live in enumerate(state.nodes.values()):
        told = state.domains_of(live.node)
        paths = [told[: level + 1] if name else None for level, name in enumerate(told)]
        paths += [None] * (width - len(paths))
        here = [names.get(code) for code in state.pool.domains[row].tolist()]
        require(here == paths, "domains", live, here, paths)


def check_binding(state: State, allocation: Allocation) -> None:
    """A gang that was just bound keeps its hard terms in the tree as it is, rank by rank.

    Call it in the turn that bound it: the tree may change while it runs.

    Raises:
        InvariantBroken: always a bug of ours.
    """
    job = state.jobs[allocation.job].job
    rows = [state.nodes[seat.node].row for seat in allocation.seats]
    kept = keeps_terms(state.pool, job, rows, allocation.bound_ms, state.policy)
    require(kept, "hard terms are broken", job, allocation.seats)


def _is_whole(job: Job, seats: Sequence[Seat]) -> bool:
    """All members, or of an elastic gang as many as it starts with."""
    return least_members(job) <= len(seats) <= job.members


def _one_allocation(state: State, allocation: Allocation) -> None:
    ended = [rank for rank, _ in allocation.exits]
    require(len(ended) == len(set(ended)), "a member ended twice", allocation)
    require(sum(1 << rank for rank in ended) == allocation.ended, "ended bits", allocation)
    gone = allocation.ended == allocation.all_ranks
    require(gone == (allocation.state is AllocationState.RELEASED), "release", allocation)
    if allocation.release_reason:
        require(allocation.releasing_ms > 0, "released without being asked", allocation)


def _jobs(state: State) -> None:
    """Each live job waits in the queue, in order, or has an allocation: never both or neither."""
    waiting = {id for id, live in state.jobs.items() if live.allocation is None}
    queued = [id for _, id in state.queue]
    require(set(queued) == waiting, "queue", waiting ^ set(queued))
    require(len(queued) == len(waiting), "queued twice", queued)
    keys = [key for key, _ in state.queue]
    require(keys == sorted(keys), "queue is not in order", keys)
    for key, id in state.queue:
        require(key == queue_key(state.policy, state.jobs[id]), "queue key", id)
    lanes: dict[Lane, int] = {}
    for id, live in state.jobs.items():
        allocation = state.allocations.get(live.allocation) if live.allocation else None
        require(live.allocation is None or allocation is not None, "allocation is gone", live)
        phase = phase_of(live.standing, allocation)
        require(live.standing.phase is phase, "phase", id, phase, live.standing)
        if allocation is None:
            lane = lane_of(live.job)
            lanes[lane] = lanes.get(lane, 0) + 1
        else:
            require(live.standing.attempt == allocation.attempt, "attempt", live, allocation)
    require(state.waiting == lanes, "lanes", state.waiting, lanes)
    backoffs = [
        (live.standing.not_before_ms, id)
        for id, live in state.jobs.items()
        if live.allocation is None and live.standing.not_before_ms
    ]
    require(sorted(backoffs) == state.backoffs, "backoffs", backoffs, state.backoffs)
    insisting = [
        (live.job.insists_until_ms, id)
        for id, live in state.jobs.items()
        if live.allocation is None and live.job.insists_until_ms
    ]
    require(sorted(insisting) == state.insisting, "insisting", insisting, state.insisting)
    deadlines = [
        (a.running_ms + live.job.time_limit_ms, a.id)
        for a in state.allocations.values()
        if a.state is AllocationState.RUNNING and (live := state.jobs[a.job]).job.time_limit_ms
    ]
    require(sorted(deadlines) == state.deadlines, "deadlines", deadlines, state.deadlines)


def _line(state: State) -> None:
    """The line by lots is the queue, grouped; who loses patience when is known of all who wait."""
    again = Line(ask_of)
    for _, id in state.queue:
        again.add(state.policy, state.jobs[id])
    line = state.line
    require(line.lots == again.lots, "lots", line.lots, again.lots)
    require(line.patience == again.patience, "patience", line.patience, again.patience)
    require(line.niced == again.niced, "niced", line.niced, again.niced)
    sinking = [at for at in state.sinks if state.allocations[at[1]].state is RUNNING]
    require(sinking == sorted(state.sinks), "sinks", state.sinks)


def _attention(state: State) -> None:
    """What must be looked at is marked, and nothing else; so that no pass has to look at all."""
    short = {
        id
        for id, one in state.allocations.items()
        if one.state is AllocationState.RUNNING
        and len(one.seats) < (job := state.jobs[one.job].job).members
        and job.checkpoints
    }
    require(set(state.short) == short, "short", short, state.short)
    for id in state.troubled:
        require(id in state.allocations, "troubled and gone", id)
        require(state.allocations[id].state in LIVELY, "troubled", state.allocations[id])
    settling = {id for id, live in state.jobs.items() if _must_settle(state, live)}
    require(set(state.unsettled) == settling, "unsettled", set(state.unsettled) ^ settling)


def _must_settle(state: State, live: LiveJob) -> bool:
    """The job waits and shall stop, or what its allocation holds is out of sight, or nothing."""
    if live.allocation is None:
        return live.standing.stop_asked
    allocation = state.allocations[live.allocation]
    return allocation.state not in LIVELY and all(
        not allocation.holds(rank) or state.nodes[seat.node].state is NodeState.LOST
        for rank, seat in enumerate(allocation.seats)
    )


def _lingering(state: State) -> None:
    """Allocations that their jobs have left are known by job; each is being released."""
    left: dict[str, set[str]] = {}
    for id, allocation in state.allocations.items():
        live = state.jobs.get(allocation.job)
        if live is None or live.allocation != id:
            left.setdefault(allocation.job, set()).add(id)
    known = {job: set(ids) for job, ids in state.lingering.items()}
    require(known == left, "lingering", known, left)


def _usage(state: State) -> None:
    """Usage is what live jobs hold."""
    usage: dict[str, int] = {}
    parts: dict[tuple[str, str, str], int] = {}
    for allocation in state.allocations.values():
        live = state.jobs.get(allocation.job)
        if live is None or live.allocation != allocation.id:
            continue  # what a dead node still holds is not charged
        held_seats = [s for rank, s in enumerate(allocation.seats) if allocation.holds(rank)]
        members = len(held_seats)
        for seat in held_seats:
            part = (live.job.project, state.nodes[seat.node].node.group, live.job.provisioning)
            parts[part] = parts.get(part, 0) + allocation.shape.milli
        usage[allocation.project] = (
            usage.get(allocation.project, 0) + members * allocation.shape.milli
        )
    kept = {project: milli for project, milli in state.usage_milli.items() if milli}
    require(kept == {p: m for p, m in usage.items() if m}, "usage", usage, state.usage_milli)
    held = {key: milli for key, milli in state.held_milli.items() if milli}
    require(held == {k: m for k, m in parts.items() if m}, "held", parts, state.held_milli)


def _nominations(state: State) -> None:
    """A promise is for a whole gang that waits or moves, on known devices; no two overlap, be they
    to jobs or holes."""
    promised = np.zeros(state.pool.gpu_free.shape, np.int64)
    for id, seats in state.nominations.items():
        live = state.jobs.get(id)
        require(live is not None, "promised to nobody", id)
        assert live is not None, "as was required"
        require(live.allocation is None or _moves(state, live), "promised, but has a place", live)
        require(_is_whole(live.job, seats), "promise is not whole", id, seats)
        _promise(state, promised, live.job.shape, seats)
    for hole in state.settings.holes.values():
        require(len(hole.seats) in (0, hole.members), "hole is not whole", hole)
        _promise(state, promised, hole.shape, hole.seats)
    _require_none(promised > WHOLE_GPU_MILLI, "a GPU is promised twice", state)
    if not state.nominations:
        return
    for allocation in state.allocations.values():
        if allocation.state in LIVELY:
            for rank, seat in enumerate(allocation.seats):
                if allocation.holds(rank):
                    row = state.nodes[seat.node].row
                    promised[row, list(seat.gpus)] += allocation.shape.gpu_milli
    _require_none(promised > WHOLE_GPU_MILLI, "promised, and held by one who stays", state)


def check_budgets(state: State, decisions: Iterable[Decision]) -> None:
    """Whoever was ended by choice in this turn, no budget has more down now than it allows."""
    budgets = state.settings.budgets
    if not budgets:
        return
    down: dict[str, int] | None = None
    for one in decisions:
        if not isinstance(one, ReleaseAsked) or one.reason not in BY_CHOICE:
            continue
        allocation = state.allocations.get(one.allocation)
        live = state.jobs.get(allocation.job) if allocation is not None else None
        if live is None or not (id := budget_of(budgets, live.job)):
            continue
        if down is None:
            down = down_by_budget(budgets, state.jobs.values(), state.allocations)
        require(down[id] <= budgets[id].down_max, "budget", budgets[id], down[id], one)


def check_shields(state: State, decisions: Iterable[Decision]) -> None:
    """Whoever was ended by choice in this turn, no more leave under a shield than it allows."""
    shields, allocations = state.settings.shields, state.allocations
    if not shields:
        return
    leaving = leaving_by_shield(shields, state.jobs.values(), allocations)
    for one in decisions:
        if not isinstance(one, ReleaseAsked) or one.reason not in BY_CHOICE:
            continue
        allocation = allocations.get(one.allocation)
        live = state.jobs.get(allocation.job) if allocation is not None else None
        for id, covered in live.standing.shields if live is not None else ():
            if covered and id in shields:
                require(leaving[id] <= shields[id].allowed, "shield", shields[id], leaving[id], one)


def _promise(
    state: State, promised: NDArray[np.int64], shape: Shape, seats: tuple[Seat, ...]
) -> None:
    """Add the seats, which must be of the shape and on known devices."""
    width = promised.shape[1]
    for seat in seats:
        require(seat.node in state.nodes, "promise on an unknown node", seat)
        require(len(set(seat.gpus)) == shape.gpus, "promised seat", shape, seat)
        require(all(gpu < width for gpu in seat.gpus), "promised seat", shape, seat)
        promised[state.nodes[seat.node].row, list(seat.gpus)] += shape.gpu_milli


def _moves(state: State, live: LiveJob) -> bool:
    """The job leaves its place for the one that it is promised."""
    held = state.allocations[live.allocation] if live.allocation is not None else None
    return held is not None and held.release_reason is ReleaseReason.MOVED


def _upkeep(state: State) -> None:
    """A streak of idleness is of the attempt that runs; nobody is warned outside of one."""
    for live in state.jobs.values():
        standing = live.standing
        if not standing.idle_since_ms:
            require(not standing.warned_ms and not standing.idle_until_ms, "warned", live)
            continue
        require(standing.idle_since_ms <= standing.idle_until_ms, "streak", live)
        require(not live.job.idle_ok, "excused, and yet idle", live)
        require(standing.running_ms <= standing.idle_since_ms, "older than its attempt", live)


def _cells(state: State) -> None:
    """The book of cells that the fold keeps up is the one that the rows make."""
    kept, made = state.book, book_of(state)
    require((kept is None) == (made is None), "cells", kept, made)
    if kept is None or made is None:
        return
    for name in ("promised", "left", "opened", "whole", "need", "demoted"):
        left, right = getattr(kept, name), getattr(made, name)
        require(left == right, "cells", name, left, right)
    for name in ("firm", "usable", "bound", "good", "host_cpu", "host_memory"):
        same = np.array_equal(getattr(kept, name), getattr(made, name))
        require(same, "cells", name, getattr(kept, name), getattr(made, name))
    for filled, remade in zip(kept.filled, made.filled, strict=True):
        require(all(map(np.array_equal, filled, remade)), "cells", filled, remade)


def check_quota(state: State) -> None:
    """Nothing above quota or limit; call it where none was lowered."""
    for id, project in state.projects.items():
        if project.quota_milli != UNLIMITED:
            used = state.usage_milli.get(id, 0)
            require(used <= project.quota_milli, "over quota", project, used)
    book = Book(state)
    for quota in book.quotas.values():
        limit_milli = limit_of(quota)
        if limit_milli != UNLIMITED:
            held_milli = book.held_of(quota)
            require(held_milli <= limit_milli, "above a limit", quota, held_milli)
