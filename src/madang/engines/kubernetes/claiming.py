"""Writes which devices a claim has, before its pod is bound, and takes them back afterwards.

A claim is read, its finalizer and our allocation's name are put on it, then its status names the
devices and the pod: each write with the version that was read, so that whoever was faster is seen
(409) and the claim is read anew. Promises: a device is written into no claim while another one has
it, as far as the mirror, and what was written here since, show; doing it again does no more; only
claims that carry our allocation are ever cleared; nothing is written by who is not the leader.

The API server checks no device across claims: two schedulers that give away devices of one driver
at the same moment can both succeed. That is so for kube-scheduler as well.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madang.engines.kubernetes import dra
from madang.engines.kubernetes.cache import ALLOCATION, Cache
from madang.engines.kubernetes.client import Client, Conflict, Missing, Object
from madang.engines.kubernetes.devices import Devices
from madang.engines.kubernetes.dra import FINALIZER, Chip, Refusal
from madang.engines.kubernetes.dra_objects import ClaimFacts
from madang.engines.kubernetes.dra_objects import claim as claim_of
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.stays import Stay, Stays
from madang.engines.kubernetes.values import PodFacts

log = logging.getLogger("madang.kubernetes")

TRIES = 5
ROOT = "/apis/resource.k8s.io/v1"


class Busy(Exception):
    """The devices are still being taken back from somebody of ours: come again."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a pod is to have: these device numbers of this node, by this allocation."""

    stay: str
    pod: PodFacts
    node: str
    gpus: tuple[int, ...]


@dataclass(slots=True)
class Claimer:
    """`held` is asked right before each write."""

    client: Client
    held: Callable[[], bool]
    devices: Devices

    # -- giving --------------------------------------------------------------------------------

    async def give(self, given: Given) -> Refusal | None:
        """Have all its claims name its devices; None: they do.

        Raises:
            Busy: a device is still in a claim of ours that is being cleared.
            Conflict: others write the claim all the time.
            ApiError: no answer.
            Deposed: not the leader any more.
        """
        chips = self.devices.chips(given.node)
        if not chips:
            return Refusal(f"{given.node} has no devices of {self.devices.driver} by name")
        if any(gpu >= len(chips) for gpu in given.gpus):
            return Refusal(
                f"{given.node} has {len(chips)} devices now: numbers {given.gpus} do not"
            )
        left = [chips[gpu] for gpu in given.gpus]
        for use in given.pod.claims:
            said = await self._give_one(given, use.claim, left)
            if isinstance(said, Refusal):
                return said
            left = left[said:]
        if left:
            return Refusal(f"the claims of {given.pod.name} ask for {len(left)} devices too few")
        return None

    async def _give_one(self, given: Given, name: str, left: Sequence[Chip]) -> int | Refusal:
        """How many devices of those left it has now."""
        path = f"{ROOT}/namespaces/{given.pod.namespace}/resourceclaims/{name}"
        for _ in range(TRIES):
            try:
                body = await self.client.get(path)
            except Missing:
                return Refusal(f"the claim {name} was deleted")
            facts = claim_of(body)
            if facts is None or facts.refused:
                return Refusal(facts.refused if facts else f"the claim {name} cannot be read")
            chips = left[: sum(request.count for request in facts.requests)]
            wanted = dra.allocation(facts, self.devices.classes(), given.node, chips)
            if isinstance(wanted, Refusal):
                return wanted
            if why := self._why_not(given, facts, chips):
                return Refusal(why)
            if _has(facts, given, wanted):
                return len(chips)
            for chip in chips:
                self.devices.written[chip.key] = (facts.key, given.stay)
            try:
                await self._write(path, body, given, wanted)
                return len(chips)
            except Conflict:
                log.info("the claim %s was changed meanwhile: it is read anew", facts.key)
        raise Conflict(409, "Conflict", f"the claim {name} is changed all the time")

    def _why_not(self, given: Given, facts: ClaimFacts, chips: Sequence[Chip]) -> str:
        """Raises: Busy."""
        if facts.allocated and not facts.of_us:
            return f"the claim {facts.name} has got its devices from another scheduler already"
        if set(facts.users) - {given.pod.uid}:
            return f"the claim {facts.name} is used by another pod"
        ill = self.devices.ill(given.node)
        at = {chip.key: n for n, chip in enumerate(self.devices.chips(given.node))}
        for chip in chips:
            name = f"{chip.device.name} of {given.node}"
            if ill >> at[chip.key] & 1:
                return f"the device {name} is tainted, or not there any more"
            for other in self.devices.holders(chip.key):
                if other.key == facts.key:
                    continue
                if not other.of_us:
                    return f"the device {name} was given to {other.key} by another scheduler"
                raise Busy(f"the device {name} is still in the claim {other.key}")
            key, _ = self.devices.written.get(chip.key, (facts.key, ""))
            if key != facts.key:
                raise Busy(f"the device {name} was just given to {key}")
        return ""

    async def _write(self, path: str, body: Object, given: Given, wanted: Object) -> None:
        """Raises: Conflict, ApiError, Deposed."""
        if (body.get("status") or {}).get("allocation"):
            body = await self._clear_status(
                path, body
            )  # of an earlier attempt; it cannot be changed
        kept = body["metadata"].get("finalizers") or []
        body = await self._patch(
            path,
            {
                **_version(body),
                "finalizers": [*kept, *([] if FINALIZER in kept else [FINALIZER])],
                "annotations": {ALLOCATION: given.stay},
            },
        )
        reserved = [dra.reserved_for(given.pod)]
        status = {"allocation": wanted, "reservedFor": reserved}
        await self._patch(f"{path}/status", _version(body), status)

    # -- taking back ---------------------------------------------------------------------------

    def stale(self, cache: Cache, stays: Stays) -> Iterator[ClaimFacts]:
        """Claims that we gave devices to, and whose pods need them no more."""
        written = self.devices.written
        for device in [one for one, (_, stay) in written.items() if stay not in stays.live]:
            del written[device]
        for facts in list(self.devices.of_us.values()):
            if not _in_use(facts, cache, stays.live):
                yield facts

    async def take_back(self, facts: ClaimFacts) -> None:
        """It has no devices, nor our marks; Conflict: changed meanwhile, see again whether it is
        stale. Raises: ApiError, Deposed."""
        namespace = facts.key.partition("/")[0]
        path = f"{ROOT}/namespaces/{namespace}/resourceclaims/{facts.name}"
        try:
            body = await self.client.get(path)
            now = claim_of(body)
            if now is None or now.uid != facts.uid or now.of_us != facts.of_us:
                return
            if now.allocated or now.users:
                body = await self._clear_status(path, body)
            kept = [one for one in body["metadata"].get("finalizers") or [] if one != FINALIZER]
            marks = {"finalizers": kept or None, "annotations": {ALLOCATION: None}}
            await self._patch(path, {**_version(body), **marks})
        except Missing:
            return

    async def _clear_status(self, path: str, body: Object) -> Object:
        return await self._patch(
            f"{path}/status", _version(body), {"allocation": None, "reservedFor": None}
        )

    async def _patch(self, path: str, metadata: Object, status: Object | None = None) -> Object:
        if not self.held():
            raise Deposed("not the leader any more: no claim was written")
        body: Object = {"metadata": metadata}
        if status is not None:
            body["status"] = status
        return await self.client.patch(path, body)


def _version(body: Mapping[str, Any]) -> Object:
    metadata = body["metadata"]
    return {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}


def _has(facts: ClaimFacts, given: Given, wanted: Object) -> bool:
    """It says so already."""
    results = wanted["devices"]["results"]
    keys = tuple((one["driver"], one["pool"], one["device"]) for one in results)
    return (facts.of_us, facts.users, facts.given) == (given.stay, (given.pod.uid,), keys)


def _in_use(facts: ClaimFacts, cache: Cache, live: Mapping[str, Stay]) -> bool:
    """Its pod has the devices, or is about to get them."""
    stay = live.get(facts.of_us)
    if stay is not None and not facts.users:
        return stay.stop is None  # its status is being written
    for member in stay.members.values() if stay is not None else ():
        if member.pod is not None and member.pod.uid in facts.users:
            return not member.ended and not member.pod.ended
    pod = cache.pods.objects.get(f"{facts.key.partition('/')[0]}/{facts.user}")
    if pod is None or pod.uid not in facts.users or pod.ended:
        return False
    return bool(pod.node) or stay is not None
