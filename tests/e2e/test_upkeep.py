"""Room is made, and idle GPUs are taken, by the real daemon on a virtual fleet."""

import json
import subprocess
import sys
import urllib.error
from typing import Any

import pytest

from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.e2e

FLEET = """
seed: 3
nodes: [{count: 3, name: n, model: H100, gpus: 4, cpus: 32, memory_mib: 65536, nodes_per_leaf: 2}]
times: {start: 20ms, stop: 20ms}
"""
POLICY = """
run_min = "0s"
measure = "400ms"
idle_young = "0s"
[[idle]]
category = "interactive"
idle = "700ms"
grace = "700ms"
takes = true
[[idle]]
idle = "700ms"
"""


@pytest.fixture
def yard(tmp_path):
    """A daemon on three virtual nodes of four GPUs, under a policy in a hurry."""
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "policy.toml").write_text(POLICY)
    files = ("--fleet", str(tmp_path / "fleet.yaml"), "--policy", str(tmp_path / "policy.toml"))
    with LiveYard(tmp_path / "state", arguments=files) as found:
        yield found


def submit(yard: LiveYard, name: str, gpus: int, temper: str = "steady", **more: Any) -> str:
    """A job that runs for long and uses its GPUs so; its id, once it runs."""
    env = {"MADANG_VIRTUAL_SECONDS": "600", "MADANG_VIRTUAL_TEMPER": temper}
    body = {"command": ["train"], "name": name, "gpus": gpus, "env": env, **more}
    job = str(yard.ask("POST", "/v1/jobs", body)["id"])
    yard.wait_running(job)
    return job


def scattered(yard: LiveYard) -> list[str]:
    """One small job on each of the three nodes, the rest free."""
    small, blocks = [], []
    for number in range(3):
        blocks.append(submit(yard, f"block{number}", 3))
        small.append(submit(yard, f"small{number}", 1, checkpoints=True))
    for block in blocks:
        yard.ask("POST", f"/v1/jobs/{block}/stop", {"grace": "0s"})
    yard.wait_ended(blocks)
    return small


def nodes_of(yard: LiveYard, job: str) -> list[str]:
    return [seat["node"] for seat in yard.ask("GET", f"/v1/jobs/{job}")["seats"]]


def words(yard: LiveYard, *given: str) -> str:
    """What a person reads."""
    done = subprocess.run(
        [sys.executable, "-m", "madang", *given],
        capture_output=True,
        text=True,
        env={**yard.environment(), "MADANG_STATE": str(yard.state)},
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_room_is_reckoned_then_made_kept_and_taken(yard):
    small = scattered(yard)
    assert sorted(node for job in small for node in nodes_of(yard, job)) == ["n-0", "n-1", "n-2"]

    reckoned = yard.cli("make-room", "2x4", "--dry-run", "--json")
    assert len(reckoned["moves"]) == 2
    assert len({piece["node"] for piece in reckoned["pieces"]}) == 2
    assert reckoned["cost_gpu_s"] >= 2 * 7  # a restart each
    assert "nothing was done" in words(yard, "make-room", "2x4", "--dry-run")
    assert yard.ask("GET", "/v1/holes") == {"holes": []}
    assert all(yard.ask("GET", f"/v1/jobs/{job}")["attempt"] == 1 for job in small)

    made = yard.cli("make-room", "2x4", "--json", "--for", "10m")
    assert made["id"] == "room-1"
    yard.wait_until(lambda: yard.ask("GET", "/v1/holes")["holes"][0]["is_free"])
    for job in small:
        yard.wait_running(job)
    assert len({node for job in small for node in nodes_of(yard, job)}) == 1
    moved = [job for job in small if yard.ask("GET", f"/v1/jobs/{job}")["attempt"] == 2]
    assert len(moved) == 2
    events = words(yard, "events", moved[0])
    assert "it moves to make room" in events
    assert "is promised 1 GPU on" in events

    # A job of another size waits although there is room; the reason names the hole.
    greedy = str(yard.ask("POST", "/v1/jobs", {"command": ["train"], "gpus": 2})["id"])
    assert "8 GPUs are kept for room-1" in yard.ask("GET", f"/v1/jobs/{greedy}/why")["text"]
    assert "room-1" in words(yard, "make-room")

    large = submit(yard, "large", 4, members=2)
    assert set(nodes_of(yard, large)) == {piece["node"] for piece in made["pieces"]}
    assert yard.ask("GET", "/v1/holes") == {"holes": []}


def test_room_that_cannot_be_made_is_explained(yard):
    submit(yard, "stays", 3)

    with pytest.raises(urllib.error.HTTPError) as refused:
        yard.ask("POST", "/v1/holes", {"members": 3, "gpus": 4})
    problem = json.loads(refused.value.read())
    assert (refused.value.code, problem["code"]) == (409, "no_room")
    assert "3 × 4 GPUs asked; if all who may be moved were gone there would be 2" in str(problem)
    assert problem["try"] == ["madang make-room 2x4 --dry-run"]
    assert "not a size" in words(yard, "make-room", "big")


def test_room_outlives_the_daemon_and_is_given_up_on_demand(yard):
    submit(yard, "small", 1, checkpoints=True)
    made = yard.ask("POST", "/v1/holes", {"members": 3, "gpus": 3, "name": "exam"})
    assert made["moves"] == []
    yard.kill()
    yard.start()

    assert [hole["id"] for hole in yard.ask("GET", "/v1/holes")["holes"]] == ["exam"]
    assert "exam is given up" in words(yard, "make-room", "--drop", "exam")
    assert yard.ask("GET", "/v1/holes") == {"holes": []}


def test_idle_gpus_are_warned_about_and_taken_where_the_policy_says_so(yard):
    notebook = submit(yard, "notebook", 1, category="interactive", temper="idle")
    sleeper = submit(yard, "sleeper", 1, category="data", temper="idle")
    excused = submit(yard, "excused", 1, category="interactive", idle_ok=True, temper="idle")
    busy = submit(yard, "busy", 1, category="interactive")

    yard.wait_until(lambda: bool(yard.ask("GET", f"/v1/jobs/{sleeper}")["warning"]))
    assert "been idle for" in words(yard, "ls")
    assert (
        "end it, or submit it with --idle-ok" in yard.ask("GET", f"/v1/jobs/{sleeper}/why")["text"]
    )
    assert yard.wait_ended([notebook])[notebook]["reason"] == "reclaimed"
    assert "its GPUs were idle" in words(yard, "events", notebook)
    (project,) = yard.cli("report", "--idle", "--json")["projects"]
    assert [taken["job"] for taken in project["reclaimed"]] == [notebook]
    assert 0 < project["idle_gpu_h"] < project["held_gpu_h"]
    assert f"{notebook} lost 1 GPUs after" in words(yard, "report", "--idle")
    for job in (sleeper, excused, busy):
        assert yard.ask("GET", f"/v1/jobs/{job}")["phase"] == "running"
    assert yard.ask("GET", f"/v1/jobs/{busy}")["warning"] == ""
