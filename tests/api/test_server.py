"""Connections that mean no good, and too many of those that do: the daemon stays as it was."""

import resource
import socket
import time
from contextlib import ExitStack

import httpx
import psutil
import pytest

from madang.api.server import connections_allowed
from madang.api.settings import Limits
from tests.api.serving import TOKEN, serving

REQUEST = f"GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server of little patience."""
    limits = Limits(head_wait_s=0.5, body_wait_s=0.5, idle_wait_s=1)
    with serving(tmp_path_factory.mktemp("small"), limits) as one:
        yield one


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A server with few places, and all the patience."""
    with serving(tmp_path_factory.mktemp("narrow"), Limits(connections_max=8)) as one:
        yield one


def dialled(served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=20)


def until_closed(wire: socket.socket) -> bytes:
    """All that still comes."""
    found = b""
    try:
        while block := wire.recv(65_536):
            found += block
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("said", [b"", b"GET /v1/jobs HTTP/1.1\r\nhost: local"])
def test_a_head_that_does_not_come_is_not_waited_for(small, said):
    with dialled(small) as wire:
        wire.sendall(said)

        assert until_closed(wire) == b""


def test_a_head_drop_by_drop_is_not_waited_for_either(small):
    began = time.monotonic()
    with dialled(small) as wire:
        wire.sendall(b"GET /v1/jobs HTTP/1.1\r\n")
        try:
            while time.monotonic() - began < 20:
                wire.sendall(b"x-a: b\r\n")
                time.sleep(0.02)
        except ConnectionError:
            pass

    assert time.monotonic() - began < 10


def test_the_second_head_of_a_connection_is_not_waited_for_either(small):
    with dialled(small) as wire:
        wire.sendall(REQUEST.encode() + b"GET /v1/jobs HTTP/1.1\r\nhost:")
        answer = until_closed(wire)

    assert answer.count(b"HTTP/1.1 200 OK") == 1


def test_an_endless_head_is_answered_431(small):
    with dialled(small) as wire:
        wire.sendall(b"GET /v1/jobs HTTP/1.1\r\n")
        try:
            for _ in range(200):
                wire.sendall(b"x-filler: " + b"y" * 1000 + b"\r\n")
        except ConnectionError:
            pass
        answer = until_closed(wire)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert small.client.get("/v1/health").status_code == 200


def test_a_body_that_stands_still_is_answered_408(small):
    with dialled(small) as wire:
        wire.sendall(
            REQUEST.replace("GET", "POST").encode()[:-2]
            + b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        answer = until_closed(wire)

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_in_the_end(small):
    with dialled(small) as wire:
        wire.sendall(REQUEST.encode())
        answer = until_closed(wire)

    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_silent_connections_make_room_for_one_that_speaks(narrow):
    with ExitStack() as crowd:
        silent = [crowd.enter_context(dialled(narrow)) for _ in range(30)]
        with narrow.stranger() as newcomer:
            answer = newcomer.get("/v1/health")

        assert answer.status_code == 200
        assert until_closed(silent[0]) == b""


def test_when_all_are_busy_a_newcomer_is_told_to_come_again(narrow):
    with ExitStack() as crowd, httpx.Client(base_url=narrow.url, timeout=20) as client:
        narrow.client.close()
        headers = {"authorization": f"Bearer {TOKEN}"}
        for _ in range(8):
            request = client.build_request("GET", "/v1/events", headers=headers)
            crowd.callback(client.send(request, stream=True).close)
        with dialled(narrow) as wire:
            answer = until_closed(wire)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"busy"' in answer
    assert b"retry-after: 2" in answer


@pytest.mark.parametrize(
    "nonsense",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO there\r\n\r\n", b"\0" * 100],
)
def test_what_is_no_http_is_answered_400(served, nonsense):
    with dialled(served) as wire:
        wire.sendall(nonsense + b"\r\n\r\n")
        answer = until_closed(wire)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_refused_body_leaves_its_connection_usable(served):
    with dialled(served) as wire:
        wire.sendall(
            REQUEST.replace("GET", "POST").encode()[:-2]
            + b"content-type: application/json\r\ncontent-length: 3000000\r\n\r\n"
            + b" " * 3_000_000
            + REQUEST.encode()
        )
        found = b""
        while found.count(b"HTTP/1.1 ") < 2:
            found += wire.recv(65_536)

    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"HTTP/1.1 200 OK" in found


@pytest.mark.parametrize(
    ("soft", "asked", "allowed"),
    [(1024, 2048, 512), (20_000, 2048, 2048), (256, 2048, 64), (resource.RLIM_INFINITY, 9, 9)],
)
def test_connections_leave_files_for_all_else(monkeypatch, soft, asked, allowed):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))

    assert connections_allowed(asked) == allowed


@pytest.mark.slow
def test_ten_thousand_connections_lock_nobody_out(served):
    """Each says half a request and falls silent; jobs are submitted meanwhile."""
    process = psutil.Process()
    before = process.memory_info().rss
    wanted = 10_000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_max = min(wanted, soft - 4096)  # both ends are in this process
    served.engine.quick = True
    with ExitStack() as crowd:
        wires: list[socket.socket] = []
        for at in range(wanted):
            wire = dialled(served)
            wire.sendall(REQUEST[: at % len(REQUEST)].encode())
            wires.append(crowd.enter_context(wire))
            if len(wires) > open_max:
                wires.pop(0).close()
            if at % 500 == 0:
                assert served.submit(name="meanwhile")["phase"]
        grown = process.memory_info().rss - before
        view = served.submit(name="after")
    answer = served.client.get(f"/v1/jobs/{view['id']}")
    served.engine.quick = False

    assert answer.status_code == 200
    assert grown < 200 << 20
