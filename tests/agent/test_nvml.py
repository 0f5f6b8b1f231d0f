"""GPUs by NVML: each field by itself, increases, resets, MIG, devices and drivers that go away."""

from types import ModuleType
from typing import Any

import pynvml
import pytest

from madang.agent.nvml import Nvml
from tests.agent.doubles import values
from tests.agent.fake_nvml import LOST, UNSUPPORTED, FakeNvml, field, h100

MIB = 1 << 20
ANSWERS = ("util", "memory", "power", "limit", "heat", "sm", "mem", "ecc", "ecc2", "rows", "fields")


def reader(*gpus: dict[str, Any], uuids: tuple[str, ...] = ()) -> Nvml:
    return Nvml(uuids, FakeNvml(list(gpus)))


def test_everything_that_a_device_tells_is_read():
    gpu = h100()
    nvml = reader(gpu)
    nvml.read(1_000)
    gpu["fields"] = {
        **gpu["fields"],
        94: field(5),
        138: field(1_500),
        139: field(2_100),
        38: field(9),
    }
    gpu["ecc"] = 14

    found = {metric: told["0"] for metric, told in values(nvml.read(11_000)).items()}
    assert found == {
        "gpu_util_percent": 97,
        "gpu_sm_active_percent": 81.5,
        "gpu_tensor_active_percent": 44.25,
        "gpu_dram_active_percent": 100,
        "gpu_memory_used_mib": 60 << 10,
        "gpu_memory_used_percent": 75,
        "gpu_power_w": 651.25,
        "gpu_power_limit_w": 700,
        "gpu_temperature_c": 61,
        "gpu_memory_temperature_c": 75,
        "gpu_sm_clock_mhz": 1_755,
        "gpu_memory_clock_mhz": 2_619,
        "gpu_throttle_bits": 4,
        "gpu_pcie_rx_bytes": 4 * MIB * 10,  # no counter: GPM's rate, over ten seconds
        "gpu_pcie_tx_bytes": 2 * MIB * 10,
        "gpu_pcie_replays": 2,
        "gpu_nvlink_rx_bytes": 100 << 10,  # a counter in KiB goes before the rate
        "gpu_nvlink_tx_bytes": 500 << 10,
        "gpu_nvlink_errors": 4,
        "gpu_ecc_corrected": 4,
        "gpu_ecc_uncorrected": 0,
        "gpu_remapped_rows": 3,
        "gpu_remap_pending": 0,
        "gpu_recovery_action": 0,
    }


def test_nothing_that_counts_is_told_at_the_first_look():
    found = values(reader(h100()).read(1_000))

    assert not {name for name in found if name.endswith("_bytes") or "ecc" in name}
    assert "gpu_sm_active_percent" not in found  # GPM compares two samples
    assert found["gpu_util_percent"] == {"0": 97}


@pytest.mark.parametrize("broken", ANSWERS)
@pytest.mark.parametrize("error", [UNSUPPORTED, LOST, pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)])
def test_what_one_field_does_not_tell_is_missing_and_the_rest_is_there(broken, error):
    whole = reader(h100(), h100())
    partly = reader(h100(**{broken: error}), h100())
    for one in (whole, partly):
        one.read(1_000)
    told, left = values(whole.read(11_000)), values(partly.read(11_000))

    missing = {metric for metric in told if "0" not in left.get(metric, {})}
    assert missing or broken == "fields"
    assert len(missing) < len(told) / 2
    assert all(left[metric]["1"] == told[metric]["1"] for metric in told)


def test_what_is_not_supported_is_not_asked_again():
    fake = FakeNvml([h100(power=UNSUPPORTED, heat=LOST)])
    nvml = Nvml((), fake)
    for at in range(5):
        nvml.read(1_000 + at * 1_000)

    assert fake.calls["power"] == 1
    assert fake.calls["heat"] == 5


def test_a_device_that_fell_off_its_bus_is_missing_whole_and_the_others_are_there():
    gpu = h100()
    nvml = reader(gpu, h100())
    nvml.read(1_000)
    gpu["all"] = LOST

    found = values(nvml.read(11_000))
    assert not [metric for metric, told in found.items() if "0" in told]
    assert found["gpu_util_percent"] == {"1": 97}


def test_a_counter_that_went_back_counts_from_its_new_start():
    gpu = h100(ecc=100)
    nvml = reader(gpu)
    nvml.read(1_000)
    grown = []
    for stands_at in (140, 7, 9):
        gpu["ecc"] = stands_at
        grown.append(values(nvml.read(11_000))["gpu_ecc_corrected"]["0"])

    assert grown == [40, 7, 2]


@pytest.mark.parametrize(
    ("rows", "pending"), [((0, 0, 0, 0), 0), ((1, 1, 1, 0), 1), ((1, 1, 1, 1), 2)]
)
def test_rows_that_wait_or_cannot_be_replaced_are_told(rows, pending):
    found = values(reader(h100(rows=rows)).read(1_000))

    assert found["gpu_remap_pending"]["0"] == pending


def test_an_older_driver_is_asked_in_its_own_words():
    found = values(
        reader(h100(reasons=UNSUPPORTED, old_reasons=8, memory_v2=False, fields={})).read(1_000)
    )

    assert found["gpu_throttle_bits"] == {"0": 8}
    assert found["gpu_memory_used_mib"] == {"0": 60 << 10}
    assert "gpu_recovery_action" not in found


def test_parts_of_a_device_have_keys_of_their_own():
    part = {"uuid": "MIG-1", "instance": 3, "memory": (5 << 30, 10 << 30), "gpm": {2: 50.0}}
    nvml = reader(h100(parts=[part]), h100())
    nvml.read(1_000)
    found = values(nvml.read(11_000))

    assert found["gpu_memory_used_percent"] == {"0": 75, "0/0": 50, "1": 75}
    assert found["gpu_sm_active_percent"]["0/0"] == 50
    assert "0/0" not in found["gpu_power_w"]


def test_devices_that_are_named_have_their_place_as_key():
    nvml = reader(h100(uuid="GPU-1", util=1), h100(uuid="GPU-2", util=2), uuids=("GPU-2", "GPU-1"))

    assert values(nvml.read(1_000))["gpu_util_percent"] == {"0": 2, "1": 1}


def test_a_pci_address_leads_to_its_device():
    nvml = reader(h100(), h100(pci=b"00000001:C1:00.0"))
    nvml.read(1_000)

    assert nvml.gpu_at("0001:c1:00") == "1"
    assert nvml.gpu_at("0000:3b:00") == "0"
    assert nvml.gpu_at("0000:99:00") is None


def test_a_machine_without_nvml_says_nothing_and_looks_again_later():
    class Absent(FakeNvml):
        def nvmlInit(self) -> None:
            super().nvmlInit()
            if self.inits == 1:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    fake = Absent([h100()])
    nvml = Nvml((), fake)

    assert nvml.read(1_000).columns == ()
    assert nvml.read(30_000).columns == ()
    assert fake.inits == 1  # not at every frame
    assert values(nvml.read(61_001))["gpu_util_percent"] == {"0": 97}


def test_a_driver_that_was_loaded_again_is_opened_again():
    gone = pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
    gpu = h100()
    fake = FakeNvml([gpu])
    nvml = Nvml((), fake)
    nvml.read(1_000)
    gpu["all"] = gone
    assert nvml.read(11_000).columns == ()
    assert fake.inits == 0
    del gpu["all"]

    assert values(nvml.read(21_000))["gpu_util_percent"] == {"0": 97}
    assert fake.inits == 1


def test_the_names_that_are_used_are_those_of_the_library():
    module: ModuleType = pynvml
    for name in dir(FakeNvml):
        if name.startswith("nvml"):
            assert hasattr(module, name), name
