"""Priority classes never trade places; profiles are the share that every node can give."""

from itertools import product

from madang.core.classes import class_priority
from madang.core.model import Category, Node, Provisioning, Purpose, Shape
from madang.core.profiles import MachineProfile, derived_profiles

BY_PROVISIONING = [Provisioning.RESERVED, Provisioning.ON_DEMAND, Provisioning.SPOT]
BY_CATEGORY = [Category.SERVING, Category.INTERACTIVE, Category.TRAINING, Category.DATA]
BY_PURPOSE = [Purpose.SERVICE, Purpose.QA, Purpose.PRODUCE, Purpose.TEST]


def test_the_three_axes_order_all_classes_one_after_the_other():
    ordered = [class_priority(*axes) for axes in product(BY_PROVISIONING, BY_CATEGORY, BY_PURPOSE)]

    assert ordered == list(range(47, -1, -1))


def node(id: str, model: str, gpus: int, cpus: int, memory_mib: int) -> Node:
    return Node(id, gpus, cpus * 1000, memory_mib, model)


def test_a_profile_is_the_smallest_share_of_its_model():
    nodes = [
        node("n1", "H100", 8, 96, 2048),
        node("n2", "H100", 8, 64, 4096),
        node("n3", "L4", 4, 16, 1024),
        node("n4", "", 0, 128, 512),
    ]

    assert derived_profiles(nodes) == (
        MachineProfile("H100", 8_000, 256, ("H100",)),
        MachineProfile("L4", 4_000, 256, ("L4",)),
        MachineProfile("any", 4_000, 256),
    )


def test_without_devices_there_is_only_any_of_nothing():
    assert derived_profiles([node("n1", "", 0, 8, 64)]) == (MachineProfile("any", 0, 0),)


def test_a_node_without_a_model_counts_for_any_alone():
    assert derived_profiles([node("n1", "", 2, 8, 64)]) == (MachineProfile("any", 4_000, 32),)


def test_a_shape_takes_its_devices_share_of_the_host():
    profile = MachineProfile("H100", 8_000, 256, ("H100",))

    assert profile.shape(2) == Shape(2, 1000, 16_000, 512, ("H100",))
    assert profile.shape(1, 250) == Shape(1, 250, 2_000, 64, ("H100",))
    assert profile.shape(0) == Shape(0, 1000, 0, 0, ("H100",))
