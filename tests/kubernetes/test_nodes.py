"""Nodes become the core's, less what others use; nothing is offered twice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core.hypernodes import Placer
from madang.core.model import Need
from madang.core.needs import meets
from madang.engines.kubernetes import topology, trim
from madang.engines.kubernetes.nodes import (
    Around,
    core_node,
    daemon_node,
    extended_needs,
)
from madang.engines.kubernetes.topology import Layout, layout_of, wish_of
from madang.engines.kubernetes.values import Asks, Owner, PodFacts, VolumeClaimFacts, VolumeFacts
from madang.engines.kubernetes.volumes import resolved
from tests.kubernetes import examples, made_objects

GI = 1024


def facts(**rest):
    return trim.node(made_objects.node(**rest))


def used(gpus=0, cpu_milli=0, memory_mib=0, phase="Running", **extended):
    asks = Asks(cpu_milli, memory_mib, gpus, extended=tuple(sorted(extended.items())))
    return PodFacts("a/p", "a", "p", "u", node="n1", phase=phase, asks=asks)


def test_a_node_offers_what_it_has():
    seen = core_node(facts(), (), (), Around())

    assert (seen.node.id, seen.node.gpus, seen.node.cpu_milli, seen.node.memory_mib) == (
        "n1",
        8,
        128_000,
        GI * GI,
    )
    assert (seen.node.model, seen.node.gpu_memory_mib) == ("H100-80GB-HBM3", 81559)
    assert dict(seen.node.labels)["metadata.name"] == "n1"
    assert [taint.key for taint in seen.node.taints] == ["gpu"]
    assert (seen.is_there, seen.cordoned, seen.suspicion, seen.text) == (True, False, 0, "")


def test_what_others_use_is_subtracted_and_their_gpus_are_taken():
    others = [used(2, 4000, 8 * GI), used(cpu_milli=500, memory_mib=100)]
    ours = [used(4, 64_000, 64 * GI)]
    seen = core_node(facts(), others, ours, Around(held=0b1111))

    assert (seen.node.cpu_milli, seen.node.memory_mib) == (123_500, GI * GI - 8 * GI - 100)
    assert seen.node.taken == 0b1100_0000
    assert seen.text == "2 GPUs are taken by other schedulers"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_ended_pods_use_nothing(phase):
    assert core_node(facts(), [used(8, phase=phase)], (), Around()).node.taken == 0


@pytest.mark.parametrize(
    ("held", "healthy_before", "ill"),
    [
        (0, -1, 0b1000_0000),
        (0b1000_0000, -1, 0b0100_0000),  # the devices of a live job are ill last
        (0b1111_1111, -1, 0b1000_0000),
        (0, 0b1111_1110, 0b0000_0001),  # what was ill stays ill
    ],
)
def test_an_unhealthy_device_is_one_that_nobody_holds(held, healthy_before, ill):
    seen = core_node(facts(allocatable_gpus=7), (), (), Around(held=held, healthy=healthy_before))

    assert seen.node.well == 0b1111_1111 & ~ill
    assert "1 of 8 GPUs are unhealthy" in seen.text


@given(
    st.integers(0, 255),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(0, 255),
    st.integers(0, 255),
)
def test_what_is_offered_is_there_well_and_free(held, healthy, taken, before, well_before):
    around = Around(held=held, taken=before, healthy=well_before)
    seen = core_node(facts(allocatable_gpus=healthy), [used(taken)], (), around)
    free = (seen.node.usable & ~held).bit_count()

    assert free == max(healthy - held.bit_count() - taken, 0)
    assert seen.node.taken & ~seen.node.well == 0
    assert (
        core_node(
            facts(allocatable_gpus=healthy),
            [used(taken)],
            (),
            replace(around, taken=seen.node.taken, healthy=seen.node.healthy),
        )
        == seen
    )


@pytest.mark.parametrize(
    ("rest", "is_there", "cordoned", "suspicion"),
    [
        ({"conditions": {"Ready": "False"}}, False, False, 0),
        ({"conditions": {"Ready": "Unknown"}}, False, False, 0),
        ({"unschedulable": True}, True, True, 0),
        ({"conditions": {"XidError": "True", "DiskPressure": "True"}}, True, False, 8),
        ({"taints": [{"key": "slow", "effect": "PreferNoSchedule"}]}, True, False, 1),
    ],
)
def test_conditions_and_taints_are_states_or_suspicion(rest, is_there, cordoned, suspicion):
    seen = core_node(facts(**rest), (), (), Around())

    assert (seen.is_there, seen.cordoned, seen.suspicion) == (is_there, cordoned, suspicion)


def test_taints_that_only_repeat_the_state_are_left_out():
    keys = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unschedulable", "dedicated"]
    taints = [{"key": key, "effect": "NoSchedule"} for key in keys]
    seen = core_node(facts(taints=taints), (), (), Around())

    assert [taint.key for taint in seen.node.taints] == ["dedicated"]


def test_a_node_full_of_pods_takes_no_more():
    seen = core_node(facts(), [used() for _ in range(110)], (), Around())

    assert [taint.key for taint in seen.node.taints] == ["gpu", "madang.io/pods-full"]


@pytest.mark.parametrize(
    ("others", "ours", "asks", "fits"),
    [
        ([], [], {"gpus": 8, "hca": 8}, True),
        ([], [], {"gpus": 1, "hca": 1}, True),
        ([], [], {"gpus": 1, "hca": 2}, False),
        ([used(0, **{"rdma/hca": 1})], [], {"gpus": 1, "hca": 1}, False),
        ([used(4, **{"rdma/hca": 4})], [], {"gpus": 4, "hca": 4}, True),
        ([used(4)], [], {"gpus": 1, "hca": 2}, True),
        ([], [used(4, **{"rdma/hca": 8})], {"gpus": 1, "hca": 1}, False),
        ([], [used(8, **{"rdma/hca": 8})], {"gpus": 1, "hca": 1}, False),
    ],
)
def test_other_resources_are_shared_out_by_gpu(others, ours, asks, fits):
    seen = core_node(facts(), others, ours, Around(asked=frozenset({"rdma/hca"})))
    demands = extended_needs(Asks(gpus=asks["gpus"], extended=(("rdma/hca", asks["hca"]),)), ())

    assert meets(seen.node.labels, demands.needs) is fits


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 16)), max_size=8))
def test_no_order_of_placing_takes_more_of_a_resource_than_there_is(asked):
    ours: list[PodFacts] = []
    around = Around(asked=frozenset({"rdma/hca"}))
    for gpus, cards in asked:
        seen = core_node(facts(), (), ours, around)
        demands = extended_needs(Asks(gpus=gpus, extended=(("rdma/hca", cards),)), ())
        if gpus <= 8 - sum(pod.asks.gpus for pod in ours) and meets(
            seen.node.labels, demands.needs
        ):
            ours.append(used(gpus, **{"rdma/hca": cards}))

    assert sum(dict(pod.asks.extended)["rdma/hca"] for pod in ours) <= 8


def test_a_daemons_pod_is_known_before_it_is_bound():
    owner = Owner("apps/v1", "DaemonSet", "agent", "u")
    pod = PodFacts("a/p", "a", "p", "u", needs=((Need("metadata.name", "in", ("n7",)),),))

    assert daemon_node(pod) == ""
    assert daemon_node(replace(pod, owner=owner)) == "n7"
    assert daemon_node(replace(pod, owner=owner, node="n8")) == "n8"


# -- the tree --------------------------------------------------------------------------------------


def hyper(name, tier, *members, tier_name=""):
    spec = {"tier": tier, "members": list(members)}
    if tier_name:
        spec["tierName"] = tier_name
    return topology.hypernode(
        examples.thing("topology.volcano.sh/v1alpha1", "HyperNode", name, spec=spec)
    )


def member(kind, **selector):
    return {"type": kind, "selector": selector}


def test_hypernodes_are_the_tree():
    found = layout_of(
        (),
        [
            hyper("s0", 1, member("Node", exactMatch={"name": "n1"}), tier_name="leaf"),
            hyper("s1", "1", member("Node", regexMatch={"pattern": "^n[23]$"})),
            hyper("b", 2, member("HyperNode", regexMatch={"pattern": "s"}), tier_name="block"),
        ],
    )
    node = core_node(facts(name="n2"), (), (), Around(layout=found)).node
    assert found.topology is not None

    assert (found.flaws, found.levels) == ((), ("block", "leaf"))
    assert Placer(found.topology).domains_of(node) == ("b", "s1")


@pytest.mark.parametrize(
    ("hypers", "says"),
    [
        ([hyper("a", 0)], "tier is 0; it is from 1 to 8"),
        ([hyper("a", 1, {"type": "Rack"})], "not 'Rack'"),
        ([hyper("a", 1, member("Node"))], "exactMatch, regexMatch or labelMatch"),
        ([hyper("a", 2, member("HyperNode", exactMatch={"name": "b"}))], "which is not a domain"),
    ],
)
def test_a_tree_with_flaws_is_none_and_says_why(hypers, says):
    found = layout_of((), hypers)

    assert found.topology is None
    assert says in " ".join(found.flaws)


def test_labels_are_the_tree_where_nobody_declares_one():
    found = layout_of([facts()])
    node = core_node(facts(), (), (), Around(layout=found)).node

    assert found.levels == ("rack",)
    assert node.domains == ("r1",)
    assert layout_of([]) == Layout()


TREE = layout_of(
    (),
    [
        hyper("s0", 1, member("Node", exactMatch={"name": "n1"}), tier_name="leaf"),
        hyper("b", 2, member("HyperNode", exactMatch={"name": "s0"}), tier_name="block"),
    ],
)
RACKS = layout_of([facts()])


@pytest.mark.parametrize(
    ("within", "soft", "layout", "level"),
    [
        ("", False, TREE, ""),
        ("leaf", False, TREE, "leaf"),
        ("tier 2", False, TREE, "block"),
        ("tier 9", False, TREE, "any"),
        ("tier 0", False, TREE, "node"),
        ("topology.kubernetes.io/rack", False, RACKS, "rack"),
        ("kubernetes.io/hostname", False, RACKS, "node"),
        ("any", False, Layout(), "any"),
        ("somewhere", True, RACKS, ""),
    ],
)
def test_a_wish_is_a_level_of_the_tree(within, soft, layout, level):
    wish = wish_of(within, soft, layout)

    assert (wish.level, wish.refused) == (level, "")


@pytest.mark.parametrize("layout", [TREE, RACKS, Layout()])
def test_a_condition_that_no_level_answers_to_is_refused(layout):
    assert "there is no such level" in wish_of("rack.example/row", False, layout).refused


# -- volumes ---------------------------------------------------------------------------------------

BOUND = VolumeClaimFacts("a/data", "v1")
ZONE = ((Need("zone", "in", ("a",)),), (Need("zone", "in", ("b",)),))


@pytest.mark.parametrize(
    ("claim", "volume", "says"),
    [
        (None, None, "data is not there"),
        (VolumeClaimFacts("a/data"), None, "is not bound"),
        (replace(BOUND, once=True), VolumeFacts("v1"), "ReadWriteOncePod"),
        (BOUND, None, "PersistentVolume v1 of data is not there"),
        (replace(BOUND, refused="cannot be read"), None, "data cannot be read"),
        (BOUND, VolumeFacts("v1", refused="cannot be read"), "v1 cannot be read"),
    ],
)
def test_a_volume_that_cannot_be_placed_by_holds_the_pod_back(claim, volume, says):
    pod = PodFacts("a/p", "a", "p", "u", volumes=("data",))
    found = resolved(pod, {"a/data": claim} if claim else {}, {"v1": volume} if volume else {})

    assert says in found.refused


def test_a_bound_volumes_affinity_is_a_need_besides_the_pods_own():
    own = Need("gpu", "exists")
    pod = PodFacts("a/p", "a", "p", "u", volumes=("data",), needs=((own,),))
    found = resolved(pod, {"a/data": BOUND}, {"v1": VolumeFacts("v1", ZONE)})

    assert found.refused == ""
    assert found.needs == ((own, *ZONE[0]), (own, *ZONE[1]))
    assert resolved(pod, {"a/data": BOUND}, {"v1": VolumeFacts("v1")}).needs == ((own,),)
