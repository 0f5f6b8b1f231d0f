"""The devices of this machine: NVIDIA GPUs by NVML, or else CPU slots that stand in for them.

A GPU that is cut into MIG devices is these: each is a device of a model of its own, like
`NVIDIA A100-SXM4-40GB:1g.5gb`, which a job asks for as a profile (MIG user guide).

Everything that a sensor cannot tell is None. NVML calls may hang with a sick driver, so nobody with
something else to do calls `healthy` or `samples`. Source: NVML API reference guide (nvidia-ml-py).
"""

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import psutil

from madang.engines.base import GpuSample

_log = logging.getLogger(__name__)
_MIB = 1 << 20


class Devices(Protocol):
    """What the engine needs of them. Devices are numbered 0 … count - 1, in the order of NVML."""

    @property
    def count(self) -> int: ...

    @property
    def model(self) -> str: ...

    @property
    def memory_mib(self) -> int: ...

    @property
    def mig(self) -> str:
        """The MIG profile of the devices, `1g.5gb`; empty if they are whole GPUs."""

    @property
    def uuids(self) -> tuple[str, ...]:
        """What NVML calls them, in our order; empty for CPU slots."""

    def names(self, gpus: tuple[int, ...]) -> tuple[str, ...]:
        """What CUDA calls these devices; empty for CPU slots."""

    def healthy(self) -> int:
        """Bit set of the devices that work."""

    def samples(self) -> tuple[GpuSample, ...]:
        """A sample of each."""


class CpuSlots:
    """`count` slots: every feature works the same without a GPU."""

    model = "cpu"
    memory_mib = 0
    mig = ""
    uuids: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self.count = count

    def names(self, gpus: tuple[int, ...]) -> tuple[str, ...]:
        return ()

    def healthy(self) -> int:
        return (1 << self.count) - 1

    def samples(self) -> tuple[GpuSample, ...]:
        return tuple(GpuSample(index) for index in range(self.count))


@dataclass(frozen=True, slots=True)
class _Gpu:
    nvml_index: int
    uuid: str
    model: str
    memory_mib: int
    mig: str = ""


class NvidiaGpus:
    """GPUs of one model, or MIG devices of one profile, by an initialised NVML."""

    def __init__(self, nvml: ModuleType, gpus: list[_Gpu]) -> None:
        self._nvml = nvml
        self._gpus = gpus
        self.count = len(gpus)
        self.model = gpus[0].model
        self.memory_mib = min(gpu.memory_mib for gpu in gpus)
        self.mig = gpus[0].mig

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(gpu.uuid for gpu in self._gpus)

    def names(self, gpus: tuple[int, ...]) -> tuple[str, ...]:
        named = [self._gpus[gpu] for gpu in gpus]
        return tuple(gpu.uuid if gpu.mig else str(gpu.nvml_index) for gpu in named)

    def healthy(self) -> int:
        bits = 0
        for index, gpu in enumerate(self._gpus):
            bits |= self._works(gpu) << index
        return bits

    def _works(self, gpu: _Gpu) -> bool:
        """It answers, and its memory could be repaired where it had to be."""
        nvml = self._nvml
        try:
            device = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            nvml.nvmlDeviceGetMemoryInfo(device)
        except nvml.NVMLError as error:
            _log.warning("GPU %d (%s) does not answer: %s", gpu.nvml_index, gpu.uuid, error)
            return False
        try:
            return not nvml.nvmlDeviceGetRemappedRows(device)[3]  # a remapping failed
        except nvml.NVMLError:
            return True  # before Ampere there is no row remapping

    def samples(self) -> tuple[GpuSample, ...]:
        return tuple(self._sample(index, gpu) for index, gpu in enumerate(self._gpus))

    def _sample(self, index: int, gpu: _Gpu) -> GpuSample:
        nvml = self._nvml
        device = self._read(nvml.nvmlDeviceGetHandleByUUID, gpu.uuid)
        if device is None:
            return GpuSample(index)
        util = self._read(nvml.nvmlDeviceGetUtilizationRates, device)
        memory = self._read(nvml.nvmlDeviceGetMemoryInfo, device)
        power_mw = self._read(nvml.nvmlDeviceGetPowerUsage, device)
        heat = self._read(nvml.nvmlDeviceGetTemperature, device, nvml.NVML_TEMPERATURE_GPU)
        return GpuSample(
            index,
            util_percent=None if util is None else float(util.gpu),
            memory_used_mib=None if memory is None else int(memory.used) // _MIB,
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=None if heat is None else int(heat),
        )

    def _read(self, call: Any, *args: object) -> Any:
        try:
            return call(*args)
        except self._nvml.NVMLError:
            return None


def found(
    count: int | None, environ: Mapping[str, str] = os.environ, nvml: ModuleType | None = None
) -> Devices:
    """The GPUs of this machine (the first `count`), else `count` CPU slots (default one per core).

    A CUDA_VISIBLE_DEVICES of the daemon itself is honoured: a shared machine may lend only some.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} devices; at least 1, or leave it out for what the machine has")
    gpus = _nvidia(environ.get("CUDA_VISIBLE_DEVICES"), nvml)
    if gpus is None:
        return CpuSlots(count or len(os.sched_getaffinity(0)))
    return NvidiaGpus(gpus[0], gpus[1][:count])


def _nvidia(visible: str | None, nvml: ModuleType | None) -> tuple[ModuleType, list[_Gpu]] | None:
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        listed = [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _gpus(nvml, index)]
    except nvml.NVMLError:
        return None  # no driver, no library, or no device
    gpus = [gpu for gpu in listed if _is_visible(gpu, visible)]
    if not gpus:
        return None
    kept = [gpu for gpu in gpus if gpu.model == gpus[0].model]
    if len(kept) < len(gpus):
        _log.warning("a node offers one model: %s; other GPUs are left out", gpus[0].model)
    return nvml, kept


def _gpus(nvml: ModuleType, index: int) -> list[_Gpu]:
    """The GPU, or the MIG devices that it is cut into; none if it cannot be read."""
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        name = _text(nvml.nvmlDeviceGetName(device))
        if _is_cut(nvml, device):
            parts = range(nvml.nvmlDeviceGetMaxMigDeviceCount(device))
            found = [_mig(nvml, device, part, (index, name)) for part in parts]
            return [gpu for gpu in found if gpu is not None]
        uuid = _text(nvml.nvmlDeviceGetUUID(device))
        return [_Gpu(index, uuid, name, int(nvml.nvmlDeviceGetMemoryInfo(device).total) // _MIB)]
    except nvml.NVMLError as error:
        # It stays out until the next start: without a UUID it could not be told from another.
        _log.error("GPU %d cannot be read and is left out: %s", index, error)
        return []


def _is_cut(nvml: ModuleType, device: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(device)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError:
        return False  # before Ampere there is no MIG


def _mig(nvml: ModuleType, device: Any, part: int, whole: tuple[int, str]) -> _Gpu | None:
    """One MIG device; None where none was made. Its name ends in ` MIG 1g.5gb`."""
    index, model = whole
    try:
        mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, part)
        profile = _text(nvml.nvmlDeviceGetName(mig)).rpartition(" MIG ")[2]
        memory_mib = int(nvml.nvmlDeviceGetMemoryInfo(mig).total) // _MIB
        uuid = _text(nvml.nvmlDeviceGetUUID(mig))
        return _Gpu(index, uuid, f"{model}:{profile}", memory_mib, profile)
    except nvml.NVMLError:
        return None


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _is_visible(gpu: _Gpu, visible: str | None) -> bool:
    if visible is None:
        return True
    words = [word.strip() for word in visible.split(",")]
    return any(word == str(gpu.nvml_index) or gpu.uuid.startswith(word) for word in words if word)


# -- CPU and memory -----------------------------------------------------------------------------


def cpu_milli(root: Path = Path("/")) -> int:
    """Thousandths of a CPU that this process may use: its affinity, and its cgroups' quota."""
    allowed = [len(os.sched_getaffinity(0)) * 1000]
    for directory in _cgroups(root, "cpu"):
        words = _words(directory / "cpu.max")
        quota = words if len(words) == 2 else _words(directory / "cpu.cfs_quota_us")
        period = words[1:] if len(words) == 2 else _words(directory / "cpu.cfs_period_us")
        if quota and period and quota[0].isdigit() and period[0].isdigit() and int(period[0]):
            allowed.append(int(quota[0]) * 1000 // int(period[0]))
    return max(1, min(allowed))


def memory_mib(root: Path = Path("/")) -> int:
    """Memory that this process may use: the machine's, and its cgroups' limit."""
    allowed = [psutil.virtual_memory().total]
    for directory in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(directory / name)
            if words and words[0].isdigit():
                allowed.append(int(words[0]))
    return max(1, min(allowed) // _MIB)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """Our cgroup and those above it, of version 2 and of version 1. Source: cgroups(7)."""
    found: list[Path] = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        parts = [part for part in path.split("/") if part]
        found += [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return found


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
