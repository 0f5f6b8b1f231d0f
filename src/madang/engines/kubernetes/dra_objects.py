"""Objects of resource.k8s.io/v1, trimmed: what they say of devices and of who may have them.

`dra.py` decides with them. Promises: never raises for what an object says; what is not understood
is there, with `refused` saying why. CEL is read as far as it compares the driver's name and
attributes with constants, joined by &&.

Source: Kubernetes 1.37 staging/src/k8s.io/api/resource/v1/types.go.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from madang.engines.kubernetes.reading import (
    Malformed,
    items,
    listed,
    mapping,
    named,
    text,
    truth,
    value,
    whole,
)

Scalar = str | int | bool

ALLOCATION = "madang.io/allocation"  # written beside the devices, by whoever writes for us
RESULTS_MAX = 32  # the API's own bound on devices of a claim
_BAD_EFFECTS = frozenset({"NoSchedule", "NoExecute"})
_QUOTED = r"(?:'([^'\\]*)'|\"([^\"\\]*)\")"
_DRIVER = re.compile(rf"device\.driver\s*==\s*{_QUOTED}")
_ATTRIBUTE = re.compile(
    rf"device\.attributes\[{_QUOTED}\]\.(\w+)\s*==\s*(?:{_QUOTED}|(-?\d+)|(true|false))"
)


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a slice. `refused`: it exists, and cannot be given away as a whole."""

    name: str
    attributes: tuple[tuple[str, Scalar], ...] = ()
    tainted: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """One ResourceSlice of one node."""

    name: str
    driver: str
    pool: str
    node: str
    generation: int = 0
    slices: int = 1
    devices: tuple[Device, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Test:
    """`attribute` ("": the driver's name) must equal `value`."""

    attribute: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """A DeviceClass. `config` is handed on to the driver as it is."""

    name: str
    tests: tuple[Test, ...] = ()
    config: tuple[Any, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """`count` devices of a class."""

    name: str
    device_class: str
    count: int
    tests: tuple[Test, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """A ResourceClaim. `given` are (driver, pool, device) of its allocation, `users` the uids it is
    reserved for, `user` the first one's name, `of_pod` the uid of the pod it was made for; `of_us`
    is our allocation by which it has its devices, "" if it has them by another's word or none."""

    key: str
    name: str
    uid: str
    requests: tuple[Request, ...] = ()
    config: tuple[Any, ...] = ()
    allocated: bool = False
    given: tuple[tuple[str, str, str], ...] = ()
    users: tuple[str, ...] = ()
    user: str = ""
    of_us: str = ""
    of_pod: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """A DeviceTaintRule that keeps devices from being used; "" means any."""

    name: str
    taint: str
    driver: str = ""
    pool: str = ""
    device: str = ""


def resource_slice(of: Mapping[str, Any]) -> SliceFacts | None:
    """One slice; None if it is no one node's, or has no name."""
    try:
        name, node = named(of, "metadata", "name"), text(of, "spec", "nodeName")
        driver, pool = named(of, "spec", "driver"), named(of, "spec", "pool", "name")
    except Malformed:
        return None
    if not node:
        return None
    try:
        generation = whole(of, "spec", "pool", "generation", most=2**62)
        slices = whole(of, "spec", "pool", "resourceSliceCount", default=1)
        devices = tuple(_device(one, driver) for one in items(of, "spec", "devices"))
    except Malformed as failure:
        return SliceFacts(name, driver, pool, node, refused=f"cannot be read: {failure}")
    return SliceFacts(name, driver, pool, node, generation, slices, devices)


def _device(of: Mapping[str, Any], driver: str) -> Device:
    body = mapping(of, "basic") or of  # before v1 it was one level deeper
    attributes: list[tuple[str, Scalar]] = []
    for name, said in mapping(body, "attributes").items():
        for kind in ("string", "int", "bool", "version"):
            found = value(said, kind)
            if isinstance(found, str | int | bool):
                attributes.append((name if "/" in name else f"{driver}/{name}", found))
    taint = next(
        (named(one, "key") for one in items(body, "taints") if text(one, "effect") in _BAD_EFFECTS),
        "",
    )
    refused = ""
    if listed(body, "consumesCounters"):
        refused = "it is cut from another device"
    elif truth(body, "allowMultipleAllocations"):
        refused = "several may use it at once"
    elif listed(body, "bindingConditions"):
        refused = "it has binding conditions"
    return Device(named(of, "name"), tuple(sorted(attributes, key=str)), taint, refused)


def device_class(of: Mapping[str, Any]) -> ClassFacts | None:
    """One DeviceClass; None if it has no name."""
    try:
        name = named(of, "metadata", "name")
    except Malformed:
        return None
    try:
        tests = _tests(of, "spec", "selectors")
        return ClassFacts(name, tests, tuple(items(of, "spec", "config")))
    except Malformed as failure:
        return ClassFacts(name, refused=f"the device class {name}: {failure}")


def claim(of: Mapping[str, Any]) -> ClaimFacts | None:
    """One ResourceClaim; None if it has no name."""
    try:
        namespace, name = named(of, "metadata", "namespace"), named(of, "metadata", "name")
        uid = named(of, "metadata", "uid")
    except Malformed:
        return None
    facts = ClaimFacts(f"{namespace}/{name}", name, uid)
    try:
        facts = _with_status(facts, of)
        if value(of, "spec", "devices", "constraints"):
            raise Malformed("constraints between devices are not done")
        requests = tuple(_request(one) for one in items(of, "spec", "devices", "requests"))
        config = tuple(items(of, "spec", "devices", "config"))
        if sum(one.count for one in requests) > RESULTS_MAX:
            raise Malformed(f"it asks for more than {RESULTS_MAX} devices")
    except Malformed as failure:
        return replace(facts, refused=f"the claim {name}: {failure}")
    return replace(facts, requests=requests, config=config)


def _with_status(facts: ClaimFacts, of: Mapping[str, Any]) -> ClaimFacts:
    results = items(of, "status", "allocation", "devices", "results")
    owners = items(of, "metadata", "ownerReferences")
    return replace(
        facts,
        allocated=value(of, "status", "allocation") is not None,
        given=tuple(
            (named(one, "driver"), named(one, "pool"), named(one, "device"))
            for one in results
            if not truth(one, "adminAccess")
        ),
        users=tuple(named(one, "uid") for one in items(of, "status", "reservedFor")),
        user=next((named(one, "name") for one in items(of, "status", "reservedFor")), ""),
        of_us=text(mapping(of, "metadata", "annotations"), ALLOCATION),
        of_pod=next((named(one, "uid") for one in owners if text(one, "kind") == "Pod"), ""),
    )


def _request(of: Mapping[str, Any]) -> Request:
    name = named(of, "name")
    if value(of, "firstAvailable") is not None:
        raise Malformed(f"the request {name} has firstAvailable: alternatives are not done")
    exactly = mapping(of, "exactly")
    mode = text(exactly, "allocationMode") or "ExactCount"
    if mode != "ExactCount":
        raise Malformed(f"the request {name} has allocationMode {mode}; ExactCount is done")
    for field in ("adminAccess", "capacity", "derivedAttributes"):
        if value(exactly, field):
            raise Malformed(f"the request {name} has {field}: not done")
    return Request(
        name,
        named(exactly, "deviceClassName"),
        whole(exactly, "count", default=1, least=1),
        _tests(exactly, "selectors"),
    )


def _tests(of: Mapping[str, Any], *path: str) -> tuple[Test, ...]:
    """All that a device must be. Raises: Malformed."""
    return tuple(_test(term) for one in items(of, *path) for term in _terms(one))


def _terms(of: Mapping[str, Any]) -> Iterator[str]:
    for term in named(of, "cel", "expression").split("&&"):
        yield term.strip().removeprefix("(").removesuffix(")").strip()


def _test(term: str) -> Test:
    if driver := _DRIVER.fullmatch(term):
        return Test("", driver[1] if driver[1] is not None else driver[2])
    is_one = _ATTRIBUTE.fullmatch(term)
    if is_one is None:
        raise Malformed(
            f"the selector {term[:80]!r} is not understood; device.driver == '…' and "
            "device.attributes['…'].name == … are"
        )
    domain = is_one[1] if is_one[1] is not None else is_one[2]
    name = f"{domain}/{is_one[3]}"
    if is_one[6] is not None:
        return Test(name, int(is_one[6]))
    if is_one[7] is not None:
        return Test(name, is_one[7] == "true")
    return Test(name, is_one[4] if is_one[4] is not None else is_one[5])


def taint_rule(of: Mapping[str, Any]) -> RuleFacts | None:
    """A DeviceTaintRule that matters here; None if it does not, or cannot be read."""
    try:
        if text(of, "spec", "taint", "effect") not in _BAD_EFFECTS:
            return None
        if value(of, "spec", "deviceSelector") is None:
            return None
        where = mapping(of, "spec", "deviceSelector")
        return RuleFacts(
            named(of, "metadata", "name"),
            named(of, "spec", "taint", "key"),
            text(where, "driver"),
            text(where, "pool"),
            text(where, "device"),
        )
    except Malformed:
        return None
