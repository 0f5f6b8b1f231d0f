"""What the sensors of a virtual fleet show now: for `madang top`, the page, and later telemetry.

A job has a temper, its own or drawn from its name (script.py): steady, bubbly (waits for its
pipeline), checkpointing (pauses to write), idle (holds what it does not use) or faulty (one slow
device). Values depend on seed, name and time alone.
"""

from math import pi, sin

from madang.core.model import WHOLE_GPU_MILLI, Node
from madang.engines.base import GpuSample, MemberSample, NodeSample, Sample
from madang.engines.virtual.chance import chance
from madang.engines.virtual.model import FleetModel, Member, Stay

IDLE_W, IDLE_C, IDLE_MIB = 72.0, 31.0, 4
_MAX_W = {"H100": 700.0, "H200": 700.0, "B200": 1000.0, "A100": 400.0, "L40S": 350.0, "T4": 70.0}
_PERIOD_MS = {"bubbly": 9_000, "checkpointing": 240_000}


def sample(model: FleetModel, now_ms: int) -> Sample:
    """The whole fleet at a moment. O(devices)."""
    nodes, members = [], []
    for place in model.places.values():
        if not place.heard:
            continue
        here = [
            (model.stays[id], model.stays[id].members[rank])
            for id, rank in place.members
            if model.stays[id].members[rank].runs
        ]
        loads = [_member_load(model, stay, member, now_ms) for stay, member in here]
        members += loads
        nodes.append(_node(model, place.node, here, loads, now_ms))
    return Sample(tuple(nodes), tuple(members))


def busy_share(seed: int, stay: Stay, member: Member, gpu: int, now_ms: int) -> float:
    """How busy a member keeps one of its devices, in [0, 1]."""
    job = stay.launch.allocation.job
    temper = stay.script.temper
    ran_ms = (now_ms - member.started_ms) * stay.speed
    base = 0.9 + 0.09 * chance(seed, job, "busy")
    jitter = 0.02 * sin(2 * pi * (now_ms / 7_000 + chance(seed, job, member.rank, gpu)))
    if temper == "idle":
        return max(0.0, 0.01 + jitter / 2)
    if temper == "bubbly":
        phase = ran_ms / _PERIOD_MS["bubbly"] + 0.2 * member.rank / max(len(stay.members), 1)
        base *= 0.55 if phase % 1 < 0.3 else 0.95
    if temper == "checkpointing" and ran_ms % _PERIOD_MS["checkpointing"] < 15_000:
        base = 0.06
    if temper == "faulty" and (member.rank, gpu) == _faulty_device(seed, stay):
        base *= 0.7
    return min(max(base + jitter, 0.0), 1.0)


def _faulty_device(seed: int, stay: Stay) -> tuple[int, int]:
    job = stay.launch.allocation.job
    member = stay.members[int(chance(seed, job, "faulty rank") * len(stay.members))]
    at = int(chance(seed, job, "faulty GPU") * len(member.gpus))
    return (member.rank, member.gpus[at] if member.gpus else -1)


def _member_load(model: FleetModel, stay: Stay, member: Member, now_ms: int) -> MemberSample:
    allocation, seed = stay.launch.allocation, model.fleet.seed
    shape = allocation.shape
    share = 0.35 + 0.4 * chance(seed, allocation.job, "cpu")
    share += 0.05 * sin(2 * pi * (now_ms / 11_000 + chance(seed, allocation.job, member.rank)))
    return MemberSample(
        allocation.id,
        member.rank,
        cpu_percent=round(100 * share * max(shape.cpu_milli, 1000) / 1000, 1),
        memory_mib=int((shape.memory_mib or 8_192) * (0.4 + 0.3 * share)),
    )


def _node(
    model: FleetModel,
    node: Node,
    here: list[tuple[Stay, Member]],
    loads: list[MemberSample],
    now_ms: int,
) -> NodeSample:
    busy = [0.0] * node.gpus
    memory = [0.0] * node.gpus
    slow = [False] * node.gpus
    seed = model.fleet.seed
    for stay, member in here:
        shape, job = stay.launch.allocation.shape, stay.launch.allocation.job
        share = shape.gpu_milli / WHOLE_GPU_MILLI
        for gpu in member.gpus:
            busy[gpu] += share * busy_share(seed, stay, member, gpu, now_ms)
            memory[gpu] += share * (0.55 + 0.4 * chance(seed, job, "memory"))
            faulty = stay.script.temper == "faulty"
            slow[gpu] |= faulty and (member.rank, gpu) == _faulty_device(seed, stay)
    cores = max(node.cpu_milli / 1000, 1)
    return NodeSample(
        node.id,
        cpu_percent=round(
            min(100.0, 1.5 + sum(load.cpu_percent or 0.0 for load in loads) / cores), 1
        ),
        memory_used_mib=min(node.memory_mib, 6_000 + sum(load.memory_mib or 0 for load in loads)),
        gpus=tuple(
            _gpu(seed, node, gpu, busy[gpu], memory[gpu], slow[gpu]) for gpu in range(node.gpus)
        ),
    )


def _gpu(seed: int, node: Node, gpu: int, busy: float, memory: float, slow: bool) -> GpuSample:
    most_w = _MAX_W.get(node.model, 300.0)
    own = chance(seed, node.id, gpu, "silicon")
    idle_w = min(IDLE_W, 0.2 * most_w)
    power_w = idle_w + (most_w - idle_w) * busy * (0.82 + 0.1 * own)
    heat_c = 38.0 * power_w / most_w * (0.9 + 0.2 * own) + (16.0 if slow else 0.0)
    memory_mib = int(memory * node.gpu_memory_mib)
    return GpuSample(
        gpu,
        util_percent=round(100 * min(busy, 1.0), 1),
        memory_used_mib=max(IDLE_MIB, min(memory_mib, node.gpu_memory_mib)),
        power_w=round(power_w, 1),
        temperature_c=round(IDLE_C + heat_c, 1),
    )
