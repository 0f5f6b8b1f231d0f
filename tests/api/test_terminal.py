"""Terminals beside members: a real pty, a real process, and nothing left behind."""

import json
import os
import socket
import time
from contextlib import contextmanager
from urllib.parse import quote

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.api.serving import TOKEN


@pytest.fixture(scope="module")
def job(served):
    made = served.submit(name="terminal")
    yield served.wait_until(made["id"], "running")
    served.engine.end(f"{made['id']}.1")


@contextmanager
def terminal(served, job, command, query="", headers=None):
    address = f"ws://127.0.0.1:{served.port}/v1/jobs/{job['id']}/exec"
    given = {"Authorization": f"Bearer {TOKEN}"} if headers is None else headers
    asked = f"{address}?command={quote(json.dumps(command))}{query}"
    with connect(asked, additional_headers=given, open_timeout=20, proxy=None) as wire:
        yield wire


def shown(wire) -> tuple[bytes, int]:
    """(all output, exit code)."""
    output = b""
    while True:
        frame = wire.recv(timeout=20)
        if isinstance(frame, str):
            return output, json.loads(frame)["exit"]
        output += frame


def gone(pid: int) -> bool:
    """Whether the process has ended, in a while."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_command_runs_on_a_terminal_of_its_own_with_the_members_environment(served, job):
    command = ["sh", "-c", 'tty; stty size; echo "$MADANG_JOB"; exit 7']

    with terminal(served, job, command, "&rows=40&cols=123") as wire:
        output, code = shown(wire)

    lines = output.decode().split()
    assert lines[0].startswith("/dev/")
    assert lines[1:3] == ["40", "123"]
    assert lines[3] == job["allocation"]
    assert code == 7


def test_arguments_reach_the_program_as_they_are(served, job):
    odd = ["printf", "%s|", "$HOME", "a b", "`id`", "*", "; exit 1", "'\"", "größe"]

    with terminal(served, job, odd) as wire:
        output, code = shown(wire)

    assert output.decode() == "".join(f"{part}|" for part in odd[2:])
    assert code == 0


def test_what_is_typed_arrives_and_control_c_interrupts(served, job):
    with terminal(served, job, ["cat"]) as wire:
        wire.send(b"hello\n")
        seen = b""
        while seen.count(b"hello") < 2:  # the terminal's echo, and cat's
            seen += wire.recv(timeout=20)
        wire.send(b"\x03")
        _, code = shown(wire)

    assert code == 128 + 2


def test_a_resize_reaches_the_program(served, job):
    command = ["sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"]

    with terminal(served, job, command) as wire:
        assert b"ready" in wire.recv(timeout=20)
        wire.send("not a resize")
        wire.send(json.dumps({"resize": [-1, 10**9]}))
        wire.send(json.dumps({"resize": [33, 77]}))
        output, _ = shown(wire)

    assert b"33 77" in output


def test_a_command_that_is_not_there_says_so_with_127(served, job):
    with terminal(served, job, ["no-such-program"]) as wire:
        output, code = shown(wire)

    assert code == 127
    assert b"no-such-program: No such file" in output


def test_much_output_comes_whole(served, job):
    with terminal(served, job, ["seq", "200000"]) as wire:
        output, code = shown(wire)

    assert output.replace(b"\r\n", b"\n") == b"".join(b"%d\n" % at for at in range(1, 200_001))
    assert code == 0


def test_all_that_was_started_ends_with_the_socket(served, job):
    """Also a background job of the shell, which has a process group of its own, and ignores HUP."""
    script = "set -m; (trap '' HUP TERM; exec sleep 1000) & echo $$ $!; wait"

    with terminal(served, job, ["bash", "-c", script]) as wire:
        pids = b""
        while b"\n" not in pids:
            pids += wire.recv(timeout=20)
        shell, child = map(int, pids.split())
        assert os.getsid(child) == shell

    assert gone(shell)
    assert gone(child)


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", {}, 401, "unauthorized"),
        ("", {"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ("", {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil"}, 403, "cross_site"),
        ("&member=9", None, 404, "no_such_member"),
        ("&member=-1", None, 409, "conflict"),
        ("&member=x", None, 422, "invalid"),
        ("&rows=0", None, 422, "invalid"),
        ("&command=bash", None, 422, "invalid"),
        ("&command=[]", None, 422, "invalid"),
        ("&command=[1]", None, 422, "invalid"),
    ],
)
def test_who_may_not_is_refused_before_anything_runs(served, job, query, headers, status, code):
    before = len(psutil.Process().children(recursive=True))

    with (
        pytest.raises(InvalidStatus) as refused,
        terminal(served, job, ["sleep", "9"], query, headers),
    ):
        pass

    answer = refused.value.response
    assert answer.status_code == status
    assert json.loads(answer.body)["code"] == code
    assert len(psutil.Process().children(recursive=True)) == before


def test_a_rebound_name_opens_no_terminal(served, job):
    wire = socket.create_connection(("127.0.0.1", served.port))
    address = f"ws://evil.example:{served.port}/v1/jobs/{job['id']}/exec"

    with (
        wire,
        pytest.raises(InvalidStatus) as refused,
        connect(address, sock=wire, additional_headers={"Authorization": f"Bearer {TOKEN}"}),
    ):
        pass

    assert refused.value.response.status_code == 421


def test_a_cookie_without_an_origin_opens_no_terminal(served, job):
    link = served.client.post("/v1/login-links").json()["url"]
    with served.stranger() as browser:
        cookie = browser.get(link).headers["set-cookie"].partition(";")[0]

    with (
        pytest.raises(InvalidStatus) as refused,
        terminal(served, job, ["true"], headers={"Cookie": cookie}),
    ):
        pass
    with terminal(served, job, ["true"], headers={"Cookie": cookie, "Origin": served.url}) as wire:
        _, code = shown(wire)

    assert refused.value.response.status_code == 403
    assert code == 0


def test_a_job_that_has_ended_has_no_terminal(served):
    made = served.submit(name="over")
    view = served.wait_until(made["id"], "running")
    served.engine.end(view["allocation"])
    served.wait_until(made["id"], "succeeded")

    with pytest.raises(InvalidStatus) as refused, terminal(served, made, ["true"]):
        pass

    assert refused.value.response.status_code == 409


def test_a_frame_that_is_too_large_ends_the_terminal_and_no_more(served, job):
    with terminal(served, job, ["cat"]) as wire:
        wire.send(b"x" * (2 << 20))
        with pytest.raises(ConnectionClosed) as closed:
            shown(wire)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert served.client.get("/v1/health").status_code == 200
