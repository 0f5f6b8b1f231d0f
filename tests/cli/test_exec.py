"""exec against a real WebSocket server, through a pipe and on a terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.sync.server import serve

import madang
from tests.client.double import TOKEN

LIMIT_S = 30
SOURCE = str(Path(madang.__file__).parent.parent)


class Server:
    """Answers GET /v1/jobs/digits-1 and the exec socket."""

    def __init__(self) -> None:
        self.seen: list[dict[str, list[str]]] = []
        self.resized = threading.Event()
        self.resizes: list[list[int]] = []
        self.reply = ""
        self.url = ""

    def begin(self, connection, request):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return connection.respond(401, '{"code": "unauthorized", "detail": "no valid token"}')
        if urlsplit(request.path).path == "/v1/jobs/digits-1":
            response = connection.respond(200, '{"id": "digits-1", "members": 2}')
            response.headers["Connection"] = "close"
            return response
        if self.reply:
            return connection.respond(404, self.reply)
        return None

    def talk(self, socket) -> None:
        query = parse_qs(urlsplit(socket.request.path).query)
        self.seen.append(query)
        socket.send(b"$ ")
        for frame in socket:
            if isinstance(frame, str):
                self.resizes.append(json.loads(frame)["resize"])
                self.resized.set()
                continue
            if frame == b"\x04":
                break
            socket.send(b"echo " + frame)
        socket.send(json.dumps({"exit": 5}))


@pytest.fixture
def server():
    found = Server()
    with serve(found.talk, "127.0.0.1", 0, process_request=found.begin) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        found.url = f"http://127.0.0.1:{listening.socket.getsockname()[1]}"
        yield found
        listening.shutdown()
        thread.join()


def read_until(descriptor: int, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        assert select.select([descriptor], [], [], LIMIT_S)[0], seen
        seen += os.read(descriptor, 1024)
    return seen


def words(server, *more):
    env = {**os.environ, "PYTHONPATH": SOURCE, "MADANG_URL": server.url, "MADANG_TOKEN": TOKEN}
    return {"args": [sys.executable, "-m", "madang", "exec", "digits-1", *more], "env": env}


def test_through_a_pipe_bytes_go_both_ways_and_the_exit_code_comes_back(server):
    done = subprocess.run(
        **words(server, "--member", "1", "--", "cat", "-v"),
        input=b"hello\n",
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert done.stdout == b"$ echo hello\n"
    assert done.returncode == 5
    assert server.seen == [{"member": ["1"], "command": ['["cat", "-v"]']}]


def test_on_a_terminal_keys_go_raw_and_its_size_is_told(server):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    child = subprocess.Popen(
        **words(server), stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert b"$ " in read_until(ours, b"$ ")
        os.write(ours, b"a\x03")
        assert b"echo a\x03" in read_until(ours, b"\x03")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        child.send_signal(signal.SIGWINCH)
        assert server.resized.wait(LIMIT_S)
        os.write(ours, b"\x04")
        assert child.wait(LIMIT_S) == 5
    finally:
        child.kill()
        child.communicate()

    assert server.seen == [{"member": ["0"], "rows": ["24"], "cols": ["80"]}]
    assert server.resizes[-1] == [50, 120]
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_problem_instead_of_a_terminal_is_told(server):
    server.reply = '{"code": "no_such_member", "detail": "member 0 does not run", "try": ["ls"]}'

    done = subprocess.run(
        **words(server), input=b"", capture_output=True, timeout=LIMIT_S, check=False
    )

    assert done.returncode == 3
    assert b"member 0 does not run" in done.stderr
    assert b"try      ls" in done.stderr


def test_a_member_that_is_none(server):
    done = subprocess.run(
        **words(server, "--member", "2"), capture_output=True, timeout=LIMIT_S, check=False
    )

    assert done.returncode == 2
    assert b"0 to 1" in done.stderr
