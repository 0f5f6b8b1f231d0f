"""Volumes that tie a pod to nodes: claims that are bound to volumes with a node affinity.

A bound claim's affinity is added to the pod's needs. A claim that is not bound yet, whether it
waits for a pod to be placed (`WaitForFirstConsumer`) or for its provisioner, holds the pod back
with the reason: Madang picks no nodes for volumes. Not counted, and said so in the documentation:
how many volumes a CSI driver can attach to a node.

Source: Kubernetes 1.36 "Storage Classes" (volume binding mode), "Persistent Volumes" (node
affinity, access modes), filters VolumeBinding and VolumeRestrictions of kube-scheduler.
"""

from collections.abc import Mapping
from dataclasses import replace

from madang.engines.kubernetes.podspec import TERMS_MAX
from madang.engines.kubernetes.values import Needs, PodFacts, VolumeClaimFacts, VolumeFacts


def resolved(
    pod: PodFacts,
    claims: Mapping[str, VolumeClaimFacts],
    volumes: Mapping[str, VolumeFacts],
) -> PodFacts:
    """The pod with what its volumes need; `refused` says what is missing, if something is.

    `claims` by `namespace/name`, `volumes` by name. A pod without claims is given back as it is.
    """
    if not pod.volumes or pod.refused:
        return pod
    needs = pod.needs
    for name in pod.volumes:
        claim = claims.get(f"{pod.namespace}/{name}")
        why = _why_not(name, claim, volumes)
        if why:
            return replace(pod, refused=why)
        assert claim is not None, name
        needs = _both(needs, volumes[claim.volume].needs)
        if len(needs) > TERMS_MAX:
            return replace(pod, refused=f"the volume of {name}: more than {TERMS_MAX} node terms")
    return replace(pod, needs=needs)


def _why_not(name: str, claim: VolumeClaimFacts | None, volumes: Mapping[str, VolumeFacts]) -> str:
    if claim is None:
        return f"its PersistentVolumeClaim {name} is not there"
    if claim.refused:
        return f"its PersistentVolumeClaim {name} {claim.refused}"
    if claim.once:
        return f"its PersistentVolumeClaim {name} is ReadWriteOncePod: not done; use ReadWriteOnce"
    if not claim.volume:
        return (
            f"its PersistentVolumeClaim {name} is not bound; with WaitForFirstConsumer bind it "
            "first, or use a storage class with volumeBindingMode Immediate"
        )
    volume = volumes.get(claim.volume)
    if volume is None:
        return f"the PersistentVolume {claim.volume} of {name} is not there"
    return f"the PersistentVolume {claim.volume} {volume.refused}" if volume.refused else ""


def _both(one: Needs, other: Needs) -> Needs:
    """An OR of ANDs that means both of them."""
    if not one or not other:
        return one or other
    return tuple((*a, *b) for a in one for b in other)
