"""The node's own sensors, on the machine that runs the test."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from madang.agent.machine import Machine
from madang.telemetry.metrics import METRICS
from tests.agent.doubles import values


def test_every_metric_of_a_node_is_told_within_its_range():
    machine = Machine()
    first = values(machine.read(0))
    sum(range(2_000_000))  # some time of a processor
    found = {metric: told[""] for metric, told in values(machine.read(0)).items()}

    counts = {name for name in first if METRICS[name].form == "count"}
    assert counts == set()
    assert {"node_load", "node_memory_used_mib", "node_disk_used_percent"} <= set(found)
    for metric, value in found.items():
        low, high = METRICS[metric].range
        assert low <= value <= high, metric
        assert not METRICS[metric].percent or value == round(value), metric


def test_memory_is_what_is_not_available():
    found = values(Machine().read(0))
    memory = psutil.virtual_memory()

    used_mib = (memory.total - memory.available) / (1 << 20)
    assert found["node_memory_used_mib"][""] == pytest.approx(used_mib, rel=0.5, abs=512)


def test_only_disks_that_have_hardware_are_counted(tmp_path, monkeypatch):
    stand = {"nvme0n1": 100, "nvme0n1p1": 90, "dm-0": 80, "loop3": 70, "sdb": 50}

    def counters(perdisk: bool = False) -> dict[str, SimpleNamespace]:
        assert perdisk
        return {
            name: SimpleNamespace(read_bytes=value, write_bytes=0) for name, value in stand.items()
        }

    for name in ("nvme0n1", "dm-0", "loop3", "sdb"):
        (tmp_path / "block" / name).mkdir(parents=True)
    monkeypatch.setattr(psutil, "disk_io_counters", counters)
    machine = Machine(tmp_path)
    machine.read(0)
    stand = {name: value + 1_000 for name, value in stand.items()}

    assert values(machine.read(0))["node_disk_read_bytes"] == {"": 2_000}


def test_what_cannot_be_read_is_missing_and_the_rest_is_there(monkeypatch):
    def broken(**_: object) -> object:
        raise RuntimeError("/proc/net/dev is other than I know")

    monkeypatch.setattr(psutil, "net_io_counters", broken)
    machine = Machine(Path("/sys"))
    machine.read(0)
    found = values(machine.read(0))

    assert "node_net_rx_bytes" not in found
    assert "node_load" in found
