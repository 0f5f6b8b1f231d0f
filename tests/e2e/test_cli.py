"""The whole as a person uses it: a daemon in the background, real processes, real files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import madang

pytestmark = pytest.mark.e2e

SOURCE = str(Path(madang.__file__).parent.parent)
LIMIT_S = 60


class Yard:
    """`madang` with a state directory of its own."""

    def __init__(self, top: Path) -> None:
        self.state = top / "state"
        self.project = top / "project"
        self.project.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MADANG_")}
        self.env = {
            **kept,
            "MADANG_STATE": str(self.state),
            "PYTHONPATH": SOURCE,
            "XDG_CACHE_HOME": str(top / "cache"),
        }

    def call(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "madang", *words],
            env=self.env,
            cwd=self.project,
            input=given,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def out(self, *words: str) -> str:
        """What a command that must succeed prints."""
        done = self.call(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def json(self, *words: str):
        return json.loads(self.out("--json", *words))


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    found = Yard(tmp_path_factory.mktemp("yard"))
    up = found.json("up", "--detach", "--port", "0", "--devices", "4")
    assert up["login"].startswith(up["url"])
    yield found
    found.out("down")
    assert found.call("ls").returncode == 5


def write(yard, name: str, text: str) -> None:
    (yard.project / name).write_text(text)


def test_a_job_runs_the_code_it_was_submitted_with(yard):
    write(yard, "hello.py", "import sys; print('hello', *sys.argv[1:])")

    done = yard.call("run", "--wait", "--", sys.executable, "hello.py", "yard")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello yard\n"
    assert "succeeded" in done.stderr


@pytest.mark.parametrize(("program", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_run_wait_exits_as_the_member_does(yard, program, code):
    assert yard.call("run", "--wait", "--no-code", "--", "sh", "-c", program).returncode == code


def test_a_gang_starts_whole_and_its_lines_carry_ranks(yard):
    program = 'echo "$RANK of $WORLD_SIZE"'
    done = yard.call("run", "--wait", "--no-code", "--members", "3", "--", "sh", "-c", program)

    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "[0] 0 of 3", "[1] 1 of 3", "[2] 2 of 3"]


def test_a_job_is_followed_shown_stopped_and_forked(yard):
    write(
        yard,
        "loop.py",
        "import time, madang\n"
        "step = 0\n"
        "while not madang.should_stop():\n"
        "    madang.report(step=step, loss=1 / (step + 1)); step += 1\n"
        "    print('step', step, flush=True); time.sleep(0.05)\n"
        "print('stopping', flush=True)\n",
    )
    job = yard.out("run", "--name", "loop", "--", sys.executable, "loop.py")
    follow = [sys.executable, "-m", "madang", "logs", "-f", "loop"]
    with subprocess.Popen(follow, env=yard.env, stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == "step 1\n"
        assert yard.json("show", job)["phase"] == "running"
        assert job in yard.out("ls")
        assert job in yard.out("nodes")
        yard.out("memo", job, "first", "of", "them")

        stopped = yard.json("stop", "--wait", job)

        assert stopped["phase"] == "stopped"
        assert logs.stdout.read().endswith("stopping\n")

    assert yard.out("memo", job) == "first of them"
    assert "stop" in yard.out("events", job).lower()
    child = yard.out("fork", job, "--set", "env.X=1", "--", "sh", "-c", "echo $X")
    with_client = "import madang, sys; print(madang.Client().wait(sys.argv[1])['phase'])"
    done = subprocess.run(
        [sys.executable, "-c", with_client, child],
        env=yard.env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert done.stdout == "succeeded\n"
    assert yard.out("logs", child) == "1"
    assert yard.json("show", child)["forked_from"] == job
    yard.out("pull", child, "back")
    assert (yard.project / "back" / "loop.py").exists()


def test_what_never_fits_is_rejected_with_what_would(yard):
    done = yard.call("run", "--no-code", "--gpus", "64", "--", "true")

    assert done.returncode == 4
    assert "try" in done.stderr


def test_what_waits_says_why(yard):
    blocker = yard.out("run", "--no-code", "--gpus", "4", "--", "sleep", "60")
    waiting = yard.out("run", "--no-code", "--gpus", "4", "--", "true")

    assert yard.json("why", waiting)["code"] == "capacity"
    assert "CPU slots are free" in yard.out("why", waiting)
    assert yard.json("try", "--gpus", "4", "--", "true")["code"] == "waits"

    yard.out("stop", "--wait", "--grace", "0s", blocker, waiting)


def test_exec_runs_beside_a_member(yard):
    job = yard.out("run", "--no-code", "--", "sleep", "60")
    deadline_s = time.monotonic() + LIMIT_S
    while yard.json("show", job)["phase"] != "running":
        assert time.monotonic() < deadline_s
    done = yard.call("exec", job, "--", "sh", "-c", "echo in $MADANG_JOB; exit 5")

    assert f"in {job}" in done.stdout
    assert done.returncode == 5
    yard.out("stop", "--wait", "--grace", "0s", job)


def test_up_again_is_the_same_daemon(yard):
    first = yard.json("up", "--detach")
    again = yard.json("up", "--detach")

    assert first["pid"] == again["pid"]
    assert first["login"] != again["login"]


def test_a_killed_daemon_comes_back_with_its_jobs(yard):
    job = yard.out("run", "--no-code", "--", "sleep", "60")
    os.kill(yard.json("up", "--detach")["pid"], signal.SIGKILL)
    assert yard.call("ls").returncode == 5

    yard.json("up", "--detach", "--port", "0", "--devices", "4")

    assert yard.json("show", job)["phase"] in ("running", "starting", "waiting")
    yard.out("stop", "--wait", "--grace", "0s", job)
