"""The local engine's parts that need no process: devices, images, code, retention, paths."""

import hashlib
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from madang.core.events import NodeSeen
from madang.core.model import Exit
from madang.engines.base import EngineError, GpuSample
from madang.engines.code_store import CodeStore
from madang.engines.local import LocalEngine, devices, images, retention
from madang.engines.local import engine as engine_module
from madang.engines.local.places import Places
from madang.testing.engine import Watch
from tests.engines.local_world import LocalWorld, launch
from tests.engines.test_code_store import packed, stored

# -- devices ------------------------------------------------------------------------------------


class FakeNvml(ModuleType):
    """NVML as nvidia-ml-py shows it, over a list of GPUs. No GPU is on the machines of CI."""

    NVML_TEMPERATURE_GPU = 0
    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        """As the library's own."""

    def __init__(self, models: list[str], broken: str = "") -> None:
        super().__init__("pynvml")
        self.models = models
        self.broken = broken  # "no driver", "lost 1", "remap 1" or "no sensors"

    def nvmlInit(self) -> None:
        if self.broken == "no driver":
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.models)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        index = int(uuid.removeprefix("GPU-"))
        if self.broken == f"lost {index}":
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, index: int) -> str:
        return f"GPU-{index}"

    def nvmlDeviceGetName(self, index: int) -> str:
        return str(self.models[index])

    def nvmlDeviceGetMigMode(self, index: int) -> tuple[int, int]:
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetMemoryInfo(self, index: int) -> Any:
        return SimpleNamespace(total=80 << 30, used=3 << 30)

    def nvmlDeviceGetRemappedRows(self, index: int) -> tuple[int, int, int, int]:
        return (0, 0, 0, int(self.broken == f"remap {index}"))

    def _sensor(self, value: Any) -> Any:
        if self.broken == "no sensors":
            raise self.NVMLError("Not Supported")
        return value

    def nvmlDeviceGetUtilizationRates(self, index: int) -> Any:
        return self._sensor(SimpleNamespace(gpu=42))

    def nvmlDeviceGetPowerUsage(self, index: int) -> Any:
        return self._sensor(71_500)

    def nvmlDeviceGetTemperature(self, index: int, sensor: int) -> Any:
        return self._sensor(55)


class FakeMigNvml(FakeNvml):
    """GPUs of which some are cut into MIG devices: `parts[gpu]` are the profiles of each."""

    def __init__(self, models: list[str], parts: dict[int, list[str]]) -> None:
        super().__init__(models)
        self.parts = parts

    def nvmlDeviceGetMigMode(self, index: int) -> tuple[int, int]:
        return (int(index in self.parts),) * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, index: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, index: int, part: int) -> Any:
        if part >= len(self.parts[index]):
            raise self.NVMLError("Not Found")
        return (index, part)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        if uuid.startswith("MIG-"):
            return tuple(int(word) for word in uuid.split("-")[1:])
        return super().nvmlDeviceGetHandleByUUID(uuid)

    def nvmlDeviceGetUUID(self, index: Any) -> str:
        return f"MIG-{index[0]}-{index[1]}" if isinstance(index, tuple) else f"GPU-{index}"

    def nvmlDeviceGetName(self, index: Any) -> str:
        if isinstance(index, tuple):
            return f"{self.models[index[0]]} MIG {self.parts[index[0]][index[1]]}"
        return str(self.models[index])

    def nvmlDeviceGetMemoryInfo(self, index: Any) -> Any:
        return SimpleNamespace(total=(5 if isinstance(index, tuple) else 40) << 30, used=0)


H100 = "NVIDIA H100 80GB HBM3"
A100 = "NVIDIA A100-SXM4-40GB"


def test_a_gpu_that_is_cut_is_offered_as_its_mig_devices():
    nvml = FakeMigNvml([A100, A100], {0: ["1g.5gb"] * 7, 1: ["1g.5gb"] * 3})
    found = devices.found(None, {}, nvml)

    assert (found.count, found.model, found.mig) == (10, f"{A100}:1g.5gb", "1g.5gb")
    assert found.memory_mib == 5 << 10
    assert found.names((0, 7)) == ("MIG-0-0", "MIG-1-0")
    assert found.healthy() == (1 << 10) - 1
    assert found.samples()[9].index == 9


def test_a_node_offers_one_kind_of_device_and_says_what_it_leaves_out(caplog):
    found = devices.found(None, {}, FakeMigNvml([A100, A100], {1: ["1g.5gb", "3g.20gb"]}))

    assert (found.count, found.model, found.mig) == (1, A100, "")
    assert "left out" in caplog.text


def test_a_gpu_that_may_be_cut_but_is_not_is_whole():
    found = devices.found(None, {}, FakeMigNvml([H100], {}))

    assert (found.count, found.model, found.names((0,))) == (1, H100, ("0",))


def test_gpus_are_offered_with_model_memory_and_the_names_that_cuda_uses():
    found = devices.found(None, {}, FakeNvml([H100] * 4))

    assert (found.count, found.model, found.memory_mib) == (4, H100, 80 << 10)
    assert found.names((1, 3)) == ("1", "3")
    assert found.healthy() == 0b1111
    assert found.samples()[2] == GpuSample(2, 42.0, 3 << 10, 71.5, 55)


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        ("2,0", None, ("0", "2")),
        ("GPU-3", None, ("3",)),
        (None, 2, ("0", "1")),
        ("1,2,3", 2, ("1", "2")),
    ],
)
def test_a_daemon_that_was_lent_some_gpus_offers_no_others(visible, count, names):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = devices.found(count, environ, FakeNvml([H100] * 4))

    assert found.names(tuple(range(found.count))) == names


@pytest.mark.parametrize(("broken", "healthy"), [("lost 1", 0b101), ("remap 2", 0b011)])
def test_a_gpu_that_does_not_answer_or_cannot_be_repaired_is_unhealthy(broken, healthy):
    nvml = FakeNvml([H100] * 3)
    found = devices.found(None, {}, nvml)
    nvml.broken = broken

    assert found.healthy() == healthy


def test_a_sensor_that_is_missing_is_none():
    found = devices.found(None, {}, FakeNvml([H100], "no sensors"))

    assert found.samples() == (GpuSample(0, None, 3 << 10, None, None),)


def test_a_node_offers_gpus_of_one_model():
    found = devices.found(None, {}, FakeNvml([H100, "NVIDIA T400", H100]))

    assert found.model == H100
    assert found.names((0, 1)) == ("0", "2")


@pytest.mark.parametrize(
    ("nvml", "environ"),
    [
        (FakeNvml([H100], "no driver"), {}),
        (FakeNvml([]), {}),
        (FakeNvml([H100]), {"CUDA_VISIBLE_DEVICES": ""}),
    ],
)
def test_without_a_gpu_cpu_slots_stand_in(nvml, environ):
    found = devices.found(None, environ, nvml)

    assert found.model == "cpu"
    assert found.count == len(os.sched_getaffinity(0))
    assert found.names((0,)) == ()
    assert devices.found(3, environ, nvml).healthy() == 0b111


def test_less_than_one_device_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        devices.found(0)


@pytest.mark.parametrize(
    ("files", "cpu_milli", "memory_mib"),
    [
        ({}, None, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}, None, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
                "sys/fs/cgroup/a/b/memory.max": str(100 << 20),
            },
            500,
            100,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory:/\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "25000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(64 << 20),
            },
            250,
            64,
        ),
    ],
)
def test_limits_of_the_cgroup_are_limits_of_the_node(tmp_path: Path, files, cpu_milli, memory_mib):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert devices.cpu_milli(tmp_path) == (cpu_milli or len(os.sched_getaffinity(0)) * 1000)
    assert devices.memory_mib(tmp_path) == (memory_mib or psutil.virtual_memory().total >> 20)


def test_a_change_of_health_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "HEALTH_S", 0.01)
    nvml = FakeNvml([H100] * 2)
    gpus = devices.found(None, {}, nvml)
    engine = LocalEngine(tmp_path, CodeStore(tmp_path / "code"), node="here", devices=gpus)
    watch = Watch(LocalWorld(tmp_path), engine)
    engine.open(watch.woken.set)
    try:
        nvml.broken = "lost 0"
        watch.until(lambda: len(watch.facts) == 2, "the change")
    finally:
        engine.close()

    seen = [fact.node for fact in watch.facts if isinstance(fact, NodeSeen)]
    assert [node.healthy for node in seen] == [0b11, 0b10]
    assert (seen[0].model, seen[0].gpu_memory_mib) == (H100, 80 << 10)


def test_members_see_the_gpus_of_their_seats(tmp_path: Path):
    gpus = devices.found(None, {"CUDA_VISIBLE_DEVICES": "2,3"}, FakeNvml([H100] * 4))
    engine = LocalEngine(tmp_path, CodeStore(tmp_path / "code"), node="here", devices=gpus)
    watch = Watch(LocalWorld(tmp_path), engine)
    engine.open(watch.woken.set)
    try:
        engine.adopt(())
        text = "echo $CUDA_VISIBLE_DEVICES $MADANG_GPUS $CUDA_DEVICE_ORDER"
        start = launch("see", ("sh", "-c", text), members=2)
        engine.act([start])
        watch.until_ended(start.launch.allocation)
        logs = [engine.read_log("see.1", rank, 0, 100) for rank in (0, 1)]
    finally:
        engine.close()

    assert logs == [b"2 0 PCI_BUS_ID\n", b"3 1 PCI_BUS_ID\n"]


# -- images -------------------------------------------------------------------------------------

CONTAINER = images.Container("madang-a.1-0", "torch:2", "/s/work", ("/s", "/c"), ("0", "2"))
ENV = {"RANK": "0", "TOKEN": "hush", "PATH": "/host/bin", "CUDA_VISIBLE_DEVICES": "0,2"}


def test_the_command_of_docker():
    assert images.run_command("docker", CONTAINER, ENV, ["python", "-c", "x y"]) == [
        *("docker", "run", "--rm", "--init", "--name", "madang-a.1-0"),
        *("--network", "host", "--ipc", "host", "--user", f"{os.getuid()}:{os.getgid()}"),
        *("--workdir", "/s/work"),
        *("--mount", "type=bind,source=/s,target=/s"),
        *("--mount", "type=bind,source=/c,target=/c"),
        *("--gpus", '"device=0,2"'),
        *("--env", "RANK", "--env", "TOKEN"),
        *("torch:2", "python", "-c", "x y"),
    ]


def test_podman_names_its_devices_by_cdi_and_no_value_is_on_the_command_line():
    argv = images.run_command("podman", CONTAINER, ENV, ["true"])

    assert "--gpus" not in argv
    assert argv.count("--device") == 2
    assert "nvidia.com/gpu=2" in argv
    assert not any("hush" in word for word in argv)


FAKE_DOCKER = """#!/bin/sh
echo "$0 $*" >> "$(dirname "$0")/calls"
[ "$1" = run ] && echo "inside $TOKEN" && exit 6
exit 0
"""


@pytest.fixture
def runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of our own: what is put there is all that there is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "dirname"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_an_image_without_a_runtime_ends_at_once_and_says_so(
    runtimes: Path, opened: Callable[[], Watch]
):
    watch = opened()
    start = launch("image", ("true",), image="torch:2")
    watch.engine.act([start])

    assert watch.until_ended(start.launch.allocation) == {0: Exit(125)}
    assert b"no container runtime" in watch.engine.read_log("image.1", 0, 0, 1000)


def test_an_image_runs_by_the_runtimes_client_and_its_container_is_removed(
    runtimes: Path, opened: Callable[[], Watch]
):
    """The client is a stand-in that notes its calls: this shows our side, and no container."""
    (runtimes / "docker").write_text(FAKE_DOCKER)
    (runtimes / "docker").chmod(0o755)
    watch = opened()
    start = launch("image", ("python", "x.py"), image="torch:2", env=(("TOKEN", "hush"),))
    watch.engine.act([start])

    assert watch.until_ended(start.launch.allocation) == {0: Exit(6)}
    calls = (runtimes / "calls").read_text().splitlines()
    assert "docker run --rm --init --name madang-image.1-0" in calls[0]
    assert calls[0].endswith("torch:2 python x.py")
    assert calls[1].endswith("docker rm --force madang-image.1-0")
    assert watch.engine.read_log("image.1", 0, 0, 100) == b"inside hush\n"


# -- code ---------------------------------------------------------------------------------------


def test_a_member_runs_in_its_code(world: LocalWorld, watch: Watch):
    snapshot = packed(("run.sh", tarfile.REGTYPE, "echo from the snapshot"))
    digest = stored(CodeStore(world.root / "code"), snapshot)
    start = launch("code", ("sh", "run.sh"), members=2, code=digest)
    watch.engine.act([start])

    assert watch.until_ended(start.launch.allocation) == {0: Exit(0), 1: Exit(0)}
    assert watch.engine.read_log("code.1", 1, 0, 100) == b"from the snapshot\n"


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [(None, b"is not in the code store"), (packed(("../x", tarfile.REGTYPE, "")), b"outside")],
)
def test_code_that_is_missing_or_wicked_ends_the_job_and_says_so(
    world: LocalWorld, watch: Watch, snapshot: bytes | None, why: bytes
):
    digest = hashlib.sha256(b"nothing").hexdigest()
    if snapshot is not None:
        digest = stored(CodeStore(world.root / "code"), snapshot)
    start = launch("code", ("true",), code=digest)
    watch.engine.act([start])

    assert watch.until_ended(start.launch.allocation) == {0: Exit(125)}
    assert why in watch.engine.read_log("code.1", 0, 0, 1000)


# -- paths and retention ------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["", ".", "..", "../a", "a/b", "-a", ".a", "a\n", "a" * 201, "a\0"])
def test_an_id_that_is_no_name_never_becomes_a_path(tmp_path: Path, watch: Watch, id: str):
    with pytest.raises(EngineError):
        Places(tmp_path).allocation(id)
    with pytest.raises(EngineError):
        watch.engine.read_log(id, 0, 0, 10)


DAY = retention.DAY_S
NOW_S = 1_000 * DAY


def old_allocation(places: Places, name: str, *, days: float, mib: int = 0) -> Path:
    """An allocation that ended so many days ago and left so much."""
    directory = places.allocation(name)
    (directory / "work" / "sub").mkdir(parents=True)
    (directory / "0").mkdir()
    (directory / "work" / "sub" / "output").write_bytes(b"x" * (mib << 20))
    for path in (directory / "0" / "log", directory / "0" / "state"):
        path.touch()
        os.utime(path, (NOW_S - days * DAY,) * 2)
    for path in (directory / "0", directory):
        os.utime(path, (NOW_S - days * DAY,) * 2)
    return directory


@pytest.mark.parametrize(
    ("days", "live", "rules", "left"),
    [
        (1, False, retention.Rules(), "log and work"),
        (8, False, retention.Rules(work_days=7), "log"),
        (8, True, retention.Rules(work_days=7), "log and work"),
        (91, False, retention.Rules(log_days=90), "nothing"),
        (91, True, retention.Rules(log_days=90), "log and work"),
        (1, False, retention.Rules(work_mib=0), "log"),
        (0.01, False, retention.Rules(work_mib=0), "log and work"),  # it has only just ended
    ],
)
def test_working_directories_go_first_logs_later_and_the_living_never(
    tmp_path: Path, days: float, live: bool, rules: retention.Rules, left: str
):
    places = Places(tmp_path)
    places.make()
    directory = old_allocation(places, "old.1", days=days, mib=1)
    (directory / "work" / "sub").chmod(0o500)  # what jobs make read-only goes as well
    retention.prune(places, {"old.1"} if live else set(), rules, NOW_S)

    found = [name for name in ("log", "work") if any(directory.rglob(name))]
    assert (" and ".join(found) or "nothing") == left


def test_when_room_is_short_the_oldest_working_directories_go(tmp_path: Path):
    places = Places(tmp_path)
    places.make()
    made = [old_allocation(places, f"job-{n}.1", days=n, mib=1) for n in (1, 2, 3)]
    removed = retention.prune(places, set(), retention.Rules(work_mib=2), NOW_S)

    assert removed == 1
    assert [(directory / "work").exists() for directory in made] == [True, True, False]
    assert all((directory / "0" / "log").exists() for directory in made)
