"""Violation rules on a real daemon: who is idle is flagged, once, whatever kills the daemon."""

import subprocess
import sys
import urllib.error

import pytest

from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.e2e

# Ten seconds of this fleet are one of ours, so that a tick is a second.
FLEET = """
seed: 3
speed: 10
nodes: [{count: 3, name: n, model: H100, gpus: 4, cpus: 32, memory_mib: 65536}]
times: {start: 20ms, stop: 20ms}
"""
# The shipped rules, in a hurry: the same numbers and thresholds, over seconds.
HURRIED = """
[[rule]]
name = "idle-held"
metric = "gpu_util_percent"
value = "max"
window = "40s"
below = 5
for = "20s"
severity = "critical"
text = "It holds GPUs and none of them works."
scope = {category = ["training", "data", "interactive"], spares_idle_ok = true}
"""


@pytest.fixture
def yard(tmp_path):
    (tmp_path / "fleet.yaml").write_text(FLEET)
    with LiveYard(tmp_path / "state", arguments=("--fleet", str(tmp_path / "fleet.yaml"))) as found:
        yield found


def submit(yard, name, temper, gpus=2, **more):
    env = {"MADANG_VIRTUAL_SECONDS": "36000", "MADANG_VIRTUAL_TEMPER": temper}
    body = {"command": ["train"], "name": name, "gpus": gpus, "category": "training", "env": env}
    job = str(yard.ask("POST", "/v1/jobs", {**body, **more})["id"])
    yard.wait_running(job)
    return job


def words(yard, *given):
    done = subprocess.run(
        [sys.executable, "-m", "madang", *given],
        capture_output=True,
        text=True,
        env={**yard.environment(), "MADANG_STATE": str(yard.state)},
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def broken(yard):
    return [(one["rule"], one["job"]) for one in yard.ask("GET", "/v1/violations")["violations"]]


def told(yard, kind="RuleBroken"):
    found = []
    for job in yard.ask("GET", "/v1/jobs")["jobs"]:
        events = yard.ask("GET", f"/v1/jobs/{job['id']}/events")["events"]
        found += [(event["kind"], job["name"]) for event in events if event["kind"] == kind]
    return found


def test_the_idle_job_is_flagged_once_and_the_steady_ones_are_not(yard, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text(HURRIED)
    assert "idle-held" in words(yard, "rules", "check", str(rules))
    assert "critical" in words(yard, "rules", "set", str(rules))
    idle = submit(yard, "idle", "idle")
    for temper in ("steady", "bubbly", "faulty"):
        submit(yard, temper, temper, retries=0)
    excused = submit(yard, "excused", "idle", gpus=0.5, idle_ok=True)

    yard.wait_until(lambda: broken(yard) == [("idle-held", idle)], 40)

    job = yard.ask("GET", f"/v1/jobs/{idle}")
    assert [one["rule"] for one in job["broken"]] == ["idle-held"]
    assert "max of gpu_util_percent over 40s is" in job["broken"][0]["text"]
    assert yard.ask("GET", f"/v1/jobs/{excused}")["broken"] == []
    assert "idle-held" in words(yard, "ls")
    assert "breaks" in words(yard, "show", idle)
    assert "breaks" in words(yard, "why", idle)
    assert idle in words(yard, "rules", "show", "idle-held")
    assert "breaks the rule idle-held" in words(yard, "events", idle)

    previewed = yard.cli("rules", "preview", str(rules), "--since", "1h", "--json")["previews"][0]
    assert [one["job"] for one in previewed["flagged"]] == [idle]
    assert previewed["looked_at"] >= 3

    yard.kill()
    yard.start()
    ticks = yard.ask("GET", "/v1/series?metric=gpu_util_percent&job=" + idle)["times"][-1:]
    yard.wait_until(
        lambda: (
            yard.ask("GET", "/v1/series?metric=gpu_util_percent&job=" + idle)["times"][-1:]
            > [ticks[0] + 8_000]
        ),
        60,
    )
    assert broken(yard) == [("idle-held", idle)]
    assert told(yard) == [("RuleBroken", "idle")]
    assert told(yard, "RuleKept") == []

    yard.ask("POST", f"/v1/jobs/{idle}/stop", {"grace": "0s"})
    yard.wait_ended([idle])
    assert broken(yard) == []
    assert yard.ask("GET", f"/v1/jobs/{idle}")["broken"] == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"metric": "gpu_utl_percent", "quantile": "p25", "below": 5}, "gpu_util_percent"),
        ({"metric": "gpu_util_percent", "quantile": "p30", "below": 5}, "p25"),
        ({"metric": "gpu_util_percent", "value": "max", "below": 5}, "needs a window"),
        ({"metric": "node_cpu_percent", "quantile": "p25", "below": 5}, "give the rule a window"),
        ({"metric": "gpu_util_percent", "quantile": "p25"}, "above or below"),
        ({"metric": "gpu_util_percent", "quantile": "p25", "below": 5, "window": "2h"}, "an hour"),
        ({"metric": "x", "quantile": "p25", "below": 5, "scope": {"project": "no"}}, "no metric"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_what_can(yard, body, says):
    with pytest.raises(urllib.error.HTTPError) as refused:
        yard.ask("PUT", "/v1/rules/wrong", body)

    assert refused.value.code == 422
    assert says in refused.value.read().decode()
