"""From loads to what each sensor shows: metrics by their canonical names, for the whole fleet.

Rates and levels are those of real nodes of their kind, roughly; relations hold: power follows use,
heat follows power, a hot device clocks down and says why, links carry what a gang exchanges,
checkpoints are written. Letters: roster.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.engines.virtual.loads import Loads
from madang.engines.virtual.roster import Floats, Ground, Roster, scrambled
from madang.engines.virtual.xids import xid_of

Matrix = NDArray[np.float32]

GPU = (
    "gpu_util_percent",
    "gpu_sm_active_percent",
    "gpu_tensor_active_percent",
    "gpu_dram_active_percent",
    "gpu_memory_used_mib",
    "gpu_memory_used_percent",
    "gpu_power_w",
    "gpu_power_limit_w",
    "gpu_temperature_c",
    "gpu_memory_temperature_c",
    "gpu_sm_clock_mhz",
    "gpu_memory_clock_mhz",
    "gpu_throttle_bits",
    "gpu_pcie_rx_bytes",
    "gpu_pcie_tx_bytes",
    "gpu_pcie_replays",
    "gpu_nvlink_rx_bytes",
    "gpu_nvlink_tx_bytes",
    "gpu_nvlink_errors",
    "gpu_ecc_corrected",
    "gpu_ecc_uncorrected",
    "gpu_remapped_rows",
    "gpu_remap_pending",
    "gpu_recovery_action",
)
NODE = (
    "node_cpu_percent",
    "node_load",
    "node_memory_used_mib",
    "node_memory_used_percent",
    "node_disk_read_bytes",
    "node_disk_write_bytes",
    "node_disk_used_percent",
    "node_net_rx_bytes",
    "node_net_tx_bytes",
)
MEMBER = (
    "member_cpu_percent",
    "member_memory_mib",
    "member_read_bytes",
    "member_write_bytes",
    "member_processes",
)
PORT = (
    "port_rx_bytes",
    "port_tx_bytes",
    "port_rx_packets",
    "port_tx_packets",
    "port_symbol_errors",
    "port_link_downed",
    "port_rcv_errors",
    "port_xmit_discards",
    "port_xmit_wait",
    "port_out_of_sequence",
    "port_retransmits",
    "port_congestion",
    "port_link_up",
)
PORT_KEYS = ("mlx5_0/1",)  # one stands for the rails of its node: they would all say the same

IDLE_W, IDLE_C, IDLE_MIB = 72.0, 31.0, 4.0
IDLE_BIT, POWER_CAP_BIT, HOT_BITS = 0x1, 0x4, 0x20 | 0x40  # nvmlClocksEventReason*
PCIE_BYTES_S, PORT_BYTES_S = 50e9, 25e9
PACKET_BYTES = 4_096  # the usual MTU of InfiniBand
FLICKER_MS = 60_000  # rare events are drawn anew each minute
WORKERS = 6  # processes that feed one device


@dataclass(frozen=True, slots=True)
class Shown:
    """Rows as in GPU, NODE, MEMBER, PORT; columns: (M, U), (M, N), (M, K), (M, N)."""

    gpu: Matrix
    node: Matrix
    member: Matrix
    port: Matrix


def shown_at(
    ground: Ground, roster: Roster, loads: Loads, seed: int, now_ms: int, elapsed_ms: int
) -> Shown:
    """All sensors of the fleet; what counts, counts `elapsed_ms`."""
    passed_s = elapsed_ms / 1000
    gpu = _gpus(ground, loads, now_ms, passed_s)
    _fall_ill(gpu, ground, roster, seed)
    member = _members(roster, loads, now_ms, passed_s)
    node = _nodes(ground, roster, member, passed_s)
    port = _ports(ground, loads, roster, passed_s)
    return Shown(gpu, node, member, port)


def _gpus(ground: Ground, loads: Loads, now_ms: int, passed_s: float) -> Matrix:
    busy, own, slow = loads.busy, ground.own, loads.slow
    idle_w = np.minimum(IDLE_W, 0.2 * ground.most_w)
    power_w = idle_w + (ground.most_w - idle_w) * busy * (0.82 + 0.1 * own)
    heat_c = IDLE_C + 38.0 * power_w / ground.most_w * (0.9 + 0.2 * own) + 16.0 * slow
    used_mib = np.maximum(IDLE_MIB, np.floor(loads.memory * ground.gpu_memory_mib))
    idle = busy < 0.005
    capped = power_w > 0.88 * ground.most_w
    bits = IDLE_BIT * idle + POWER_CAP_BIT * capped + HOT_BITS * slow
    clock = np.where(idle, 0.18, 1.0) * np.where(capped, 0.93, 1.0) * np.where(slow, 0.72, 1.0)
    minute = np.uint64(now_ms // FLICKER_MS)
    draw = scrambled(ground.numbers ^ (minute << np.uint64(20)))
    nvlink = loads.link * ground.nvlink_bytes_s * passed_s
    pcie = (0.002 + 0.03 * busy + 0.05 * loads.link) * PCIE_BYTES_S * passed_s
    rows = {
        "gpu_util_percent": np.rint(100 * busy),
        "gpu_sm_active_percent": np.rint(100 * busy * (0.8 + 0.1 * own)),
        "gpu_tensor_active_percent": np.rint(100 * loads.tensor),
        "gpu_dram_active_percent": np.rint(100 * loads.dram),
        "gpu_memory_used_mib": used_mib,
        "gpu_memory_used_percent": np.rint(
            100 * used_mib / np.maximum(ground.gpu_memory_mib, used_mib)
        ),
        "gpu_power_w": np.round(power_w, 1),
        "gpu_power_limit_w": ground.most_w,
        "gpu_temperature_c": np.rint(heat_c),
        "gpu_memory_temperature_c": np.rint(heat_c + 6 + 8 * loads.dram),
        "gpu_sm_clock_mhz": np.rint(ground.sm_mhz * clock),
        "gpu_memory_clock_mhz": ground.memory_mhz,
        "gpu_throttle_bits": bits,
        "gpu_pcie_rx_bytes": pcie,
        "gpu_pcie_tx_bytes": 0.7 * pcie,
        "gpu_pcie_replays": draw < 2e-5,
        "gpu_nvlink_rx_bytes": nvlink,
        "gpu_nvlink_tx_bytes": nvlink * (0.97 + 0.06 * own),
        "gpu_ecc_corrected": draw > 1 - 1e-4,
        "gpu_remapped_rows": np.floor(np.maximum(own - 0.97, 0.0) * 100),
    }
    return _matrix(GPU, rows, len(busy))


def _fall_ill(gpu: Matrix, ground: Ground, roster: Roster, seed: int) -> None:
    """What broken devices show: nothing, or what is to be done."""
    pending, remapped, action = (
        GPU.index(name)
        for name in ("gpu_remap_pending", "gpu_remapped_rows", "gpu_recovery_action")
    )
    for unit in np.flatnonzero(roster.ill).tolist():
        node = int(ground.node_of[unit])
        index = unit - int(ground.first[node])
        since_ms = int(roster.ill[unit])
        xid = xid_of(seed, ground.names[node], index, since_ms)
        if xid.silent:
            gpu[:, unit] = np.nan
            continue
        gpu[remapped, unit] += xid.rows
        gpu[pending, unit] = xid.rows
        gpu[action, unit] = xid.action


def _members(roster: Roster, loads: Loads, now_ms: int, passed_s: float) -> Matrix:
    count = len(roster.keys)
    turn = np.sin(2 * np.pi * (now_ms / 11_000 % 1.0 + roster.noise))
    share = roster.cpu + 0.05 * turn
    read = (1e6 + 60e6 * loads.member_busy * roster.devices * roster.cpu) * passed_s
    save = np.where(loads.saving, 1.2e9 * np.maximum(roster.devices, 1), 4e4) * passed_s
    rows = {
        "member_cpu_percent": np.round(100 * share * roster.cores, 1),
        "member_memory_mib": np.floor(roster.memory_mib * (0.4 + 0.3 * share)),
        "member_read_bytes": read,
        "member_write_bytes": save,
        "member_processes": 1 + np.maximum(roster.devices, 1) * (1 + WORKERS),
    }
    return _matrix(MEMBER, rows, count)


def _nodes(ground: Ground, roster: Roster, member: Matrix, passed_s: float) -> Matrix:
    count = len(ground.names)

    def summed(metric: str) -> Floats:
        weights = member[MEMBER.index(metric)].astype(np.float64)
        return np.bincount(roster.node, weights, minlength=count).astype(np.float64, copy=False)

    cpu = summed("member_cpu_percent") / ground.cores
    memory = np.minimum(ground.memory_mib, 6_000 + summed("member_memory_mib"))
    noise, quiet = ground.node_noise, (0.5 + ground.node_noise) * passed_s
    rows = {
        "node_cpu_percent": np.rint(np.minimum(100.0, 1.5 + cpu)),
        "node_load": np.round(0.3 + noise + cpu / 100 * ground.cores, 2),
        "node_memory_used_mib": np.floor(memory),
        "node_memory_used_percent": np.rint(100 * memory / np.maximum(ground.memory_mib, 1)),
        "node_disk_read_bytes": 2e5 * quiet + 0.2 * summed("member_read_bytes"),
        "node_disk_write_bytes": 5e5 * quiet + summed("member_write_bytes"),
        "node_disk_used_percent": np.rint(25 + 45 * noise),
        "node_net_rx_bytes": 3e5 * quiet + 0.8 * summed("member_read_bytes"),
        "node_net_tx_bytes": 4e5 * quiet + 0.01 * summed("member_read_bytes"),
    }
    return _matrix(NODE, rows, count)


def _ports(ground: Ground, loads: Loads, roster: Roster, passed_s: float) -> Matrix:
    """What leaves a node is an eighth of what its gangs' devices exchange inside it."""
    count = len(ground.names)
    wide = np.zeros(count)
    wide[roster.node[roster.members > 1]] = 1.0  # a gang of one node needs no network
    share = np.bincount(ground.node_of, loads.link, minlength=count) * wide
    sent = share * PORT_BYTES_S * passed_s
    crowded = np.maximum(share / np.maximum(ground.gpus, 1) - 0.3, 0.0)
    rows = {
        "port_rx_bytes": sent * (0.98 + 0.04 * ground.node_noise),
        "port_tx_bytes": sent,
        "port_rx_packets": np.floor(sent / PACKET_BYTES),
        "port_tx_packets": np.floor(sent / PACKET_BYTES),
        "port_xmit_wait": np.floor(crowded * 1e6 * passed_s),
        "port_congestion": np.floor(crowded * 1e3 * passed_s),
        "port_link_up": np.ones(count),
    }
    return _matrix(PORT, rows, count)


def _matrix(names: tuple[str, ...], rows: dict[str, Floats], count: int) -> Matrix:
    """Rows in the order of `names`; one that is not given is a counter at rest: zero."""
    made = np.zeros((len(names), count), np.float32)
    for at, name in enumerate(names):
        if name in rows:
            made[at] = rows[name]
    assert not rows.keys() - set(names), f"unknown rows: {rows.keys() - set(names)}"
    return made
