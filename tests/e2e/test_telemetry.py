"""A real daemon and a sender in a process of its own: what was acknowledged outlives kill -9."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.yard import REPOSITORY, LiveYard

pytestmark = [pytest.mark.e2e]

SENT = 60
SENDER = f"""
import http.client, json, sys, time
import numpy as np
from madang.telemetry.frames import Column, Frame, Subject, pack
url, token, node = sys.argv[1:]
host = url.removeprefix("http://")
begin_ms = time.time_ns() // 10**6 // 10_000 * 10_000 - {SENT} * 10_000
for seq in range({SENT}):
    values = np.array([seq, 100 - seq], np.float32)
    column = Column("gpu_util_percent", Subject.GPU, ("0", "1"), values)
    errors = Column("gpu_nvlink_errors", Subject.GPU, ("0", "1"), np.array([1, 2], np.float32))
    frame = Frame(node, 77, seq, begin_ms + seq * 10_000, 10_000, (column, errors))
    while True:
        try:
            door = http.client.HTTPConnection(host, timeout=10)
            door.request("POST", "/v1/frames", pack([frame]), {{
                "authorization": "Bearer " + token,
                "content-type": "application/vnd.madang.frames",
            }})
            answer = door.getresponse()
            told = json.loads(answer.read())
            assert answer.status == 200, told
            break
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)  # the daemon is dead: it comes again, and so do we
    print(seq, begin_ms, flush=True)
"""


def series(yard: LiveYard, metric: str, begin_ms: int, how: str = "mean") -> list[list[float]]:
    end_ms = begin_ms + SENT * 10_000
    query = f"metric={metric}&node=far-1&from={begin_ms}&to={end_ms}&step=10s&how={how}"
    return [one["values"] for one in yard.ask("GET", f"/v1/series?{query}")["series"]]


def sending(yard: LiveYard) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SENDER, yard.url, yard.token(), "far-1"],
        stdout=subprocess.PIPE,
        text=True,
        env=yard.environment(),
        cwd=REPOSITORY,
    )


@pytest.mark.crash
def test_frames_of_another_process_survive_a_killed_daemon_and_are_counted_once(
    tmp_path: Path,
) -> None:
    with LiveYard(tmp_path / "state") as yard:
        begin_ms = 0
        with sending(yard) as sender:
            assert sender.stdout is not None
            for line in sender.stdout:
                seq, begin_ms = map(int, line.split())
                if seq in (15, 16, 40):
                    yard.kill()
                    yard.start()
            assert sender.wait(timeout=60) == 0
        yard.kill()
        yard.start()
        values = series(yard, "gpu_util_percent", begin_ms)
        errors = series(yard, "gpu_nvlink_errors", begin_ms, "sum")

    assert values == [[float(at) for at in range(SENT)], [100.0 - at for at in range(SENT)]]
    assert errors == [[1.0] * SENT, [2.0] * SENT]


def test_what_a_job_reports_is_a_series_beside_its_member_and_node(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import madang, time\n"
        "for step in range(600):\n"
        "    madang.report(step=step, loss=1 / (step + 1), note='text')\n"
        "    time.sleep(0.1)\n"
    )
    with LiveYard(tmp_path / "state") as yard:
        job = yard.cli("run", "--json", "--", sys.executable, str(script))["id"]
        names = ("report_loss", "member_memory_mib", "node_memory_used_percent")
        found: dict[str, list[float]] = {}

        def all_known() -> bool:
            for name in names:
                view = yard.ask("GET", f"/v1/series?metric={name}&job={job}&from=1h")
                rows = [[v for v in one["values"] if v is not None] for one in view["series"]]
                if any(rows):
                    found[name] = rows[0]
            return len(found) == len(names)

        yard.wait_running(job)
        yard.wait_until(all_known)

    assert sorted(found) == sorted(names)
    assert 0 < found["report_loss"][-1] < 1
    assert found["member_memory_mib"][-1] > 1
