"""Dynamic resource allocation: named GPUs by resource.k8s.io/v1, for claims that are understood.

A driver publishes a node's devices in ResourceSlices; a pod asks for some by ResourceClaims; the
scheduler writes into a claim which devices it has (`status.allocation.devices.results`) and for
whom (`reservedFor`). Here a node's devices have the core's device numbers, so that a seat names
devices and a claim names bits: by the numbers in their names (`gpu-3`), so that a device that its
driver takes back leaves a gap and renumbers nobody; else by the order of their names. An attribute
that all devices of a node share is a label of the node (`dra:NAME`), and a claim's selectors are
needs on it; a label `dra:DRIVER` keeps pods with claims and pods without them on their own nodes.

Understood is: requests of exactly N devices of a class whose selectors only compare the driver's
name and attributes with constants. Everything that could choose otherwise (firstAvailable, All,
admin access, capacities, constraints between devices, other CEL, shared claims, devices that are
cut from others or are used by several) is refused with the reason. Device taints are faults: a
tainted device is offered to nobody.

Promises: pure; nothing raises for what objects say; an allocation is only made for devices that are
in the slices, of the newest complete generation of their pool.

Source: Kubernetes 1.37 staging/src/k8s.io/api/resource/v1/types.go; "Dynamic Resource Allocation".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madang.core.model import Need
from madang.engines.kubernetes.dra_objects import (
    ClaimFacts,
    ClassFacts,
    Device,
    RuleFacts,
    Scalar,
    SliceFacts,
    Test,
)
from madang.engines.kubernetes.podspec import NODE_NAME
from madang.engines.kubernetes.values import NodeFacts, PodFacts

Object = dict[str, Any]

FINALIZER = "resource.kubernetes.io/delete-protection"
GPU_DRIVER = "gpu.nvidia.com"
NUMBERS_MAX = 64  # of devices with a number in their name; greater ones say something else
ABSENT = "absent"  # as if tainted: its number is known, and no slice has it
LABEL = "dra:"


@dataclass(frozen=True, slots=True)
class Chip:
    """A device of a node, with its full name."""

    driver: str
    pool: str
    device: Device

    @property
    def key(self) -> tuple[str, str, str]:
        return self.driver, self.pool, self.device.name


# -- a node's devices --------------------------------------------------------------------------


def chips_of(slices: Iterable[SliceFacts], driver: str) -> tuple[Chip, ...]:
    """A node's devices of a driver, by number; gaps are devices that are `ABSENT`.

    Only of pools whose newest generation is there as a whole: half a pool has wrong numbers.
    """
    pools: dict[str, list[SliceFacts]] = {}
    for one in slices:
        if one.driver == driver:
            pools.setdefault(one.pool, []).append(one)
    found: list[Chip] = []
    for pool in sorted(pools):
        newest = max(one.generation for one in pools[pool])
        current = [one for one in pools[pool] if one.generation == newest]
        if len(current) != current[0].slices or any(one.refused for one in current):
            continue
        devices = [device for one in current for device in one.devices if not device.refused]
        devices.sort(key=lambda device: _by_number(device.name))
        found += [Chip(driver, pool, device) for device in devices]
    return _with_gaps(found)


def _with_gaps(chips: Sequence[Chip]) -> tuple[Chip, ...]:
    """Each at the number in its name, if all are of one series; else as they are."""
    named = [(*_by_number(chip.device.name)[:2], chip) for chip in chips]
    series = {(chip.pool, head) for head, _, chip in named}
    at = {number: chip for _, number, chip in named}
    one_series = len(series) == 1 and len(at) == len(chips)
    if not one_series or not all(0 <= number < NUMBERS_MAX for number in at):
        return tuple(chips)
    (pool, head), driver = next(iter(series)), chips[0].driver
    return tuple(
        at.get(number) or Chip(driver, pool, Device(f"{head}{number}", tainted=ABSENT))
        for number in range(max(at) + 1)
    )


def absent(chips: Iterable[Chip]) -> tuple[Chip, ...]:
    """The same numbers, with nothing behind them: the driver shows no devices any more."""
    return tuple(replace(one, device=replace(one.device, tainted=ABSENT)) for one in chips)


def _by_number(name: str) -> tuple[str, int, str]:
    head = name.rstrip("0123456789")
    tail = name[len(head) :]
    return head, int(tail) if tail else -1, name


def ill_of(chips: Sequence[Chip], rules: Iterable[RuleFacts] = ()) -> int:
    """The bit set of devices that a taint keeps from being used."""
    rules = tuple(rules)
    return sum(
        1 << at
        for at, chip in enumerate(chips)
        if chip.device.tainted or any(_hits(rule, chip) for rule in rules)
    )


def _hits(rule: RuleFacts, chip: Chip) -> bool:
    return (
        rule.driver in ("", chip.driver)
        and rule.pool in ("", chip.pool)
        and rule.device in ("", chip.device.name)
    )


def bits_of(chips: Sequence[Chip], claims: Iterable[ClaimFacts]) -> int:
    """The bit set of devices that these claims have."""
    given = {key for one in claims for key in one.given}
    return sum(1 << at for at, chip in enumerate(chips) if chip.key in given)


def with_devices(facts: NodeFacts, chips: Sequence[Chip]) -> NodeFacts:
    """The node with the GPUs of its slices instead of the device plugin's; as it is without any."""
    if not chips:
        return facts
    here = [chip for chip in chips if chip.device.tainted != ABSENT] or chips
    shared = dict(here[0].device.attributes)
    for chip in here[1:]:
        has = dict(chip.device.attributes)
        shared = {name: said for name, said in shared.items() if has.get(name) == said}
    product = shared.get(f"{chips[0].driver}/productName", "")
    labels = [(f"{LABEL}{name}", _word(said)) for name, said in shared.items()]
    labels.append((f"{LABEL}{chips[0].driver}", "true"))
    return replace(
        facts,
        labels=tuple(sorted((*facts.labels, *labels))),
        gpu_count=len(chips),
        allocatable=replace(facts.allocatable, gpus=len(chips)),
        model=facts.model or str(product).replace(" ", "-"),
    )


# -- a pod's claims ----------------------------------------------------------------------------


def resolved(
    pod: PodFacts,
    claims: Mapping[str, ClaimFacts],
    classes: Mapping[str, ClassFacts],
    driver: str,
) -> PodFacts:
    """The pod with its claims counted as GPUs; `refused` says why, if one is not understood.

    `claims` by `namespace/name`, `classes` by name; `driver` is whose devices are GPUs here ("":
    there is no DRA).
    """
    if pod.refused:
        return pod
    if not pod.claims:
        # The kubelet has none by resource where a DRA driver gives them by name.
        by_resource = Need(f"{LABEL}{driver}", "absent")
        return _needing(pod, (by_resource,)) if driver and pod.asks.gpus else pod
    if not driver:
        return replace(pod, refused="asks for resource claims, and no DRA driver is set up here")
    count, needed = 0, [Need(f"{LABEL}{driver}", "exists")]
    for use in pod.claims:
        found = claims.get(f"{pod.namespace}/{use.claim}") if use.claim else None
        if found is None:
            what = use.claim or f"of the template {use.template}"
            return replace(pod, refused=f"its ResourceClaim {what} is not there yet")
        why = _why_not(pod, found, classes, driver)
        if why:
            return replace(pod, refused=why)
        count += sum(request.count for request in found.requests)
        needed += [
            Need(f"{LABEL}{test.attribute}", "in", (_word(test.value),))
            for request in found.requests
            for test in (*classes[request.device_class].tests, *request.tests)
            if test.attribute
        ]
    if pod.asks.gpus:
        return replace(pod, refused="asks for GPUs by claim and by resource: one of them is done")
    return _needing(replace(pod, asks=replace(pod.asks, gpus=count)), needed)


def _needing(pod: PodFacts, needed: Iterable[Need]) -> PodFacts:
    return replace(pod, needs=tuple((*all_of, *needed) for all_of in pod.needs or ((),)))


def _word(said: Scalar) -> str:
    """As a label's value."""
    return str(said).lower() if isinstance(said, bool) else str(said)


def _why_not(pod: PodFacts, one: ClaimFacts, classes: Mapping[str, ClassFacts], driver: str) -> str:
    if one.refused:
        return one.refused
    if not pod.node and (one.of_pod != pod.uid or set(one.users) - {pod.uid}):
        return f"the claim {one.name} is not this pod's own: shared claims are not done"
    if not pod.node and one.allocated and not one.of_us:
        return f"the claim {one.name} has got its devices from another scheduler already"
    for request in one.requests:
        found = classes.get(request.device_class)
        if found is None:
            return f"the device class {request.device_class} of {one.name} is not there"
        if found.refused:
            return found.refused
        drivers = [test.value for test in (*found.tests, *request.tests) if not test.attribute]
        if any(name != driver for name in drivers) or not drivers:
            return f"the device class {request.device_class} is not of the driver {driver}"
    return ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """These devices cannot be written into this claim; `text` says why. `for_good`: nor can others
    of this kind."""

    text: str
    for_good: bool = False


def allocation(
    one: ClaimFacts, classes: Mapping[str, ClassFacts], node: str, chips: Sequence[Chip]
) -> Object | Refusal:
    """`status.allocation` of a claim that is given just these devices of a node, in this order."""
    wanted = sum(request.count for request in one.requests)
    if wanted != len(chips):
        text = f"the claim {one.name} asks for {wanted} devices, given are {len(chips)}"
        return Refusal(text, for_good=True)
    left = list(chips)
    results: list[Object] = []
    config: list[Object] = []
    for request in one.requests:
        of_class = classes.get(request.device_class)
        tests = (*of_class.tests, *request.tests) if of_class else request.tests
        for _ in range(request.count):
            chip = next((chip for chip in left if _passes(chip, tests)), None)
            if chip is None:
                text = f"no device of {node} is what {request.name} of {one.name} asks for"
                return Refusal(text, for_good=True)
            left.remove(chip)
            driver, pool, device = chip.key
            results.append(
                {"request": request.name, "driver": driver, "pool": pool, "device": device}
            )
        handed_on = of_class.config if of_class else ()
        config += [{"source": "FromClass", "requests": [request.name], **one} for one in handed_on]
    config += [{"source": "FromClaim", **said} for said in one.config]
    devices: Object = {"results": results}
    if config:
        devices["config"] = config
    field = {"key": NODE_NAME, "operator": "In", "values": [node]}
    selector = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"devices": devices, "nodeSelector": selector}


def _passes(chip: Chip, tests: Sequence[Test]) -> bool:
    attributes = dict(chip.device.attributes)
    return all(
        (chip.driver if not test.attribute else attributes.get(test.attribute)) == test.value
        for test in tests
    )


def reserved_for(pod: PodFacts) -> Object:
    """The entry of `status.reservedFor` for a pod."""
    return {"resource": "pods", "name": pod.name, "uid": pod.uid}
