"""What can never run is rejected with a guide: what was asked, what there is, what to do."""

from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.admission import judge
from madang.core.explain import guide, why
from madang.core.model import Project, Shape
from madang.core.settings import DisruptionBudget, Quota
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


GROUPS = """n1: .... group=old model=H100
            n2: .... group=new model=L4"""
LIMITS = {
    "a workspace's": (
        Quota("workspace:lab", limit_milli=2000),
        "b: 3 project=vision",
        "3 GPUs asked, but workspace lab may hold 2 GPUs at most",
        ("raise it: madang quota set workspace:lab --limit GPUS",),
    ),
    "with fewer members": (
        Quota("project:vision", limit_milli=3000),
        "b: 4x1 project=vision",
        "4 members × 1 GPU asked, but project vision may hold 3 GPUs at most",
        ("--members 3", "raise it: madang quota set project:vision --limit GPUS"),
    ),
    "of an elastic gang its fewest members count": (
        Quota("project:vision", limit_milli=3000),
        "b: 8x1 min=4 project=vision",
        "at least 4 members × 1 GPU asked, but project vision may hold 3 GPUs at most",
        ("--members-min 3", "raise it: madang quota set project:vision --limit GPUS"),
    ),
    "of one provisioning": (
        Quota("project:vision", "*", "spot", limit_milli=1000),
        "b: 2 project=vision provisioning=spot",
        "2 GPUs asked, but project vision may hold 1 GPU at most with its spot jobs",
        ("raise it: madang quota set project:vision --provisioning spot --limit GPUS",),
    ),
    "of who borrows nothing": (
        Quota("project:vision", guaranteed_milli=1000, weight=0),
        "b: 2 project=vision",
        "2 GPUs asked, but project vision may hold 1 GPU at most and borrows nothing",
        ("raise it: madang quota set project:vision --limit GPUS --weight 1",),
    ),
    "in the only machine group that has what it needs": (
        Quota("project:vision", "old", limit_milli=2000),
        "b: 3 project=vision model=H100",
        (
            "3 GPUs (H100) asked, but project vision may hold 2 GPUs at most "
            "with its jobs in group old"
        ),
        ("raise it: madang quota set project:vision --group old --limit GPUS",),
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_who_is_above_a_limit_is_rejected_and_told_whose_it_is(case):
    quota, line, words, tries = LIMITS[case]
    there = limited(quota)
    job = there.job(line)

    rejected = judge(there.state.view(0), job)
    assert rejected is not None
    told = guide(job, rejected)
    assert (told.code, told.text, told.tries) == ("over_limit", words, tries)
    assert dict(told.numbers)["quota"] == quota.key


def limited(quota: Quota) -> Yard:
    there = Yard(GROUPS).fact(ev.ProjectSet(Project("vision", "lab")))
    return there.fact(ev.QuotaSet(quota)).turn()


WITHIN = {
    "an elastic gang whose fewest members fit": (
        Quota("workspace:lab", limit_milli=2000),
        "b: 8x1 min=2 project=vision",
    ),
    "one that another machine group takes": (
        Quota("project:vision", "old", limit_milli=2000),
        "b: 3 project=vision",
    ),
    "one of another provisioning": (
        Quota("project:vision", "*", "spot", limit_milli=1000),
        "b: 2 project=vision",
    ),
    "one that asks for no GPU": (
        Quota("project:vision", limit_milli=0),
        "b: 0 cpus=4 project=vision",
    ),
    "a limit in a group that cannot hold it is not what keeps it": (
        Quota("project:vision", "old", limit_milli=0),
        "b: 1 project=vision model=L4",
    ),
}


@pytest.mark.parametrize("case", WITHIN)
def test_who_could_start_under_a_limit_is_admitted(case):
    quota, line = WITHIN[case]
    there = limited(quota)

    assert judge(there.state.view(0), there.job(line)) is None


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (
            ev.QuotaSet(Quota("workspace:lab", limit_milli=1000)),
            "workspace lab may hold 1 GPU at most",
        ),
        (
            ev.QuotaSet(Quota("project:vision", "old", limit_milli=1000)),
            "project vision may hold 1 GPU at most with its jobs in group old",
        ),
        (
            ev.ProjectSet(Project("vision", "lab", 1000)),
            "project vision may hold 1 GPU at most",
        ),
    ],
)
def test_why_says_that_a_job_never_can_start_under_a_limit_lowered_since(fact, words):
    there = limited(Quota("workspace:lab", limit_milli=4000))
    there.submit("a: 2 project=vision", "b: 8x1 min=3 model=H100 project=vision").turn()
    there.fact(fact).turn()

    found = why(there.state.snapshot(there.now_ms), "b")

    never = "never starts under today's limit: it needs at least 3 GPUs, and "
    assert (found.code, found.text) == ("quota", never + words)


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


def test_what_is_alike_in_a_turn_fares_alike_until_the_yard_changes():
    yard = Yard("")
    jobs = {line[0]: yard.job(line) for line in ("a: 4", "b: 4", "c: 4", "d: 2")}
    node = Yard("n1: ....").state.nodes["n1"].node
    facts: list[ev.Fact] = [
        ev.JobSubmitted(jobs["a"]),  # nodes may come
        ev.NodeSeen(replace(node, gpus=2)),
        ev.JobSubmitted(jobs["b"]),
        ev.JobSubmitted(jobs["c"]),
        ev.JobSubmitted(jobs["d"]),
    ]
    step = yard.controller.step(facts, 5)
    rejected = [one.job for one in step.events if isinstance(one, ev.JobRejected)]
    assert rejected == [jobs["b"].id, jobs["c"].id]
