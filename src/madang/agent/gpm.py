"""GPM: how busy the parts of a GPU were between two samples. Source: NVML API reference, GPM.

Devices before Hopper do not support it; then `Gpm` raises NVML_ERROR_NOT_SUPPORTED once.
"""

import math
from types import ModuleType
from typing import Any

# Metric of GPM → ours. Bytes come as MiB/s.
METRICS = {
    2: "gpu_sm_active_percent",  # NVML_GPM_METRIC_SM_UTIL
    5: "gpu_tensor_active_percent",  # NVML_GPM_METRIC_ANY_TENSOR_UTIL
    10: "gpu_dram_active_percent",  # NVML_GPM_METRIC_DRAM_BW_UTIL
    20: "gpu_pcie_tx_bytes",
    21: "gpu_pcie_rx_bytes",
    60: "gpu_nvlink_rx_bytes",
    61: "gpu_nvlink_tx_bytes",
}


class Gpm:
    """The samples of one device, or of a MIG device (whose `parent` is the whole)."""

    def __init__(self, nvml: ModuleType, handle: Any, parent: Any) -> None:
        """Raises NVMLError."""
        self._nvml, self._handle, self._parent = nvml, handle, parent
        self._instance = 0
        if parent is not None:
            self._instance = nvml.nvmlDeviceGetGpuInstanceId(handle)
        if not nvml.nvmlGpmQueryDeviceSupport(parent or handle).isSupportedDevice:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        self._before = nvml.nvmlGpmSampleAlloc()
        self._now = nvml.nvmlGpmSampleAlloc()
        self._has_before = False

    def read(self) -> dict[str, float]:
        """Values since the last call, by our names: percent, or MiB/s; empty at first.

        Raises NVMLError.
        """
        nvml = self._nvml
        if self._parent is not None:
            nvml.nvmlGpmMigSampleGet(self._parent, self._instance, self._now)
        else:
            nvml.nvmlGpmSampleGet(self._handle, self._now)
        found: dict[str, float] = {}
        if self._has_before:
            found = self._compared()
        self._before, self._now = self._now, self._before
        self._has_before = True
        return found

    def _compared(self) -> dict[str, float]:
        nvml = self._nvml
        asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics = len(METRICS)
        asked.sample1, asked.sample2 = self._before, self._now
        for row, number in enumerate(METRICS):
            asked.metrics[row].metricId = number
        nvml.nvmlGpmMetricsGet(asked)
        return {
            METRICS[one.metricId]: _within(METRICS[one.metricId], float(one.value))
            for one in asked.metrics[: len(METRICS)]
            if one.nvmlReturn == nvml.NVML_SUCCESS and math.isfinite(one.value)
        }

    def close(self) -> None:
        for sample in (self._before, self._now):
            try:
                self._nvml.nvmlGpmSampleFree(sample)
            except self._nvml.NVMLError:
                pass  # the driver is gone, and its memory with it


def _within(metric: str, value: float) -> float:
    """A share of time is no more than all of it, whatever the rounding of two samples says."""
    return min(max(value, 0.0), 100.0) if metric.endswith("_percent") else max(value, 0.0)
