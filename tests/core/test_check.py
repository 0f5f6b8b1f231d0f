"""`check` finds what it is there to find: each corruption of a good state is told by its name."""

from dataclasses import replace

import pytest

from madang.core.check import InvariantBroken, check, check_quota
from madang.core.model import AllocationState, Exit, NodeState, Phase, Project, Seat
from madang.core.state import State
from tests.core.yard import Yard


def good() -> State:
    """A yard with a gang that runs, one that waits, one in its back-off and one that lingers."""
    yard = Yard("n1: ....\nn2: ..\nn3: ..x.").submit(
        "d: 2", "b: 2x1 limit_s=60", "c: 1 retries=2", "f: 3 priority=-1", "e: 2x4 priority=-1"
    )
    yard.turn().started("b.1").ended("c.1", code=1).turn().lost("n2").settled()
    assert yard.picture() == "n1: FFF.\nn2: DD lost\nn3: BBx.\nwaiting: d c e"
    assert yard.state.backoffs
    assert yard.state.deadlines
    assert yard.state.lingering
    state: State = yard.state
    return state


def swap(of: State, id: str, **changes: object) -> None:
    of.allocations[id] = replace(of.allocations[id], **changes)  # type: ignore[arg-type]


def stand(state: State, id: str, **changes: object) -> None:
    live = state.jobs[id]
    live.standing = replace(live.standing, **changes)  # type: ignore[arg-type]


def corrupt_what_is_held(what: str, state: State) -> None:  # noqa: C901 - a table of cases
    match what:
        case "a GPU is held twice":
            swap(state, "b.1", seats=(state.allocations["b.1"].seats[0],) * 2)
        case "free":
            state.pool.gpu_free[0, 3] = 400
        case "whole_free":
            state.pool.whole_free[0] += 1
        case "gpu_usable":
            state.pool.gpu_usable[2] = 4
        case "cpu_free":
            state.pool.cpu_free[1] -= 1
        case "memory_free":
            state.pool.memory_free[1] -= 1
        case "open":
            state.pool.open[1] = True
        case "row":
            state.node_ids[0] = "n9"
        case "cordoned":
            state.nodes["n1"] = replace(state.nodes["n1"], cordoned=True)
        case "on_node":
            state.on_node["n3"].pop("b.1")
        case "seat":
            seat = replace(state.allocations["b.1"].seats[0], gpus=(0, 3))
            swap(state, "b.1", seats=(seat, state.allocations["b.1"].seats[1]))
        case "id":
            swap(state, "b.1", attempt=2)
        case "left behind":
            swap(state, "d.1", state=AllocationState.BOUND)
        case "gang is not whole":
            live = state.jobs["b"]
            live.job = replace(live.job, members=3)
        case "ended bits":
            swap(state, "d.1", exits=((0, Exit(0)),))
        case "a member ended twice":
            swap(state, "b.1", exits=((0, Exit(0)), (0, Exit(1))))
        case "release":
            swap(state, "d.1", state=AllocationState.RELEASED)
        case "released without being asked":
            swap(state, "d.1", releasing_ms=0)


def corrupt_what_waits(what: str, state: State) -> None:  # noqa: C901 - a table of cases
    match what:
        case "queue":
            state.queue.pop()
        case "queued twice":
            state.queue.append(state.queue[-1])
        case "queue is not in order":
            state.queue.reverse()
        case "queue key":
            (first, *rest), id = state.queue[0]
            state.queue[0] = ((first - 1, rest[0], rest[1]), id)
        case "allocation is gone":
            state.jobs["e"].allocation = "e.9"
            state.queue[:] = [entry for entry in state.queue if entry[1] != "e"]
        case "phase":
            stand(state, "b", phase=Phase.WAITING)
        case "attempt":
            stand(state, "b", attempt=7)
        case "lanes":
            state.waiting[("L4",)] = 1
        case "backoffs":
            state.backoffs.clear()
        case "deadlines":
            state.deadlines.clear()
        case "troubled and gone":
            state.troubled["z.1"] = state.allocations["d.1"].release_reason
        case "troubled":
            state.troubled["d.1"] = state.allocations["d.1"].release_reason
        case "unsettled":
            state.unsettled["b"] = None
        case "lingering":
            state.lingering.clear()


def corrupt_what_is_promised(what: str, state: State) -> None:
    match what:
        case "promised to nobody":
            state.nominations["z"] = (Seat("n1", (3,)),)
        case "promised, but has a place":
            state.nominations["b"] = (Seat("n3", (0,)), Seat("n3", (1,)))
        case "promise is not whole":
            state.nominations["e"] = (Seat("n1", (0, 1, 2, 3)),)
        case "promise on an unknown node":
            state.nominations["c"] = (Seat("n9", (0,)),)
        case "promised seat":
            state.nominations["c"] = (Seat("n1", (0, 1)),)
        case "a GPU is promised twice":
            state.nominations["c"] = (Seat("n2", (1,)),)
            state.nominations["d"] = (Seat("n2", (0, 1)),)
        case "usage":
            state.usage_milli["default"] += 1


def corrupt(what: str, state: State) -> None:
    corrupt_what_is_held(what, state)
    corrupt_what_waits(what, state)
    corrupt_what_is_promised(what, state)


CORRUPTIONS = """a GPU is held twice|free|whole_free|gpu_usable|cpu_free|memory_free|open|row
cordoned|on_node|seat|id|left behind|gang is not whole|ended bits|a member ended twice|release
released without being asked|queue|queued twice|queue is not in order|queue key|allocation is gone
phase|attempt|lanes|backoffs|deadlines|troubled and gone|troubled|unsettled|lingering|usage
promised to nobody|promised, but has a place|promise is not whole
promise on an unknown node|promised seat|a GPU is promised twice"""


@pytest.mark.parametrize("what", CORRUPTIONS.replace("\n", "|").split("|"))
def test_a_corrupted_state_is_told_by_its_name(what):
    state = good()
    check(state)

    corrupt(what, state)

    with pytest.raises(InvariantBroken, match=f"^{what}"):
        check(state)


def test_a_waiting_job_that_shall_stop_must_be_settled():
    state = good()
    stand(state, "e", stop_asked=True, phase=Phase.STOPPING)

    with pytest.raises(InvariantBroken, match="unsettled"):
        check(state)


def test_a_node_that_is_lost_may_be_cordoned():
    state = good()
    state.nodes["n2"] = replace(state.nodes["n2"], cordoned=True)
    assert state.nodes["n2"].state is NodeState.LOST

    check(state)


def test_more_than_the_quota_is_told():
    state = good()
    check_quota(state)
    state.projects["default"] = Project("default", quota_milli=1000)

    with pytest.raises(InvariantBroken, match="over quota"):
        check_quota(state)
    state.projects["default"] = Project("default", quota_milli=64_000)
    check_quota(state)
