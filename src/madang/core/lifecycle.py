"""The life of an allocation and the phase of a job, as tables.

    NOMINATED ──▶ BOUND ──▶ RUNNING ──▶ RELEASED
        │           │          │            ▲
        └───────────┴──────────┴─▶ RELEASING┘

RELEASING lies between a release that was asked and its observed end: devices are held there. One
that nobody was let carry out is taken back: `goes_on`.
An absent key is a bug of ours, and raises with the object in the message.
"""

from dataclasses import replace

from madang.core.model import Allocation, AllocationState, Phase, ReleaseReason, Standing

_MOVES: dict[AllocationState, frozenset[AllocationState]] = {
    AllocationState.NOMINATED: frozenset({AllocationState.BOUND, AllocationState.RELEASED}),
    AllocationState.BOUND: frozenset(
        {AllocationState.RUNNING, AllocationState.RELEASING, AllocationState.RELEASED}
    ),
    AllocationState.RUNNING: frozenset({AllocationState.RELEASING, AllocationState.RELEASED}),
    AllocationState.RELEASING: frozenset({AllocationState.RELEASED}),  # and see `goes_on`
    AllocationState.RELEASED: frozenset(),
}

_PHASE: dict[AllocationState, Phase] = {
    AllocationState.NOMINATED: Phase.WAITING,
    AllocationState.BOUND: Phase.STARTING,
    AllocationState.RUNNING: Phase.RUNNING,
    AllocationState.RELEASING: Phase.STOPPING,
    AllocationState.RELEASED: Phase.STOPPING,
}


class InvalidMove(AssertionError):
    """An allocation was asked to make a move that its machine does not have."""


def moved(allocation: Allocation, to: AllocationState, now_ms: int) -> Allocation:
    """The allocation in its next state, stamped.

    Raises:
        InvalidMove: the machine has no such move.
    """
    if to not in _MOVES[allocation.state]:
        raise InvalidMove(f"{allocation.state} cannot become {to}: {allocation}")
    match to:
        case AllocationState.RUNNING:
            return replace(allocation, state=to, running_ms=now_ms)
        case AllocationState.RELEASING:
            return replace(allocation, state=to, releasing_ms=now_ms)
        case AllocationState.RELEASED:
            return replace(allocation, state=to, released_ms=now_ms)
        case _:
            return replace(allocation, state=to)


def goes_on(allocation: Allocation) -> Allocation:
    """One that was asked to end, and that nobody was let end: as if it had not been asked.

    Raises:
        InvalidMove: nobody asked.
    """
    if allocation.state is not AllocationState.RELEASING:
        raise InvalidMove(f"was not asked to end: {allocation}")
    return replace(
        allocation,
        state=AllocationState.RUNNING if allocation.running_ms else AllocationState.BOUND,
        releasing_ms=0,
        release_reason=ReleaseReason.NONE,
        released_for="",
        bill_gpu_ms=0,
    )


def phase_of(standing: Standing, allocation: Allocation | None) -> Phase:
    """A live job's shown phase."""
    if allocation is None:
        return Phase.STOPPING if standing.stop_asked else Phase.WAITING
    return _PHASE[allocation.state]


# An allocation in these goes on unless it is asked to end.
LIVELY = frozenset({AllocationState.BOUND, AllocationState.RUNNING})

# Ends that are not the job's own doing cost it none of its retries.
BLAMELESS = frozenset(
    {
        ReleaseReason.REQUEUE,
        ReleaseReason.NODE_LOST,
        ReleaseReason.PREEMPTED,
        ReleaseReason.RECLAIMED,
        ReleaseReason.MOVED,
    }
)
