"""A module that looks like `pynvml` to its caller: devices as dictionaries, errors by field.

The constants and the classes of errors and structures are pynvml's own, so that a wrong name or a
wrong member fails here as it would on a GPU. A value may be an exception: then it is raised.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml

UNSUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


def field(value: float, kind: int = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG) -> tuple[int, float]:
    """A field's value with its type."""
    return (kind, value)


class FakeNvml(ModuleType):
    """`gpus`: each a dict with the answers; `calls` counts what was asked."""

    def __init__(self, gpus: list[dict[str, Any]]) -> None:
        super().__init__("fake_nvml")
        for name in dir(pynvml):
            if name.startswith(("NVML_", "c_nvml", "nvmlMemory_v2")) or name == "NVMLError":
                setattr(self, name, getattr(pynvml, name))
        self.gpus = gpus
        self.inits = 0
        self.calls: dict[str, int] = {}

    # -- the library -------------------------------------------------------------------------------

    def nvmlInit(self) -> None:
        self.inits += 1

    def nvmlShutdown(self) -> None:
        self.inits -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self._told(self.gpus[index], "handle", self.gpus[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        for gpu in self.gpus:
            for one in [gpu, *gpu.get("parts", [])]:
                if one.get("uuid") == uuid:
                    return one
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> str:
        return str(self._told(gpu, "uuid"))

    def nvmlDeviceGetPciInfo(self, gpu: dict[str, Any]) -> Any:
        return SimpleNamespace(busId=self._told(gpu, "pci", b"00000000:01:00.0"))

    # -- MIG ---------------------------------------------------------------------------------------

    def nvmlDeviceGetMigMode(self, gpu: dict[str, Any]) -> list[int]:
        if "parts" not in gpu:
            raise UNSUPPORTED
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: dict[str, Any]) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: dict[str, Any], index: int) -> Any:
        if index >= len(gpu["parts"]):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu["parts"][index]

    def nvmlDeviceGetGpuInstanceId(self, gpu: dict[str, Any]) -> int:
        return int(self._told(gpu, "instance"))

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str:
        return str(self._told(gpu, "name"))

    # -- a device ----------------------------------------------------------------------------------

    def nvmlDeviceGetUtilizationRates(self, gpu: dict[str, Any]) -> Any:
        return SimpleNamespace(gpu=self._told(gpu, "util"), memory=0)

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any], version: Any = None) -> Any:
        if version is not None and not gpu.get("memory_v2", True):
            raise UNSUPPORTED
        used, total = self._told(gpu, "memory")
        return SimpleNamespace(used=used, total=total)

    def nvmlDeviceGetPowerUsage(self, gpu: dict[str, Any]) -> int:
        return int(self._told(gpu, "power"))

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: dict[str, Any]) -> int:
        return int(self._told(gpu, "limit"))

    def nvmlDeviceGetTemperature(self, gpu: dict[str, Any], sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return int(self._told(gpu, "heat"))

    def nvmlDeviceGetClockInfo(self, gpu: dict[str, Any], clock: int) -> int:
        return int(
            self._told(gpu, {pynvml.NVML_CLOCK_SM: "sm", pynvml.NVML_CLOCK_MEM: "mem"}[clock])
        )

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: dict[str, Any]) -> int:
        return int(self._told(gpu, "reasons"))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: dict[str, Any]) -> int:
        return int(self._told(gpu, "old_reasons"))

    def nvmlDeviceGetTotalEccErrors(self, gpu: dict[str, Any], kind: int, counter: int) -> int:
        assert counter == pynvml.NVML_VOLATILE_ECC
        is_corrected = kind == pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
        return int(self._told(gpu, "ecc" if is_corrected else "ecc2"))

    def nvmlDeviceGetRemappedRows(self, gpu: dict[str, Any]) -> tuple[int, int, int, int]:
        rows: tuple[int, int, int, int] = self._told(gpu, "rows")
        return rows

    def nvmlDeviceGetPcieReplayCounter(self, gpu: dict[str, Any]) -> int:
        return int(self._told(gpu, "replays"))

    def nvmlDeviceGetFieldValues(self, gpu: dict[str, Any], asked: list[tuple[int, int]]) -> Any:
        self._told(gpu, "fields")
        found = (pynvml.c_nvmlFieldValue_t * len(asked))()
        for slot, (number, scope) in zip(found, asked, strict=True):
            slot.fieldId, slot.scopeId = number, scope
            told = gpu["fields"].get(number)
            if told is None:
                slot.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
                continue
            slot.valueType = told[0]
            member = {
                pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
                pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
                pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
            }[told[0]]
            setattr(slot.value, member, told[1])
        return found

    # -- GPM ---------------------------------------------------------------------------------------

    def nvmlGpmQueryDeviceSupport(self, gpu: dict[str, Any]) -> Any:
        return SimpleNamespace(isSupportedDevice=int("gpm" in gpu))

    def nvmlGpmSampleAlloc(self) -> Any:
        return pynvml.c_nvmlGpmSample_t()

    def nvmlGpmSampleFree(self, sample: Any) -> None:
        pass

    def nvmlGpmSampleGet(self, gpu: dict[str, Any], sample: Any) -> Any:
        self._now = self._told(gpu, "gpm")
        return sample

    def nvmlGpmMigSampleGet(self, gpu: dict[str, Any], instance: int, sample: Any) -> Any:
        self._now = next(one["gpm"] for one in gpu["parts"] if one["instance"] == instance)
        return sample

    def nvmlGpmMetricsGet(self, asked: Any) -> Any:
        assert asked.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        for slot in asked.metrics[: asked.numMetrics]:
            told = self._now.get(slot.metricId)
            slot.nvmlReturn = (
                pynvml.NVML_SUCCESS if told is not None else pynvml.NVML_ERROR_NOT_SUPPORTED
            )
            slot.value = told or 0.0
        return asked

    def _told(self, gpu: dict[str, Any], name: str, default: Any = UNSUPPORTED) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        told = gpu.get("all", gpu.get(name, default))
        if isinstance(told, Exception):
            raise told
        return told


def h100(**changed: Any) -> dict[str, Any]:
    """What a busy H100 says; with changes."""
    return {
        "uuid": "GPU-1",
        "pci": b"00000000:3B:00.0",
        "util": 97,
        "memory": (60 << 30, 80 << 30),
        "power": 651_250,
        "limit": 700_000,
        "heat": 61,
        "sm": 1_755,
        "mem": 2_619,
        "reasons": 4,
        "ecc": 10,
        "ecc2": 0,
        "rows": (1, 2, 0, 0),
        "fields": {
            82: field(75, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT),
            94: field(3),
            138: field(1_000),
            139: field(2_000),
            38: field(5),
            52: field(1),
            230: field(0, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT),
        },
        "gpm": {2: 81.5, 5: 44.25, 10: 100.0001, 20: 2.0, 21: 4.0, 60: 900.0, 61: 800.0},
        **changed,
    }
