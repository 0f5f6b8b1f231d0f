"""A stop may shorten the job's grace, at once or when asked again; never lengthen it."""

import pytest

from madang.core.controller import Controller
from madang.core.events import (
    JobStopAsked,
    JobSubmitted,
    MemberStarted,
    NodeSeen,
    ProjectSet,
    ReleaseAsked,
)
from madang.core.model import Job, Node, Project, Shape
from madang.core.restore import restored

JOB = Job("a-1", 1, "default", Shape(gpus=1), grace_ms=30_000)


def running() -> Controller:
    controller = Controller()
    node = Node("n1", gpus=1, cpu_milli=1_000, memory_mib=1_000)
    controller.step([ProjectSet(Project("default")), NodeSeen(node), JobSubmitted(JOB)], 0)
    controller.step([MemberStarted("a-1.1", 0, 0)], 0)
    return controller


def graces(controller: Controller, *asked_ms: int) -> list[int]:
    """What the engine is told after each of these stops, 0 ms apart; -1 for nothing."""
    told = []
    for grace_ms in asked_ms:
        step = controller.step([JobStopAsked("a-1", "ann", grace_ms)], 1)
        asked = [one.grace_ms for one in step.decisions if isinstance(one, ReleaseAsked)]
        told.append(asked[0] if asked else -1)
    return told


@pytest.mark.parametrize(
    ("asked_ms", "told_ms"),
    [
        ((-1,), [30_000]),
        ((5_000,), [5_000]),
        ((0,), [0]),
        ((99_000,), [30_000]),
        ((-1, 5_000), [30_000, 5_000]),
        ((5_000, 0), [5_000, 0]),
        ((5_000, 9_000), [5_000, -1]),
        ((5_000, -1), [5_000, -1]),
        ((-1, -1), [30_000, -1]),
    ],
)
def test_a_stop_may_only_shorten_the_grace(asked_ms, told_ms):
    assert graces(running(), *asked_ms) == told_ms


def test_a_shortened_grace_survives_in_the_rows():
    controller = running()
    graces(controller, 5_000)
    state = controller.state

    again = restored(
        tuple(state.nodes.values()),
        tuple(state.projects.values()),
        tuple(state.jobs.values()),
        tuple(state.allocations.values()),
        (),
    )

    assert again.jobs["a-1"].standing.stop_grace_ms == 5_000
    assert graces(Controller(again), 4_000) == [4_000]
