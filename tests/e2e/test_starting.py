"""What a start of the real daemon loads and says, and how it ends."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from urllib.request import Request, urlopen

import pytest

from tests.e2e.yard import READY_S, REPOSITORY, LiveYard

NOT_NEEDED = ("alembic", "mako", "sqlalchemy.dialects.postgresql", "psycopg", "pydantic.v1.main")
LOGIN = re.compile(r"http://(?P<place>127\.0\.0\.1:\d+)(?P<path>/login\?once=\S+)")


def imported(log: str) -> set[str]:
    """The modules in Python's own list of imports."""
    return {line.split("|")[2].strip() for line in log.splitlines() if line.count("|") == 2}


def test_a_start_on_a_migrated_sqlite_ledger_imports_nothing_for_others(tmp_path, monkeypatch):
    yard = LiveYard(tmp_path / "state")
    yard.start()
    assert yard.stop() == 0
    log = tmp_path / "state.log"
    log.unlink()
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")

    yard.start()
    assert yard.stop() == 0

    modules = imported(log.read_text())
    assert {"sqlalchemy", "sqlalchemy.dialects.sqlite", "fastapi", "madang.daemon.loop"} <= modules
    needless = {name for name in modules if name.startswith(NOT_NEEDED)}
    assert needless == set()


def test_sigterm_ends_it_in_order_even_while_someone_listens(tmp_path):
    with LiveYard(tmp_path / "state") as yard:
        question = Request(f"{yard.url}/v1/events")
        question.add_header("Authorization", f"Bearer {yard.token()}")
        with urlopen(question, timeout=READY_S) as stream:
            assert (yard.state / "daemon.json").exists()

            assert yard.stop() == 0

            with pytest.raises(IncompleteRead):  # cut off: to be resumed, not at its end
                stream.read()
        assert not (yard.state / "daemon.json").exists()
        assert "Traceback" not in yard.log()


def test_a_log_file_tells_start_and_stop_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.delenv("MADANG_LOG", raising=False)
    with LiveYard(tmp_path / "state") as yard:
        yard.stop()

        lines = yard.log().splitlines()
        assert [line.split()[2:4] for line in lines] == [["INFO", "madang.daemon"]] * 2
        assert f"is ready at {yard.url}" in lines[0]
        assert "stopped; jobs that run go on" in lines[1]
        assert yard.token() not in yard.log()


def test_a_terminal_is_told_where_to_go_and_how_to_stop(tmp_path, monkeypatch):
    monkeypatch.delenv("MADANG_LOG", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    terminal, theirs = pty.openpty()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "madang", "up", "--port", "0", "--devices", "2"],
        env={**os.environ, "MADANG_STATE": str(tmp_path / "state")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        said = read_until(terminal, "stop it with Ctrl-C")
        link = LOGIN.search(said)
        assert link is not None, said
        assert 3 <= len(said.splitlines()) <= 5
        with closing(HTTPConnection(link["place"], timeout=READY_S)) as browser:
            browser.request("GET", link["path"])
            answer = browser.getresponse()
            assert (answer.status, answer.headers["location"]) == (303, "/")
            assert "HttpOnly" in answer.headers["set-cookie"]

        daemon.send_signal(signal.SIGINT)

        assert "running jobs go on: madang up finds them again" in read_until(terminal, "again")
        assert daemon.wait(READY_S) == 0
    finally:
        daemon.kill()
        daemon.wait()
        os.close(terminal)


def read_until(terminal: int, word: str) -> str:
    """What the program wrote up to the end of the line with this word."""
    said = ""
    while word not in said or not said.endswith("\n"):
        ready, _, _ = select.select([terminal], [], [], READY_S)
        assert ready, f"no {word!r} in {said!r}"
        said += os.read(terminal, 65_536).decode().replace("\r\n", "\n")
    return said


def test_a_first_start_makes_its_ledger_in_silence(tmp_path, monkeypatch):
    monkeypatch.setenv("MADANG_LOG", "info")
    with LiveYard(tmp_path / "state") as yard:
        assert "Running upgrade  -> 0001" in yard.log()
        assert "alembic.runtime.plugins" not in yard.log()
