"""What the sensors of a virtual fleet show: for `madang top`, for the page, for telemetry.

A job has a temper, its own or drawn from its name (script.py): steady, bubbly (waits for its
pipeline), checkpointing (pauses to write), idle (holds what it does not use) or faulty (one device
that is hot and slow). Values depend on seed, names and time alone, and are worked out for the whole
fleet at once (roster.py): 102,400 devices take a fraction of a second. A node that cannot be heard
says nothing; a device that fell off its bus neither; both are missing, never zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from madang.engines.base import (
    Block,
    GpuSample,
    MemberSample,
    NodeSample,
    Readings,
    Sample,
    Signal,
)
from madang.engines.virtual.loads import Loads, loads_at
from madang.engines.virtual.model import FleetModel
from madang.engines.virtual.roster import Ground, Roster, Traits
from madang.engines.virtual.showing import GPU, MEMBER, NODE, PORT, PORT_KEYS, Shown, shown_at
from madang.engines.virtual.xids import BY_CODE, signal_of

Matrix = NDArray[np.float32]
NODE_KEYS = ("",)
SIGNALS_PER_NODE_MAX = 1_000  # what a node that was silent for long has kept


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that readings of one moment are made of; nothing in it changes any more."""

    ground: Ground
    roster: Roster
    seed: int
    now_ms: int
    elapsed_ms: int  # of the fleet's own time, since the last readings; 0: there were none
    signals: dict[str, list[Signal]]

    def loads(self) -> Loads:
        return loads_at(self.ground, self.roster, self.now_ms)


class Sensors:
    """The sensors of one model. `look…` go with the model's lock held; the rest needs none."""

    def __init__(self, model: FleetModel) -> None:
        self._model = model
        self._ground: Ground | None = None
        self._roster: Roster | None = None
        self._traits: dict[str, Traits] = {}
        self._last_ms: int | None = None

    def look(self, now_ms: int) -> Look:
        """A moment, for `sample`. Changes nothing that a later `look_on` would tell."""
        model = self._model
        if self._ground is None:
            self._ground = Ground(model)
        if self._roster is None or self._roster.version != model.version:
            self._roster = Roster(self._ground, model, self._traits)
        return Look(self._ground, self._roster, model.fleet.seed, now_ms, 0, {})

    def look_on(self, now_ms: int) -> Look:
        """A moment, for `readings`: what counts, counts from the last one; signals are told once.

        Those of a node that cannot be heard wait until it can.
        """
        model = self._model
        look = self.look(now_ms)
        told: dict[str, list[Signal]] = {}
        waiting = []
        while model.mishaps:
            mishap = model.mishaps.popleft()
            if not model.places[mishap.node].heard:
                waiting.append(mishap)
            elif len(told.setdefault(mishap.node, [])) < SIGNALS_PER_NODE_MAX:
                told[mishap.node].append(signal_of(look.seed, mishap))
        model.mishaps.extend(waiting)
        passed_ms = 0 if self._last_ms is None else now_ms - self._last_ms
        self._last_ms = now_ms
        elapsed_ms = round(passed_ms * model.fleet.speed)
        return Look(look.ground, look.roster, look.seed, now_ms, elapsed_ms, told)


def sample(model: FleetModel, now_ms: int) -> Sample:
    """The whole fleet at a moment, read once."""
    return sample_of(Sensors(model).look(now_ms))


def sample_of(look: Look) -> Sample:
    """A few of the values that `readings_of` would give, as `madang top` wants them."""
    ground, roster = look.ground, look.roster
    shown = shown_at(look.ground, look.roster, look.loads(), look.seed, look.now_ms, 0)
    util, memory, power, heat = (
        _or_none(shown.gpu[GPU.index(name)])
        for name in ("gpu_util_percent", "gpu_memory_used_mib", "gpu_power_w", "gpu_temperature_c")
    )
    members = [
        MemberSample(id, rank, round(cpu, 1), int(memory_mib))
        for id, rank, cpu, memory_mib, row in zip(
            roster.ids,
            roster.ranks,
            shown.member[MEMBER.index("member_cpu_percent")].tolist(),
            shown.member[MEMBER.index("member_memory_mib")].tolist(),
            roster.node.tolist(),
            strict=True,
        )
        if roster.heard[row]
    ]
    cpu_percent = shown.node[NODE.index("node_cpu_percent")].tolist()
    memory_mib = shown.node[NODE.index("node_memory_used_mib")].tolist()
    first = ground.first.tolist()
    nodes = []
    for row in np.flatnonzero(roster.heard).tolist():
        gpus = tuple(
            GpuSample(unit - first[row], util[unit], _whole(memory[unit]), power[unit], heat[unit])
            for unit in range(first[row], first[row + 1])
        )
        node = NodeSample(ground.names[row], cpu_percent[row], int(memory_mib[row]), gpus)
        nodes.append(node)
    return Sample(tuple(nodes), tuple(members))


def _or_none(values: Matrix) -> list[float | None]:
    rounded = np.round(values.astype(np.float64), 1).tolist()
    return [None if isnan(value) else value for value in rounded]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def readings_of(look: Look) -> Sequence[Readings]:
    """Every node that can be heard. O(devices)."""
    ground, roster = look.ground, look.roster
    shown = shown_at(ground, roster, look.loads(), look.seed, look.now_ms, look.elapsed_ms)
    _count_signals(shown, look)
    kept = _kept(ground, shown, counts=look.elapsed_ms > 0)
    node_names, node_values = kept[NODE[0]]
    member_names, member_values = kept[MEMBER[0]]
    port_names, port_values = kept[PORT[0]]
    first, first_member = ground.first.tolist(), roster.first_member.tolist()
    found = []
    for row in np.flatnonzero(roster.heard).tolist():
        name = ground.names[row]
        start, end = first[row], first[row + 1]
        blocks = [Block("node", node_names, NODE_KEYS, node_values[:, row : row + 1])]
        if end > start:
            gpu_names, gpu_values = kept[ground.models[row]]
            blocks.append(Block("gpu", gpu_names, ground.keys[row], gpu_values[:, start:end]))
            blocks.append(Block("port", port_names, PORT_KEYS, port_values[:, row : row + 1]))
        begin, stop = first_member[row], first_member[row + 1]
        if stop > begin:
            keys = tuple(roster.keys[begin:stop])
            blocks.append(Block("member", member_names, keys, member_values[:, begin:stop]))
        signals = tuple(look.signals.get(name, ()))
        found.append(Readings(name, look.now_ms, look.elapsed_ms, tuple(blocks), signals))
    return found


Kept = tuple[tuple[str, ...], Matrix]


def _kept(ground: Ground, shown: Shown, *, counts: bool) -> dict[str, Kept]:
    """The rows that are known, by the first metric of a family, and of GPUs by their model."""
    kept = {
        family[0]: _rows(family, values, [not _counts(name) or counts for name in family])
        for family, values in ((NODE, shown.node), (MEMBER, shown.member), (PORT, shown.port))
    }
    for model, make in ground.kinds.items():
        lacking = set() if make.hbm else {"gpu_memory_temperature_c"}
        if not make.nvlink_bytes_s:
            lacking |= {name for name in GPU if "nvlink" in name}
        has = [name not in lacking and (not _counts(name) or counts) for name in GPU]
        kept[model] = _rows(GPU, shown.gpu, has)
    return kept


def _counts(metric: str) -> bool:
    """It says an increase, not a state: there is none to say at the first look."""
    return metric in COUNTS


def _rows(family: tuple[str, ...], values: Matrix, has: list[bool]) -> Kept:
    if all(has):
        return family, values
    rows = [row for row, it_has in enumerate(has) if it_has]
    return tuple(family[row] for row in rows), values[rows]


def _count_signals(shown: Shown, look: Look) -> None:
    """A port that lost its link, or memory with an error, has counted it."""
    downed, errors = PORT.index("port_link_downed"), GPU.index("gpu_ecc_uncorrected")
    for node, signals in look.signals.items():
        row = look.ground.row_of[node]
        for signal in signals:
            if signal.subject == "port":
                shown.port[downed, row] += 1
            else:
                unit = look.ground.first[row] + int(signal.key)
                shown.gpu[errors, unit] += BY_CODE[signal.code].ecc


COUNTS = frozenset(
    """
    gpu_pcie_rx_bytes gpu_pcie_tx_bytes gpu_pcie_replays gpu_nvlink_rx_bytes gpu_nvlink_tx_bytes
    gpu_nvlink_errors gpu_ecc_corrected gpu_ecc_uncorrected
    node_disk_read_bytes node_disk_write_bytes node_net_rx_bytes node_net_tx_bytes
    member_read_bytes member_write_bytes
    port_rx_bytes port_tx_bytes port_rx_packets port_tx_packets port_symbol_errors port_link_downed
    port_rcv_errors port_xmit_discards port_xmit_wait port_out_of_sequence port_retransmits
    port_congestion
    """.split()  # noqa: SIM905 - a list of names reads better so
)
