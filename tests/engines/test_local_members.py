"""What a member finds, and how it ends: real processes under real shims."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from madang.core.events import MemberEnded, MemberStarted
from madang.core.model import Exit
from madang.engines.base import Stop, Tell
from madang.engines.local import prepare, shim
from madang.testing.engine import Watch
from tests.engines.local_world import LocalWorld, is_alive, launch, python, state_file, wait_until

ENV = python("import json, os; print(json.dumps(dict(os.environ)))")


def ends(watch: Watch, *, job: str, command: tuple[str, ...], **more: Any) -> Exit:
    """How a job of one member ends."""
    start = launch(job, command, **more)
    watch.engine.act([start])
    return watch.until_ended(start.launch.allocation)[0]


def env_of(watch: Watch, job: str, rank: int = 0) -> dict[str, str]:
    env: dict[str, str] = json.loads(watch.engine.read_log(f"{job}.1", rank, 0, 1 << 20))
    return env


# -- what it finds ------------------------------------------------------------------------------


def test_a_gang_finds_the_variables_of_torchrun(world: LocalWorld, watch: Watch):
    start = launch("gang", ENV, members=3)
    watch.engine.act([start])
    watch.until_ended(start.launch.allocation)

    envs = [env_of(watch, "gang", rank) for rank in range(3)]
    for rank, env in enumerate(envs):
        assert env["RANK"] == env["LOCAL_RANK"] == env["MADANG_RANK"] == str(rank)
        assert env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"] == "3"
        assert env["NODE_RANK"] == env["GROUP_RANK"] == "0"
        assert env["MASTER_ADDR"] == "127.0.0.1"
        assert env["CUDA_VISIBLE_DEVICES"] == ""
        assert env["OMP_NUM_THREADS"] == "2"
        assert env["MADANG_JOB"] == env["MADANG_NAME"] == "gang"
        assert env["MADANG_ALLOCATION"] == "gang.1"
        assert env["MADANG_PROJECT"] == "vision"
        assert Path(env["MADANG_CHECKPOINT_DIR"]).is_dir()
    assert [env["MADANG_GPUS"] for env in envs] == ["0", "1", "0"]
    assert len({env["MASTER_PORT"] for env in envs}) == 1
    assert len({env["MADANG_REPORT_FILE"] for env in envs}) == 3


def test_gangs_at_the_same_time_have_ports_of_their_own(watch: Watch):
    starts = [launch(f"port-{n}", ENV) for n in range(5)]
    watch.engine.act(starts)
    for start in starts:
        watch.until_ended(start.launch.allocation)

    assert len({env_of(watch, f"port-{n}")["MASTER_PORT"] for n in range(5)}) == 5


def test_the_daemons_secrets_do_not_reach_a_member(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("LC_TIME", "ko_KR.UTF-8")
    watch = opened()
    ends(watch, job="secret", command=ENV)

    env = env_of(watch, "secret")
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert env["LC_TIME"] == "ko_KR.UTF-8"
    assert env["PATH"] == os.environ["PATH"]


def test_the_users_variables_win_over_the_daemons_and_lose_to_the_engines(watch: Watch):
    given = (("PATH", "/mine:/usr/bin:/bin"), ("RANK", "7"), ("OMP_NUM_THREADS", "5"), ("LR", "1"))
    ends(watch, job="env", command=ENV, env=given)

    env = env_of(watch, "env")
    assert env["PATH"] == "/mine:/usr/bin:/bin"
    assert env["RANK"] == "0"
    assert env["OMP_NUM_THREADS"] == "5"
    assert env["LR"] == "1"


def test_the_sdk_comes_first_whatever_else_is_installed(watch: Watch):
    command = (sys.executable, "-c", "import madang; print(madang.__file__)")
    ends(watch, job="sdk", command=command, env=(("PYTHONPATH", "/elsewhere"),))

    log = watch.engine.read_log("sdk.1", 0, 0, 1000).decode()
    assert "/engine/sdk/" in log


def test_a_member_reads_nothing_and_starts_in_an_empty_directory(watch: Watch):
    text = "import os, sys; print(repr(sys.stdin.read()), os.listdir('.'), os.getcwd())"
    ends(watch, job="empty", command=python(text))

    log = watch.engine.read_log("empty.1", 0, 0, 1000).decode()
    assert log.startswith("'' [] ")
    assert log.rstrip().endswith("/allocations/empty.1/work")


def test_a_member_begins_with_default_signals_and_no_descriptor_of_ours(watch: Watch):
    text = (
        "import os, signal; print(sorted(os.listdir('/proc/self/fd'))[:3],"
        " len(os.listdir('/proc/self/fd')));"
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('SigIgn')))"
    )
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25). 32 and 33 are the C library's own, which
    # no program may set: they are as whoever started the tests left them.
    ignored = 1 << 12 | 1 << 24
    library = 0b11 << 31
    ends(watch, job="clean", command=python(text))

    log = watch.engine.read_log("clean.1", 0, 0, 1000).decode().splitlines()
    assert log[0] == "['0', '1', '2'] 4"  # 0, 1, 2, and the directory being listed
    assert int(log[1], 16) & ~library == ignored


def test_what_only_the_owner_may_read_is_closed_to_others(world: LocalWorld, watch: Watch):
    ends(watch, job="modes", command=("true",), env=(("TOKEN", "hush"),))

    directory = world.root / "allocations" / "modes.1"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "launch.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state_file(world, "modes.1").stat().st_mode) == 0o600


# -- how it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "exit", "log"),
    [
        (("true",), Exit(0), ""),
        (("sh", "-c", "exit 3"), Exit(3), ""),
        (("sh", "-c", "exit 255"), Exit(255), ""),
        (("sh", "-c", "kill -SEGV $$"), Exit(139, 11), ""),
        (("sh", "-c", "kill -KILL $$"), Exit(137, 9), ""),
        (("no-such-program",), Exit(127), "cannot run 'no-such-program': No such file"),
        (("/no/such/program",), Exit(127), "cannot run '/no/such/program': No such file"),
        (("/etc/passwd",), Exit(126), "cannot run '/etc/passwd': Permission denied"),
        (("/",), Exit(126), "cannot run '/': Permission denied"),
    ],
)
def test_exit_codes_and_signals_are_kept(watch: Watch, command, exit, log):
    found = ends(watch, job="exit", command=command)

    assert found == exit
    assert log in watch.engine.read_log("exit.1", 0, 0, 1000).decode()


def test_whoever_is_left_behind_is_ended_with_the_leader(world: LocalWorld, watch: Watch):
    # One child in the group; one that daemonises: its own session, its parent gone.
    text = """
import os, subprocess, sys
print(subprocess.Popen(["sleep", "3600"]).pid, flush=True)
out, into = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.write(into, b"1")
        os.execvp("sleep", ["sleep", "3600"])
    os._exit(0)
os.read(out, 1)
"""
    exit = ends(watch, job="behind", command=python(text))

    pids = [int(word) for word in watch.engine.read_log("behind.1", 0, 0, 1000).split()]
    assert exit == Exit(0)
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_stop_ends_what_daemonised_and_defies_sigterm(world: LocalWorld, watch: Watch):
    text = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
print(os.getpid(), flush=True)
time.sleep(3600)
"""
    start = launch("defy", python(text))
    watch.engine.act([start])
    watch.until(lambda: watch.engine.read_log("defy.1", 0, 0, 99).count(b"\n") == 2, "both run")
    pids = [int(word) for word in watch.engine.read_log("defy.1", 0, 0, 1000).split()]
    watch.engine.act([Stop("defy.1", 100)])
    exits = watch.until_ended(start.launch.allocation)

    assert exits[0].signal == 9
    assert not any(is_alive(pid) for pid in pids)


def test_a_member_finds_the_stop_file_when_it_hears_sigterm(watch: Watch):
    text = """
import os, signal, sys, time
def stop(number, frame):
    print(open(os.environ["MADANG_STOP_FILE"]).read(), flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
assert not os.path.exists(os.environ["MADANG_STOP_FILE"])
print("ready", flush=True)
time.sleep(3600)
"""
    start = launch("polite", python(text))
    watch.engine.act([start])
    watch.until(lambda: b"ready" in watch.engine.read_log("polite.1", 0, 0, 99), "it is ready")
    watch.engine.act([Stop("polite.1", 60_000, "preempted")])
    exits = watch.until_ended(start.launch.allocation)

    said = json.loads(watch.engine.read_log("polite.1", 0, 6, 1000))
    assert exits[0] == Exit(5)
    assert said["reason"] == "preempted"
    assert said["deadline_ms"] > 0


def test_a_shim_that_is_sent_sigterm_stops_its_member_in_order(world: LocalWorld, watch: Watch):
    start = launch("asked", ("sleep", "3600"))
    watch.engine.act([start])
    watch.until(lambda: watch.started("asked.1"), "it starts")
    members = watch.engine._crew.stays["asked.1"].members  # type: ignore[attr-defined]
    os.kill(members[0].shim_pid, 15)

    assert watch.until_ended(start.launch.allocation)[0] == Exit(143, 15)


# -- output -------------------------------------------------------------------------------------


def test_a_log_keeps_its_beginning_and_its_end(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "LOG_BYTES_MAX", 10_000)
    text = "print('first'); print('x' * 2_000_000); print('the traceback')"
    exit = ends(watch, job="much", command=python(text))

    log = watch.engine.read_log("much.1", 0, 0, 1 << 22)
    assert exit == Exit(0)
    assert log.startswith(b"first\n")
    assert b"[madang] the log has reached 10000 bytes" in log
    assert b"bytes are left out here" in log
    assert log.endswith(b"the traceback\n")
    assert len(log) < 10_000 + shim.Log.TAIL_BYTES + 500


@pytest.mark.parametrize("pieces", [[b"abc", b"def"], [b"abcdefgh"], [b"a"] * 9])
def test_a_log_that_just_fits_is_whole(tmp_path: Path, pieces: list[bytes]):
    log = shim.Log(str(tmp_path / "log"), 100)
    for piece in pieces:
        log.write(piece)
    log.close()

    assert (tmp_path / "log").read_bytes() == b"".join(pieces)


def test_what_a_log_leaves_out_is_counted(tmp_path: Path):
    log = shim.Log(str(tmp_path / "log"), 10)
    total = 5 * shim.Log.TAIL_BYTES + 17
    for at in range(0, total, 1000):
        log.write(b"x" * min(1000, total - at))
    log.close()

    left_out = total - 10 - shim.Log.TAIL_BYTES
    assert (
        f"[madang] {left_out} bytes are left out here".encode() in (tmp_path / "log").read_bytes()
    )


def test_a_disk_that_takes_no_log_costs_lines_and_not_the_job(tmp_path: Path):
    log = shim.Log("/dev/full", 1 << 20)
    log.write(b"lost\n")
    log._fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log.write(b"kept\n")
    log.close()

    text = (tmp_path / "log").read_bytes()
    assert b"[madang] 5 bytes of output are missing here" in text
    assert text.endswith(b"kept\n")


def test_a_long_report_line_is_given_whole(watch: Watch):
    text = """
import os
with open(os.environ["MADANG_REPORT_FILE"], "a") as file:
    file.write('{"a": "%s"}' % ("x" * 5000) + "\\n" + '{"half"')
"""
    ends(watch, job="report", command=python(text))

    line = watch.engine.read_reports("report.1", 0, 0, 100)
    assert len(line) == 5010
    assert watch.engine.read_reports("report.1", 0, len(line), 100) == b""


# -- many, and beside ---------------------------------------------------------------------------


def test_two_hundred_short_members_all_start_and_end(world: LocalWorld, watch: Watch):
    starts = [launch(f"short-{n}", ("sh", "-c", f"exit {n % 7}")) for n in range(200)]
    watch.engine.act(starts)
    watch.until(lambda: _count(watch, MemberEnded) == 200, "all end")

    assert _count(watch, MemberStarted) == 200
    for n in range(200):
        assert watch.ended(f"short-{n}.1") == {0: Exit(n % 7)}
    wait_until(lambda: not os.listdir(world.root / "engine" / "live"), "no shim is left")


def _count(watch: Watch, kind: type) -> int:
    return sum(isinstance(fact, kind) for fact in watch.facts)


def test_a_command_beside_a_member_has_its_directory(world: LocalWorld, watch: Watch):
    start = launch("beside", ("sleep", "3600"))
    watch.engine.act([start])
    watch.until(lambda: watch.started("beside.1"), "it starts")
    argv, env, directory = watch.engine.exec_command("beside.1", 0, ["ls"])
    watch.engine.act([Stop("beside.1", 0)])
    watch.until_ended(start.launch.allocation)

    assert argv == ["ls"]
    assert env["MADANG_ALLOCATION"] == "beside.1"
    assert directory == str(world.root / "allocations" / "beside.1" / "work")


def test_sensors_see_what_a_member_and_its_children_use(world: LocalWorld, watch: Watch):
    text = """
import os
held = bytearray(64 << 20)
os.fork()
print("busy", flush=True)
while True: pass
"""
    start = launch("busy", python(text))
    watch.engine.act([start])
    watch.until(lambda: watch.engine.read_log("busy.1", 0, 0, 99).count(b"busy") == 2, "busy")
    first = watch.engine.sample()
    readings = []

    def used() -> bool:
        readings.append(watch.engine.sample())
        return bool(readings[-1].members[0].cpu_percent)

    wait_until(used, "some CPU time")
    watch.engine.act([Stop("busy.1", 0)])
    watch.until_ended(start.launch.allocation)

    assert first.members[0].cpu_percent is None
    assert (first.members[0].allocation, first.members[0].rank) == ("busy.1", 0)
    assert (first.members[0].memory_mib or 0) >= 64
    assert (first.nodes[0].memory_used_mib or 0) > 0
    assert [gpu.util_percent for gpu in first.nodes[0].gpus] == [None, None]
    assert watch.engine.sample().members == ()


def test_readings_tell_what_members_use_and_what_they_moved_since(world: LocalWorld, watch: Watch):
    text = """
import os
block = os.urandom(1 << 20)
print("begun", flush=True)
while True:
    with open("written", "wb") as file:
        for _ in range(8): file.write(block)
        os.fsync(file.fileno())
"""
    start = launch("writer", python(text))
    watch.engine.act([start])
    watch.until(lambda: watch.engine.read_log("writer.1", 0, 0, 99) == b"begun\n", "begun")

    def told() -> dict[str, float]:
        (one,) = watch.engine.readings()
        assert one.node == world.node
        return {column.metric: column.values[0] for column in one.columns}

    first = told()
    later: list[dict[str, float]] = []

    def has_moved() -> bool:
        later.append(told())
        return later[-1]["member_cpu_percent"] > 0 and later[-1]["member_processes"] == 1

    wait_until(has_moved, "some CPU time")
    watch.engine.act([Stop("writer.1", 0)])
    watch.until_ended(start.launch.allocation)

    assert set(first) == {"member_memory_mib", "member_processes"}  # nothing was counted yet
    assert first["member_memory_mib"] > 1
    assert all(one["member_write_bytes"] >= 0 for one in later)
    assert list(watch.engine.readings()[0].columns) == []


def test_a_word_for_the_members_is_where_they_look_for_it(world: LocalWorld, watch: Watch):
    text = """
import os, pathlib, time
print("begun", flush=True)
path = pathlib.Path(os.environ["MADANG_WARNING_FILE"])
while not path.exists(): time.sleep(0.01)
print(path.read_text(), flush=True)
"""
    start = launch("told", python(text))
    watch.engine.act([start])
    watch.until_started(start.launch.allocation)
    watch.engine.act([Tell("told.1", "its GPU has been idle for 2 h"), Tell("gone.1", "nobody")])
    watch.until_ended(start.launch.allocation)

    assert b"its GPU has been idle for 2 h" in watch.engine.read_log("told.1", 0, 0, 999)
