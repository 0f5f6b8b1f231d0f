"""Quotas over little clusters: limits are never exceeded, guarantees are given back on demand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.check import check_quota
from madang.core.model import Project, Shape
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import Policy, Victims
from madang.core.quotas import Book, covered
from madang.core.settings import Hole, Quota
from tests.core.yard import Yard, text

PROJECTS = {"vision": "lab", "speech": "lab", "text": "other"}


def yard(picture: str, *quotas: Quota) -> Yard:
    made = Yard(picture).fact(ev.PolicySet(MADANG))
    for name, workspace in PROJECTS.items():
        made.fact(ev.ProjectSet(Project(name, workspace)))
    for quota in quotas:
        made.fact(ev.QuotaSet(quota))
    return made.turn()


def of(owner: str, text: str = "", **more: int) -> Quota:
    """`of("project:vision", "h100 spot", limit=4)`: GPUs; `*` where nothing is said."""
    group, provisioning = (*text.split(), "*", "*")[:2]
    return Quota(
        owner,
        group,
        provisioning,
        guaranteed_milli=more.get("guaranteed", 0) * 1000,
        limit_milli=more["limit"] * 1000 if "limit" in more else -1,
        weight=more.get("weight", 1),
    )


LIMITS = {
    "a project's limit lets others pass": (
        "n1: ........",
        [of("project:vision", limit=2)],
        ["b: 2 project=vision", "c: 1 project=vision", "d: 1 project=text"],
        "n1: BBD.....\nwaiting: c",
    ),
    "a workspace's limit counts its projects together": (
        "n1: ........",
        [of("workspace:lab", limit=4)],
        ["b: 3 project=vision", "c: 2 project=speech", "d: 1 project=speech", "e: 2 project=text"],
        "n1: BBBDEE..\nwaiting: c",
    ),
    "a limit in one machine group sends jobs to another": (
        """n1: .... group=old
           n2: .... group=new""",
        [of("project:vision", "old", limit=2)],
        ["b: 2 project=vision", "c: 2 project=vision"],
        """n1: BB..
           n2: CC..""",
    ),
    "who is at the limit of a group waits though the group has room": (
        "n1: ....",
        [of("project:vision", "default", limit=2)],
        ["b: 2 project=vision", "c: 1 project=vision", "d: 1 project=text"],
        "n1: BBD.\nwaiting: c",
    ),
    "a limit on spot is no limit on the rest": (
        "n1: ........",
        [of("project:vision", "* spot", limit=1)],
        [
            "b: 1 project=vision provisioning=spot",
            "c: 1 project=vision provisioning=spot",
            "d: 2 project=vision",
        ],
        "n1: BDD.....\nwaiting: c",
    ),
    "an owner of weight 0 borrows nothing": (
        "n1: ........",
        [of("project:vision", guaranteed=2, weight=0)],
        ["b: 2 project=vision", "c: 1 project=vision", "d: 1 project=text"],
        "n1: BBD.....\nwaiting: c",
    ),
    "a gang is within its limit whole or it waits": (
        "n1: ........",
        [of("project:vision", limit=4)],
        ["a: 1 project=vision", "b: 4x1 project=vision", "c: 3x1 project=vision"],
        "n1: ACCC....\nwaiting: b",
    ),
    "an elastic gang starts with as many as its project's limit has room for": (
        "n1: ........",
        [of("project:vision", limit=4)],
        ["b: 8x1 min=2 project=vision", "c: 2 project=text"],
        "n1: BBBBCC..",
    ),
    "and its workspace's": (
        "n1: ........",
        [of("workspace:lab", limit=6)],
        ["a: 3 project=speech", "b: 8x1 min=2 project=vision"],
        "n1: AAABBB..",
    ),
    "but not with fewer than it needs": (
        "n1: ........",
        [of("project:vision", limit=4)],
        ["a: 3 project=vision", "b: 8x1 min=2 project=vision"],
        "n1: AAA.....\nwaiting: b",
    ),
    "and in whole segments": (
        "n1: ........",
        [of("project:vision", limit=5)],
        ["b: 8x1 min=2 segments=node:2 project=vision"],
        "n1: BBBB....",
    ),
    "an elastic gang goes where no limit is, if it gets more there": (
        """n1: ........ group=old
           n2: .... group=new""",
        [of("project:vision", "old", limit=2)],
        ["b: 6x1 min=2 project=vision"],
        """n1: ........
           n2: BBBB""",
    ),
    "and where one is, if it gets more there": (
        """n1: .... group=old
           n2: AAA. group=new""",
        [of("project:vision", "old", limit=3)],
        ["b: 6x1 min=1 project=vision"],
        """n1: BBB.
           n2: AAA.""",
    ),
    "an elastic gang borrows nothing either at weight 0": (
        "n1: ....",
        [of("project:vision", guaranteed=2, weight=0)],
        ["b: 4x1 min=1 project=vision"],
        "n1: BB..",
    ),
    "an elastic gang claims no more of its cells than its limit": (
        "n1: ....",
        [replace(of("project:vision", limit=2), cells=(("node", 1),))],
        ["b: 4x1 min=1 project=vision provisioning=reserved"],
        "n1: BB..",
    ),
}


@pytest.mark.parametrize(("before", "quotas", "jobs", "expected"), LIMITS.values(), ids=LIMITS)
def test_a_limit_is_never_exceeded(
    before: str, quotas: Sequence[Quota], jobs: Sequence[str], expected: str
):
    after = yard(before, *quotas).submit(*jobs).turn()

    assert after.picture() == text(expected)
    check_quota(after.state)


FIRST = {
    "whoever is within a guarantee goes before whoever came first": (
        "n1: ....",
        [of("project:vision", guaranteed=2)],
        ["b: 4 project=text", "c: 2 project=vision"],
        "n1: CC..\nwaiting: b",
    ),
    "and before a higher priority": (
        "n1: ....",
        [of("project:vision", guaranteed=2)],
        ["b: 4 project=text priority=50", "c: 2 project=vision"],
        "n1: CC..\nwaiting: b",
    ),
    "what goes beyond the guarantee waits its turn": (
        "n1: ....",
        [of("project:vision", guaranteed=2)],
        ["b: 2 project=text priority=50", "c: 2 project=vision", "d: 2 project=vision"],
        "n1: CCBB\nwaiting: d",
    ),
    "spot is never within a guarantee": (
        "n1: ..",
        [of("project:vision", guaranteed=2)],
        ["b: 2 project=text", "c: 2 project=vision provisioning=spot"],
        "n1: BB\nwaiting: c",
    ),
    "a guarantee in one group is honoured there": (
        """n1: .. group=old
           n2: .. group=new""",
        [of("project:vision", "new", guaranteed=2)],
        ["b: 2 project=text", "c: 2 project=text", "d: 2 project=vision"],
        """n1: BB
           n2: DD
           waiting: c""",
    ),
    "a workspace's guarantee is for all of its projects": (
        "n1: ....",
        [of("workspace:lab", guaranteed=4)],
        ["b: 4 project=text", "c: 2 project=vision", "d: 2 project=speech"],
        "n1: CCDD\nwaiting: b",
    ),
    "but what one of them has for itself is not for the others": (
        "n1: ....",
        [of("workspace:lab", guaranteed=4), of("project:vision", guaranteed=3)],
        ["b: 2 project=text", "c: 2 project=speech", "d: 1 project=speech"],
        "n1: DBB.\nwaiting: c",
    ),
}


FIRST |= {
    "an elastic gang goes first with as much as its guarantee covers": (
        "n1: ........",
        [of("project:vision", guaranteed=4)],
        ["c: 4 project=text", "b: 8x1 min=2 project=vision"],
        "n1: BBBBCCCC",
    ),
    "and starts with all where nobody else waits": (
        "n1: ........",
        [of("project:vision", guaranteed=4)],
        ["b: 8x1 min=2 project=vision"],
        "n1: BBBBBBBB",
    ),
    "who asks for no GPU is within no guarantee": (
        "n1: .. cpus=4",
        [of("project:vision", guaranteed=2)],
        ["b: 0 cpus=4 project=text", "c: 0 cpus=4 project=vision"],
        "n1: ..\nwaiting: c",
    ),
}


@pytest.mark.parametrize(("before", "quotas", "jobs", "expected"), FIRST.values(), ids=FIRST)
def test_whoever_is_within_a_guarantee_goes_first(
    before: str, quotas: Sequence[Quota], jobs: Sequence[str], expected: str
):
    assert yard(before, *quotas).submit(*jobs).turn().picture() == text(expected)


def test_an_elastic_gang_starts_with_all_where_who_else_waits_could_not_start():
    quotas = [of("project:vision", guaranteed=4), of("project:text", limit=2)]
    made = yard("n1: ........", *quotas).submit("a: 2 project=text").turn()

    made.submit("c: 1 project=text", "b: 8x1 min=2 project=vision").turn()

    assert made.picture() == text("n1: AABBBBBB\nwaiting: c")


def test_an_elastic_gang_that_grows_beyond_its_guarantee_does_not_do_so_again_and_again():
    quotas = [of("project:vision", guaranteed=2), of("project:text", limit=2)]
    made = yard("n1: ......", *quotas).submit("a: 2 project=text").turn()
    made.submit("d: 2 project=text", "b: 8x1 min=2 checkpoints=1 restart_s=1 project=vision")
    made.turn().started("a.1").submit("c: 1 project=text").turn().ended("a.1").settled()
    assert made.phase("b") == "starting"
    made.started("b.1").turn(wait_ms=3_600_000)
    starts = 1
    for _ in range(10):
        if any(word.startswith("release b") for word in made.decisions()):
            made.ended(f"b.{starts}", code=143).settled()
            starts += 1
            made.started(f"b.{starts}").turn()
        made.turn(wait_ms=3_600_000)

    assert starts <= 2


def running(before: str, quotas: Sequence[Quota], *jobs: str) -> Yard:
    """The jobs run, long enough that each may be moved aside."""
    made = yard(before, *quotas)
    for job in jobs:
        made.submit(job).turn(wait_ms=1000)
        made.started(f"{job.partition(':')[0]}.1").turn()
    return made.turn(wait_ms=MADANG.run_ms_min)


GIVEN_BACK = {
    "what others borrowed is given back": (
        "n1: ....",
        [of("project:vision", guaranteed=2)],
        ["a: 2 project=text preemptible=0", "b: 2 project=text preemptible=0"],
        "c: 2 project=vision",
        ["release b.1 preempted 30000", "nominate c"],
    ),
    "what another guarantee covers is not taken": (
        "n1: ....",
        [of("project:vision", guaranteed=2), of("project:text", guaranteed=2)],
        ["a: 2 project=text", "b: 2 project=text"],
        "c: 2 project=vision",
        ["release b.1 preempted 30000", "nominate c"],
    ),
    "the oldest of a project is what its guarantee covers": (
        "n1: ......",
        [of("project:vision", guaranteed=2), of("project:text", guaranteed=4)],
        ["a: 4 project=text", "b: 2 project=text"],
        "c: 2 project=vision",
        ["release b.1 preempted 30000", "nominate c"],
    ),
    "what does not fit whole in a guarantee is borrowed whole": (
        "n1: ....",
        [of("project:vision", guaranteed=1), of("project:text", guaranteed=3)],
        ["a: 4 project=text"],
        "c: 1 project=vision",
        ["release a.1 preempted 30000", "nominate c"],
    ),
    "who is beyond a guarantee takes nothing back": (
        "n1: ....",
        [of("project:vision", guaranteed=2)],
        ["a: 2 project=text", "b: 2 project=vision"],
        "c: 2 project=vision",
        [],
    ),
    "the own spot jobs make room too": (
        "n1: ....",
        [of("project:vision", guaranteed=2), of("project:text", guaranteed=2)],
        ["a: 2 project=text", "b: 2 project=vision provisioning=spot"],
        "c: 2 project=vision",
        ["release b.1 preempted 30000", "nominate c"],
    ),
}


@pytest.mark.parametrize(
    ("before", "quotas", "jobs", "asked", "expected"), GIVEN_BACK.values(), ids=GIVEN_BACK
)
def test_what_is_lent_is_given_back_on_demand(
    before: str, quotas: Sequence[Quota], jobs: Sequence[str], asked: str, expected: list[str]
):
    after = running(before, quotas, *jobs).submit(asked).turn()

    assert sorted(after.decisions()) == sorted(expected)


@pytest.mark.parametrize("victims", [Victims.CHEAPEST, Victims.LAST])
def test_an_elastic_gang_takes_back_no_more_than_its_guarantee_covers(victims: Victims):
    quotas = [of("project:vision", guaranteed=3)]
    after = running("n1: ....", quotas, "a: 2 project=text", "b: 2 project=text")
    after.fact(ev.PolicySet(replace(MADANG, victims=victims))).turn()

    after.submit("c: 8x1 min=1 project=vision").turn()
    assert "nominate c" in after.decisions()
    assert len([one for one in after.decisions() if one.startswith("release")]) == 1
    after.ended("b.1", code=143).settled()

    assert after.picture() == text("n1: AACC\nwaiting: b")


@pytest.mark.parametrize("victims", [Victims.CHEAPEST, Victims.LAST])
def test_nobody_leaves_for_members_above_a_limit(victims: Victims):
    quotas = [of("project:vision", limit=1)]
    after = running("n1: ..", quotas, "a: 1 project=text", "b: 1 project=text")
    after.fact(ev.PolicySet(replace(MADANG, victims=victims))).turn()

    after.submit("c: 2x1 min=1 project=vision priority=9").turn()

    assert sorted(after.decisions()) == ["nominate c", "release b.1 preempted 30000"]
    assert len(after.state.nominations["c"]) == 1


def test_a_promise_to_an_elastic_gang_is_void_above_a_limit_lowered_since():
    quotas = [of("project:vision", guaranteed=4)]
    after = running("n1: ....", quotas, "a: 4 project=text")
    after.submit("c: 4x1 min=1 project=vision").turn()
    assert len(after.state.nominations["c"]) == 4

    after.fact(ev.QuotaSet(of("project:vision", guaranteed=2, limit=2))).ended("a.1", code=143)
    after.settled()

    assert after.picture() == text("n1: CC..\nwaiting: a")


def test_a_hole_for_all_members_is_not_taken_by_a_part():
    made = yard("n1: ....", of("project:vision", limit=2))
    hole = Hole("h", Shape(1), 4, made.now_ms + 60_000)
    made.fact(ev.HoleAsked(hole)).turn().submit("b: 4x1 min=1 project=vision").settled()

    assert made.picture() == text("n1: ....\nwaiting: b")


def test_a_limit_lowered_below_what_is_held_keeps_nobody_who_asks_for_no_gpu():
    made = yard("n1: ....").submit("b: 2 project=vision").turn()
    made.fact(ev.QuotaSet(of("project:vision", limit=1))).quota("speech", 0)

    made.submit("c: 0 cpus=1 project=vision", "d: 0 cpus=1 project=speech").turn()

    assert sorted(made.decisions()) == ["bind c.1", "bind d.1"]


@pytest.mark.parametrize("policy", [MADANG, POLICIES["tiresias"]], ids=["madang", "tiresias"])
def test_spot_takes_nothing_from_its_own_project_that_a_guarantee_covers(policy: Policy):
    after = running("n1: ..", [of("project:vision", guaranteed=2)])
    after.fact(ev.PolicySet(policy)).submit("s: 2 project=vision provisioning=spot moves=1").turn()
    after.started("s.1").turn(wait_ms=MADANG.run_ms_min).submit("c: 2 project=vision moves=1")
    after.turn().ended("s.1", code=143).settled()
    after.started("c.1").turn(wait_ms=MADANG.run_ms_min)

    assert after.picture() == text("n1: CC\nwaiting: s")
    assert not after.decisions()


def test_a_guarantee_is_kept_within_one_turn_of_grace():
    after = running(
        "n1: ....", [of("project:vision", guaranteed=2)], "a: 2 project=text", "b: 2 project=text"
    )
    after.submit("c: 2 project=vision").turn().ended("b.1", code=143).turn()

    assert after.phase("c") == "starting"


def test_an_allocation_that_is_asked_to_end_is_covered_no_more():
    made = running("n1: ....", [of("project:text", guaranteed=2)], "a: 2 project=text")

    assert covered(made.state.view(made.now_ms)) == {"a.1"}
    made.stop("a").turn()
    assert covered(made.state.view(made.now_ms)) == set()


def test_a_book_counts_what_it_is_told_as_what_is_held():
    quotas = [
        of("project:vision", limit=8),
        of("workspace:lab", guaranteed=8),
        of("workspace:lab", "default spot", limit=3),
    ]
    made = yard("n1: ........", *quotas).submit("b: 2 project=vision").turn()
    told, asked = Book(made.state), made.job("c: 1 project=speech provisioning=spot")
    before = {quota.key: told.held_of(quota) for quota in quotas}
    told.take(asked, {"default": 1000})
    fresh = Book(made.state, told.held_milli)

    assert before == {quotas[0].key: 2000, quotas[1].key: 2000, quotas[2].key: 0}
    for quota in quotas:
        assert told.held_of(quota) == fresh.held_of(quota)
    assert told.held_of(quotas[1]) == 3000
    assert told.held_of(quotas[2]) == 1000


def test_a_dropped_quota_binds_nobody():
    made = yard("n1: ....").submit("b: 1 project=vision")
    made.fact(ev.QuotaSet(of("project:vision", limit=0))).turn()
    assert made.picture() == text("n1: ....\nwaiting: b")

    made.fact(ev.SettingDropped("quotas", "project:vision/*/*")).turn()
    assert made.picture() == text("n1: B...")
