"""What a virtual fleet is made of: its nodes, how long things take there, and how often they break.

The file that users write is `madang.wire.fleet.FleetFile`; `fleet_of` takes what that validated.
All times here are of the virtual world; `Fleet.real_ms` shortens them by the fleet's speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from madang.core.model import Node, Taint


@dataclass(frozen=True, slots=True)
class Times:
    """How long things take, in virtual ms. Pairs are (least, most)."""

    start_ms: tuple[int, int] = (500, 3_000)
    stop_ms: tuple[int, int] = (200, 2_000)
    slow_share: float = 0.0  # of starts and stops that take ten times the most
    run_ms: int = 600_000  # median, for jobs that do not say
    run_sigma: float = 1.0


@dataclass(frozen=True, slots=True)
class Faults:
    """Mean times between faults in virtual ms (0: never) and how long they last."""

    node_mtbf_ms: int = 0
    node_mttr_ms: int = 600_000
    partition_share: float = 0.2  # of node faults; the rest are reboots
    detect_ms: int = 30_000  # until a silent node is called lost
    gpu_mtbf_ms: int = 0
    gpu_mttr_ms: int = 3_600_000
    crash_share: float = 0.0  # of attempts that fail by themselves


@dataclass(frozen=True, slots=True)
class Fleet:
    """`speed` virtual seconds pass in one real second."""

    nodes: tuple[Node, ...]
    seed: int = 0
    speed: float = 1.0
    times: Times = Times()
    faults: Faults = Faults()

    def real_ms(self, virtual_ms: float) -> int:
        return int(virtual_ms / self.speed)


def fleet_of(values: Mapping[str, Any]) -> Fleet:
    """The fleet of a validated file's values (`FleetFile.model_dump()`)."""
    nodes = [
        node
        for index, block in enumerate(values["nodes"])
        for node in _nodes_of(block, index, len(values["nodes"]))
    ]
    times, faults = values["times"], values["faults"]
    return Fleet(
        nodes=tuple(nodes),
        seed=values["seed"],
        speed=values["speed"],
        times=Times(
            start_ms=(times["start"][0], times["start"][1]),
            stop_ms=(times["stop"][0], times["stop"][1]),
            slow_share=times["slow_share"],
            run_ms=times["run"],
            run_sigma=times["run_sigma"],
        ),
        faults=Faults(
            node_mtbf_ms=faults["node_mtbf"],
            node_mttr_ms=faults["node_mttr"],
            partition_share=faults["partition_share"],
            detect_ms=faults["detect"],
            gpu_mtbf_ms=faults["gpu_mtbf"],
            gpu_mttr_ms=faults["gpu_mttr"],
            crash_share=faults["crash_share"],
        ),
    )


def _nodes_of(group: Mapping[str, Any], index: int, groups: int) -> list[Node]:
    """The nodes of one entry, under its network blocks and their leaf switches."""
    count = group["count"]
    prefix = group["name"] or (group["model"] or "node").lower()
    width = len(str(count - 1))
    leaves = max(1, -(-count // group["nodes_per_leaf"]))
    per_block = max(1, -(-leaves // group["blocks"]))
    tag = f"{prefix}-" if groups > 1 else ""
    nodes = []
    for number in range(count):
        leaf = number // group["nodes_per_leaf"]
        nodes.append(
            Node(
                id=f"{prefix}-{number:0{width}}",
                gpus=group["gpus"],
                cpu_milli=group["cpus"] * 1000,
                memory_mib=group["memory_mib"],
                model=f"{group['model']}:{group['mig']}" if group["mig"] else group["model"],
                group=group["group"],
                zone=group["zone"],
                cached=tuple(group["cached"]),
                mig=group["mig"],
                domains=(f"{tag}block-{leaf // per_block}", f"{tag}leaf-{leaf}"),
                gpu_memory_mib=group["gpu_memory_mib"],
                labels=tuple(sorted(group["labels"].items())),
                taints=tuple(Taint(*one) for one in group.get("taints", ())),
            )
        )
    return nodes
