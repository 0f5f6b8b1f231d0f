"""A real daemon over a virtual fleet that is in use: for looking at pages and measuring them.

    python -m tests.browser.staged examples/fleets/h100-1024.yaml --port 7171

Jobs of all sizes hold most of the fleet, a few wait, some hold what they don't use, a node or two
is cordoned. The seed decides all of it.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.yard import LiveYard

BATCH = 100  # answered in time on a busy machine, too
HELD_SHARE = 0.93
PROJECTS = ("atlas", "vision", "speech", "search", "translate", "ads", "robotics")
NAMES = ("pretrain", "dpo", "rlhf", "moe", "asr", "ocr", "two-tower", "whisper", "tts", "eval")
# (members, GPUs a member, share of the fleet's GPUs), the largest first.
SIZES = (
    (128, 8, 0.18),
    (16, 8, 0.22),
    (8, 8, 0.18),
    (4, 8, 0.16),
    (1, 8, 0.14),
    (1, 4, 0.06),
    (1, 2, 0.03),
    (1, 1, 0.03),
)


class Staged(LiveYard):
    """`madang up --fleet`, and jobs in it."""

    def __init__(self, state: Path, fleet: Path, seed: int = 5) -> None:
        super().__init__(state, arguments=("--fleet", str(fleet)))
        self.fleet = fleet
        self.chance = random.Random(seed)

    def gpus(self) -> int:
        """How many devices there are; waits until all have reported."""
        groups = yaml.safe_load(self.fleet.read_text())["nodes"]
        total = sum(group["count"] * group["gpus"] for group in groups)
        while int(self.ask("GET", "/v1/overview")["gpus"]["total"]) < total:
            time.sleep(0.05)
        return int(total)

    def fill(self) -> None:
        """Projects with quotas and jobs for most of the fleet, and a queue."""
        total = self.gpus()
        for n, project in enumerate(PROJECTS):
            quota = max(8, int(total * (0.3 if n < 2 else 0.14)))
            self.ask("PUT", f"/v1/projects/{project}", {"quota_gpus": quota})
        jobs = [job for size in SIZES for job in self._of_size(size, total)]
        jobs += [self._job(*self.chance.choice(SIZES[1:4])[:2]) for _ in range(12)]
        for start in range(0, len(jobs), BATCH):
            self.ask("POST", "/v1/jobs:batch", {"jobs": jobs[start : start + BATCH]})

    def _of_size(self, size: tuple[int, int, float], total: int) -> list[dict[str, Any]]:
        members, gpus, share = size
        count = int(total * HELD_SHARE * share / (members * gpus))
        return [self._job(members, gpus) for _ in range(count)]

    def _job(self, members: int, gpus: int) -> dict[str, Any]:
        chance = self.chance
        project = chance.choices(PROJECTS, weights=(30, 24, 10, 10, 8, 6, 5))[0]
        env = {"MADANG_VIRTUAL_SECONDS": str(chance.randint(200_000, 900_000))}
        if gpus * members <= 64 and chance.random() < 0.08:
            env["MADANG_VIRTUAL_TEMPER"] = "idle"
        return {
            "name": f"{project}-{chance.choice(NAMES)}",
            "project": project,
            "members": members,
            "gpus": gpus,
            "command": ["python", "train.py"],
            "env": env,
        }

    def login_url(self) -> str:
        """A link that logs a browser in, once."""
        return str(self.ask("POST", "/v1/login-links", {})["url"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fleet", type=Path)
    parser.add_argument("--port", type=int, default=0)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        yard = Staged(Path(place) / "state", words.fleet)
        if words.port:
            yard.port, yard.url = words.port, f"http://127.0.0.1:{words.port}"
        with yard:
            yard.fill()
            print(yard.login_url(), flush=True)
            while True:
                time.sleep(60)


if __name__ == "__main__":
    main()
