"""The allocation's machine, exhaustively: every state × every move either moves or raises."""

from itertools import product

import pytest

from madang.core.lifecycle import InvalidMove, moved, phase_of
from madang.core.model import Allocation, AllocationState, Phase, Seat, Shape, Standing

N, B, RU, RI, RD = AllocationState
ALLOWED = {(N, B), (N, RD), (B, RU), (B, RI), (B, RD), (RU, RI), (RU, RD), (RI, RD)}


def allocation(state: AllocationState) -> Allocation:
    return Allocation("a.1", "a", "default", 1, Shape(1), (Seat("n1", (0,)),), state, 5)


@pytest.mark.parametrize(("start", "to"), list(product(AllocationState, AllocationState)))
def test_every_state_and_move_either_moves_or_raises(start, to):
    if (start, to) in ALLOWED:
        assert moved(allocation(start), to, 9).state is to
    else:
        with pytest.raises(InvalidMove, match=rf"{start.value} cannot become {to.value}.*a\.1"):
            moved(allocation(start), to, 9)


@pytest.mark.parametrize(
    ("start", "to", "stamps"),
    [(N, B, (0, 0, 0)), (B, RU, (9, 0, 0)), (RU, RI, (0, 9, 0)), (RI, RD, (0, 0, 9))],
)
def test_a_move_stamps_its_own_time_and_no_other(start, to, stamps):
    after = moved(allocation(start), to, 9)

    assert (after.running_ms, after.releasing_ms, after.released_ms) == stamps
    assert after.bound_ms == 5


@pytest.mark.parametrize(
    ("state", "stop_asked", "phase"),
    [
        (None, False, Phase.WAITING),
        (None, True, Phase.STOPPING),
        (N, False, Phase.WAITING),
        (B, False, Phase.STARTING),
        (RU, False, Phase.RUNNING),
        (RI, False, Phase.STOPPING),
        (RD, False, Phase.STOPPING),
    ],
)
def test_a_phase_is_derived_from_the_newest_allocation(state, stop_asked, phase):
    standing = Standing(stop_asked=stop_asked)

    assert phase_of(standing, allocation(state) if state else None) is phase


def test_only_ends_are_final():
    final = [phase for phase in Phase if phase.is_final]

    assert final == [Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED]
