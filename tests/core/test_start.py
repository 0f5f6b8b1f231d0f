"""The start pass, as a table of little clusters: before, the jobs, after."""

import pytest

from tests.core.yard import Yard, after, text

CASES = {
    "a job takes the lowest free devices": (
        "n1: ........",
        ["b: 2"],
        "n1: BB......",
    ),
    "the fullest node that fits comes first": (
        """n1: ........
           n2: AAAA....""",
        ["b: 4"],
        """n1: ........
           n2: AAAABBBB""",
    ),
    "of equally full nodes the first one": (
        """n1: ....
           n2: ....""",
        ["b: 1"],
        """n1: B...
           n2: ....""",
    ),
    "a full node is passed over": (
        """n1: AAA.
           n2: ....""",
        ["b: 2"],
        """n1: AAA.
           n2: BB..""",
    ),
    "a gang fits on one node and is kept there": (
        """n1: A...
           n2: ....""",
        ["b: 4x1"],
        """n1: A...
           n2: BBBB""",
    ),
    "a gang that needs two nodes takes the emptiest, then the fullest that takes the rest": (
        """n1: A...
           n2: ....
           n3: DD..""",
        ["b: 6x1"],
        """n1: A...
           n2: BBBB
           n3: DDBB""",
    ),
    "a gang without room for all gets nothing and holds its place": (
        """n1: A...
           n2: A...""",
        ["b: 2x4", "c: 1"],
        """n1: A...
           n2: A...
           waiting: b c""",
    ),
    "a gang larger than what is open lets others pass": (
        """n1: ....
           n2: .... cordoned""",
        ["b: 2x4", "c: 1"],
        """n1: C...
           n2: .... cordoned
           waiting: b""",
    ),
    "higher priority starts first": (
        "n1: ..",
        ["b: 2", "c: 2 priority=1"],
        "n1: CC\nwaiting: b",
    ),
    "first come, first served within a class": (
        "n1: ..",
        ["b: 2", "c: 2"],
        "n1: BB\nwaiting: c",
    ),
    "a job of another model passes one that waits": (
        """n1: A. model=H100
           n2: .. model=L4""",
        ["b: 2 model=H100", "c: 1 model=L4", "d: 1 model=H100"],
        """n1: A.
           n2: C.
           waiting: b d""",
    ),
    "a job for any model waits behind one that waits for any": (
        """n1: A. model=H100
           n2: A. model=L4""",
        ["b: 2", "c: 1 model=L4"],
        """n1: A.
           n2: A.
           waiting: b c""",
    ),
    "a job for two models is held back by either": (
        """n1: A. model=H100
           n2: .. model=L4""",
        ["b: 2 model=H100", "c: 1 model=H100|L4"],
        """n1: A.
           n2: ..
           waiting: b c""",
    ),
    "a job for two models takes what there is": (
        """n1: AA model=H100
           n2: .. model=L4""",
        ["b: 1 model=H100|L4"],
        """n1: AA
           n2: B.""",
    ),
    "CPU-only jobs do not wait for GPUs": (
        "n1: A. cpus=8",
        ["b: 2", "c: 0 cpus=4"],
        "n1: A.\nwaiting: b",
    ),
    "CPU-only jobs wait for CPUs in their own order": (
        "n1: .. cpus=8",
        ["b: 0 cpus=6", "c: 0 cpus=4", "d: 0 cpus=1"],
        "n1: ..\nwaiting: c d",
    ),
    "CPUs bound what a node takes": (
        """n1: .... cpus=7
           n2: .... cpus=8""",
        ["b: 2x2 cpus=4"],
        """n1: ....
           n2: BBBB""",
    ),
    "memory bounds what a node takes": (
        """n1: .... memory=100
           n2: .... memory=300""",
        ["b: 2 memory=200"],
        """n1: ....
           n2: BB..""",
    ),
    "ill devices are not given": (
        "n1: x.x.",
        ["b: 2"],
        "n1: xBxB",
    ),
    "shares go to the fullest device that fits": (
        "n1: .{A}..",
        ["b: 1 share=500"],
        "n1: .{AB}..",
    ),
    "two shares of more than half do not meet on a device": (
        "n1: ..",
        ["b: 1 share=600", "c: 1 share=600"],
        "n1: {B}{C}",
    ),
    "a whole device is not a used one": (
        "n1: {A}.",
        ["b: 1", "c: 1"],
        "n1: {A}B\nwaiting: c",
    ),
    "members of a gang may share a device": (
        "n1: ..",
        ["b: 3x1 share=500"],
        "n1: {BB}{B}",
    ),
    "cordoned and lost nodes take no work": (
        """n1: .... cordoned
           n2: .... lost""",
        ["b: 1"],
        """n1: .... cordoned
           n2: .... lost
           waiting: b""",
    ),
    "a node without devices takes CPU-only work first": (
        """n1: .... cpus=8
           n2: - cpus=8""",
        ["b: 0 cpus=8", "c: 4 cpus=8"],
        """n1: CCCC
           n2:""",
    ),
    "nothing is there": ("", ["b: 1"], "waiting: b"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_start_pass(case):
    before, jobs, expected = CASES[case]

    assert after(before, *jobs) == text(expected)


def test_a_project_at_its_quota_lets_others_pass():
    yard = Yard("n1: ....").quota("vision", 1).turn()

    yard.submit("b: 1 project=vision", "c: 1 project=vision", "d: 1").turn()

    assert yard.picture() == text("n1: BD..\nwaiting: c")


def test_a_raised_quota_starts_what_waited_for_it():
    yard = Yard("n1: ....").quota("vision", 0).turn().quota("vision", 2).turn()
    yard.submit("b: 1 project=vision", "c: 2 project=vision").turn()
    assert yard.picture() == text("n1: B...\nwaiting: c")

    yard.quota("vision", 3).turn()

    assert yard.picture() == text("n1: BCC.")


def test_a_turn_places_no_more_than_its_bound_and_the_next_goes_on(monkeypatch):
    monkeypatch.setattr("madang.core.passes.start.BINDS_PER_TURN_MAX", 2)
    monkeypatch.setattr("madang.core.controller.BINDS_PER_TURN_MAX", 2)
    yard = Yard("n1: ....").submit("b: 1", "c: 1", "d: 1").turn()
    assert yard.picture() == text("n1: BC..\nwaiting: d")

    assert yard.controller.due_ms(yard.now_ms) == yard.now_ms
    assert yard.turn().picture() == text("n1: BCD.")


def test_a_head_that_is_stopped_lets_the_next_one_start_at_once():
    yard = Yard("n1: A.").submit("b: 2", "c: 1").turn()
    assert yard.picture() == text("n1: A.\nwaiting: b c")

    assert yard.stop("b").turn().picture() == text("n1: AC")


def test_a_job_in_its_back_off_holds_nobody_back():
    yard = Yard("n1: .").submit("b: 1 retries=3").turn()
    yard.started("b.1").ended("b.1", code=1).settled()

    assert yard.submit("c: 1").turn().picture() == text("n1: C\nwaiting: b")
