"""What can never run is rejected with a guide: what was asked, what there is, what to do."""

from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.admission import judge
from madang.core.explain import guide
from madang.core.model import Shape
from madang.core.settings import DisruptionBudget
from tests.core.yard import Yard

FLEET = """n1: ........ model=H100 cpus=64 memory=1000
           n2: ....     model=L4   cpus=16 memory=500"""

CASES = {
    "b: 1 project=nobody": (
        "unknown_project",
        "project nobody does not exist; there are: default vision",
        ("choose one with --project", "madang project set NAME --quota GPUS"),
    ),
    "b: 8 project=vision": (
        "over_quota",
        "8 GPUs asked, but project vision may hold 6 GPUs at most",
        ("raise it: madang project set vision --quota GPUS",),
    ),
    "b: 4x2 project=vision": (
        "over_quota",
        "4 members × 2 GPUs asked, but project vision may hold 6 GPUs at most",
        ("--members 3",),
    ),
    "b: 1 model=B200": (
        "unknown_model",
        "no node has B200; there are: H100 L4",
        ("choose one with --profile, or leave it out to take any",),
    ),
    "b: 9": (
        "member_too_large",
        "9 GPUs asked, but the largest node has 8 GPUs, 64 CPUs, 1000 MiB",
        ("--gpus 8 and more members",),
    ),
    "b: 8 model=L4": (
        "member_too_large",
        "8 GPUs (L4) asked, but the largest node has 4 GPUs, 16 CPUs, 500 MiB",
        ("--gpus 4 and more members",),
    ),
    "b: 1 cpus=65 memory=1001": (
        "member_too_large",
        "1 GPU asked, but the largest node has 8 GPUs, 64 CPUs, 1000 MiB",
        ("--cpus 64 or fewer", "--memory 1000 or less"),
    ),
    "b: 3x6": (
        "too_large",
        "3 members × 6 GPUs asked, but all nodes together hold 1 such members",
        ("--members 1",),
    ),
    "b: 0 cpus=100": (
        "member_too_large",
        "100 CPUs asked, but the largest node has 8 GPUs, 64 CPUs, 1000 MiB",
        ("--cpus 64 or fewer",),
    ),
    "b: 30x1 share=500": (
        "too_large",
        "30 members × 0.5 GPU asked, but all nodes together hold 24 such members",
        ("--members 24",),
    ),
}
ADMITTED = [
    "b: 8",
    "b: 3x4",
    "b: 12x1",
    "b: 24x1 share=500",
    "b: 1 model=B200|L4",
    "b: 6 project=vision",
    "b: 80x0 cpus=1",
    "b: 2x2 cpus=16 memory=500",
]


def yard(picture: str = FLEET) -> Yard:
    return Yard(picture).quota("vision", 6).turn()


@pytest.mark.parametrize("line", CASES)
def test_what_can_never_run_is_rejected_with_a_guide(line):
    code, words, tries = CASES[line]
    there = yard()
    job = there.job(line)

    rejected = judge(there.state.view(0), job)
    assert rejected is not None
    told = guide(job, rejected)
    assert (told.code, told.text, told.tries) == (code, words, tries)

    assert there.submit(line).turn().decisions() == [f"reject b {code}"]
    assert not there.state.jobs


@pytest.mark.parametrize("line", ADMITTED)
def test_what_only_has_to_wait_is_admitted(line):
    full = yard("n1: AAAAAAAA cpus=64 memory=1000\nn2: CCCC model=L4 cpus=16 memory=500 lost")

    assert full.submit(line).turn().picture().splitlines()[-1] == "waiting: b"


@pytest.mark.parametrize("line", ["b: 64x8 model=B200", "b: 1 cpus=999"])
def test_a_yard_without_nodes_admits_anything(line):
    assert Yard().submit(line).turn().picture() == "waiting: b"


def test_a_node_that_is_too_small_in_one_way_each_is_told_as_that():
    there = Yard("n1: .. cpus=64 memory=10\nn2: .. cpus=1 memory=1000")
    job = there.job("b: 1 cpus=8 memory=100")

    rejected = judge(there.state.view(0), job)
    assert rejected is not None
    assert guide(job, rejected).tries == ("ask for less per member: no node has all of it at once",)


@pytest.mark.parametrize(
    ("budget", "refused"),
    [
        ("", ""),
        ("chat", ""),
        ("caht", "project default has no disruption budget caht; it has: chat night"),
        ("others", "project default has no disruption budget others; it has: chat night"),
    ],
)
def test_a_disruption_budget_that_the_project_does_not_have_is_refused_with_those_it_has(
    budget, refused
):
    there = Yard("n1: ..")
    for id, project in (("chat", "default"), ("night", "default"), ("others", "vision")):
        there.fact(ev.BudgetSet(DisruptionBudget(id, project, 1)))
    there.turn()
    job = replace(there.job("b: 1"), budget=budget)
    rejected = judge(there.state.view(0), job)

    assert (guide(job, rejected).text if rejected is not None else "") == refused


@pytest.mark.parametrize(("gpus", "milli"), [(-1, 1000), (1, 0), (1, 1001), (2, 500)])
def test_impossible_shapes_cannot_be_made(gpus, milli):
    with pytest.raises(AssertionError):
        Shape(gpus, milli)
