"""The disk is full: nothing is acknowledged, nothing is half done, and it mends by itself."""

import os
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.yard import LiveYard

SIZE_MIB = 24

pytestmark = pytest.mark.crash


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB, which only root can make."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Write until nothing more fits."""
    ballast = place / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1 << 9):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return ballast


def submitted(yard: LiveYard, number: int) -> str:
    """The id that was acknowledged, or "" when the daemon said 503."""
    body = {"command": ["true"], "name": f"late{number}"}
    try:
        return str(yard.ask("POST", "/v1/jobs", body, {"Idempotency-Key": f"k{number}"})["id"])
    except urllib.error.HTTPError as refusal:
        problem = refusal.read().decode()
        if refusal.code != 503:
            raise AssertionError(f"{refusal.code}: {problem}") from refusal
        assert "try" in problem, problem
        return ""


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(small_disk: Path) -> None:
    """What was acknowledged before stays; what was refused was never there; then all goes on."""
    with LiveYard(small_disk / "state", devices=2, log=small_disk.parent / "log") as yard:
        early = yard.ask("POST", "/v1/jobs", {"command": ["sleep", "3"], "name": "early"})["id"]
        yard.wait_running(early)
        ballast = fill(small_disk)

        acknowledged = [id for number in range(200) if (id := submitted(yard, number))]
        refused = 200 - len(acknowledged)
        listed = [view["id"] for view in yard.ask("GET", "/v1/jobs?limit=1000")["jobs"]]
        assert sorted(listed) == sorted([early, *acknowledged])
        assert refused, "the disk was not full"

        ballast.unlink()
        until = time.monotonic() + 30
        while not (late := submitted(yard, 1000)):
            assert time.monotonic() < until, yard.log()
            time.sleep(0.1)
        views = yard.wait_ended([early, late, *acknowledged], seconds=90)
        assert views[early]["phase"] == "succeeded", views[early]
        assert views[late]["phase"] == "succeeded", views[late]
