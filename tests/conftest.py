"""What every test shares: Hypothesis profiles, and what a machine must have for marked tests."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("nightly", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _has_module(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


def _has_postgres() -> bool:
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return shutil.which("initdb") is not None or any(folders)


def _has_traces() -> bool:
    return Path(os.environ.get("MADANG_DATA") or "/nonexistent").is_dir()


def _has_kubernetes() -> bool:
    script = Path(__file__).parents[1] / "tools" / "kubernetes.sh"
    found = subprocess.run(["sh", script, "--lacks"], capture_output=True, check=False)
    return found.returncode == 0


def _has_helm() -> bool:
    script = Path(__file__).parents[1] / "tools" / "helm.sh"
    found = subprocess.run(["sh", script, "--lacks"], capture_output=True, check=False)
    return found.returncode == 0 and _has_module("kubernetes_validate")


# marker → (is it there?, what to say if not)
NEEDS = {
    "torch": (_has_module("torch", "sklearn"), "PyTorch is absent: pip install 'madang[torch]'"),
    "postgres": (_has_postgres(), "PostgreSQL is absent: apt-get install postgresql"),
    "kubernetes": (_has_kubernetes(), "no Kubernetes: sh tools/kubernetes.sh builds one"),
    "helm": (_has_helm(), "no helm: sh tools/helm.sh takes one"),
    "browser": (shutil.which("chromium") is not None, "no browser: apt-get install chromium"),
    "metrics": (
        all(shutil.which(one) for one in ("victoria-metrics", "vmalert", "prometheus", "promtool")),
        "no monitoring systems: apt-get install victoria-metrics prometheus",
    ),
    "data": (_has_traces(), "MADANG_DATA names no folder: set it to where the public traces are"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say what it lacks.

    With MADANG_REQUIRE naming markers (`MADANG_REQUIRE=torch,postgres`), as CI does, those tests
    run and fail instead: a green run then means that they ran.
    """
    required = os.environ.get("MADANG_REQUIRE", "").split(",")
    for item in items:
        for marker, (is_there, advice) in NEEDS.items():
            if not is_there and marker not in required and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=advice))
