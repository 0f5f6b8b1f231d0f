"""What each policy prefers, on clusters small enough to see it."""

from collections import Counter

import pytest

from madang.core.scoring import (
    BestFit,
    Board,
    DotProduct,
    Madang,
    MostAllocated,
    Packing,
    Place,
    Policy,
    Random,
    fgd_of,
    typical_of,
    why_unplaced,
)
from tests.scoring.little import pool, shape, told

TWINS = """
    a: 1000 1000 | 16 cores, 64 GiB
    b: 1000 1000 | 16 cores, 64 GiB
"""
ONE_USED = """
    a: 1000 1000 | 16 cores, 64 GiB
    b: 1000 0    | 16 cores, 64 GiB
"""
SLICES = """
    a: 1000 1000 | 64 cores, 64 GiB
    b: 530  690  | 64 cores, 64 GiB
"""


def typical(*counted: tuple[str, int]):
    return typical_of((shape(text), count) for text, count in counted)


def fgd(*counted: tuple[str, int]) -> Policy:
    return fgd_of(typical(*counted))


def all_policies() -> list[Policy]:
    known = fgd(("1x1000 4c 8g", 3), ("1x500 2c 4g", 2))
    return [
        known,
        BestFit(),
        DotProduct(),
        MostAllocated(),
        Packing(),
        Random(key=7),
        Madang(),
    ]


@pytest.mark.parametrize(
    ("policy", "cluster", "asked", "expected"),
    [
        (BestFit(), ONE_USED, "1x1000 4c 8g", "b 0"),
        (BestFit(), SLICES, "1x470 4c 8g", "b 0"),
        (DotProduct(), ONE_USED, "1x1000 4c 8g", "b 0"),
        (MostAllocated(), ONE_USED, "1x1000 4c 8g", "b 0"),
        (MostAllocated(), SLICES, "1x600 4c 8g", "b 1"),
        (Packing(), ONE_USED, "1x1000 4c 8g", "b 0"),
        (Packing(), SLICES, "1x470 4c 8g", "b 0"),
        (Packing(), TWINS, "4c 8g", "a"),
        (fgd(("1x1000 1c 1g", 1)), SLICES, "1x470 4c 8g", "b 0"),
        (fgd(("2x1000 1c 1g", 1)), ONE_USED, "1x1000 4c 8g", "b 0"),
        (fgd(("1x500 1c 1g", 1)), "a: 700 500 | 9 cores, 9 GiB", "1x200 1c 1g", "a 0"),
        (Madang(), TWINS, "1x1000 4c 8g", "a 0"),
        (Madang(), "a: 900 700 | 9 cores, 9 GiB", "1x300 1c 1g", "a 1"),
    ],
)
def test_a_policy_prefers(policy: Policy, cluster: str, asked: str, expected: str):
    made, names = pool(cluster)

    assert told(names, Board(made, policy).choose(shape(asked))) == expected


@pytest.mark.parametrize("policy", all_policies(), ids=lambda policy: policy.name)
@pytest.mark.parametrize(
    ("cluster", "asked", "reason"),
    [
        (TWINS, "1x1000 17c 8g", "cpu"),
        (TWINS, "1x1000 1c 65g", "memory"),
        (TWINS, "3x1000 1c 1g", "gpu"),
        ("a: 600 600 | 9 cores, 9 GiB", "1x1000 1c 1g", "gpu"),
        ("a: 1000 | 9 cores, 9 GiB, T4", "1x1000 1c 1g m1", "model"),
        ("a: | 9 cores, 9 GiB", "1x1000 1c 1g", "gpu"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(
    policy: Policy, cluster: str, asked: str, reason: str
):
    made, names = pool(cluster)

    assert told(names, Board(made, policy).choose(shape(asked))) == f"no: {reason}"


@pytest.mark.parametrize("policy", all_policies(), ids=lambda policy: policy.name)
def test_a_closed_node_takes_nothing(policy: Policy):
    made, names = pool(TWINS)
    made.open[0] = False

    assert told(names, Board(made, policy).choose(shape("1x1000 1c 1g"))).startswith("b")
    made.open[1] = False
    assert told(names, Board(made, policy).choose(shape("4x1000 1c 1g"))) == "no: closed"


def test_reasons_count_each_node_once_at_its_first_filter():
    made, _ = pool("""
        a: 1000 | 1 cores, 1 GiB, T4
        b: 500  | 9 cores, 9 GiB, T4
        c: 1000 | 9 cores, 9 GiB, V100
        d: 1000 | 9 cores, 1 GiB, T4
    """)

    unplaced = why_unplaced(made, shape("1x1000 4c 4g m0"))

    counts = (unplaced.closed, unplaced.model, unplaced.gpu, unplaced.cpu, unplaced.memory)
    assert counts == (0, 1, 1, 1, 1)


def test_random_spreads_over_nodes_and_devices_and_repeats_with_its_key():
    made, names = pool(TWINS)
    asked = shape("1x100 0c 0g")
    draws = []
    for _ in range(2):
        board = Board(made, Random(key=3))
        draws.append([told(names, board.choose(asked)) for _ in range(64)])

    assert draws[0] == draws[1]
    assert set(draws[0]) == {"a 0", "a 1", "b 0", "b 1"}


def taught(cluster: str, *counted: tuple[str, int]) -> tuple[Madang, Board, list[str]]:
    """A madang that has seen so many of each, none of which was placed."""
    made, names = pool(cluster)
    policy = Madang()
    for text, count in counted:
        for _ in range(count):
            policy.observe(made, shape(text))
    policy.refresh(made)
    return policy, Board(made, policy), names


def test_madang_keeps_a_scarce_model_for_those_who_can_use_nothing_else():
    cluster = """
        t: 1000 1000 | 64 cores, 64 GiB, T4
        g: 1000 1000 | 64 cores, 64 GiB, G2
        h: 1000 1000 | 64 cores, 64 GiB, G2
    """
    _, board, names = taught(cluster, ("1x1000 4c 4g", 40), ("1x1000 4c 4g m0", 20))

    assert told(names, board.choose(shape("1x1000 4c 4g"))).startswith("g")
    assert told(names, board.choose(shape("1x1000 4c 4g m0"))).startswith("t")


def test_madang_sends_the_hungry_where_there_is_cpu_to_spare():
    cluster = """
        lean: 1000 1000 1000 1000 | 48 cores, 512 GiB
        rich: 1000 1000           | 96 cores, 512 GiB
    """
    _, board, names = taught(cluster, ("1x1000 4c 4g", 30), ("1x1000 20c 4g", 30))

    assert told(names, board.choose(shape("1x1000 20c 4g"))).startswith("rich")
    assert told(names, board.choose(shape("40c 4g"))).startswith("rich")


def test_madang_closes_slices_that_only_the_mix_can_close():
    cluster = """
        a: 530  | 64 cores, 64 GiB
        b: 690  | 64 cores, 64 GiB
        c: 1000 | 64 cores, 64 GiB
    """
    mix = (("1x470 1c 1g", 40), ("1x690 1c 1g", 20), ("1x310 1c 1g", 20), ("1x530 1c 1g", 40))
    _, board, names = taught(cluster, *mix)

    assert told(names, board.choose(shape("1x530 1c 1g"))) == "a 0"
    assert told(names, board.choose(shape("1x690 1c 1g"))) == "b 0"


def test_madang_keeps_whole_nodes_for_jobs_that_need_one():
    cluster = """
        a: 1000 1000 1000 1000 | 64 cores, 64 GiB
        b: 1000 1000 0    0    | 64 cores, 64 GiB
    """
    _, board, names = taught(cluster, ("1x1000 1c 1g", 40), ("4x1000 4c 4g", 20))

    assert told(names, board.choose(shape("1x1000 1c 1g"))) == "b 0"


@pytest.mark.parametrize("policy", all_policies(), ids=lambda policy: policy.name)
def test_giving_back_restores_the_pool(policy: Policy):
    made, _ = pool(SLICES)
    before = made.gpu_free.copy()
    board = Board(made, policy)
    for text in ("1x500 2c 2g", "2x1000 4c 4g", "8c 8g"):
        place = board.choose(shape(text))
        assert isinstance(place, Place)
        board.take(shape(text), place)
        board.give(shape(text), place)

    assert (made.gpu_free == before).all()
    assert (made.cpu_free == made.cpu_total).all()


def test_typical_covers_95_percent_most_frequent_first():
    counted = Counter({shape("1x1000 4c 1g"): 60, shape("4c 1g"): 36, shape("1x500 1c 1g"): 4})

    found = typical_of(counted.items())

    assert found.table[:, 4].tolist() == [60, 36]
    assert found.weight == 96
