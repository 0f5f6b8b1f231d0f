"""A receiver of remote write on a real port, with a decoder of its own: what really arrived."""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cramjam

Labels = frozenset[tuple[str, str]]
Sample = tuple[Labels, int, float]


@dataclass
class Received:
    """Everything that was taken, in order; `verdict` answers each request."""

    port: int = 0
    requests: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    verdict: Callable[[list[Sample]], int] = lambda samples: 204
    news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/write"

    def wait_for(self, count: int, seconds: float = 20.0) -> list[Sample]:
        """The samples, as soon as there are so many."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.samples) >= count, seconds), (
                f"{len(self.samples)} of {count} samples came"
            )
            return list(self.samples)

    def wait_for_requests(self, count: int, seconds: float = 20.0) -> None:
        with self.news:
            assert self.news.wait_for(lambda: self.requests >= count, seconds), self.requests

    def named(self, name: str) -> list[tuple[dict[str, str], int, float]]:
        """The samples of one name."""
        found = [(dict(labels), at_ms, value) for labels, at_ms, value in list(self.samples)]
        return [one for one in found if one[0]["__name__"] == name]


@contextmanager
def receiving(port: int = 0) -> Iterator[Received]:
    """Listen until the block ends."""
    received = Received()

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            samples = decoded(bytes(cramjam.snappy.decompress_raw(body)))
            with received.news:
                status = received.verdict(samples)
                received.requests += 1
                received.headers.append(dict(self.headers))
                if status < 300:
                    received.samples += samples
                received.news.notify_all()
            words = b"" if status < 300 else b"not these"
            self.send_response(status)
            self.send_header("Content-Length", str(len(words)))
            self.end_headers()
            self.wfile.write(words)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    server.daemon_threads = True
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def decoded(plain: bytes) -> list[Sample]:
    """The samples of a WriteRequest; labels must be sorted, as the protocol says."""
    found: list[Sample] = []
    for number, series in _fields(plain):
        assert number == 1, number
        assert isinstance(series, bytes)
        labels: list[tuple[str, str]] = []
        for part, body in _fields(series):
            assert isinstance(body, bytes)
            values = dict(_fields(body))
            if part == 1:
                name, value = values[1], values[2]
                assert isinstance(name, bytes)
                assert isinstance(value, bytes)
                labels.append((name.decode(), value.decode()))
            else:
                (value_bits,) = struct.unpack("<d", values[1])  # type: ignore[arg-type]
                at_ms = values[2]
                assert isinstance(at_ms, int)
                found.append((frozenset(labels), at_ms, value_bits))
        assert labels == sorted(labels), "labels must be in order"
        assert len(dict(labels)) == len(labels), "a label twice"
    return found


def _fields(plain: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(plain):
        tag, at = _varint(plain, at)
        match tag & 7:
            case 0:
                number, at = _varint(plain, at)
                yield tag >> 3, number
            case 1:
                yield tag >> 3, plain[at : at + 8]
                at += 8
            case 2:
                size, at = _varint(plain, at)
                yield tag >> 3, plain[at : at + size]
                at += size
            case kind:
                raise AssertionError(f"wire type {kind}")
    assert at == len(plain), "it breaks off"


def _varint(plain: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = plain[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
