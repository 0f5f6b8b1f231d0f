"""A lean POST: whole answers or none, from a server that does everything which servers may do."""

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest

from madang.engines.kubernetes.client import Away, Client, Conflict, TooMany
from madang.engines.kubernetes.config import Access, Token
from madang.engines.kubernetes.posting import BODY_BYTES_MAX, Poster, Unanswered

CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate of 127.0.0.1 that vouches for itself: (file, key)."""
    folder = tmp_path_factory.mktemp("authority")
    made, key = folder / "made.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def play(story):
    async def bounded():
        async with asyncio.timeout(PATIENCE_S):
            return await story

    return asyncio.run(bounded())


@asynccontextmanager
async def server(*answers, pieces=False, tls=None):
    """Gives the next answer to each request; None: cuts the connection, b"": cuts after it was
    read and never answers. Yields (url, requests read, connections made)."""
    left, asked, made = list(answers), [], []

    async def serve(reader, writer):
        made.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                asked.append((head, await reader.readexactly(length)))
                answer = left.pop(0)
                if answer is None:
                    break
                if pieces:
                    for n in range(len(answer)):
                        writer.write(answer[n : n + 1])
                        await writer.drain()
                        await asyncio.sleep(0)
                else:
                    writer.write(answer)
                    await writer.drain()
                if b"Connection: close" in answer or answer.startswith(b"HTTP/1.0"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    it = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = it.sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", asked, made
    finally:
        it.close()
        for writer in made:
            writer.close()


def head(status, *headers):
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", b""])


LONG = b"x" * 70_000
WHOLE = {
    "with a length": (head(b"201 Created", b"Content-Length: 2") + b"{}", b"{}"),
    "headers in any case": (head(b"201 Created", b"cOnTent-LENGTH:2") + b"{}", b"{}"),
    "empty": (head(b"200 OK", b"Content-Length: 0"), b""),
    "204 has no body": (head(b"204 No Content"), b""),
    "after 100": (
        head(b"100 Continue") + head(b"201 Created", b"Content-Length: 2") + b"{}",
        b"{}",
    ),
    "in chunks": (
        head(b"201 Created", b"Transfer-Encoding: chunked") + b"1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n",
        b"{}",
    ),
    "chunks and a trailer": (
        head(b"201 Created", b"Transfer-Encoding: Chunked") + b"2\r\n{}\r\n0\r\nA: b\r\n\r\n",
        b"{}",
    ),
    "line ends in a chunk": (
        head(b"201 Created", b"Transfer-Encoding: chunked") + b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n",
    ),
}


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("answer", "body"), WHOLE.values(), ids=WHOLE)
def test_a_whole_answer_is_given_and_its_connection_is_used_again(answer, body, pieces):
    async def story():
        async with server(answer, CREATED, pieces=pieces) as (url, asked, made):
            poster = Poster(Access(url))
            found = [await poster.post("/a", b"1"), await poster.post("/b", b"22")]
            poster.close()
            return found, asked, len(made)

    found, asked, made = play(story())
    assert (found[0].body, found[1].body) == (body, b"{}")
    assert [text for _, text in asked] == [b"1", b"22"]
    assert asked[1][0].startswith(b"POST /b HTTP/1.1\r\n")
    assert made == 1


CLOSED = {
    "it says close": head(b"201 Created", b"Content-Length: 2", b"Connection: close") + b"{}",
    "HTTP/1.0": b"HTTP/1.0 201 Created\r\nContent-Length: 2\r\n\r\n{}",
    "until the end": head(b"201 Created", b"X: Connection: close") + b"{}",
}


@pytest.mark.parametrize("answer", CLOSED.values(), ids=CLOSED)
def test_an_answer_that_ends_its_connection_is_whole_and_the_next_has_a_new_one(answer):
    async def story():
        async with server(answer, CREATED) as (url, _, made):
            poster = Poster(Access(url))
            found = [await poster.post("/a", b"1"), await poster.post("/b", b"2")]
            poster.close()
            return found, len(made)

    found, made = play(story())
    assert [(one.status, one.body) for one in found] == [(201, b"{}")] * 2
    assert made == 2


BROKEN = {
    "no answer": None,
    "half a head": b"HTTP/1.1 201 Cre\r\nConnection: close\r\n",
    "half a body": head(b"201 Created", b"Content-Length: 9", b"Connection: close") + b"{}",
    "half a chunk": head(b"201 OK", b"Transfer-Encoding: chunked", b"Connection: close")
    + b"5\r\n{",
    "no last chunk": head(b"201 OK", b"Transfer-Encoding: chunked", b"Connection: close")
    + b"2\r\n{}\r\n",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "no number": head(b"2x1 Created"),
    "two lengths": head(b"201 OK", b"Content-Length: 2", b"Content-Length: 3") + b"{} ",
    "a length below nothing": head(b"201 OK", b"Content-Length: -1"),
    "too long": head(b"201 OK", b"Content-Length: %d" % (BODY_BYTES_MAX + 1)),
    "a chunk too long": head(b"201 OK", b"Transfer-Encoding: chunked") + b"fffffff\r\n",
    "no chunk": head(b"201 OK", b"Transfer-Encoding: chunked") + b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than it says": head(b"201 OK", b"Transfer-Encoding: chunked")
    + b"1\r\n{}}}\r\n",
    "packed": head(b"201 OK", b"Transfer-Encoding: gzip"),
    "more than was asked": CREATED + CREATED,
    "a head without end": b"HTTP/1.1 201 OK\r\nA: " + LONG,
    "another protocol": head(b"101 Switching Protocols"),
    "a header over two lines": head(b"201 OK", b" folded: x"),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_what_is_no_whole_answer_is_none_and_the_connection_is_not_used_again(answer):
    async def story():
        async with server(answer, CREATED) as (url, asked, made):
            poster = Poster(Access(url))
            with pytest.raises(Unanswered) as failure:
                await poster.post("/a", b"1")
            found = await poster.post("/b", b"2")
            poster.close()
            return failure.value, found, len(asked), len(made)

    failure, found, asked, made = play(story())
    assert failure.may_have_happened
    assert (found.status, asked, made) == (201, 2, 2)  # once each: nothing is sent twice


def test_without_a_connection_nothing_has_happened():
    async def story():
        async with server() as (url, _, _):
            pass
        with pytest.raises(Unanswered) as failure:
            await Poster(Access(url)).post("/a", b"1")
        return failure.value.may_have_happened

    assert not play(story())


def test_a_request_whose_time_is_over_takes_its_connection_along():
    """Its answer may still come, and would be taken for that of the next one."""

    async def story():
        async with server(b"", CREATED) as (url, _, made):
            poster = Poster(Access(url))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await poster.post("/a", b"1")
            found = await poster.post("/b", b"2")
            poster.close()
            return found.status, len(made)

    assert play(story()) == (201, 2)


def test_requests_end_when_their_own_time_is_over_and_not_before():
    async def story():
        async with server(b"", b"", CREATED) as (url, _, made):
            poster = Poster(Access(url))
            began_s = asyncio.get_running_loop().time()
            slow = asyncio.create_task(poster.post("/a", b"1", 0.2))
            with pytest.raises(Unanswered, match="in time") as quick:
                await poster.post("/b", b"2", 0.05)
            quick_s = asyncio.get_running_loop().time() - began_s
            assert not slow.done()
            with pytest.raises(Unanswered, match="in time"):
                await slow
            slow_s = asyncio.get_running_loop().time() - began_s
            found = await poster.post("/c", b"3", 30)
            poster.close()
            assert quick.value.may_have_happened
            return found.status, len(made), quick_s >= 0.05, slow_s >= 0.2

    assert play(story()) == (201, 3, True, True)


def test_a_connection_that_was_closed_while_idle_is_not_used():
    async def story():
        async with server(CREATED, CREATED) as (url, _, made):
            poster = Poster(Access(url))
            await poster.post("/a", b"1")
            made[0].close()
            await made[0].wait_closed()
            while poster._free[0].usable:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0)
            found = await poster.post("/b", b"2")
            poster.close()
            return found.status, len(made)

    assert play(story()) == (201, 2)


def test_requests_under_way_at_once_have_a_connection_each_and_close_ends_them():
    async def story():
        async with server(b"", b"", b"") as (url, asked, made):
            poster = Poster(Access(url))
            tasks = [asyncio.create_task(poster.post("/a", b"1")) for _ in range(3)]
            while len(asked) < 3:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.001)
            poster.close()
            told = await asyncio.gather(*tasks, return_exceptions=True)
            return [type(one) for one in told], len(made)

    assert play(story()) == ([Unanswered] * 3, 3)


def test_the_token_and_the_path_of_the_server_are_sent_and_no_line_can_be_slipped_in():
    async def story():
        async with server(CREATED) as (url, asked, _):
            poster = Poster(Access(url + "/k8s/clusters/c-1/", token=Token("secret")))
            await poster.post("/api/v1/a", b"1")
            for path in ("/a b", "/a\r\nX: y", "/ä"):
                with pytest.raises(ValueError, match="cannot be asked"):
                    await poster.post(path, b"1")
            poster.close()
            return asked

    asked = play(story())
    assert len(asked) == 1
    assert asked[0][0].startswith(b"POST /k8s/clusters/c-1/api/v1/a HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in asked[0][0]


SAID = {
    "409": (b'{"reason": "Conflict", "message": "m"}', b"409 Conflict", Conflict),
    "429": (b'{"details": {"retryAfterSeconds": 3}}', b"429 Too Many", TooMany),
    "500": (b"oops", b"500 Internal", Away),
}


@pytest.mark.parametrize(("body", "status", "kind"), SAID.values(), ids=SAID)
def test_a_no_is_the_same_error_as_of_any_other_request(body, status, kind):
    async def story():
        answer = head(status, b"Content-Length: %d" % len(body)) + body
        async with server(answer) as (url, _, _), Client(Access(url)) as client:
            with pytest.raises(kind) as failure:
                await client.write("/a", {})
            return failure.value

    failure = play(story())
    assert failure.status == int(status[:3])
    if isinstance(failure, TooMany):
        assert failure.retry_after_s == 3


def test_a_server_whose_certificate_is_not_trusted_is_sent_nothing(authority):
    async def story(trusted):
        tls = ssl.create_default_context(cafile=str(authority[0]) if trusted else None)
        serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serves.load_cert_chain(*authority)
        async with server(CREATED, tls=serves, pieces=True) as (url, asked, _):
            poster = Poster(Access(url, tls=tls))
            try:
                return (await poster.post("/a", b"1")).status, len(asked)
            except Unanswered as failure:
                return failure.may_have_happened, len(asked)
            finally:
                poster.close()

    assert play(story(True)) == (201, 1)
    assert play(story(False)) == (False, 0)
