"""A client leaves nothing open, whatever its server does; see `test_watching` for the rest."""

import asyncio
import gc
import socket
import ssl
import threading
import time
import warnings
from contextlib import contextmanager, suppress

import pytest

from madang.engines.kubernetes.client import Client
from madang.engines.kubernetes.config import Access, Token
from tests.kubernetes.test_posting import authority

__all__ = ["authority"]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = b"3\r\n{}\n\r\n"


@contextmanager
def stubborn(context: ssl.SSLContext | None, answer: bytes):
    """A server that answers once on each connection and then neither reads nor closes it."""
    kept: list[socket.socket] = []

    def serve(listening: socket.socket):
        with suppress(OSError):
            while True:
                one, _ = listening.accept()
                one.settimeout(10)
                kept.append(one)
                if context is not None:
                    kept[-1] = one = context.wrap_socket(one, server_side=True)
                one.recv(1 << 16)
                one.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for one in kept:
                one.close()


async def _half_a_watch(client: Client):
    async for _ in client.watch("/api/v1/pods", "1"):
        return


async def _an_answer_that_never_comes(client: Client):
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.post("/api/v1/pods", {})


async def _a_write_that_is_never_answered(client: Client):
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.write("/api/v1/pods/p/binding", {})


async def _a_watch_that_is_cancelled(client: Client):
    task = asyncio.create_task(_forever(client))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _forever(client: Client):
    async for _ in client.watch("/api/v1/pods", "1"):
        pass


@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize(
    ("work", "answer"),
    [
        (_half_a_watch, HEAD + LINE),
        (_a_watch_that_is_cancelled, HEAD + LINE),
        (_an_answer_that_never_comes, b""),
        (_a_write_that_is_never_answered, b""),
    ],
)
def test_nothing_is_open_when_a_client_was_left(authority, work, answer, secure):
    """Also where the server never says farewell: neither a socket nor the loop waits for it."""
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(*authority)
    trusts = ssl.create_default_context(cafile=str(authority[0]))

    async def story(port: int):
        scheme = "https" if secure else "http"
        access = Access(
            server=f"{scheme}://127.0.0.1:{port}",
            tls=trusts if secure else None,
            token=Token(fixed="t"),
        )
        async with Client(access) as client:
            await work(client)
            return time.monotonic()

    with stubborn(serves if secure else None, answer) as port, warnings.catch_warnings():
        warnings.simplefilter("always")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            began_s = asyncio.run(story(port))
            took_s = time.monotonic() - began_s
            gc.collect()

    assert [str(one.message) for one in said] == []
    assert took_s < 5
