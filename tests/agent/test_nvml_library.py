"""The agent on a machine with GPUs, as far as a library with NVML's binary interface is one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml_library.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")
def test_the_agent_reads_a_driver_through_its_binary_interface(tmp_path):
    assert COMPILER is not None
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    (tmp_path / "kern.log").write_text("")
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LD_LIBRARY_PATH": str(tmp_path),
        "MADANG_LOG": "warning",
    }
    words = ["--once", "--print", "--json", "--kernel-log", str(tmp_path / "kern.log")]
    done = subprocess.run(
        [sys.executable, "-m", "madang", "agent", *words],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        column["metric"]: column["values"]
        for column in json.loads(done.stdout)["columns"]
        if column["subject"] == "gpu"
    }
    pcie = found.pop("gpu_pcie_tx_bytes")["0"]

    assert pcie == pytest.approx(2 << 20, rel=0.5)  # 2 MiB/s, for about a second
    assert {values.pop("1") for values in found.values()} == {None}  # it fell off its bus
    assert {metric: values["0"] for metric, values in found.items()} == {
        "gpu_util_percent": 97,
        "gpu_sm_active_percent": 81.5,
        "gpu_memory_used_mib": 60 << 10,
        "gpu_memory_used_percent": 75,
        "gpu_power_w": 651.25,
        "gpu_power_limit_w": 700,
        "gpu_temperature_c": 61,
        "gpu_memory_temperature_c": 75,
        "gpu_sm_clock_mhz": 1_755,
        "gpu_memory_clock_mhz": 2_619,
        "gpu_throttle_bits": 4,
        "gpu_pcie_replays": 1,
        "gpu_nvlink_tx_bytes": 1_000 << 10,
        "gpu_ecc_corrected": 1,
        "gpu_ecc_uncorrected": 0,
        "gpu_remapped_rows": 3,
        "gpu_remap_pending": 1,
        "gpu_recovery_action": 1,
    }
