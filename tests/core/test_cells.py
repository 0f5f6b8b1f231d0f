"""Promised cells as tables of little clusters: who may stand where, and what a promise is worth."""

from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.cells.forest import whole_cells
from madang.core.cells.promises import judge_quota
from madang.core.cells.standing import standings
from madang.core.explain import why
from madang.core.explain_cells import quota_guide, standing_words
from madang.core.model import Project, Provisioning
from madang.core.policies import POLICIES
from madang.core.policy import Misfit, Policy
from madang.core.settings import Quota, Zone
from tests.core.yard import Yard, text

FIRM = "abc"  # jobs of these letters cannot be displaced; of `s` they can; `r`, `t` are reserved


def yard_of(picture: str, **cells: str) -> Yard:
    """A yard where a project is promised cells: `vision="node=1 2gpu=2"`."""
    yard = Yard(picture)
    for project, levels in cells.items():
        pairs = tuple((one.split("=")[0], int(one.split("=")[1])) for one in levels.split())
        yard.fact(ev.ProjectSet(Project(project)))
        yard.fact(ev.QuotaSet(Quota(f"project:{project}", cells=pairs)))
    return yard.turn()


def submit(yard: Yard, *lines: str) -> Yard:
    """One turn for each job."""
    for line in lines:
        job = yard.job(line)
        reserved = job.id[0] in "rt"
        yard.fact(
            ev.JobSubmitted(
                replace(
                    job,
                    project={"r": "vision", "t": "speech"}.get(job.id[0], "default"),
                    provisioning=Provisioning.RESERVED if reserved else job.provisioning,
                    preemptible=job.id[0] not in FIRM,
                )
            )
        ).turn()
    return yard


CASES = {
    "firm work leaves the promised node whole": (
        "n1: ....\nn2: ....",
        {"vision": "node=1"},
        ["a: 2", "b: 4"],
        "n1: AA..\nn2: ....\nwaiting: b",
    ),
    "preemptible work may stand in it": (
        "n1: ....\nn2: ....",
        {"vision": "node=1"},
        ["a: 2", "s: 4"],
        "n1: AA..\nn2: SSSS",
    ),
    "as many GPUs are left, but no whole node: the quota that counts GPUs would let b in": (
        "n1: ....\nn2: ....",
        {"vision": "node=1"},
        ["a: 3", "b: 2"],
        "n1: AAA.\nn2: ....\nwaiting: b",
    ),
    "a reserved job gets its node": (
        "n1: ....\nn2: ....",
        {"vision": "node=1"},
        ["a: 2", "r: 4"],
        "n1: AA..\nn2: RRRR",
    ),
    "it takes the least split cell: a pair beside firm work, not of the whole node": (
        "n1: ....\nn2: ....",
        {"vision": "2gpu=1"},
        ["a: 2", "r: 2"],
        "n1: AARR\nn2: ....",
    ),
    "what is left of an opened node is nobody else's": (
        "n1: ....",
        {"vision": "node=1"},
        ["r: 1", "a: 1"],
        "n1: R...\nwaiting: a",
    ),
    "but preemptible work may have it meanwhile": (
        "n1: ....",
        {"vision": "node=1"},
        ["r: 1", "s: 2"],
        "n1: RSS.",
    ),
    "two tenants have a node each": (
        "n1: ....\nn2: ....",
        {"vision": "node=1", "speech": "node=1"},
        ["r: 1", "t: 1"],
        "n1: R...\nn2: T...",
    ),
    "a share opens one GPU, and the next share goes beside it": (
        "n1: ....",
        {"vision": "gpu=1"},
        ["r: 1 share=500", "r2: 1 share=500"],
        "n1: {RR}...",
    ),
    "a node with an ill device is opened last": (
        "n1: x...\nn2: ....",
        {"vision": "node=1"},
        ["r: 2"],
        "n1: x...\nn2: RR..",
    ),
    "and is opened for what fits if there is no better": (
        "n1: x...\nn2: xx..",
        {"vision": "node=1"},
        ["r: 2"],
        "n1: xRR.\nn2: xx..",
    ),
    "a leaf is as many nodes as leaves have": (
        "n1: .. at=b/l1\nn2: .. at=b/l1\nn3: .. at=b/l2\nn4: .. at=b/l2\nn5: .. at=b/l2",
        {"vision": "leaf=1"},
        ["a: 1", "b: 1", "c: 2"],
        "n1: AB\nn2: CC\nn3: ..\nn4: ..\nn5: ..",
    ),
    "whose host is asked for more than its GPUs' share has starved GPUs": (
        "n1: .... cpus=4\nn2: .... cpus=4",
        {"vision": "node=1"},
        ["a: 1 cpus=4", "b: 1 cpus=1"],
        "n1: A...\nn2: ....\nwaiting: b",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_little_cluster(case):
    before, cells, jobs, expected = CASES[case]
    yard = submit(yard_of(before, **cells), *jobs)

    assert yard.picture() == text(expected)


def test_a_claim_displaces_preemptible_work_that_stands_in_its_cell():
    yard = submit(yard_of("n1: ....\nn2: ....", vision="node=1"), "a: 2", "s: 4")
    yard.started("a.1").started("s.1").turn()
    submit(yard, "r: 4")

    assert yard.decisions() == ["release s.1 preempted 30000", "nominate r"]

    yard.ended("s.1", code=1).settled()

    assert yard.picture().splitlines()[:2] == ["n1: AA..", "n2: RRRR"]
    assert yard.state.allocations["r.1"].cells == ("project:vision/node",)


def test_only_those_in_the_way_are_displaced():
    yard = submit(yard_of("n1: ....", vision="node=1"), "s: 1", "s2: 1", "s3: 1")
    yard.started("s.1").started("s2.1").started("s3.1").turn()
    submit(yard, "r: 2")

    assert yard.decisions() == ["release s3.1 preempted 30000", "nominate r"]


def test_a_claim_lets_the_tenants_own_work_be_that_would_take_the_cell_back():
    """Two that stop each other in turn would do so for ever."""
    policy = Policy("classes", order=("priority",), misfit=Misfit.SKIP, preempts=True)
    yard = yard_of("n1: ....", vision="2gpu=1").under(policy)
    own = replace(yard.job("s: 4 priority=9"), project="vision", preemptible=True)
    yard.fact(ev.JobSubmitted(own)).turn().started("s.1").turn()
    submit(yard, "r: 2 priority=0")
    assert yard.decisions() == []

    yard.ended("s.1").turn()
    assert yard.picture() == text("n1: RR..")


def test_a_claim_takes_nothing_from_who_got_his_promise_in_the_same_plan():
    yard = submit(yard_of("n1: ....", vision="2gpu=1"), "s: 4").started("s.1").turn()
    yard.state.apply(ev.JobSubmitted(replace(yard.job("s2: 4"), preemptible=True)), yard.now_ms)
    seats = yard.state.allocations["s.1"].seats
    yard.state.apply(ev.JobNominated("s2", seats), yard.now_ms)
    submit(yard.ended("s.1"), "r: 2")

    assert yard.decisions() == ["end s succeeded", "bind s2.1"]


def test_who_could_only_ever_start_in_promised_cells_holds_nobody_back():
    yard = submit(yard_of("n1: ....", vision="2gpu=1"), "a: 4", "b: 2")

    assert yard.picture() == text("n1: BB..\nwaiting: a")


def test_where_cells_are_promised_nobody_is_promised_a_place_that_nobody_leaves():
    """The last in the order are victims here; room that must not be had is no room."""
    policy = replace(POLICIES["srtf"], order=("priority",))
    yard = yard_of("n1: ....\nn2: ....", vision="node=1").under(policy)
    submit(yard, "s: 2 priority=0", "b: 2 priority=0")
    yard.started("s.1").started("b.1").turn()
    submit(yard, "a: 1 priority=9")
    promised = [one for one in yard.last.decisions if isinstance(one, ev.JobNominated)]
    asked = [one for one in yard.last.decisions if isinstance(one, ev.ReleaseAsked)]

    assert len(promised) == len(asked)


def test_a_claim_waits_for_nobody_in_the_queue():
    yard = submit(yard_of("n1: ....\nn2: ....", vision="node=1"), "a: 2", "b: 4", "r: 4")

    assert yard.picture() == text("n1: AA..\nn2: RRRR\nwaiting: b")


def test_the_cell_is_closed_when_the_last_has_left():
    yard = submit(yard_of("n1: ....\nn2: ....", vision="node=1"), "a: 2", "r: 1", "r2: 1")
    yard.ended("r.1").turn()
    book = yard.state.book
    assert book is not None
    assert list(book.left.values()) == [0]

    yard.ended("r2.1").turn()

    assert yard.state.book is not None
    assert list(yard.state.book.left.values()) == [1]


REFUSED = {
    "more nodes than there are": ("node=3", "*", "3 node cells of H100 would be promised, but"),
    "leaves and nodes that need each other": ("leaf=1 node=1", "*", "3 node cells of H100"),
    "a level that is none": ("rack=1", "*", "rack is no level of cells there"),
    "another provisioning": ("node=1", "spot", "cells are claimed by reserved work, not by spot"),
    "another model": ("node@A100=1", "*", "no public node of group * has GPUs for node@A100"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_yard_cannot_keep_is_refused_with_a_guide(case):
    levels, provisioning, words = REFUSED[case]
    yard = Yard("n1: .... at=b/l\nn2: .... at=b/l")
    cells = tuple((one.split("=")[0], int(one.split("=")[1])) for one in levels.split())
    rejected = judge_quota(yard.state, Quota("project:default", "*", provisioning, cells=cells))

    assert rejected is not None
    said, tries = quota_guide(rejected)
    assert said.startswith(words)
    assert tries


def test_a_quota_that_lost_a_race_is_not_folded():
    yard = yard_of("n1: ....", vision="node=1", speech="node=1")

    assert list(yard.state.settings.quotas) == ["project:vision/*/*"]


def test_nodes_of_a_private_zone_are_in_no_chain():
    yard = Yard("n1: ....")
    yard.fact(ev.ZoneSet(Zone("lab", owners=("project:default",)))).turn()
    yard.seen("n1", zone="lab").turn()
    rejected = judge_quota(yard.state, Quota("project:default", cells=(("node", 1),)))

    assert rejected is None, "a yard without public nodes promises anything: nodes may come"


def test_doomed_cells_are_told_with_their_nodes():
    yard = yard_of("n1: ....\nn2: ....", vision="node=2")
    yard.seen("n2", healthy=~1).turn()
    (one,) = standings(yard.state.snapshot(yard.now_ms))

    assert (one.ready, one.doomed, one.nodes) == (1, 1, ("n2",))
    assert standing_words(one) == (
        "node (H100): 2 promised, 0 opened, 1 ready; 1 doomed (n2 not in full service)"
    )


def test_work_that_was_there_before_the_promise_is_told():
    yard = submit(Yard("n1: ....\nn2: ...."), "a: 1")
    yard.fact(ev.QuotaSet(Quota("project:default", cells=(("node", 2),)))).turn()
    (one,) = standings(yard.state.snapshot(yard.now_ms))

    assert (one.ready, one.doomed, one.occupied, one.jobs) == (1, 0, 1, ("a",))


def test_why_says_what_holds_firm_work_back():
    yard = submit(yard_of("n1: ....", vision="node=1"), "a: 1")
    told = why(yard.state.snapshot(yard.now_ms), "a")

    assert told.code == "cells"
    assert "would break cells promised to others: project:vision 1 node" in told.text


@pytest.mark.parametrize(
    ("good", "sizes", "counts"),
    [
        (0b1111_1111, (1, 2, 4, 8), (8, 4, 2, 1)),
        (0b1111_1110, (1, 2, 4, 8), (7, 3, 1, 0)),
        (0b0110_0110, (1, 2, 4, 8), (4, 0, 0, 0)),  # pairs are aligned: 1 and 2 are none
        (0b111_111, (1, 2, 6), (6, 3, 1)),
        (0b1, (1, 1), (1, 1)),
        (0, (1, 2, 4), (0, 0, 0)),
    ],
)
def test_whole_cells_of_a_node(good, sizes, counts):
    assert tuple(firsts.bit_count() for firsts in whole_cells(good, sizes)) == counts
