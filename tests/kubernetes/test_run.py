"""`madang run` on a cluster, through the command line: code, logs, a command beside it, a stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import madang
from tests.kubernetes import podprocess
from tests.kubernetes.pools import POOL, pool_of
from tests.kubernetes.replica import Replica
from tests.kubernetes.yard import pods, until

pytestmark = pytest.mark.kubernetes

SCRIPT = """
import os, time
import madang
madang.report(step=1, rank=int(os.environ["RANK"]))
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], flush=True)
while not madang.should_stop():
    time.sleep(0.05)
print("stopped in time", flush=True)
"""


def command(one, *words, folder=None):
    """What `madang …` prints."""
    env = {**one.env, "PYTHONPATH": str(Path(madang.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-m", "madang", *words],
        env=env,
        cwd=folder or os.getcwd(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
    return ran.stdout


def phase(one, job):
    return json.loads(command(one, "show", job, "--json"))["phase"]


def test_a_gang_of_four_runs_code_that_was_sent(shared, namespace, tmp_path, monkeypatch):
    """Fetched by each pod's init container with the job's own token, from the daemon's door."""
    # The image is this checkout.
    monkeypatch.setitem(podprocess.BASE, "PYTHONPATH", str(Path(madang.__file__).parents[1]))
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    one = Replica(shared, tmp_path / "a", tmp_path / "madang.db", namespace=namespace, lease_s=5)
    with pool_of(shared, {}, {}, gpus=2, processes=True) as (_, pool):
        one.start()
        try:
            one.wait_leads()
            until(lambda: pool in command(one, "nodes"), "its nodes")
            words = [
                "run",
                "--json",
                "--members",
                "4",
                "--need",
                f"{POOL}={pool}",
                "--grace",
                "20s",
            ]
            said = command(one, *words, "--", sys.executable, "train.py", folder=source)
            job = json.loads(said.splitlines()[-1])["id"]
            until(lambda: phase(one, job) in ("running", "failed"), "it runs")
            where = {pod["spec"]["nodeName"] for pod in pods(shared, namespace)}
            log = until(
                lambda: [said for said in [command(one, "logs", job, "-m", "3")] if "of 4" in said],
                "its log",
            )[0]
            reports = until(
                lambda: json.loads(one.ask(f"/v1/jobs/{job}/reports?member=3"))["reports"],
                "its reports",
            )
            beside = command(one, "exec", job, "--member", "2", "--", "printenv", "RANK")
            command(one, "stop", job)
            until(lambda: phase(one, job) == "stopped", "it is stopped")
            secrets = f"/api/v1/namespaces/{namespace}/secrets"
            until(
                lambda: (
                    not [
                        each
                        for each in shared.ask("GET", secrets)["items"]
                        if each["metadata"]["name"].startswith("train")
                    ]
                ),
                "its secrets are gone",
            )
        finally:
            print(one.log[-3000:])
            one.kill()

    assert where == {f"{pool}-0", f"{pool}-1"}
    assert "rank 3 of 4" in log
    assert [each["rank"] for each in reports] == [3]
    assert beside.strip() == "2"
