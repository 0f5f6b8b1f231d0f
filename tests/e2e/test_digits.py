"""Real training: four workers under DistributedDataParallel, also interrupted in the middle."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.yard import REPOSITORY, LiveYard

EXAMPLE = REPOSITORY / "examples" / "digits"
ACCURACY_MIN = 0.95
EPOCHS = 20

pytestmark = pytest.mark.torch


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[LiveYard]:
    if not os.environ.get("MADANG_REQUIRE"):
        pytest.importorskip("torch", reason="needs PyTorch: make torch")
        pytest.importorskip("sklearn", reason="needs scikit-learn")
    with LiveYard(tmp_path / "state", devices=2) as yard:
        yield yard


def submit(yard: LiveYard, *arguments: str) -> str:
    """The example's gang of four, by the command line. Returns its id."""
    ran = yard.cli(
        "run",
        "--json",
        "--dir",
        str(EXAMPLE),
        "-f",
        str(EXAMPLE / "job.yaml"),
        "--",
        "python",
        "train.py",
        "--epochs",
        str(EPOCHS),
        *arguments,
    )
    return str(ran["id"])


def reports(yard: LiveYard, job: str, attempt: int) -> list[dict[str, Any]]:
    path = f"/v1/jobs/{job}/reports?member=0&attempt={attempt}"
    return list(yard.ask("GET", path)["reports"])


def test_a_gang_learns_the_digits(yard: LiveYard) -> None:
    """Submit to end: ≥ 95 % on the test images, and the whole curve was reported."""
    job = submit(yard)

    view = yard.wait_ended([job], seconds=240)[job]

    assert view["phase"] == "succeeded", yard.text(f"/v1/jobs/{job}/log?member=0")
    curve = reports(yard, job, 1)
    assert [point["step"] for point in curve] == list(range(EPOCHS))
    assert curve[-1]["accuracy"] >= ACCURACY_MIN
    assert (yard.state / "checkpoints" / job / "digits.pt").exists()


@pytest.mark.parametrize("how", ["killed", "requeued"])
def test_an_interrupted_gang_goes_on_from_its_checkpoint(yard: LiveYard, how: str) -> None:
    """kill -9 of a worker costs one of the retries; being sent back to the queue costs none."""
    job = submit(yard, "--seconds-per-epoch", "0.5")
    until = time.monotonic() + 120
    while len(reports(yard, job, 1)) < 4:
        assert time.monotonic() < until, yard.text(f"/v1/jobs/{job}/log?member=0")
        time.sleep(0.2)

    if how == "killed":
        os.kill(worker_pid(yard, job, rank=2), signal.SIGKILL)
    else:
        yard.ask("POST", f"/v1/jobs/{job}/requeue", {})
    view = yard.wait_ended([job], seconds=240)[job]

    assert view["phase"] == "succeeded", yard.text(f"/v1/jobs/{job}/log?member=0")
    assert view["attempt"] == 2
    assert view["failures"] == (how == "killed")
    first = [point["step"] for point in reports(yard, job, 1)]
    second = [point["step"] for point in reports(yard, job, 2)]
    assert second == list(range(second[0], EPOCHS))
    assert 0 < second[0] <= first[-1] + 1
    assert reports(yard, job, 2)[-1]["accuracy"] >= ACCURACY_MIN


def worker_pid(yard: LiveYard, job: str, rank: int) -> int:
    """The process of a rank, found by the environment it was given."""
    wanted = {f"MADANG_JOB={job}".encode(), f"RANK={rank}".encode()}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((entry / "environ").read_bytes().split(b"\0"))
            arguments = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended, or is not ours
        if wanted <= environment and b"train.py" in arguments:
            return int(entry.name)
    raise AssertionError(f"rank {rank} of {job} does not run")
