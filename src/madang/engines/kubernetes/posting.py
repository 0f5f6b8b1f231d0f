"""POST over kept connections, as lean as it can be: for the one request that is made most.

A binding is a few hundred bytes there and back; a general HTTP client spends several times as
long on it as the connection does. HTTP/1.1, one request at a time on a connection, over TLS or not.
Promises: a whole answer or `Unanswered`, never a part of one; a connection whose answer was not
read whole, or came unasked, is never used again; nothing is ever sent twice from here. Only where
no connection could be made is it said that nothing happened.

`most_s` ends a request that is not answered; else whoever awaits sets a limit, and its end closes
the connection. One timer, of the request that ends first, serves all: a timer for each would cost
as much as the rest of a request here.
"""

import asyncio
import math
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from madang.engines.kubernetes.config import Access

HEAD_BYTES_MAX = 1 << 16
BODY_BYTES_MAX = 4 << 20
CONNECT_S = 10.0
NEVER_S = math.inf
_NO_BODY = (204, 304)


class Unanswered(Exception):
    """No answer. `may_have_happened`: False only if no connection could be made."""

    def __init__(self, text: str, may_have_happened: bool = True) -> None:
        super().__init__(text)
        self.may_have_happened = may_have_happened


class _Broken(Exception):
    """What came is not an answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


@dataclass(slots=True)
class Reader:
    """An answer, from pieces as they come. `keeps`: the connection may be used again after it."""

    keeps: bool = True
    _rest: bytearray = field(default_factory=bytearray)
    _status: int = 0  # 0 until its head was read
    _length: int = -1  # of the body; -1: until the connection ends
    _chunks: bytearray | None = None

    def take(self, piece: bytes) -> Answer | None:
        """The answer once it is whole. Raises: _Broken."""
        self._rest += piece
        while not self._status:
            if not self._read_head():
                return None
        if self._chunks is not None:
            return self._read_chunks(self._chunks)
        if len(self._rest) > BODY_BYTES_MAX or self._length > BODY_BYTES_MAX:
            raise _Broken(f"its answer is longer than {BODY_BYTES_MAX} bytes")
        if self._length < 0 or len(self._rest) < self._length:
            return None
        return self._whole(self._rest, self._length)

    def end(self) -> Answer | None:
        """The connection has ended: that is the end of an answer without a length."""
        if self._status and self._length < 0 and self._chunks is None:
            return Answer(self._status, bytes(self._rest))
        return None

    def _whole(self, body: bytearray, length: int) -> Answer:
        if len(self._rest) > length:
            raise _Broken("more came than its answer")
        return Answer(self._status, bytes(body))

    def _read_head(self) -> bool:
        """False: it is not whole yet."""
        end = self._rest.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._rest) > HEAD_BYTES_MAX:
                raise _Broken(f"the head of its answer is longer than {HEAD_BYTES_MAX} bytes")
            return False
        first, *lines = bytes(self._rest[:end]).split(b"\r\n")
        del self._rest[: end + 4]
        words = first.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not _is_number(words[1], 3):
            raise _Broken(f"no HTTP/1 came: {first[:80]!r}")
        status = int(words[1])
        if 100 <= status < 200:
            if status == 101:
                raise _Broken("it changed to another protocol")
            return True  # the answer itself is still to come
        self.keeps = words[0] != b"HTTP/1.0"
        for line in lines:
            self._read_header(line)
        if status in _NO_BODY:
            self._length, self._chunks = 0, None
        self.keeps = self.keeps and (self._length >= 0 or self._chunks is not None)
        self._status = status
        return True

    def _read_header(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if not colon or not name or name != name.strip():
            raise _Broken(f"a header cannot be read: {line[:80]!r}")
        if name == b"content-length":
            if not _is_number(value, 18) or self._length not in (-1, int(value)):
                raise _Broken(f"its length cannot be read: {value[:80]!r}")
            self._length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise _Broken(f"its encoding is not known: {value[:80]!r}")
            self._chunks = bytearray()
        elif name == b"connection" and b"close" in value.lower():
            self.keeps = False

    def _read_chunks(self, found: bytearray) -> Answer | None:
        while True:
            end = self._rest.find(b"\r\n")
            if end < 0:
                if len(self._rest) > HEAD_BYTES_MAX:
                    raise _Broken("a chunk has no length")
                return None
            size = _size_of(bytes(self._rest[:end]).partition(b";")[0].strip())
            if size + len(found) > BODY_BYTES_MAX:
                raise _Broken(f"its answer is longer than {BODY_BYTES_MAX} bytes")
            if not size:
                return self._read_trailer(found, end)
            after = end + 2 + size
            if len(self._rest) < after + 2:
                return None
            if self._rest[after : after + 2] != b"\r\n":
                raise _Broken("a chunk is longer than it says")
            found += self._rest[end + 2 : after]
            del self._rest[: after + 2]

    def _read_trailer(self, found: bytearray, last: int) -> Answer | None:
        """Behind the last chunk: headers that nobody needs, and an empty line."""
        if self._rest[last : last + 4] == b"\r\n\r\n":
            return self._whole(found, last + 4)
        end = self._rest.find(b"\r\n\r\n", last)
        if end < 0:
            if len(self._rest) > HEAD_BYTES_MAX:
                raise _Broken("its trailer is too long")
            return None
        return self._whole(found, end + 4)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.usable = False
        self.until_s = NEVER_S  # by the loop's clock: then its request has taken too long
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._reader = Reader()

    async def ask(self, request: bytes) -> Answer:
        assert self._transport is not None, "asked before it was made"
        assert self._waiting is None, "one request at a time"
        self._waiting = asyncio.get_running_loop().create_future()
        self._reader = Reader()
        try:
            self._transport.write(request)
            return await self._waiting
        except BaseException:
            self.close()  # an answer may still come: it would be taken for the next one's
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Its answer did not come in time."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Unanswered("no answer in time"))
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), f"a stream was asked for: {transport}"
        self._transport, self.usable = transport, True

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()  # nobody asked
            return
        try:
            answer = self._reader.take(data)
        except _Broken as failure:
            self._waiting.set_exception(Unanswered(str(failure)))
            self.close()
            return
        if answer is not None:
            self._waiting.set_result(answer)
            if not self._reader.keeps:
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._waiting is None or self._waiting.done():
            return
        if exc is None and (answer := self._reader.end()) is not None:
            self._waiting.set_result(answer)
        else:
            self._waiting.set_exception(
                Unanswered(f"the connection was lost: {exc or 'it was closed'}")
            )


class Poster:
    """On one event loop. As many connections as requests are under way at once, kept for more."""

    def __init__(self, access: Access) -> None:
        where = urlsplit(access.server)
        self._access = access
        self._host = where.hostname or ""
        self._port = where.port or (443 if where.scheme == "https" else 80)
        self._tls = access.tls if where.scheme == "https" else None
        self._at = where.path.rstrip("/")
        self._named = where.netloc.rpartition("@")[2]
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._head: tuple[str, bytes] = ("", b"")  # of which token, what each request has

    async def post(self, path: str, body: bytes, most_s: float = NEVER_S) -> Answer:
        """`path` begins behind the server's own.

        Raises:
            Unanswered: no answer, or none within `most_s`.
        """
        request = self._request(path, body)
        until_s = asyncio.get_running_loop().time() + most_s
        connection = self._idle() or await self._made(min(CONNECT_S, most_s))
        connection.until_s = until_s
        self._watch(until_s)
        try:
            return await connection.ask(request)
        finally:
            connection.until_s = NEVER_S
            if connection.usable:
                self._free.append(connection)
            else:
                self._all.discard(connection)

    def _watch(self, until_s: float) -> None:
        """Look at this moment, or before, whose time is over."""
        if until_s < NEVER_S and (self._timer is None or until_s < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(until_s, self._end_late)

    def _end_late(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        for connection in [one for one in self._all if one.until_s <= now_s]:
            connection.expire()
            self._all.discard(connection)
        self._watch(min((one.until_s for one in self._all), default=NEVER_S))

    def close(self) -> None:
        """Whoever waits is told `Unanswered`."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._free.clear()

    def _idle(self) -> _Connection | None:
        while self._free:
            # The one used last: it is the least likely to have been closed meanwhile.
            connection = self._free.pop()
            if connection.usable:
                return connection
            self._all.discard(connection)
        return None

    async def _made(self, most_s: float) -> _Connection:
        try:
            async with asyncio.timeout(most_s):
                _, made = await asyncio.get_running_loop().create_connection(
                    _Connection,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls is not None else None,
                )
        except (OSError, TimeoutError) as failure:
            words = str(failure) or type(failure).__name__
            raise Unanswered(f"no connection: {words}", may_have_happened=False) from failure
        self._all.add(made)
        return made

    def _request(self, path: str, body: bytes) -> bytes:
        token = self._access.token()
        if not self._head[1] or self._head[0] != token:
            self._head = (token, self._fixed(token))
        if " " in path or not _is_plain(path):
            raise ValueError(f"this cannot be asked for by HTTP: {path[:200]!r}")
        first = f"POST {self._at}{path} HTTP/1.1\r\n".encode()
        return b"%b%b%d\r\n\r\n%b" % (first, self._head[1], len(body), body)

    def _fixed(self, token: str) -> bytes:
        """What is the same of all requests, up to the length of the body."""
        head = [f"Host: {self._named}", "Accept: application/json"]
        head += ["Content-Type: application/json"]
        if token:
            head.append(f"Authorization: Bearer {token}")
        if not all(map(_is_plain, head)):
            raise ValueError("the token, or the server's name, cannot be said by HTTP")
        return "\r\n".join([*head, "Content-Length: "]).encode()


def _is_plain(line: str) -> bool:
    return line.isascii() and line.isprintable()


def _is_number(text: bytes, digits_max: int) -> bool:
    return text.isdigit() and len(text) <= digits_max


def _size_of(text: bytes) -> int:
    if not 0 < len(text) <= 8 or not all(one in b"0123456789abcdefABCDEF" for one in text):
        raise _Broken(f"the length of a chunk cannot be read: {text[:20]!r}")
    return int(text, 16)
