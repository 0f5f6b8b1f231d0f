"""From samples to measurements: windows, and what is missing from them."""

import pytest

from madang.core.events import JobMeasured
from madang.core.model import Allocation, AllocationState, Seat, Shape
from madang.engines.base import GpuSample, NodeSample, Sample
from madang.engines.measuring import Meter

WINDOW_MS = 10_000
SEATS = (Seat("n1", (0, 1)), Seat("n2", (3, 4)))
DEVICES = [(seat.node, gpu) for seat in SEATS for gpu in seat.gpus]
RUNNING = Allocation("a.1", "a", "p", 1, Shape(2), SEATS, AllocationState.RUNNING, 1, running_ms=2)


def sample(*percents: float | None) -> Sample:
    """What the four devices show, in the order of the seats."""
    shown: dict[str, list[GpuSample]] = {"n1": [GpuSample(7, 99.0)], "n2": []}
    for (node, gpu), percent in zip(DEVICES, percents, strict=True):
        shown[node].append(GpuSample(gpu, percent))
    return Sample(tuple(NodeSample(node, gpus=tuple(gpus)) for node, gpus in shown.items()))


def measured(*samples: Sample, every_ms: int = 1_000) -> list[JobMeasured]:
    """All that is measured of one job by looking at these, one after the other."""
    meter, found = Meter(), []
    for at, one in enumerate(samples):
        found += meter.look(one, [RUNNING], 50_000 + at * every_ms, WINDOW_MS)
    return found


def test_windows_follow_each_other_without_overlap_or_gap():
    found = measured(*[sample(50, 50, 50, 50)] * 31)

    assert [(one.at_ms, one.window_ms) for one in found] == [
        (60_000, 10_000),
        (70_000, 10_000),
        (80_000, 10_000),
    ]


@pytest.mark.parametrize(
    ("percents", "mean", "busiest"),
    [
        ((0, 0, 0, 0), 0, 0),
        ((100, 0, 0, 0), 25, 100),
        ((0.2, 0, 0, 0), 0, 1),  # did anything: not at 0
        ((4.2, 4.2, 4.2, 4.2), 4, 5),
        ((120, 100, 100, 100), 100, 100),  # what sensors exaggerate
    ],
)
def test_the_mean_and_the_busiest_device_are_told(percents, mean, busiest):
    found = measured(*[sample(*percents)] * 11)

    assert [(one.util_pct, one.busiest_pct) for one in found] == [(mean, busiest)]


def test_a_device_that_is_not_heard_makes_the_whole_job_unknown():
    assert measured(*[sample(0, 0, 0, None)] * 31) == []
    mostly = [sample(0, 0, 0, 0)] * 9 + [sample(0, None, 0, 0)] * 2
    assert len(measured(*mostly)) == 1
    too_little = [sample(0, 0, 0, 0)] * 8 + [sample(0, None, 0, 0)] * 3
    assert measured(*too_little) == []


def test_a_node_that_is_not_heard_is_missing_and_not_idle():
    deaf = Sample((NodeSample("n1", gpus=(GpuSample(0, 0.0), GpuSample(1, 0.0))),))

    assert measured(*[deaf] * 31) == []


def test_who_looks_too_seldom_knows_nothing():
    assert measured(*[sample(0, 0, 0, 0)] * 5, every_ms=4_000) == []
    assert measured(*[sample(0, 0, 0, 0)] * 2, every_ms=WINDOW_MS) == []


@pytest.mark.parametrize("state", ["bound", "releasing"])
def test_only_what_runs_whole_is_measured(state):
    meter, found = Meter(), []
    other = Allocation("a.1", "a", "p", 1, Shape(2), SEATS, AllocationState(state), 1, running_ms=2)
    for at in range(31):
        found += meter.look(sample(0, 0, 0, 0), [other], at * 1_000, WINDOW_MS)

    assert found == []


def test_a_new_attempt_has_a_window_of_its_own():
    meter, found = Meter(), []
    second = Allocation(
        "a.2", "a", "p", 2, Shape(2), SEATS, AllocationState.RUNNING, 1, running_ms=2
    )
    for at in range(9):
        found += meter.look(sample(0, 0, 0, 0), [RUNNING], at * 1_000, WINDOW_MS)
    for at in range(9, 18):
        found += meter.look(sample(0, 0, 0, 0), [second], at * 1_000, WINDOW_MS)

    assert found == []
