"""What is said of gangs that the network keeps waiting, or that no domain can ever hold."""

import pytest

from madang.core.admission import judge
from madang.core.explain import guide, why
from tests.core.yard import Yard

YARD = """n0: ........ at=b0/l0
          n1: AAAAAAAA at=b0/l0
          n2: ........ at=b0/l1
          n3: CCCCCCCC at=b1/l2
          n4: ........ at=b1/l2"""


@pytest.mark.parametrize(
    ("job", "code", "text"),
    [
        (
            "d: 2x8 within=leaf",
            "network",
            (
                "needs 2 members × 8 GPUs: all must be within one leaf; the leaf with the most "
                "room, l0, has room for 1 of 2 members; anywhere there is room for 2"
            ),
        ),
        (
            "d: 3x8",
            "network",
            (
                "needs 3 members × 8 GPUs: all must be within one block; the block with the most "
                "room, b0, has room for 2 of 3 members; anywhere there is room for 3"
            ),
        ),
        (
            "d: 4x4 segments=leaf:4",
            "network",
            (
                "needs 4 members × 4 GPUs: in segments within one leaf there is room for 0 of "
                "4 members; anywhere there is room for 4"
            ),
        ),
        (
            "d: 2x8 switches=1 wait_s=90",
            "network",
            (
                "needs 2 members × 8 GPUs: on 1 leaf switches there is room for 1 of 2 members "
                "(any number will do in 89 s); anywhere there is room for 2"
            ),
        ),
        (
            "d: 4x8 within=any",
            "capacity",
            (
                "needs 4 members × 8 GPUs; 24 of 40 such GPUs are free, at most 8 on one node: "
                "room for 3 of 4 members"
            ),
        ),
        (
            "d: 8x8 min=3",
            "network",
            (
                "needs 8 members × 8 GPUs: all must be within one block; the block with the most "
                "room, b0, has room for 2 of at least 3 members; anywhere there is room for 3"
            ),
        ),
    ],
)
def test_why_says_which_level_binds_and_how_much_room_its_best_domain_has(job, code, text):
    yard = Yard(YARD).submit(job).turn(wait_ms=10)
    yard.turn(wait_ms=100)

    found = why(yard.state.snapshot(yard.now_ms), "d")

    assert (found.code, found.text) == (code, text)


def test_why_says_so_when_the_nodes_in_service_could_never_hold_it_together():
    yard = Yard(YARD).submit("d: 3x8").cordon("n1").turn()

    found = why(yard.state.snapshot(yard.now_ms), "d")

    assert (found.code, found.text) == (
        "out_of_service",
        (
            "needs 3 members × 8 GPUs; of the nodes in service, all must be within one block; the "
            "block with the most room, b0, has room for 2 of 3 members; anywhere there is room for "
            "3"
        ),
    )


@pytest.mark.parametrize(
    ("line", "code", "text", "tries"),
    [
        (
            "d: 4x8",
            "domain_too_small",
            (
                "4 members × 8 GPUs asked within one block (the policy's default for training on "
                "several nodes), but the largest, b0, holds 3 such members"
            ),
            ("--within any: anywhere in the yard", "--members 3"),
        ),
        (
            "d: 3x8 within=leaf",
            "domain_too_small",
            "3 members × 8 GPUs asked within one leaf, but the largest, l0, holds 2 such members",
            ("--within any: anywhere in the yard", "--members 2"),
        ),
        (
            "d: 6x4 segments=leaf:6",
            "segments_too_large",
            (
                "6 members × 4 GPUs asked in segments within one leaf, but all of them together "
                "have room for 0 such members"
            ),
            ("smaller segments",),
        ),
        (
            "d: 3x8 switches=1",
            "switches_too_few",
            (
                "3 members × 8 GPUs asked on at most 1 leaf switches, but the largest so many hold "
                "2 such members"
            ),
            ("--members 2", "--max-wait 10m: after that any number will do", "more switches"),
        ),
        (
            "d: 2x8 within=rack",
            "unknown_level",
            "the network has no level rack; there are: any block leaf node",
            ("choose one of them, or a tier: 1 is the leaf switch, 2 the next",),
        ),
        (
            "d: 12x1 segments=leaf:6,node:4",
            "segments",
            (
                "12 members × 1 GPU asked in segments of 6 and 4: members must be a multiple of "
                "each segment, and each segment of the smaller ones"
            ),
            ("segments that divide 12, or other --members",),
        ),
        ("d: 5x8 within=any", None, "", ()),
        ("d: 3x8 switches=1 wait_s=60", None, "", ()),
    ],
)
def test_what_no_domain_can_ever_hold_is_rejected_with_a_guide(line, code, text, tries):
    yard = Yard(YARD)
    job = yard.job(line)

    rejected = judge(yard.state.view(0), job)

    assert (rejected and rejected.code) == code
    if rejected is not None:
        told = guide(job, rejected)
        assert (told.text, told.tries) == (text, tries)
    else:
        assert yard.submit(line).turn().picture()


def test_without_a_tree_a_named_level_is_one_node_and_that_is_told():
    yard = Yard("n0: ....\nn1: ....")
    job = yard.job("d: 2x4 within=leaf")

    rejected = judge(yard.state.view(0), job)

    assert rejected is not None
    assert guide(job, rejected).text == (
        "2 members × 4 GPUs asked within one leaf, but no node names its leaf, so each counts as "
        "one of its own"
    )
