"""GPUs by NVML. Every field by itself: what a device, a driver or a MIG slice does not tell is
missing, and so is everything of a device that fell off its bus.

Activity of the multiprocessors, tensor cores and memory comes from GPM (Hopper and newer), as
percent since the last read. Bytes are counters where the driver has them, else GPM's rates over the
time between two reads. A call that a device does not support is not asked of it again.

Source: NVML API reference (nvidia-ml-py): field values, GPM, device queries.
"""

import importlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from madang.agent._base import NOT_KNOWN, Counters, Reading, Row, columns_of
from madang.agent.gpm import Gpm
from madang.agent.kernel_log import short_address
from madang.telemetry.frames import Subject

_log = logging.getLogger(__name__)

MIB = 1 << 20
PROFILE = re.compile(r"\bMIG (?:\d+c\.)?(\d+g\.\d+gb[0-9a-z.+-]{0,12})$", re.ASCII)
OPEN_AGAIN_MS = 60_000  # a driver may be loaded later
ALL_LINKS = 0xFFFFFFFF  # a field's scope: the sum over all links
KIB = 1024

# Fields by number: nvml.h; not every version of nvidia-ml-py names them all.
FI_MEMORY_TEMPERATURE = 82
FI_PCIE_REPLAYS = 94
FI_PCIE_TX_BYTES, FI_PCIE_RX_BYTES = 197, 198
FI_NVLINK_TX_KIB, FI_NVLINK_RX_KIB = 138, 139
FI_NVLINK_ERRORS = (38, 45, 52, 59)  # CRC of flits, CRC of data, replays, recoveries; all lanes
FI_RECOVERY_ACTION = 230
FIELDS: tuple[tuple[int, int], ...] = (
    (FI_MEMORY_TEMPERATURE, 0),
    (FI_PCIE_REPLAYS, 0),
    (FI_PCIE_TX_BYTES, 0),
    (FI_PCIE_RX_BYTES, 0),
    (FI_NVLINK_TX_KIB, ALL_LINKS),
    (FI_NVLINK_RX_KIB, ALL_LINKS),
    *((one, 0) for one in FI_NVLINK_ERRORS),
    (FI_RECOVERY_ACTION, 0),
)


@dataclass(slots=True)
class Device:
    """A GPU, or a MIG device of one. `gone`: calls that it does not support."""

    key: str
    handle: Any
    pci: str = ""
    parent: Any = None  # of a MIG device
    gone: set[str] = field(default_factory=set)
    gpm: Gpm | None = None


class Nvml:
    """See the module's docstring. `uuids`: which devices, in the order of their keys; else all."""

    name = "nvml"

    def __init__(self, uuids: Sequence[str] = (), nvml: ModuleType | None = None) -> None:
        self._uuids = tuple(uuids)
        self._nvml = nvml
        self._devices: list[Device] = []
        self._by_uuid: dict[str, int] = {}  # UUID → number of the GPU
        self._is_open = self._was_told = False
        self._open_ms = 0
        self._last_ms = 0
        self._counters = Counters()

    # -- finding -----------------------------------------------------------------------------------

    def gpu_at(self, pci: str) -> str | None:
        """The key of the device at this PCI address (`0000:3b:00`)."""
        return next((one.key for one in self._devices if one.pci == pci), None)

    def gpu_of(self, uuid: str) -> int | None:
        """The number of the device of this UUID; of a MIG device, of the GPU it is part of.

        From any thread: nothing is asked of the driver.
        """
        return self._by_uuid.get(uuid)

    def _opened(self, now_ms: int) -> bool:
        if self._is_open or now_ms < self._open_ms:
            return self._is_open
        self._open_ms = now_ms + OPEN_AGAIN_MS
        try:
            nvml = self._nvml = self._nvml or importlib.import_module("pynvml")
        except ImportError:
            return False
        try:
            nvml.nvmlInit()
            self._devices = self._named() if self._uuids else self._found()
            self._by_uuid = {uuid: gpu for gpu, uuid in self._uuids_of(self._devices)}
            self._is_open = bool(self._devices)
        except nvml.NVMLError as error:
            if not self._was_told:
                _log.info("no GPUs by NVML: %s", error)
            self._was_told = True
        return self._is_open

    def _named(self) -> list[Device]:
        found = []
        for index, uuid in enumerate(self._uuids):
            handle = self._call(self._nvml_().nvmlDeviceGetHandleByUUID, uuid)
            if handle is not None:
                found.append(self._device(str(index), handle))
        return found

    def _found(self) -> list[Device]:
        nvml = self._nvml_()
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = self._call(nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                continue  # it fell off its bus before we came
            whole = self._device(str(index), handle)
            found += [whole, *self._parts(whole)]
        return found

    def _parts(self, whole: Device) -> list[Device]:
        nvml = self._nvml_()
        mode = self._call(nvml.nvmlDeviceGetMigMode, whole.handle)
        if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        count = self._call(nvml.nvmlDeviceGetMaxMigDeviceCount, whole.handle) or 0
        parts: dict[str, Device] = {}
        for part in range(count):
            handle = self._call(nvml.nvmlDeviceGetMigDeviceHandleByIndex, whole.handle, part)
            if handle is None:
                continue
            # By GPU instance, as DCGM and the kernel's log name it; two compute instances of one
            # have their memory and sensors in common.
            instance = self._call(nvml.nvmlDeviceGetGpuInstanceId, handle)
            key = f"{whole.key}/{part if instance is None else instance}"
            if key not in parts:
                profile = _profile(self._call(nvml.nvmlDeviceGetName, handle))
                named = f"{key}/{profile}" if profile else key
                parts[key] = Device(named, handle, parent=whole.handle)
        return list(parts.values())

    def _uuids_of(self, devices: Sequence[Device]) -> Iterator[tuple[int, str]]:
        for device in devices:
            uuid = self._call(self._nvml_().nvmlDeviceGetUUID, device.handle)
            if uuid is not None:
                text = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
                yield int(device.key.partition("/")[0]), text

    def _device(self, key: str, handle: Any) -> Device:
        pci = self._call(self._nvml_().nvmlDeviceGetPciInfo, handle)
        try:
            bus = pci.busId if pci is not None else ""
            address = short_address(bus.decode() if isinstance(bus, bytes) else bus)
        except ValueError:
            address = ""
        return Device(key, handle, address)

    def _nvml_(self) -> ModuleType:
        assert self._nvml is not None, "NVML is asked before it was opened"
        return self._nvml

    # -- reading -----------------------------------------------------------------------------------

    def read(self, now_ms: int) -> Reading:
        if not self._opened(now_ms):
            return Reading()
        passed_s = (now_ms - self._last_ms) / 1000 if self._last_ms else 0.0
        self._last_ms = now_ms
        self._counters.begin()
        rows = {device.key: self._row(device, passed_s) for device in self._devices}
        columns = columns_of(Subject.GPU, rows)
        if not columns:
            self.close()  # the driver is gone, or was reloaded: begin anew
            self._open_ms = now_ms
        return Reading(columns)

    def _row(self, device: Device, passed_s: float) -> Row:
        row: dict[str, float | None] = {}
        self._add_work(device, row)
        self._add_state(device, row)
        self._add_health(device, row)
        fields = self._fields(device)
        self._add_fields(device, row, fields)
        self._add_gpm(device, row, passed_s)
        return row

    def _add_work(self, device: Device, row: dict[str, float | None]) -> None:
        nvml = self._nvml_()
        util = self._ask(device, nvml.nvmlDeviceGetUtilizationRates)
        if util is not None:
            row["gpu_util_percent"] = float(util.gpu)
        memory = self._memory(device)
        if memory is not None:
            used, total = int(memory.used), int(memory.total)
            row["gpu_memory_used_mib"] = used // MIB
            row["gpu_memory_used_percent"] = round(100 * used / total) if total else None

    def _memory(self, device: Device) -> Any:
        """The second version leaves out what the driver keeps to itself, as nvidia-smi does."""
        nvml = self._nvml_()
        version = getattr(nvml, "nvmlMemory_v2", None)
        if version is not None:
            memory = self._ask(device, nvml.nvmlDeviceGetMemoryInfo, version, name="memory v2")
            if memory is not None:
                return memory
        return self._ask(device, nvml.nvmlDeviceGetMemoryInfo)

    def _add_state(self, device: Device, row: dict[str, float | None]) -> None:
        nvml = self._nvml_()
        for metric, call in (
            ("gpu_power_w", nvml.nvmlDeviceGetPowerUsage),
            ("gpu_power_limit_w", nvml.nvmlDeviceGetEnforcedPowerLimit),
        ):
            milliwatt = self._ask(device, call)
            row[metric] = None if milliwatt is None else milliwatt / 1000
        row["gpu_temperature_c"] = self._ask(
            device, nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU
        )
        for metric, clock in (
            ("gpu_sm_clock_mhz", nvml.NVML_CLOCK_SM),
            ("gpu_memory_clock_mhz", nvml.NVML_CLOCK_MEM),
        ):
            row[metric] = self._ask(device, nvml.nvmlDeviceGetClockInfo, clock, name=metric)
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        bits = self._ask(device, reasons) if reasons is not None else None
        if bits is None:
            bits = self._ask(device, nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        row["gpu_throttle_bits"] = bits

    def _add_health(self, device: Device, row: dict[str, float | None]) -> None:
        nvml = self._nvml_()
        for metric, error in (
            ("gpu_ecc_corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("gpu_ecc_uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        ):
            args = (error, nvml.NVML_VOLATILE_ECC)
            count = self._ask(device, nvml.nvmlDeviceGetTotalEccErrors, *args, name=metric)
            row[metric] = self._counters.grown((metric, device.key), count)
        rows = self._ask(device, nvml.nvmlDeviceGetRemappedRows)
        if rows is not None:
            corrected, uncorrected, is_pending, has_failed = rows[:4]
            row["gpu_remapped_rows"] = corrected + uncorrected
            row["gpu_remap_pending"] = 2 if has_failed else int(bool(is_pending))

    def _add_fields(
        self, device: Device, row: dict[str, float | None], fields: dict[int, float]
    ) -> None:
        grown = self._counters.grown
        row["gpu_memory_temperature_c"] = fields.get(FI_MEMORY_TEMPERATURE) or None
        row["gpu_recovery_action"] = fields.get(FI_RECOVERY_ACTION)
        replays = fields.get(FI_PCIE_REPLAYS)
        if replays is None:
            replays = self._ask(device, self._nvml_().nvmlDeviceGetPcieReplayCounter)
        row["gpu_pcie_replays"] = grown(("pcie replays", device.key), replays)
        for metric, number, unit in (
            ("gpu_pcie_tx_bytes", FI_PCIE_TX_BYTES, 1),
            ("gpu_pcie_rx_bytes", FI_PCIE_RX_BYTES, 1),
            ("gpu_nvlink_tx_bytes", FI_NVLINK_TX_KIB, KIB),
            ("gpu_nvlink_rx_bytes", FI_NVLINK_RX_KIB, KIB),
        ):
            row[metric] = unit * grown((metric, device.key), fields.get(number))
        told = [fields[one] for one in FI_NVLINK_ERRORS if one in fields]
        row["gpu_nvlink_errors"] = grown(("nvlink errors", device.key), sum(told) if told else None)

    def _fields(self, device: Device) -> dict[int, float]:
        """The values of the fields that the device knows."""
        nvml = self._nvml_()
        asked = [one for one in FIELDS if str(one[0]) not in device.gone]
        values = self._ask(device, nvml.nvmlDeviceGetFieldValues, asked) if asked else None
        found: dict[int, float] = {}
        for value in values or ():
            if value.nvmlReturn == nvml.NVML_SUCCESS:
                found[value.fieldId] = _of_type(nvml, value)
            elif value.nvmlReturn in _never(nvml):
                device.gone.add(str(value.fieldId))
        return found

    def _add_gpm(self, device: Device, row: dict[str, float | None], passed_s: float) -> None:
        if "gpm" in device.gone:
            return
        nvml = self._nvml_()
        try:
            device.gpm = device.gpm or Gpm(nvml, device.handle, device.parent)
            said = device.gpm.read()
        except nvml.NVMLError as error:
            device.gpm = None
            if error.value in _never(nvml):
                device.gone.add("gpm")
            return
        except AttributeError:
            device.gone.add("gpm")  # an older nvidia-ml-py
            return
        for metric, value in said.items():
            if metric.endswith("_bytes"):
                if _is_missing(row.get(metric)) and passed_s:
                    row[metric] = value * MIB * passed_s
            else:
                row[metric] = value

    # -- asking ------------------------------------------------------------------------------------

    def _ask(self, device: Device, call: Callable[..., Any], *args: object, name: str = "") -> Any:
        """The answer; None if there is none, now or ever."""
        name = name or call.__name__
        if name in device.gone:
            return None
        nvml = self._nvml_()
        try:
            return call(device.handle, *args)
        except nvml.NVMLError as error:
            if error.value in _never(nvml):
                device.gone.add(name)
            return None

    def _call(self, call: Callable[..., Any], *args: object) -> Any:
        try:
            return call(*args)
        except self._nvml_().NVMLError:
            return None

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for device in self._devices:
            if device.gpm is not None:
                device.gpm.close()
        self._devices = []
        self._call(self._nvml_().nvmlShutdown)


def _profile(name: Any) -> str:
    """`1g.10gb` of "NVIDIA H100 80GB HBM3 MIG 1g.10gb"; also of a part of such a slice."""
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
    found = PROFILE.search(text)
    return found[1] if found else ""


def _never(nvml: ModuleType) -> tuple[int, ...]:
    """What NVML says of a call that it will not answer until it is opened again."""
    return (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def _of_type(nvml: ModuleType, value: Any) -> float:
    """The member of the union that the value's type names."""
    match value.valueType:
        case nvml.NVML_VALUE_TYPE_DOUBLE:
            return float(value.value.dVal)
        case nvml.NVML_VALUE_TYPE_UNSIGNED_INT:
            return float(value.value.uiVal)
        case nvml.NVML_VALUE_TYPE_UNSIGNED_LONG:
            return float(value.value.ulVal)
        case nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG:
            return float(value.value.ullVal)
        case nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG:
            return float(value.value.sllVal)
        case nvml.NVML_VALUE_TYPE_SIGNED_INT:
            return float(value.value.siVal)
    return NOT_KNOWN


def _is_missing(value: float | None) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN
