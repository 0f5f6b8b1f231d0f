"""Claims that are understood get named devices; all others are refused with the reason."""

from dataclasses import replace

import pytest

from madang.core.model import Need
from madang.core.needs import meets
from madang.engines.kubernetes import dra, dra_objects, trim
from madang.engines.kubernetes.nodes import Around, core_node
from madang.engines.kubernetes.values import Asks, ClaimUse, PodFacts
from tests.kubernetes import examples, made_objects
from tests.kubernetes.made_objects import DRIVER, there

CLASSES = {DRIVER: there(dra_objects.device_class)(made_objects.device_class())}
POD = PodFacts(
    "lab/p", "lab", "p", examples.uid("Pod", "p"), claims=(ClaimUse("gpus", "p-gpus", "t"),)
)


def claimed(of=None, pod=POD, classes=None):
    found = there(dra_objects.claim)(of or made_objects.claim())
    return dra.resolved(pod, {found.key: found}, classes or CLASSES, DRIVER)


def chips(**rest):
    return dra.chips_of(
        [there(dra_objects.resource_slice)(made_objects.resource_slice(**rest))], DRIVER
    )


def test_a_claim_is_counted_as_gpus_and_its_selectors_are_needs():
    pod = claimed()

    assert (pod.refused, pod.asks.gpus) == ("", 2)
    assert pod.needs == (
        (Need(f"dra:{DRIVER}", "exists"), Need(f"dra:{DRIVER}/type", "in", ("gpu",))),
    )


def test_a_pod_without_claims_is_given_back_as_it_is():
    pod = replace(POD, claims=())

    assert claimed(pod=pod) is pod


def test_a_pod_that_asks_by_resource_keeps_off_nodes_that_give_by_claim():
    pod = replace(POD, claims=(), asks=Asks(gpus=1))
    by_claim = dra.with_devices(there(trim.node)(made_objects.node()), chips())
    by_plugin = there(trim.node)(made_objects.node())
    needs = claimed(pod=pod).needs

    assert meets(core_node(by_plugin, (), (), Around()).node.labels, needs)
    assert not meets(core_node(by_claim, (), (), Around()).node.labels, needs)
    assert not meets(core_node(by_plugin, (), (), Around()).node.labels, claimed().needs)


def test_a_claim_that_another_scheduler_has_given_devices_to_is_refused():
    of = made_objects.claim()
    result = {"request": "gpus", "driver": DRIVER, "pool": "n1", "device": "gpu-0"}
    of["status"] = {"allocation": {"devices": {"results": [result]}}}
    ours = made_objects.claim()
    ours["status"] = of["status"]
    ours["metadata"]["annotations"] = {"madang.io/allocation": "job-1.1"}

    assert "from another scheduler already" in claimed(of).refused
    assert claimed(ours).refused == ""


def with_spec(change):
    of = made_objects.claim()
    change(of["spec"]["devices"])
    return of


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda d: d.update(requests=[{"name": "a", "firstAvailable": [{"name": "b"}]}]),
            "firstAvailable",
        ),
        (lambda d: d["requests"][0]["exactly"].update(allocationMode="All"), "allocationMode All"),
        (lambda d: d["requests"][0]["exactly"].update(adminAccess=True), "adminAccess"),
        (
            lambda d: d["requests"][0]["exactly"].update(capacity={"requests": {"memory": "1Gi"}}),
            "capacity",
        ),
        (lambda d: d["requests"][0]["exactly"].update(count=99), "more than 32"),
        (lambda d: d.update(constraints=[{"matchAttribute": "a/b"}]), "constraints"),
        (
            lambda d: d["requests"][0]["exactly"].update(
                selectors=[made_objects.cel("device.capacity['x'].memory.isGreaterThan(1)")]
            ),
            "is not understood",
        ),
        (
            lambda d: d["requests"][0]["exactly"].update(deviceClassName="fpga"),
            "device class fpga of p-gpus is not there",
        ),
    ],
)
def test_a_claim_that_could_choose_otherwise_is_refused(change, says):
    assert says in claimed(with_spec(change)).refused


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({DRIVER: ("device.driver == 'nic.example.com'",)}, f"not of the driver {DRIVER}"),
        ({DRIVER: ("device.attributes['x'].a == 1",)}, f"not of the driver {DRIVER}"),
        ({DRIVER: ("device.driver.startsWith('gpu')",)}, "is not understood"),
    ],
)
def test_a_class_must_be_of_the_driver_whose_devices_are_gpus(classes, says):
    found = {
        name: there(dra_objects.device_class)(made_objects.device_class(*said))
        for name, said in classes.items()
    }

    assert says in claimed(classes=found).refused


def test_claims_wait_or_are_refused_where_they_are_not_the_pods_own():
    other = made_objects.claim()
    other["metadata"]["ownerReferences"] = []
    used = made_objects.claim()
    used["status"] = {"reservedFor": [{"resource": "pods", "name": "q", "uid": "uid-of-q"}]}

    assert "is not there yet" in dra.resolved(POD, {}, CLASSES, DRIVER).refused
    assert "no DRA driver" in dra.resolved(POD, {}, CLASSES, "").refused
    assert "shared claims are not done" in claimed(other).refused
    assert "shared claims are not done" in claimed(used).refused


def test_devices_are_numbered_by_name_and_only_when_the_pool_is_whole():
    whole = chips(count=12)
    half = made_objects.resource_slice()
    half["spec"]["pool"]["resourceSliceCount"] = 2
    old = made_objects.resource_slice(count=4)
    old["metadata"]["name"] = "old"
    old["spec"]["pool"]["generation"] = 2
    both = [there(dra_objects.resource_slice)(one) for one in (old, made_objects.resource_slice())]

    assert [chip.device.name for chip in whole] == [f"gpu-{index}" for index in range(12)]
    assert dra.chips_of([there(dra_objects.resource_slice)(half)], DRIVER) == ()
    assert len(dra.chips_of(both, DRIVER)) == 8


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        (("gpu-0", "gpu-3"), ("gpu-0", "", "", "gpu-3")),
        (("gpu-2", "gpu-10", "gpu-1"), ("", "gpu-1", "gpu-2", *[""] * 7, "gpu-10")),
        (("gpu-1", "mig-0"), ("gpu-1", "mig-0")),
        (("a", "b"), ("a", "b")),
        (("gpu-1", "gpu-01"), ("gpu-01", "gpu-1")),
        (("gpu-7000",), ("gpu-7000",)),
    ],
)
def test_a_device_that_its_driver_takes_back_renumbers_nobody(names, numbered):
    found = chips(devices=[made_objects.device(name) for name in names])
    here = tuple("" if one.device.tainted == dra.ABSENT else one.device.name for one in found)

    assert here == numbered
    assert dra.ill_of(found) == sum(1 << at for at, name in enumerate(numbered) if not name)


@pytest.mark.parametrize(
    "rest",
    [
        {"consumesCounters": [{"counterSet": "gpu-0"}]},
        {"allowMultipleAllocations": True},
        {"bindingConditions": ["Ready"]},
    ],
)
def test_devices_that_are_no_whole_device_are_not_offered(rest):
    devices = [made_objects.device("gpu-0"), made_objects.device("gpu-1") | rest]

    assert [chip.device.name for chip in chips(devices=devices)] == ["gpu-0"]


def test_tainted_devices_are_ill_and_those_of_other_claims_taken():
    taint = {"key": "xid", "effect": "NoExecute"}
    devices = [
        made_objects.device("gpu-0"),
        made_objects.device("gpu-1", taints=[taint]),
        made_objects.device("gpu-2", taints=[taint | {"effect": "None"}]),
        made_objects.device("gpu-3"),
    ]
    of = made_objects.claim("other")
    result = {"request": "r", "driver": DRIVER, "pool": "n1", "device": "gpu-0"}
    of["status"] = {"allocation": {"devices": {"results": [result]}}}
    rule = {"deviceSelector": {"device": "gpu-3"}, "taint": taint}
    rules = [
        there(dra_objects.taint_rule)(examples.thing("r/v1", "DeviceTaintRule", "r", spec=rule))
    ]
    found = chips(devices=devices)
    ill, taken = dra.ill_of(found, rules), dra.bits_of(found, [there(dra_objects.claim)(of)])
    facts = dra.with_devices(there(trim.node)(made_objects.node()), found)
    seen = core_node(facts, (), (), Around(ill=ill, claimed=taken))

    assert (ill, taken) == (0b1010, 0b0001)
    assert (seen.node.gpus, seen.node.usable) == (4, 0b0100)


def test_a_node_with_devices_meets_the_needs_of_claims_on_them():
    facts = dra.with_devices(there(trim.node)(made_objects.node()), chips())
    mixed = [made_objects.device("gpu-0"), made_objects.device("mig", type={"string": "mig"})]
    other = dra.with_devices(there(trim.node)(made_objects.node()), chips(devices=mixed))

    assert meets(core_node(facts, (), (), Around()).node.labels, claimed().needs)
    assert not meets(core_node(other, (), (), Around()).node.labels, claimed().needs)


def test_an_allocation_names_the_devices_of_the_seat():
    found = there(dra_objects.claim)(made_objects.claim())
    all_of = chips()
    said = dra.allocation(found, CLASSES, "n1", [all_of[5], all_of[2]])

    assert isinstance(said, dict)
    assert said["devices"]["results"] == [
        {"request": "gpus", "driver": DRIVER, "pool": "n1", "device": "gpu-5"},
        {"request": "gpus", "driver": DRIVER, "pool": "n1", "device": "gpu-2"},
    ]
    assert said["devices"]["config"] == [
        {
            "source": "FromClass",
            "requests": ["gpus"],
            "opaque": {"driver": DRIVER, "parameters": {"sharing": "none"}},
        }
    ]
    assert said["nodeSelector"] == {
        "nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
        ]
    }
    assert dra.reserved_for(POD) == {"resource": "pods", "name": "p", "uid": POD.uid}


@pytest.mark.parametrize(
    ("count", "devices", "says"),
    [
        (2, 1, "asks for 2 devices, given are 1"),
        (1, 0, "asks for 1 devices, given are 0"),
    ],
)
def test_an_allocation_of_the_wrong_devices_is_refused(count, devices, says):
    found = there(dra_objects.claim)(made_objects.claim(count=count))

    said = dra.allocation(found, CLASSES, "n1", chips()[:devices])

    assert isinstance(said, dra.Refusal)
    assert says in said.text


def test_an_allocation_of_devices_that_do_not_pass_is_refused():
    found = there(dra_objects.claim)(made_objects.claim(count=1))
    mig = chips(devices=[made_objects.device("mig-0", type={"string": "mig"})])

    said = dra.allocation(found, CLASSES, "n1", mig)

    assert isinstance(said, dra.Refusal)
    assert "no device of n1" in said.text
