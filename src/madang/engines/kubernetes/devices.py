"""Which named devices nodes have, and which claims have them: the mirrors of DRA, by node.

A table without I/O over the cache; `claiming` writes. Promises: a node's devices keep their numbers
while its slices are being written anew, and while their driver shows none; a device that any claim
has which the core does not count is taken; where there is no resource.k8s.io/v1, or it may not be
read, nodes are as they are without it, and a pod with claims is told which of the two it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from madang.engines.kubernetes import dra
from madang.engines.kubernetes.cache import Cache
from madang.engines.kubernetes.discovery import DEVICES, DEVICES_NEEDED
from madang.engines.kubernetes.dra import Chip
from madang.engines.kubernetes.dra_objects import (
    ClaimFacts,
    ClassFacts,
    RuleFacts,
    SliceFacts,
    claim,
    device_class,
    resource_slice,
    taint_rule,
)
from madang.engines.kubernetes.values import NodeFacts, PodFacts

READERS: Mapping[str, Any] = {
    "ResourceClaim": claim,
    "ResourceSlice": resource_slice,
    "DeviceClass": device_class,
    "DeviceTaintRule": taint_rule,
}
Key = tuple[str, str, str]  # driver, pool, device

assert set(READERS) == set(DEVICES), "each kind that is found is read"


@dataclass(frozen=True, slots=True)
class Offered:
    """A node with its devices. `ill` and `claimed` are bit sets, as `nodes.Around` has them."""

    facts: NodeFacts
    ill: int = 0
    claimed: int = 0


@dataclass(slots=True)
class Devices:
    """`driver` is whose devices are GPUs."""

    cache: Cache
    driver: str = dra.GPU_DRIVER
    _chips: dict[str, tuple[Chip, ...]] = field(default_factory=dict)  # by node
    _node_of: dict[Key, str] = field(default_factory=dict)
    _slices: dict[str, dict[str, SliceFacts]] = field(default_factory=dict)  # by node and name
    _slice_at: dict[str, str] = field(default_factory=dict)  # slice → node
    _holders: dict[Key, dict[str, None]] = field(default_factory=dict)  # device → claims
    _given: dict[str, tuple[Key, ...]] = field(default_factory=dict)  # claim → devices
    of_us: dict[str, ClaimFacts] = field(default_factory=dict)  # claims that we gave devices to
    # device → (claim, allocation) as we write it, until the mirror shows it
    written: dict[Key, tuple[str, str]] = field(default_factory=dict)

    # -- what changed --------------------------------------------------------------------------

    def look(self, moved: Iterable[tuple[str, str]]) -> None:
        """Take in what changed; nodes that it concerns are marked."""
        nodes: dict[str, None] = {}
        for kind, key in moved:
            match kind:
                case "ResourceSlice":
                    nodes |= self._slice_moved(key)
                case "ResourceClaim":
                    nodes |= self._claim_moved(key)
                case "DeviceTaintRule":
                    nodes |= dict.fromkeys(self._chips)
        for node in nodes:
            self.cache.mark_node(node)

    def _slice_moved(self, key: str) -> dict[str, None]:
        now: SliceFacts | None = self._objects("ResourceSlice").get(key)
        before = self._slice_at.pop(key, "")
        if before:
            self._slices[before].pop(key, None)
        if now is not None and now.driver == self.driver:
            self._slice_at[key] = now.node
            self._slices.setdefault(now.node, {})[key] = now
        nodes = dict.fromkeys(node for node in (before, self._slice_at.get(key, "")) if node)
        for node in nodes:
            self._number(node)
        return nodes

    def _number(self, node: str) -> None:
        slices, before = self._slices.get(node, {}), self._chips.get(node, ())
        now = dra.chips_of(slices.values(), self.driver)
        if not now:
            # Half written, or its driver is away for a moment: what is held stays numbered.
            now = before if slices else dra.absent(before)
        for chip in before:
            self._node_of.pop(chip.key, None)
        self._chips[node] = now
        self._node_of |= dict.fromkeys((chip.key for chip in now), node)

    def _claim_moved(self, key: str) -> dict[str, None]:
        now: ClaimFacts | None = self._objects("ResourceClaim").get(key)
        before = self._given.pop(key, ())
        given = now.given if now is not None else ()
        for device in before:
            self._holders.get(device, {}).pop(key, None)
        for device in given:
            self._holders.setdefault(device, {})[key] = None
        for device in before:
            if not self._holders.get(device):
                self._holders.pop(device, None)
        if given:
            self._given[key] = given
        for device in [one for one, (whose, _) in self.written.items() if whose == key]:
            if now is None or device in given:
                del self.written[device]
        self.of_us.pop(key, None)
        if now is not None and now.of_us:
            self.of_us[key] = now
        touched = (self._node_of.get(device, "") for device in (*before, *given))
        return dict.fromkeys(node for node in touched if node)

    # -- what others ask of it -----------------------------------------------------------------

    @property
    def why_not(self) -> str:
        """Why no claims can be done here; "" if they can."""
        if any(kind not in self.cache.tops for kind in DEVICES_NEEDED):
            return (
                "there is no resource.k8s.io/v1 (Kubernetes 1.34), or Madang may not list it "
                "(install its chart with rbac.dra=true)"
            )
        if not all(self.cache.tops[kind].synced.is_set() for kind in DEVICES_NEEDED):
            return "claims, slices and classes of resource.k8s.io are not listed yet"
        return ""

    def resolved(self, pod: PodFacts) -> PodFacts:
        """The pod with its claims counted as GPUs; `refused` says why, if that cannot be."""
        if pod.refused or not (pod.claims or pod.asks.gpus):
            return pod
        if why := self.why_not:
            text = f"asks for resource claims, and {why}"
            return replace(pod, refused=text) if pod.claims else pod
        classes: Mapping[str, ClassFacts] = self._objects("DeviceClass")
        claims: Mapping[str, ClaimFacts] = self._objects("ResourceClaim")
        return dra.resolved(pod, claims, classes, self.driver)

    def offered(self, facts: NodeFacts, held: int) -> Offered:
        """The node with its devices, if it has some by name; `held` are those that live
        allocations have."""
        chips = self._chips.get(facts.name, ())
        if not chips:
            return Offered(facts)
        claimed = sum(1 << at for at, chip in enumerate(chips) if self._holders.get(chip.key))
        ill = self.ill(facts.name)
        return Offered(dra.with_devices(facts, chips), ill, claimed & ~held)

    def chips(self, node: str) -> tuple[Chip, ...]:
        """By number; () where devices have no names."""
        return self._chips.get(node, ())

    def ill(self, node: str) -> int:
        """The bit set of devices that a taint, or their absence, keeps from being used."""
        rules: Iterable[RuleFacts] = self._objects("DeviceTaintRule").values()
        return dra.ill_of(self._chips.get(node, ()), rules)

    def holders(self, device: Key) -> list[ClaimFacts]:
        """The claims that have it."""
        claims = self._objects("ResourceClaim")
        return [claims[key] for key in self._holders.get(device, ()) if key in claims]

    def classes(self) -> Mapping[str, ClassFacts]:
        """By name."""
        return self._objects("DeviceClass")

    def _objects(self, kind: str) -> dict[str, Any]:
        mirror = self.cache.tops.get(kind)
        return mirror.objects if mirror is not None else {}
