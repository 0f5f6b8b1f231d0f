"""Machine profiles: a named slice of a node, one GPU with its share of CPU and memory.

A profile is derived from the nodes there are: for each GPU model the smallest share that every node
of the model can give, so that a node's devices can always all be used.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from madang.core.model import WHOLE_GPU_MILLI, Node, Shape


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """What comes with one whole device of these models (empty: any)."""

    name: str
    cpu_milli: int
    memory_mib: int
    models: tuple[str, ...] = ()

    def shape(self, gpus: int, gpu_milli: int = WHOLE_GPU_MILLI) -> Shape:
        """The shape of a member that takes `gpus` devices, `gpu_milli` of each."""
        milli = gpus * gpu_milli
        return Shape(
            gpus=gpus,
            gpu_milli=gpu_milli,
            cpu_milli=self.cpu_milli * milli // WHOLE_GPU_MILLI,
            memory_mib=self.memory_mib * milli // WHOLE_GPU_MILLI,
            models=self.models,
        )


def derived_profiles(nodes: Iterable[Node]) -> tuple[MachineProfile, ...]:
    """One profile per GPU model, sorted by name, and `any` for a job that does not care."""
    shares: dict[str, tuple[int, int]] = {}
    for node in nodes:
        if not node.gpus:
            continue
        share = (node.cpu_milli // node.gpus, node.memory_mib // node.gpus)
        for name in (node.model, ""):
            known = shares.get(name, share)
            shares[name] = (min(known[0], share[0]), min(known[1], share[1]))
    named = [MachineProfile(m, *shares[m], models=(m,)) for m in sorted(shares) if m]
    return (*named, MachineProfile("any", *shares.get("", (0, 0))))
