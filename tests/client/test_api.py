import json
import socket
import threading

import pytest

from madang.client import Client, MadangError, NotFound, Refused, Rejected, Unreachable
from madang.client.errors import WaitTimeout
from madang.client.transport import Address, Connection, TransportError

REQUEST = {"command": ["true"], "name": "digits"}


def paths(double):
    return [(method, path) for method, path, _, _ in double.requests]


def test_one_connection_serves_many_requests(double):
    with Client() as client:
        for _ in range(5):
            client.submit(REQUEST)
        client.jobs(phase="live")

    assert double.connections == 1
    assert len(double.jobs) == 5


@pytest.mark.parametrize("fault", ["drop", "drop_after", "busy"])
def test_a_retried_submission_makes_one_job(double, fault):
    double.faults.append(fault)

    with Client() as client:
        job = client.submit(REQUEST)

    assert list(double.jobs) == [job["id"]]
    keys = {headers["idempotency-key"] for _, _, headers, _ in double.requests}
    assert len(double.requests) == 2
    assert len(keys) == 1


def test_what_must_not_run_twice_is_not_sent_twice(double):
    double.faults.append("drop_after")

    with Client() as client, pytest.raises(Unreachable):
        client.new_token("ci")

    assert double.tokens == ["first", "ci"]


def test_a_busy_daemon_may_be_asked_again_even_then(double):
    double.faults.append("busy")

    with Client() as client:
        client.new_token("ci")

    assert double.tokens == ["first", "ci"]


def test_retries_end(double):
    double.faults.extend(["drop"] * 10)

    with Client(retries=2) as client, pytest.raises(Unreachable, match="no daemon answers"):
        client.jobs()

    assert len(double.requests) == 3


def test_a_closed_idle_connection_is_replaced_before_it_is_used(double):
    with Client(retries=0) as client:
        client.health()
        client._idle[0].socket.shutdown(socket.SHUT_RD)
        client.health()

    assert double.connections == 2


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda c: c.job("nothing-7"), NotFound, "no_such_job"),
        (lambda c: c.submit(REQUEST, gpus=64), Rejected, "rejected"),
        (lambda c: c.requeue(c.submit(REQUEST)["id"]), MadangError, "conflict"),
        (lambda c: c.submit(command=[object()]), MadangError, "bad_request"),
        (lambda c: c.submit(command=["x"], gpus=float("nan")), MadangError, "bad_request"),
    ],
)
def test_a_problem_becomes_its_exception(double, call, kind, code):
    with Client() as client, pytest.raises(kind) as caught:
        call(client)

    assert caught.value.code == code


def test_an_exception_says_what_would_work(double):
    with Client() as client, pytest.raises(Rejected) as caught:
        client.submit(REQUEST, gpus=64)

    assert caught.value.tries == ("--gpus 8", "--members 2")
    assert "given: 64" in str(caught.value)
    assert "try: --gpus 8" in str(caught.value)


def test_a_wrong_token_is_refused(double):
    with Client(token="other") as client, pytest.raises(Refused):
        client.jobs()


def test_without_any_hint_a_client_says_how_to_start_a_daemon(tmp_path, monkeypatch):
    monkeypatch.delenv("MADANG_URL", raising=False)
    monkeypatch.setenv("MADANG_STATE", str(tmp_path))

    with pytest.raises(Unreachable, match="madang up --detach"):
        Client()


def test_a_stored_token_goes_only_to_its_own_address(tmp_path, monkeypatch):
    stored = {"url": "http://127.0.0.1:7070", "token": "t"}
    (tmp_path / "client.json").write_text(json.dumps(stored))
    monkeypatch.setenv("MADANG_STATE", str(tmp_path))
    monkeypatch.delenv("MADANG_TOKEN", raising=False)

    tokens = []
    for url in (None, "http://localhost:7070/", "http://evil.example:7070"):
        monkeypatch.delenv("MADANG_URL", raising=False)
        tokens.append(Client(url).token)

    assert tokens == ["t", "t", ""]


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:7070", "ftp://a", "http://", "http://a:0", "http://a:x"]
)
def test_an_address_that_is_none_is_said_to_be_none(url):
    with pytest.raises(MadangError, match=r"address|port"):
        Address(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:7070/", ("127.0.0.1", 7070, "", False)),
        ("https://gpu.example.org/yard/", ("gpu.example.org", 443, "/yard", True)),
        ("http://[::1]:80", ("::1", 80, "", False)),
        ("http://[::1]", ("::1", 80, "", False)),
    ],
)
def test_an_address_has_these_parts(url, expected):
    address = Address(url)

    assert (address.host, address.port, address.prefix, address.secure) == expected


# -- waiting and events -------------------------------------------------------------------------


def test_wait_returns_when_the_job_has_ended(double):
    job_id = double.submit(REQUEST)["id"]
    with Client() as client:
        stream = client.changes(job_id)
        assert next(stream)["phase"] == "waiting"

        double.start(job_id)
        assert next(stream)["phase"] == "running"
        double.submit(REQUEST)  # another job's event is none of its changes
        double.end(job_id, 3)

        assert [each["phase"] for each in stream] == ["failed"]
        assert client.wait(job_id)["exit_code"] == 3


def test_wait_gives_up_in_time(double):
    job_id = double.submit(REQUEST)["id"]

    with Client() as client, pytest.raises(WaitTimeout):
        client.wait(job_id, timeout_s=0.05)


def test_events_resume_where_a_stream_broke(double):
    for _ in range(7):
        double.submit(REQUEST)
    double.streams_break_after = 2

    with Client() as client:
        stream = client.events(after=0)
        seen = [next(stream)["id"] for _ in range(7)]

    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_a_stream_that_broke_before_its_first_event_misses_none(double):
    double.submit(REQUEST)
    with Client() as client:
        stream = client.events(heartbeats=True)
        assert next(stream)["id"] == "1"
        double.streams_break_after = 1
        double.submit(REQUEST)
        double.submit(REQUEST)
        seen = [event["id"] for event in (next(stream) for _ in range(3)) if event["value"]]

    assert seen == [2, 3]


# -- logs ---------------------------------------------------------------------------------------


def test_a_log_is_read_whole_and_by_its_tail(double):
    job_id = double.submit(REQUEST)["id"]
    double.write(job_id, b"one\ntwo\nthree\n")

    with Client() as client:
        assert b"".join(client.logs(job_id)) == b"one\ntwo\nthree\n"
        assert b"".join(client.logs(job_id, tail=1)) == b"three\n"


def test_a_long_log_comes_in_pages(double, monkeypatch):
    monkeypatch.setattr("madang.client.stream.LOG_PAGE_BYTES", 1000)
    job_id = double.submit(REQUEST)["id"]
    text = bytes(range(256)) * 10
    double.write(job_id, text)

    with Client() as client:
        assert b"".join(client.logs(job_id)) == text


def test_a_followed_log_ends_with_its_member(double):
    job_id = double.submit(REQUEST)["id"]
    double.start(job_id)
    double.write(job_id, b"first\nsecond\n")
    with Client() as client:
        pieces = client.logs(job_id, tail=1, follow=True)
        assert next(pieces) == b"second\n"
        double.write(job_id, b"third\n")
        assert next(pieces) == b"third\n"
        double.end(job_id)

        assert list(pieces) == []


# -- the transport on its own --------------------------------------------------------------------


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answered_with(answer: bytes, method: str = "GET"):
    """What a connection makes of these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            found, _ = server.accept()
            with found:
                found.recv(65536)
                found.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            address = Address(f"http://127.0.0.1:{server.getsockname()[1]}")
            connection = Connection(address, 5.0)
            response = connection.request(method, "/", {})
            return response.status, response.read()
        finally:
            connection.close()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            (200, b"ok"),
        ),
        (
            CHUNKED + b"1;x=y\r\no\r\n1\r\nk\r\n0\r\nTrailer: 1\r\n\r\n",
            (200, b"ok"),
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", (204, b"")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, b"until the end")),
    ],
)
def test_bodies_of_every_kind_are_read(answer, expected):
    assert answered_with(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_not_a_whole_answer_is_an_error(answer):
    with pytest.raises(TransportError):
        answered_with(answer)


def test_a_line_break_cannot_be_smuggled_into_a_request(double):
    with Client() as client, pytest.raises(NotFound):
        client.job("x HTTP/1.1\r\nX-Evil: 1\r\n\r\n")

    assert len(double.requests) == 1


def test_threads_share_a_client(double):
    with Client() as client:
        threads = [
            threading.Thread(target=lambda: [client.submit(REQUEST) for _ in range(10)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(double.jobs) == 40
