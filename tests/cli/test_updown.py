"""up --detach, down, web: against a small program that behaves as the daemon must."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from madang.cli import updown
from madang.cli.main import run
from madang.cli.updown import UpOptions, _words
from tests.client.double import TOKEN

TOP = Path(__file__).parent.parent.parent
DAEMON = """
import fcntl, json, os, pathlib, signal, sys, threading
sys.path[:0] = {paths!r}
from tests.client.double import Double
state = pathlib.Path(os.environ["MADANG_STATE"])
if {fails}:
    sys.exit("cannot listen: the port is taken")
lock = open(state / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with Double().serving() as double:
    said = {{"url": double.url, "token": {token!r}}}
    (state / "client.json").write_text(json.dumps(said))
    (state / "daemon.json").write_text(json.dumps({{"pid": os.getpid(), **said}}))
    (state / "argv").write_text(json.dumps(sys.argv[1:]))
    signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def state(tmp_path, monkeypatch):
    for name in ("MADANG_URL", "MADANG_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "state"
    monkeypatch.setenv("MADANG_STATE", str(path))
    return path


@pytest.fixture
def daemon(tmp_path, monkeypatch, state):
    """`python -m madang up …` runs the small program instead; returns a way to make it fail."""

    def install(*, fails: bool = False):
        program = tmp_path / "daemon.py"
        paths = [str(TOP), str(TOP / "src")]
        program.write_text(DAEMON.format(paths=paths, token=TOKEN, fails=fails))
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{program}" "$@"\n')
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))

    yield install
    run(["down"])


def test_up_detaches_and_down_ends_it(daemon, state, capsys):
    daemon()

    assert run(["up", "--detach", "--port", "0", "--devices", "4", "--json"]) == 0

    up = json.loads(capsys.readouterr().out)
    assert up["login"] == f"{up['url']}/login?once=abc"
    assert os.getsid(up["pid"]) == up["pid"] != os.getsid(0)
    words = ["up", "--state", str(state), "--host", "127.0.0.1", "--port", "0", "--devices", "4"]
    assert json.loads((state / "argv").read_text()) == words
    assert run(["ls"]) == 0

    capsys.readouterr()
    assert run(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": True, "pid": up["pid"]}
    assert run(["ls"]) == 5


def test_up_again_finds_the_one_that_runs(daemon, capsys):
    daemon()
    run(["up", "--detach", "--json"])
    first = json.loads(capsys.readouterr().out)

    run(["up", "--detach", "--json"])

    assert json.loads(capsys.readouterr().out) == first


def test_a_daemon_that_dies_shows_the_end_of_its_log(daemon, state, capsys):
    state.mkdir()
    (state / "daemon.log").write_text("an older line\n")
    daemon(fails=True)

    assert run(["up", "--detach"]) == 1

    said = capsys.readouterr().err
    assert "the daemon ended with 1" in said
    assert "cannot listen: the port is taken" in said
    assert "an older line" not in said


def test_a_daemon_that_never_answers_is_ended(daemon, state, monkeypatch, capsys):
    daemon()
    monkeypatch.setattr(updown, "_answers", lambda url: False)
    monkeypatch.setattr(updown, "READY_S", 0.3)

    assert run(["up", "--detach"]) == 1
    assert "did not answer within" in capsys.readouterr().err
    assert updown.running_daemon(str(state)) is None


def test_the_log_and_the_state_are_for_their_owner_only(daemon, state):
    daemon()
    run(["up", "--detach"])

    assert (state / "daemon.log").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_long_log_is_put_aside_at_the_next_start(daemon, state, monkeypatch):
    monkeypatch.setattr(updown, "LOG_BYTES_MAX", 20)
    state.mkdir()
    (state / "daemon.log").write_text("more than twenty bytes\n")
    (state / "daemon.log.1").write_text("older still\n")
    daemon()

    run(["up", "--detach"])

    assert (state / "daemon.log.1").read_text() == "more than twenty bytes\n"
    assert (state / "daemon.log").stat().st_mode & 0o777 == 0o600
    assert "twenty" not in (state / "daemon.log").read_text()


def test_down_without_a_daemon_is_no_error(state, capsys):
    assert run(["down"]) == 0
    assert "no daemon runs" in capsys.readouterr().out


def test_down_never_signals_a_process_that_does_not_hold_the_lock(state, capsys):
    state.mkdir()
    (state / "lock").write_text("")
    (state / "daemon.json").write_text(json.dumps({"pid": os.getpid(), "url": "http://x:1"}))

    assert run(["down"]) == 0

    time.sleep(0)  # a signal to ourselves would be handled here
    assert "no daemon runs" in capsys.readouterr().out


def test_up_in_the_foreground_calls_the_daemon_with_its_options(state, monkeypatch, tmp_path):
    import types

    seen: list[UpOptions] = []
    module = types.ModuleType("madang.daemon.main")
    module.run_daemon = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "madang.daemon", types.ModuleType("madang.daemon"))
    monkeypatch.setitem(sys.modules, "madang.daemon.main", module)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("")

    run(["up", "--port", "7171", "--fleet", str(fleet), "--database", "postgresql+psycopg://x"])

    assert seen == [
        UpOptions(state=str(state), port=7171, fleet=str(fleet), database="postgresql+psycopg://x")
    ]


def test_up_takes_its_database_from_the_environment_where_no_argument_shows_it(
    state, monkeypatch, tmp_path
):
    import types

    seen: list[UpOptions] = []
    module = types.ModuleType("madang.daemon.main")
    module.run_daemon = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "madang.daemon", types.ModuleType("madang.daemon"))
    monkeypatch.setitem(sys.modules, "madang.daemon.main", module)
    monkeypatch.setenv("MADANG_DATABASE", "postgresql+psycopg://u:secret@h/d")

    run(["up", "--name", "madang.madang.svc:7070", "--name", "yard.example.org"])
    assert run(["up", "--name", "http://yard.example.org"]) == 2

    assert [one.database for one in seen] == ["postgresql+psycopg://u:secret@h/d"]
    assert seen[0].names == ("madang.madang.svc:7070", "yard.example.org")


def test_what_was_said_of_names_and_tls_is_said_again_in_the_background():
    asked = UpOptions("state", names=("yard.example.org",), behind_tls=True)

    assert _words(asked)[-3:] == ["--name", "yard.example.org", "--behind-tls"]
    assert "--behind-tls" not in _words(UpOptions("state"))
