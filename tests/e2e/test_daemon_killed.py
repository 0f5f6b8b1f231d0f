"""kill -9 on the daemon at random moments while 50 jobs are submitted, run and stopped.

Each job writes down what truly happened to it, in files that only it can make: that it started (and
that nobody had started it before), which devices it held (and that nobody held them), how it ended.
Afterwards the platform's story is held against that.
"""

import os
import random
import shlex
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.yard import LiveYard, Unreachable

JOBS = 50
TRIALS = int(os.environ.get("MADANG_CRASH_TRIALS", "200"))

# A name that exists already makes mkdir fail, and that is the lock.
WITNESS = """
cd {place} || exit 99
leave() {{
  for gpu in $(echo "$MADANG_GPUS" | tr , ' '); do rmdir "gpu.$gpu" 2>/dev/null; done
  echo "$1" > "end.$MADANG_JOB.part" && mv "end.$MADANG_JOB.part" "end.$MADANG_JOB"
  exit "$1"
}}
trap 'kill $sleeper 2>/dev/null; leave 143' TERM
once() {{ mkdir "$1" || [ $? -gt 128 ] || echo "$2: $MADANG_JOB" >> violations; }}
once "run.$MADANG_JOB" 'ran twice'
for gpu in $(echo "$MADANG_GPUS" | tr , ' '); do once "gpu.$gpu" "device $gpu held twice"; done
sleep {seconds} & sleeper=$!
wait $sleeper
leave {code}
"""


class Story:
    """What was asked and acknowledged in one trial."""

    def __init__(self, yard: LiveYard, place: Path, seed: int) -> None:
        self.yard = yard
        self.place = place
        self.random = random.Random(seed)
        self.acknowledged: dict[str, int] = {}
        self.stopped: set[str] = set()

    def _post(self, path: str, body: Any, key: dict[str, str] | None = None) -> Any:
        """Ask until it is answered, as a client with an idempotency key may."""
        until = time.monotonic() + 60
        while True:
            try:
                return self.yard.ask("POST", path, body, key)
            except Unreachable:
                assert time.monotonic() < until, self.yard.log()
                time.sleep(0.02)
            except urllib.error.HTTPError as refusal:
                if refusal.code != 503:
                    raise
                time.sleep(0.02)

    def submit_and_stop(self) -> None:
        """50 jobs, some of which are told to stop soon after."""
        for number in range(JOBS):
            code = self.random.choice((0, 0, 0, 3))
            seconds = self.random.choice((0, 0, 0.02, 0.1, 0.3))
            script = WITNESS.format(place=shlex.quote(str(self.place)), seconds=seconds, code=code)
            body = {
                "command": ["sh", "-c", script],
                "name": f"witness{number}",
                "gpus": self.random.choice((1, 1, 2)),
                "grace": "20s",
            }
            key = {"Idempotency-Key": f"key-{number}"}
            view = self._post("/v1/jobs", body, key)
            self.acknowledged[view["id"]] = code
            if self.random.random() < 0.2:
                victim = self.random.choice(sorted(self.acknowledged))
                self._post(f"/v1/jobs/{victim}/stop", {})
                self.stopped.add(victim)

    def check(self) -> None:
        """Hold the platform's story against the truth."""
        views = self.yard.wait_ended(sorted(self.acknowledged))
        violations = self.place / "violations"
        assert not violations.exists(), violations.read_text()
        listed = self.yard.ask("GET", "/v1/jobs?limit=1000")["jobs"]
        assert len(listed) == len(self.acknowledged) == JOBS
        for id, code in self.acknowledged.items():
            ended = self.place / f"end.{id}"
            truth = int(ended.read_text()) if ended.exists() else None
            started = (self.place / f"run.{id}").exists()
            self._check_one(views[id], code, truth, started)
        devices = [g for n in self.yard.ask("GET", "/v1/nodes")["nodes"] for g in n["gpus"]]
        assert all(gpu["free_milli"] == 1000 for gpu in devices), devices
        assert not list(self.place.glob("gpu.*"))

    def _check_one(self, view: Any, code: int, truth: int | None, started: bool) -> None:
        id = view["id"]
        if id not in self.stopped:
            assert truth == code, f"{id} ended {truth}, not {code}: {view}"
        if truth is None:
            assert view["phase"] == "stopped", view
            assert not started or view["seats"], view
            return
        exits = [seat["exit"] for seat in view["seats"]]
        assert [end["code"] + end["signal"] for end in exits if end] == [truth], view
        expected = {"succeeded"} if truth == 0 else {"failed"}
        assert view["phase"] in expected | ({"stopped"} if id in self.stopped else set()), view


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(TRIALS))
def test_nothing_acknowledged_is_lost_and_nothing_runs_twice(seed: int, tmp_path: Path) -> None:
    """One trial: a daemon that is killed at a random moment, and started again."""
    yard = LiveYard(tmp_path / "state", devices=4)
    place = tmp_path / "truth"
    place.mkdir()
    story = Story(yard, place, seed)
    kills = random.Random(-seed - 1)
    with yard:
        submitting = threading.Thread(target=story.submit_and_stop)
        submitting.start()
        for _ in range(kills.choice((1, 1, 2))):
            time.sleep(kills.uniform(0.0, 0.8))
            yard.kill()
            yard.start()
        submitting.join(120)
        assert not submitting.is_alive()
        story.check()
