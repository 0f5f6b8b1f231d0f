"""HTTP/1.1 over one kept-alive TCP (or TLS) connection, and nothing more.

Why not http.client: it imports the e-mail package to read headers, and that alone takes longer than
the whole `madang run` does now (docs/decisions/cli-start-time.md). What is promised: whole
responses or streams, Content-Length and chunked bodies, limits on every line and body, a closed
idle connection is noticed before it is used again. Not spoken: proxies, redirects, compression.
"""

from __future__ import annotations

import select
import socket

from madang.client.errors import MadangError, Unreachable

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    Body = bytes | BinaryIO

LINE_BYTES_MAX = 65_536
HEADERS_MAX = 100
BODY_BYTES_MAX = 256 << 20  # an answer that is read whole; streams have no bound
SEND_BYTES = 1 << 18
CONNECT_S = 5.0
IDLE_MAX = 8  # kept connections


class TransportError(OSError):
    """The connection broke, or what came is not HTTP. `sent` tells if the request may have run."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Address:
    """Where a daemon is: `http://127.0.0.1:7070`, `https://gpu.example.org/madang`."""

    __slots__ = ("host", "host_header", "port", "prefix", "secure", "url")

    def __init__(self, url: str) -> None:
        scheme, found, rest = url.strip().partition("://")
        place, slash, path = rest.partition("/")
        if not found or scheme not in ("http", "https") or not place or "@" in place:
            raise MadangError(
                "this is not an address of a daemon",
                code="bad_url",
                given=url,
                allowed="http://HOST:PORT or https://HOST[:PORT][/PREFIX]",
            )
        host, port = place, ""
        if not place.endswith("]"):
            host, colon, port = place.rpartition(":")
            if not colon:
                host, port = place, ""
        if port and not (port.isdigit() and 0 < int(port) < 65_536):
            raise MadangError(
                "the port of the daemon's address is not a number between 1 and 65535",
                code="bad_url",
                given=url,
            )
        self.secure = scheme == "https"
        self.host = host.strip("[]")
        self.port = int(port) if port else (443 if self.secure else 80)
        self.host_header = place
        self.prefix = (slash + path).rstrip("/").split("?")[0]
        self.url = f"{scheme}://{place}{self.prefix}"


class Response:
    """Status, headers (lower-case names) and a body that is read once."""

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self._file = connection.file
        self.status, self._keep = self._read_status()
        self.headers = self._read_headers()
        if self.headers.get("connection", "").lower() == "close":
            self._keep = False
        self._left: int | None = self._body_bytes(method)  # None: until the connection closes
        self._is_chunked = self._left == -1
        if self._is_chunked:
            self._left = 0
        self._ended = self._left == 0 and not self._is_chunked
        self.body = b""  # filled by those who read it whole

    def _line(self) -> bytes:
        try:
            line = self._file.readline(LINE_BYTES_MAX + 1)
        except OSError as error:
            self._connection.close()
            raise TransportError(_words(error), sent=True) from error
        if not line.endswith(b"\n"):
            raise TransportError("the daemon closed the connection in the middle", sent=True)
        return bytes(line.rstrip(b"\r\n"))

    def _read_status(self) -> tuple[int, bool]:
        while True:
            version, _, rest = self._line().partition(b" ")
            code = rest[:3]
            if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit():
                raise TransportError("what answers there does not speak HTTP", sent=True)
            if int(code) >= 200:
                return int(code), version == b"HTTP/1.1"
            self._read_headers()  # 100 Continue and its like

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(HEADERS_MAX):
            line = self._line()
            if not line:
                return headers
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        raise TransportError(f"more than {HEADERS_MAX} headers", sent=True)

    def _body_bytes(self, method: str) -> int | None:
        if method == "HEAD" or self.status in (204, 304):
            return 0
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return -1
        length = self.headers.get("content-length")
        if length is None:
            self._keep = False
            return None
        if not length.isdigit():
            raise TransportError(f"Content-Length is {length!r}", sent=True)
        return int(length)

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; the connection is free again after the last piece."""
        while not self._ended:
            if self._is_chunked and self._left == 0 and not self._next_chunk():
                break
            piece = self._read1(SEND_BYTES if self._left is None else min(self._left, SEND_BYTES))
            if not piece:
                if self._left is None:
                    break
                raise TransportError("the daemon closed the connection in the middle", sent=True)
            if self._left is not None:
                self._left -= len(piece)
                if self._left == 0 and self._is_chunked:
                    self._line()
                self._ended = self._left == 0 and not self._is_chunked
            yield piece
        self._ended = True
        if self._keep:
            self._connection.rest()

    def _read1(self, bytes_max: int) -> bytes:
        try:
            return self._file.read1(bytes_max)
        except OSError as error:
            self._connection.close()
            raise TransportError(_words(error), sent=True) from error

    def _next_chunk(self) -> bool:
        size = self._line().split(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise TransportError(f"{size[:20]!r} is not a chunk's size", sent=True) from None
        if self._left == 0:
            while self._line():  # trailers
                pass
        return self._left > 0

    def read(self, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """The whole body."""
        parts = []
        size = 0
        for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > bytes_max:
                self.close()
                raise TransportError(f"the answer is longer than {bytes_max} bytes", sent=True)
        return b"".join(parts)

    def close(self) -> None:
        """Give up on the rest: the connection is of no further use unless all was read."""
        if not self._ended:
            self._connection.close()


class Connection:
    """One TCP connection to an address. One request at a time; not for two threads."""

    def __init__(
        self, address: Address, timeout_s: float, idle: list[Connection] | None = None
    ) -> None:
        self.address = address
        self._idle = idle  # where it rests between requests
        # Bytes where that will do: for text, Python loads its tables of international names.
        host = address.host.encode() if address.host.isascii() else address.host
        try:
            self.socket = socket.create_connection(
                (host, address.port),  # type: ignore[arg-type]  # bytes are allowed
                CONNECT_S,
            )
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.secure:
                import ssl

                self.socket = ssl.create_default_context().wrap_socket(
                    self.socket, server_hostname=address.host
                )
        except OSError as error:
            raise TransportError(_words(error), sent=False) from error
        self.socket.settimeout(timeout_s)
        self.file = self.socket.makefile("rb")
        self.is_free = True

    def rest(self) -> None:
        """The last response was read to its end: the next request may come."""
        self.is_free = True
        if self._idle is None or len(self._idle) >= IDLE_MAX:
            self.close()
        else:
            self._idle.append(self)

    def is_stale(self) -> bool:
        """True iff the other side closed it, or spoke out of turn, while it was idle."""
        try:
            return not self.is_free or bool(select.select([self.socket], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: Body = b""
    ) -> Response:
        """Send a request and read the head of its response.

        `body` is bytes, or an open file whose size is in `headers["Content-Length"]`.

        Raises:
            TransportError: the connection broke; it is closed.
        """
        lines = [f"{method} {self.address.prefix}{path} HTTP/1.1"]
        lines.append(f"Host: {self.address.host_header}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes) and (body or method in ("POST", "PUT")):
            lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        assert "\n" not in "".join(lines), f"a line break in a request's head: {lines}"
        self.is_free = False
        try:
            self._send(head, body)
            return Response(self, method)
        except TransportError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise TransportError(_words(error), sent=True) from error

    def _send(self, head: bytes, body: Body) -> None:
        try:
            if isinstance(body, bytes):
                self.socket.sendall(head + body)
                return
            self.socket.sendall(head)
            while piece := body.read(SEND_BYTES):
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It may have answered before it read everything (413, 401): read that first.

    def close(self) -> None:
        self.is_free = False
        try:
            self.file.close()
            self.socket.close()
        except OSError:
            pass


def _words(error: OSError) -> str:
    if isinstance(error, (TimeoutError, socket.timeout)):  # two classes before Python 3.10
        return "no answer in time"
    return error.strerror or str(error) or type(error).__name__


def unreachable(address: Address, error: TransportError) -> Unreachable:
    """What to tell a person when a daemon does not answer."""
    return Unreachable(
        f"no daemon answers at {address.url}: {str(error).lower()}",
        code="unreachable",
        tries=["madang up --detach      starts one here", "MADANG_URL=http://HOST:PORT names one"],
    )
