"""The one table of metrics: their names, units, accepted ranges, and what DCGM calls them.

A name ends with its unit. `gauge` is a value at a moment; `count` what was added since the frame
before (who reads the sensor handles resets); `bits` a set of flags. What a job reports by
`madang.report` is a metric too, `report_NAME`, of any range.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from madang.telemetry.frames import METRIC, Subject

Form = Literal["gauge", "count", "bits"]
REPORT = "report_"
_ANY = 3.0e38  # float32's own end


@dataclass(frozen=True, slots=True)
class Metric:
    """`percent`: an integer from 0 to 100, so that its histogram is exact. `whole`: an integer from
    0 to 65,534. `range` is what is accepted, ends included; beyond it a value is dropped and told.
    """

    name: str
    unit: str
    form: Form
    subject: Subject
    text: str
    percent: bool = False
    whole: bool = False
    dcgm: tuple[str, ...] = ()
    range: tuple[float, float] = (0.0, _ANY)


def metric_of(name: str) -> Metric | None:
    """The metric of this name, also of a job's report; None if there is none."""
    known = METRICS.get(name)
    if known is not None or not name.startswith(REPORT) or not METRIC.fullmatch(name):
        return known
    text = f"what the job reported as {name.removeprefix(REPORT)}"
    return Metric(name, "", "gauge", Subject.MEMBER, text, range=(-_ANY, _ANY))


_GPU, _NODE, _MEMBER, _PORT = Subject.GPU, Subject.NODE, Subject.MEMBER, Subject.PORT
_PERCENT = (0.0, 100.0)
_U16 = (0.0, 65_534.0)
_BYTES = (0.0, 1e15)  # a petabyte between two frames is a broken counter
_COUNT = (0.0, 1e12)

_TABLE = (
    # -- a GPU's work
    Metric(
        "gpu_util_percent",
        "percent",
        "gauge",
        _GPU,
        "share of the time in which a kernel ran",
        percent=True,
        dcgm=("DCGM_FI_DEV_GPU_UTIL",),
        range=_PERCENT,
    ),
    Metric(
        "gpu_sm_active_percent",
        "percent",
        "gauge",
        _GPU,
        "share of the time in which a multiprocessor had a warp, over all of them",
        dcgm=("DCGM_FI_PROF_SM_ACTIVE",),
        range=_PERCENT,
    ),
    Metric(
        "gpu_tensor_active_percent",
        "percent",
        "gauge",
        _GPU,
        "share of the time in which the tensor cores worked",
        dcgm=("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",),
        range=_PERCENT,
    ),
    Metric(
        "gpu_dram_active_percent",
        "percent",
        "gauge",
        _GPU,
        "share of the time in which the device's memory moved data",
        dcgm=("DCGM_FI_PROF_DRAM_ACTIVE",),
        range=_PERCENT,
    ),
    Metric(
        "gpu_memory_used_mib",
        "MiB",
        "gauge",
        _GPU,
        "device memory in use",
        dcgm=("DCGM_FI_DEV_FB_USED",),
        range=(0.0, 16_777_216.0),
    ),
    Metric(
        "gpu_memory_used_percent",
        "percent",
        "gauge",
        _GPU,
        "device memory in use, of all there is",
        percent=True,
        dcgm=("DCGM_FI_DEV_FB_USED_PERCENT",),
        range=_PERCENT,
    ),
    # -- its power, heat and clocks
    Metric(
        "gpu_power_w",
        "W",
        "gauge",
        _GPU,
        "power drawn",
        dcgm=("DCGM_FI_DEV_POWER_USAGE",),
        range=(0.0, 10_000.0),
    ),
    Metric(
        "gpu_power_limit_w",
        "W",
        "gauge",
        _GPU,
        "power it may draw",
        dcgm=("DCGM_FI_DEV_POWER_MGMT_LIMIT",),
        range=(0.0, 10_000.0),
    ),
    Metric(
        "gpu_temperature_c",
        "°C",
        "gauge",
        _GPU,
        "temperature of the die",
        whole=True,
        dcgm=("DCGM_FI_DEV_GPU_TEMP",),
        range=(0.0, 200.0),
    ),
    Metric(
        "gpu_memory_temperature_c",
        "°C",
        "gauge",
        _GPU,
        "temperature of the device's memory",
        whole=True,
        dcgm=("DCGM_FI_DEV_MEMORY_TEMP",),
        range=(0.0, 200.0),
    ),
    Metric(
        "gpu_sm_clock_mhz",
        "MHz",
        "gauge",
        _GPU,
        "clock of the multiprocessors",
        whole=True,
        dcgm=("DCGM_FI_DEV_SM_CLOCK",),
        range=(0.0, 20_000.0),
    ),
    Metric(
        "gpu_memory_clock_mhz",
        "MHz",
        "gauge",
        _GPU,
        "clock of the device's memory",
        whole=True,
        dcgm=("DCGM_FI_DEV_MEM_CLOCK",),
        range=(0.0, 40_000.0),
    ),
    Metric(
        "gpu_throttle_bits",
        "bits",
        "bits",
        _GPU,
        "why the clocks are held down: NVML's reasons, one bit each",
        whole=True,
        dcgm=("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"),
        range=_U16,
    ),
    # -- its links
    Metric(
        "gpu_pcie_rx_bytes",
        "B",
        "count",
        _GPU,
        "bytes it received over PCIe",
        dcgm=("DCGM_FI_PROF_PCIE_RX_BYTES",),
        range=_BYTES,
    ),
    Metric(
        "gpu_pcie_tx_bytes",
        "B",
        "count",
        _GPU,
        "bytes it sent over PCIe",
        dcgm=("DCGM_FI_PROF_PCIE_TX_BYTES",),
        range=_BYTES,
    ),
    Metric(
        "gpu_pcie_replays",
        "count",
        "count",
        _GPU,
        "PCIe packets that had to be sent again",
        dcgm=("DCGM_FI_DEV_PCIE_REPLAY_COUNTER",),
        range=_COUNT,
    ),
    Metric(
        "gpu_nvlink_rx_bytes",
        "B",
        "count",
        _GPU,
        "bytes it received over NVLink",
        dcgm=("DCGM_FI_PROF_NVLINK_RX_BYTES",),
        range=_BYTES,
    ),
    Metric(
        "gpu_nvlink_tx_bytes",
        "B",
        "count",
        _GPU,
        "bytes it sent over NVLink",
        dcgm=("DCGM_FI_PROF_NVLINK_TX_BYTES",),
        range=_BYTES,
    ),
    Metric(
        "gpu_nvlink_errors",
        "count",
        "count",
        _GPU,
        "CRC, replay and recovery errors of its NVLinks",
        dcgm=(
            "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
            "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
            "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL",
            "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
        ),
        range=_COUNT,
    ),
    # -- its health
    Metric(
        "gpu_ecc_corrected",
        "count",
        "count",
        _GPU,
        "memory errors that ECC corrected",
        dcgm=("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",),
        range=_COUNT,
    ),
    Metric(
        "gpu_ecc_uncorrected",
        "count",
        "count",
        _GPU,
        "memory errors that ECC could not correct",
        dcgm=("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",),
        range=_COUNT,
    ),
    Metric(
        "gpu_remapped_rows",
        "count",
        "gauge",
        _GPU,
        "rows of memory that were replaced, in all",
        whole=True,
        dcgm=(
            "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
            "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        ),
        range=_U16,
    ),
    Metric(
        "gpu_remap_pending",
        "flag",
        "gauge",
        _GPU,
        "1: a row is replaced at the next reset; 2: it could not be",
        whole=True,
        dcgm=("DCGM_FI_DEV_ROW_REMAP_PENDING", "DCGM_FI_DEV_ROW_REMAP_FAILURE"),
        range=(0.0, 2.0),
    ),
    Metric(
        "gpu_recovery_action",
        "code",
        "gauge",
        _GPU,
        "what NVML wants done: 0 nothing, 1 reset, 2 reboot, 3 drain, 4 drain and reset",
        whole=True,
        dcgm=("DCGM_FI_DEV_GPU_RECOVERY_ACTION",),
        range=(0.0, 255.0),
    ),
    # -- a node
    Metric(
        "node_cpu_percent",
        "percent",
        "gauge",
        _NODE,
        "100 when every core is busy",
        percent=True,
        range=_PERCENT,
    ),
    Metric(
        "node_load",
        "tasks",
        "gauge",
        _NODE,
        "tasks that run or wait, mean of a minute",
        range=(0.0, 1e6),
    ),
    Metric(
        "node_memory_used_mib",
        "MiB",
        "gauge",
        _NODE,
        "memory that is not available",
        range=(0.0, 1e9),
    ),
    Metric(
        "node_memory_used_percent",
        "percent",
        "gauge",
        _NODE,
        "memory that is not available, of all there is",
        percent=True,
        range=_PERCENT,
    ),
    Metric("node_disk_read_bytes", "B", "count", _NODE, "bytes read from its disks", range=_BYTES),
    Metric(
        "node_disk_write_bytes", "B", "count", _NODE, "bytes written to its disks", range=_BYTES
    ),
    Metric(
        "node_disk_used_percent",
        "percent",
        "gauge",
        _NODE,
        "the fullest of its file systems",
        percent=True,
        range=_PERCENT,
    ),
    Metric("node_net_rx_bytes", "B", "count", _NODE, "bytes received", range=_BYTES),
    Metric("node_net_tx_bytes", "B", "count", _NODE, "bytes sent", range=_BYTES),
    # -- a member of a job, with all its processes
    Metric("member_cpu_percent", "percent", "gauge", _MEMBER, "100 a busy core", range=(0.0, 1e6)),
    Metric("member_memory_mib", "MiB", "gauge", _MEMBER, "memory in use", range=(0.0, 1e9)),
    Metric("member_read_bytes", "B", "count", _MEMBER, "bytes read from disks", range=_BYTES),
    Metric("member_write_bytes", "B", "count", _MEMBER, "bytes written to disks", range=_BYTES),
    Metric("member_processes", "count", "gauge", _MEMBER, "processes", range=(0.0, 1e7)),
    Metric(
        "member_gpu_mask",
        "bits",
        "bits",
        _MEMBER,
        "the node's GPUs that kubelet gave to a container, one bit each",
        range=(0.0, float((1 << 24) - 1)),
    ),
    # -- a port of InfiniBand or of the network
    Metric("port_rx_bytes", "B", "count", _PORT, "bytes received", range=_BYTES),
    Metric("port_tx_bytes", "B", "count", _PORT, "bytes sent", range=_BYTES),
    Metric("port_rx_packets", "count", "count", _PORT, "packets received", range=_COUNT),
    Metric("port_tx_packets", "count", "count", _PORT, "packets sent", range=_COUNT),
    Metric("port_symbol_errors", "count", "count", _PORT, "symbol errors", range=_COUNT),
    Metric("port_link_downed", "count", "count", _PORT, "times the link went down", range=_COUNT),
    Metric(
        "port_rcv_errors", "count", "count", _PORT, "packets received with errors", range=_COUNT
    ),
    Metric(
        "port_xmit_discards", "count", "count", _PORT, "packets that were not sent", range=_COUNT
    ),
    Metric(
        "port_xmit_wait", "ticks", "count", _PORT, "ticks with data but no credits", range=_BYTES
    ),
    Metric(
        "port_out_of_sequence", "count", "count", _PORT, "packets out of sequence", range=_COUNT
    ),
    Metric("port_retransmits", "count", "count", _PORT, "packets sent again", range=_COUNT),
    Metric(
        "port_congestion", "count", "count", _PORT, "marks and notices of congestion", range=_COUNT
    ),
    Metric(
        "port_link_up", "flag", "gauge", _PORT, "1: the link is up", whole=True, range=(0.0, 1.0)
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})
assert len(METRICS) == len(_TABLE), "a metric is in the table twice"
