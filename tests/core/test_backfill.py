"""The backfill pass: others may start if the reservations at the head hold."""

import pytest

from madang.core import events as ev
from madang.core.estimates import NEVER_MS, left
from madang.core.model import Exit
from madang.core.policies import POLICIES
from tests.core.yard import Yard, text

EASY, CONSERVATIVE = POLICIES["easy"], POLICIES["conservative"]

# (the yard, seconds that those who run are expected to, the jobs, the yard after)
CASES = {
    "one that has ended by then passes": (
        "n1: AA..",
        {"a": 100},
        ["b: 4 estimate_s=50", "c: 2 estimate_s=90"],
        "n1: AACC\nwaiting: b",
    ),
    "one that has not does not": (
        "n1: AA..",
        {"a": 100},
        ["b: 4 estimate_s=50", "c: 2 estimate_s=110"],
        "n1: AA..\nwaiting: b c",
    ),
    "one that stays beside the reservation passes however long": (
        "n1: AA..\nn2: D...",
        {"a": 100, "d": 10},
        ["b: 4 estimate_s=50", "c: 2 estimate_s=9999"],
        "n1: AACC\nn2: D...\nwaiting: b",
    ),
    "two that fit alone beside it do not both": (
        "n1: AAA.....",
        {"a": 100},
        ["b: 6 estimate_s=50", "c: 2 estimate_s=500", "d: 1 estimate_s=500"],
        "n1: AAA...CC\nwaiting: b d",
    ),
    "one whose length nobody knows does not pass": (
        "n1: AA..",
        {"a": 100},
        ["b: 4 estimate_s=50", "c: 2"],
        "n1: AA..\nwaiting: b c",
    ),
    "a time limit is an estimate too": (
        "n1: AA..",
        {"a": 100},
        ["b: 4 estimate_s=50", "c: 2 limit_s=90"],
        "n1: AACC\nwaiting: b",
    ),
    "one like another is judged by its own time limit": (
        "n1: AA..",
        {"a": 100},
        ["b: 4 estimate_s=50", "c: 2 limit_s=900", "d: 2 limit_s=90"],
        "n1: AADD\nwaiting: b c",
    ),
    "what this turn starts counts in the reservation": (
        "n1: ....",
        {},
        ["a: 2 estimate_s=100", "b: 4 estimate_s=50", "c: 2 estimate_s=110"],
        "n1: AA..\nwaiting: b c",
    ),
    "when nobody knows when the head can start nobody passes it": (
        "n1: AA..",
        {},
        ["b: 4 estimate_s=50", "c: 2 estimate_s=1"],
        "n1: AA..\nwaiting: b c",
    ),
    "one that no open node could ever hold is passed": (
        "n1: AA..\nn2: ........ cordoned",
        {},
        ["b: 8 estimate_s=50", "c: 2 estimate_s=10"],
        "n1: AACC\nn2: ........ cordoned\nwaiting: b",
    ),
    "another model is not held back": (
        "n1: AA.. model=H100\nn2: .... model=L4",
        {"a": 100},
        ["b: 4 estimate_s=50 model=H100", "c: 2 estimate_s=900 model=L4"],
        "n1: AA..\nn2: CC..\nwaiting: b",
    ),
    "a gang is given a start on several nodes": (
        "n1: AA..\nn2: DD..",
        {"a": 100, "d": 200},
        ["b: 2x4 estimate_s=50", "c: 2 estimate_s=190", "e: 2 estimate_s=250"],
        "n1: AACC\nn2: DD..\nwaiting: b e",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_easy_lets_pass_whom_the_head_does_not_miss(case):
    picture, estimates_s, jobs, expected = CASES[case]
    yard = Yard(picture).under(EASY, estimates_s=estimates_s)

    assert yard.submit(*jobs).turn().picture() == text(expected)


def test_conservative_keeps_the_start_of_the_second_too():
    picture, estimates_s = "n1: AA..\nn2: FFF.", {"a": 100, "f": 120}
    jobs = ["b: 4 estimate_s=50", "c: 4 estimate_s=50", "e: 1 estimate_s=400"]

    easy = Yard(picture).under(EASY, estimates_s=estimates_s).submit(*jobs).turn()
    conservative = Yard(picture).under(CONSERVATIVE, estimates_s=estimates_s).submit(*jobs).turn()
    assert easy.picture() == "n1: AA..\nn2: FFFE\nwaiting: b c"
    assert conservative.picture() == "n1: AA..\nn2: FFF.\nwaiting: b c e"


def test_the_end_of_the_first_reservation_is_the_start_of_the_second():
    yard = Yard("n1: AA..").under(CONSERVATIVE, estimates_s={"a": 100})
    # b from 100 to 150, c from 150; 160 s would run into c, 140 s into b.
    yard.submit("b: 4 estimate_s=50", "c: 4 estimate_s=50", "d: 2 estimate_s=140").turn()
    assert yard.picture() == "n1: AA..\nwaiting: b c d"
    yard.submit("e: 2 estimate_s=90").turn()

    assert yard.picture() == "n1: AAEE\nwaiting: b c d"


def test_the_head_starts_when_it_was_told_and_the_one_that_passed_has_ended():
    yard = Yard("n1: AA..").under(EASY, estimates_s={"a": 100})
    yard.submit("b: 4 estimate_s=50", "c: 2 estimate_s=90").turn().started("c.1")
    yard.turn(wait_ms=90_000).ended("c.1").turn().ended("a.1").turn()

    assert "bind b.1" in yard.decisions()


def test_cpus_are_reserved_as_devices_are():
    yard = Yard("n1: A. cpus=8").under(EASY, estimates_s={"a": 100})
    live = yard.state.jobs["a"]
    assert live.job.shape.cpu_milli == 0
    yard.submit("b: 2 cpus=8 estimate_s=50", "c: 0 cpus=4 estimate_s=200").turn()

    assert yard.picture() == "n1: A.\nwaiting: b c"
    yard.submit("d: 0 cpus=8 estimate_s=90").turn()
    assert "bind d.1" in yard.decisions()


def test_a_job_under_another_policy_is_never_reserved_for():
    yard = Yard("n1: AA..").under(POLICIES["fifo"], estimates_s={"a": 100})

    assert yard.submit("b: 4", "c: 2 estimate_s=1").turn().decisions() == []


def test_what_outran_its_estimate_is_expected_to_take_as_long_again():
    yard = Yard("")
    job = yard.job("a: 1 estimate_s=100")

    def end_ms(job, ran_ms, before_ms=0):
        return left({}, 0, job, before_ms=before_ms, ran_ms=ran_ms).end_ms(ran_ms)

    assert end_ms(job, 50_000) == 100_000
    assert end_ms(job, 100_000) == 200_001
    assert end_ms(job, 150_000) == 300_001
    assert end_ms(job, 20_000, before_ms=30_000) == 70_000
    assert end_ms(yard.job("a: 1 estimate_s=100 limit_s=250"), 150_000) == 250_000
    assert end_ms(yard.job("a: 1 limit_s=100"), 40_000) == 100_000
    assert end_ms(yard.job("a: 1 limit_s=100"), 40_000, before_ms=90_000) == 100_000
    assert end_ms(yard.job("a: 1 limit_s=100"), 300_000) == 600_001
    assert end_ms(yard.job("a: 1"), 1) == NEVER_MS


def test_an_attempt_on_a_lost_node_is_not_waited_for():
    yard = (
        Yard("n1: ..\nn2: AA")
        .under(EASY, estimates_s={"a": 100})
        .submit("b: 2 estimate_s=50")
        .turn()
    )
    yard.started("b.1").lost("n1").turn().turn()
    assert yard.picture() == "n1: BB lost\nn2: AA\nwaiting: b"
    yard.submit("c: 1 estimate_s=10").turn()

    assert yard.picture() == "n1: BB lost\nn2: AA\nwaiting: b c"
    yard.fact(ev.MemberEnded("a.1", 0, Exit(0), yard.now_ms)).turn()
    assert "bind b.2" in yard.decisions()
