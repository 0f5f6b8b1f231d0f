"""The table of classes, from its first row that says something; profiles every node can give."""

from itertools import product

import pytest

from madang.core.classes import (
    ClassRow,
    JobClass,
    Preemptible,
    class_of,
    head_start_ms_max,
)
from madang.core.model import Category, Node, Provisioning, Purpose, Shape
from madang.core.profiles import MachineProfile, derived_profiles

HOUR_MS = 3_600_000
ALL = list(product(Provisioning, Category, Purpose))


def test_without_a_table_of_ones_own_every_class_is_as_the_page_says():
    never, checkpointed, always = Preemptible.NEVER, Preemptible.CHECKPOINTED, Preemptible.ALWAYS
    expected = {
        "reserved serving service": JobClass(50, never, 8 * HOUR_MS, 0, 60_000, 3, 0),
        "reserved training produce": JobClass(40, never, 8 * HOUR_MS, 0, 30_000, 0, 0),
        "on_demand serving test": JobClass(30, never, 6 * HOUR_MS, 0, 60_000, 3, 0),
        "on_demand interactive test": JobClass(
            20, checkpointed, 3 * HOUR_MS, 1_800_000, 30_000, 0, 0
        ),
        "on_demand training qa": JobClass(20, checkpointed, HOUR_MS, 0, 30_000, 0, 0),
        "on_demand training produce": JobClass(20, checkpointed, 0, 0, 30_000, 0, 0),
        "spot data test": JobClass(10, always, 0, 0, 30_000, 0, 0),
    }

    for axes, of_class in expected.items():
        provisioning, category, purpose = axes.split()
        found = class_of((), Provisioning(provisioning), Category(category), Purpose(purpose))
        assert found == of_class, axes


def test_what_is_reserved_comes_before_what_is_on_demand_and_that_before_spot():
    by_provisioning = {
        provisioning: {class_of((), *axes).priority for axes in ALL if axes[0] is provisioning}
        for provisioning in Provisioning
    }

    assert min(by_provisioning[Provisioning.RESERVED]) > max(
        by_provisioning[Provisioning.ON_DEMAND]
    )
    assert min(by_provisioning[Provisioning.ON_DEMAND]) > max(by_provisioning[Provisioning.SPOT])


@pytest.mark.parametrize("axes", ALL)
def test_the_first_row_that_fits_and_states_a_field_decides_it(axes):
    rows = (
        ClassRow(("spot",), ("data",), priority=99),
        ClassRow(category=("data", "training"), purpose=("test",), priority=5, retries_max=7),
        ClassRow(category=("data",), retries_max=8, time_limit_ms=HOUR_MS),
    )
    provisioning, category, purpose = axes
    plain, found = class_of((), *axes), class_of(rows, *axes)

    expected = plain.priority
    if category in ("data", "training") and purpose == "test":
        expected = 5
    if provisioning == "spot" and category == "data":
        expected = 99
    assert found.priority == expected
    tested = category in ("data", "training") and purpose == "test"
    assert found.retries_max == (7 if tested else 8 if category == "data" else plain.retries_max)
    assert found.time_limit_ms == (HOUR_MS if category == "data" else 0)
    assert found.preemptible is plain.preemptible


def test_no_class_has_a_longer_head_start_than_is_said():
    rows = (ClassRow(("spot",), head_start_ms=9 * HOUR_MS),)

    for table in ((), rows):
        most_ms = max(class_of(table, *axes).head_start_ms for axes in ALL)
        assert most_ms == head_start_ms_max(table)


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
