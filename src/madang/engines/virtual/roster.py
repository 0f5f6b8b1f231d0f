"""Who holds what in a virtual fleet, as arrays, so that its sensors are read in a few sums.

`Ground` is what never changes (nodes, devices, what each model can do); a `Roster` is who runs
where, true for one version of the model. Letters: N nodes, U devices of all nodes in the fleet's
order, K members that run, H holdings (one member on one device).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from madang.core.model import WHOLE_GPU_MILLI
from madang.engines.virtual.chance import chance
from madang.engines.virtual.model import FleetModel, Member, Stay

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TEMPERS = ("steady", "bubbly", "checkpointing", "idle", "faulty")
STEADY, BUBBLY, CHECKPOINTING, IDLE, FAULTY = range(len(TEMPERS))


@dataclass(frozen=True, slots=True)
class Make:
    """What a model of GPU can do; by its data sheet. No HBM: no sensor for the memory's heat."""

    most_w: float
    sm_mhz: float
    memory_mhz: float
    hbm: bool = True
    nvlink_bytes_s: float = 0.0  # one way; 0: it has none


MAKES = {
    "B200": Make(1000, 1965, 3996, nvlink_bytes_s=900e9),
    "H200": Make(700, 1980, 3201, nvlink_bytes_s=450e9),
    "H100": Make(700, 1980, 2619, nvlink_bytes_s=450e9),
    "A100": Make(400, 1410, 1593, nvlink_bytes_s=300e9),
    "L40S": Make(350, 2520, 9001, hbm=False),
    "T4": Make(70, 1590, 5001, hbm=False),
}
OTHER_MAKE = Make(300, 1700, 5000, hbm=False)


def make_of(model: str) -> Make:
    """Of `H100`, also of its MIG devices (`H100:1g.10gb`)."""
    return MAKES.get(model.partition(":")[0], OTHER_MAKE)


def scrambled(numbers: NDArray[np.uint64]) -> Floats:
    """In [0, 1), uniform: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _number(seed: int, name: str) -> int:
    return int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())


class Ground:
    """The fleet's nodes and devices. Device g of node n is in row `first[n] + g`."""

    def __init__(self, model: FleetModel) -> None:
        nodes = model.fleet.nodes
        seed = model.fleet.seed
        self.names = tuple(node.id for node in nodes)
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.gpus = np.array([node.gpus for node in nodes], np.int64)
        self.first: Ints = np.concatenate(([0], np.cumsum(self.gpus)))
        self.node_of: Ints = np.repeat(np.arange(len(nodes)), self.gpus)
        self.models = tuple(node.model for node in nodes)
        self.cores = np.array([max(node.cpu_milli / 1000, 1.0) for node in nodes])
        self.memory_mib = np.array([float(node.memory_mib) for node in nodes])
        index = np.arange(len(self.node_of)) - self.first[self.node_of]
        names = np.array([_number(seed, name) for name in self.names], np.uint64)
        self.node_noise = scrambled(names)
        self.numbers: NDArray[np.uint64] = names[self.node_of] + index.astype(
            np.uint64
        ) * np.uint64(0xD1B54A32D192ED03)
        self.own = scrambled(self.numbers)  # no two dies are alike
        makes = [make_of(name) for name in self.models]
        self.most_w = self._each([make.most_w for make in makes])
        self.sm_mhz = self._each([make.sm_mhz for make in makes])
        self.memory_mhz = self._each([make.memory_mhz for make in makes])
        self.nvlink_bytes_s = self._each([make.nvlink_bytes_s for make in makes])
        self.gpu_memory_mib = self._each([float(node.gpu_memory_mib) for node in nodes])
        self.keys = [tuple(map(str, range(node.gpus))) for node in nodes]
        self.kinds = _kinds(self.models)

    def _each(self, values: Sequence[float]) -> Floats:
        """(N,) → (U,)"""
        return np.asarray(values, np.float64)[self.node_of]


def _kinds(models: Sequence[str]) -> dict[str, Make]:
    return {model: make_of(model) for model in dict.fromkeys(models)}


@dataclass(frozen=True, slots=True)
class Traits:
    """What chance decided of an attempt. Shares are of one."""

    temper: int
    base: float
    cpu: float
    memory: float
    tensor: float
    dram: float
    link: float
    speed: float
    members: float
    cores: float
    memory_mib: float
    share: float
    slow: tuple[int, int]  # rank and device of the faulty one, or (-1, -1)

    @property
    def numbers(self) -> tuple[float, ...]:
        return (
            self.temper,
            self.base,
            self.cpu,
            self.memory,
            self.tensor,
            self.dram,
            self.link,
            self.speed,
            self.members,
            self.cores,
            self.memory_mib,
            self.share,
        )


def _traits(seed: int, stay: Stay) -> Traits:
    allocation = stay.launch.allocation
    job, shape = allocation.job, allocation.shape
    is_faulty = stay.script.temper == "faulty"
    widest = max((len(member.gpus) for member in stay.members), default=0)
    alone = len(stay.members) * widest <= 1
    return Traits(
        temper=TEMPERS.index(stay.script.temper),
        base=0.9 + 0.09 * chance(seed, job, "busy"),
        cpu=0.35 + 0.4 * chance(seed, job, "cpu"),
        memory=0.55 + 0.4 * chance(seed, job, "memory"),
        tensor=0.28 + 0.3 * chance(seed, job, "tensor"),
        dram=0.3 + 0.35 * chance(seed, job, "dram"),
        link=0.0 if alone else 0.1 + 0.35 * chance(seed, job, "link"),
        speed=stay.speed,
        members=float(len(stay.members)),
        cores=max(shape.cpu_milli, 1000) / 1000,
        memory_mib=float(shape.memory_mib or 8_192),
        share=shape.gpu_milli / WHOLE_GPU_MILLI,
        slow=_slow_device(seed, stay) if is_faulty else (-1, -1),
    )


def _slow_device(seed: int, stay: Stay) -> tuple[int, int]:
    job = stay.launch.allocation.job
    member = stay.members[int(chance(seed, job, "faulty rank") * len(stay.members))]
    at = int(chance(seed, job, "faulty GPU") * len(member.gpus))
    return (member.rank, member.gpus[at]) if member.gpus else (-1, -1)


class Roster:
    """Who runs where. Members are in the order of their nodes; `heard`: (N,), `ill`: (U,) since
    when in ms, 0 if well."""

    def __init__(self, ground: Ground, model: FleetModel, known: dict[str, Traits]) -> None:
        """`known`: the traits of attempts that were drawn before; brought up to date."""
        self.version = model.version
        self.heard = np.zeros(len(ground.names), np.bool_)
        self.ill = np.zeros(len(ground.node_of), np.int64)
        seed = model.fleet.seed
        lines: list[tuple[Stay, Member, int, Traits]] = []
        kept: dict[str, Traits] = {}
        for row, place in enumerate(model.places.values()):
            self.heard[row] = place.heard
            for gpu, since_ms in place.ill.items():
                self.ill[ground.first[row] + gpu] = since_ms
            for id, rank in place.members:
                stay = model.stays[id]
                member = stay.members[rank]
                if member.runs:
                    traits = kept.get(id) or known.get(id) or _traits(seed, stay)
                    kept[id] = traits
                    lines.append((stay, member, row, traits))
        known.clear()
        known.update(kept)
        self._seat_members(seed, lines)
        self._seat_devices(ground, lines)
        self.first_member = np.searchsorted(self.node, np.arange(len(ground.names) + 1))

    def _seat_members(self, seed: int, lines: list[tuple[Stay, Member, int, Traits]]) -> None:
        self.ids = [stay.launch.allocation.id for stay, _, _, _ in lines]
        self.ranks = [member.rank for _, member, _, _ in lines]
        self.keys = [f"{id}/{rank}" for id, rank in zip(self.ids, self.ranks, strict=True)]
        self.node: Ints = np.array([row for _, _, row, _ in lines], np.int64)
        self.rank: Floats = np.array(self.ranks, np.float64)
        self.started_ms: Ints = np.array([m.started_ms for _, m, _, _ in lines], np.int64)
        self.devices: Floats = np.array([len(m.gpus) for _, m, _, _ in lines], np.float64)
        table = np.array([traits.numbers for _, _, _, traits in lines], np.float64)
        table = table.reshape(len(lines), 12)
        self.temper: Ints = table[:, 0].astype(np.int64)
        (self.base, self.cpu, self.memory, self.tensor, self.dram, self.link) = table[:, 1:7].T
        (self.speed, self.members, self.cores, self.memory_mib, self.share) = table[:, 7:12].T
        numbers = [_number(seed, key) for key in self.keys]
        self.noise = scrambled(np.array(numbers, np.uint64))

    def _seat_devices(self, ground: Ground, lines: list[tuple[Stay, Member, int, Traits]]) -> None:
        units: list[int] = []
        members: list[int] = []
        slow: list[int] = []  # holdings
        first, counts = ground.first.tolist(), ground.gpus.tolist()
        for at, (_, member, row, traits) in enumerate(lines):
            here = [gpu for gpu in member.gpus if gpu < counts[row]]
            if traits.slow[0] == member.rank and traits.slow[1] in here:
                slow.append(len(units) + here.index(traits.slow[1]))
            units += [first[row] + gpu for gpu in here]
            members += [at] * len(here)
        self.unit: Ints = np.array(units, np.int64)
        self.member: Ints = np.array(members, np.int64)
        self.slow: Bools = np.zeros(len(units), np.bool_)
        self.slow[slow] = True
        self.phase = (self.noise[self.member] + 0.61803398875 * self.unit) % 1.0
