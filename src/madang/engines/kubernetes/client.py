"""The API server over HTTP, as JSON: no object model between, and no retry that could act twice.

A read is tried again a few times with growing pauses; a write only where the server said that it
did nothing (429, or a connection that was refused). Everything else is told: `Conflict`, `Gone`,
`TooMany`, `Refused`, `Missing`, `Away`. One event loop; a session belongs to it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import aiohttp
import orjson

from madang.engines.kubernetes.config import Access
from madang.engines.kubernetes.connecting import Connector, settled
from madang.engines.kubernetes.posting import NEVER_S, Poster, Unanswered

CONNECTIONS_MAX = 96
CALL_S = 30.0
LINE_BYTES_MAX = 4 << 20  # of one watch event; the API server allows objects of 1.5 MiB
PAGE = 500
TRIES = 5
PAUSE_S = (0.1, 5.0)
WATCH_S = (240, 300)  # the server ends a watch after so long; spread, so that they end apart

Object = dict[str, Any]


class ApiError(Exception):
    """The API server's no. `status` is HTTP's; `reason` and `message` are its own words."""

    def __init__(self, status: int, reason: str, message: str, details: Any = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details


class Conflict(ApiError):
    """409: somebody was faster, or it is there already."""


class Gone(ApiError):
    """410: the version asked for has been forgotten; list anew."""


class TooMany(ApiError):
    """429: nothing was done. `retry_after_s` is when to come again."""

    def __init__(self, status: int, reason: str, message: str, details: Any = None) -> None:
        super().__init__(status, reason, message, details)
        self.retry_after_s = float((details or {}).get("retryAfterSeconds") or 1)


class Refused(ApiError):
    """401 or 403: the account may not."""


class Missing(ApiError):
    """404: there is no such object, or no such kind."""


class Away(ApiError):
    """No answer, or a 5xx: what was asked may or may not have happened."""

    def __init__(self, message: str, status: int = 0, may_have_happened: bool = True) -> None:
        super().__init__(status, "Away", message)
        self.may_have_happened = may_have_happened


_KINDS: Mapping[int, type[ApiError]] = {
    401: Refused,
    403: Refused,
    404: Missing,
    409: Conflict,
    410: Gone,
    429: TooMany,
}


class Client:
    """`async with Client(access) as client`."""

    def __init__(self, access: Access, connections_max: int = CONNECTIONS_MAX) -> None:
        self.access = access
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None
        self._connector: Connector | None = None
        self._poster = Poster(access)

    async def __aenter__(self) -> Self:
        tls = self.access.tls if self.access.tls is not None else False
        self._connector = Connector(limit=self._connections_max, ssl=tls)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=CALL_S),
            read_bufsize=1 << 20,
            max_line_size=1 << 15,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._session is not None, "left without having been entered"
        self._poster.close()
        await self._session.close()
        if self._connector is not None:
            self._connector.abort()
        await settled()

    # -- one call ------------------------------------------------------------------------------

    async def get(self, path: str, **query: str | int) -> Object:
        """An object or a list.

        Raises:
            ApiError: after some tries, if it was `Away` or `TooMany`.
        """
        return await self._again("GET", path, query)

    async def post(self, path: str, body: Object) -> Object:
        """Raises: ApiError."""
        return await self._call("POST", path, body)

    async def write(self, path: str, body: Object, most_s: float = NEVER_S) -> None:
        """POST of which only the outcome matters, for what is written most: bindings. Without
        `most_s` whoever awaits it limits its time.

        Raises:
            ApiError: as `post`.
        """
        try:
            answer = await self._poster.post(path, orjson.dumps(body), most_s)
        except Unanswered as failure:
            raise Away(str(failure), may_have_happened=failure.may_have_happened) from failure
        if not 200 <= answer.status < 300:
            raise self._refusal(answer.status, answer.body)

    async def put(self, path: str, body: Object) -> Object:
        """Raises: ApiError."""
        return await self._call("PUT", path, body)

    async def patch(self, path: str, body: Any, kind: str = "merge-patch") -> Object:
        """`kind`: merge-patch, strategic-merge-patch, json-patch, apply-patch. Raises: ApiError."""
        form = "yaml" if kind == "apply-patch" else "json"
        return await self._call("PATCH", path, body, f"application/{kind}+{form}")

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """Raises: ApiError; `Missing` if it is gone already."""
        return await self._call("DELETE", path, body)

    async def text(self, path: str, **query: str | int) -> bytes:
        """A body that is not JSON: a log. Raises: ApiError."""
        status, body = await self._answer("GET", path, None, "", query)
        if status >= 400:
            raise _error(status, body)
        return body

    async def stream(self, path: str, **query: str | int) -> AsyncIterator[bytes]:
        """A body as it comes, for as long as it does: a log that is followed. Raises: ApiError."""
        assert self._session is not None, "a client is entered first"
        patience = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with self._session.get(
                self.access.server + path, params=query, headers=self._headers(), timeout=patience
            ) as answer:
                if answer.status >= 400:
                    raise self._refusal(answer.status, await answer.read())
                async for piece in answer.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Away(_words(failure)) from failure

    # -- many ------------------------------------------------------------------------------------

    async def pages(self, path: str, **query: str | int) -> AsyncIterator[Object]:
        """A list, page by page; the last page's metadata has the resourceVersion of the whole.

        Raises:
            Gone: the server forgot the list half way.
            ApiError: others.
        """
        more = ""
        while True:
            asked: dict[str, str | int] = {"limit": PAGE, **query}
            if more:
                asked["continue"] = more
            page = await self._again("GET", path, asked)
            yield page
            more = page.get("metadata", {}).get("continue") or ""
            if not more:
                return

    async def watch(self, path: str, version: str, **query: str | int) -> AsyncIterator[bytes]:
        """Events after a version as the lines they came in, until the server ends the stream.

        Raises:
            Gone: the version is too old. ApiError: others.
        """
        assert self._session is not None, "a client is entered first"
        wanted: dict[str, str | int] = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": random.randint(*WATCH_S),
            **query,
        }
        # A stream that says nothing for much longer than bookmarks come (a minute) is dead.
        patience = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_S[1] + 30)
        try:
            async with self._session.get(
                self.access.server + path, params=wanted, headers=self._headers(), timeout=patience
            ) as answer:
                if answer.status >= 400:
                    raise self._refusal(answer.status, await answer.read())
                async for line in _lines(answer.content):
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Away(_words(failure)) from failure

    # -- below -----------------------------------------------------------------------------------

    def _headers(self, kind: str = "") -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if kind:
            headers["Content-Type"] = kind
        if token := self.access.token():
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _again(self, verb: str, path: str, query: Mapping[str, str | int]) -> Object:
        pause_s, most_s = PAUSE_S
        for left in reversed(range(TRIES)):
            try:
                return await self._call(verb, path, query=query)
            except (Away, TooMany) as failure:
                if not left:
                    raise
                asked_s = getattr(failure, "retry_after_s", 0.0)
                await asyncio.sleep(max(asked_s, pause_s) * random.uniform(0.75, 1.25))
                pause_s = min(2 * pause_s, most_s)
        raise AssertionError("a read ends by an answer or by an error")

    async def _call(
        self,
        verb: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
        query: Mapping[str, str | int] | None = None,
    ) -> Object:
        data = None if body is None else orjson.dumps(body)
        status, answer = await self._answer(verb, path, data, kind if data else "", query or {})
        if status >= 400:
            raise self._refusal(status, answer)
        return orjson.loads(answer) if answer else {}

    async def _answer(
        self, verb: str, path: str, data: bytes | None, kind: str, query: Mapping[str, str | int]
    ) -> tuple[int, bytes]:
        assert self._session is not None, "a client is entered first"
        try:
            async with self._session.request(
                verb,
                self.access.server + path,
                data=data,
                params=query,
                headers=self._headers(kind),
            ) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientConnectorError as failure:
            raise Away(_words(failure), may_have_happened=False) from failure
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Away(_words(failure)) from failure

    def _refusal(self, status: int, body: bytes) -> ApiError:
        if status == 401:
            self.access.token.forget()
        return _error(status, body)


def _error(status: int, body: bytes) -> ApiError:
    """The API server's `Status`, or whatever a proxy before it said."""
    try:
        said = orjson.loads(body)
        reason, message = str(said.get("reason") or ""), str(said.get("message") or "")
        details = said.get("details")
    except (orjson.JSONDecodeError, AttributeError):
        reason, message, details = "", body[:200].decode("utf-8", "replace"), None
    if status >= 500:
        return Away(f"{reason or status}: {message}", status)
    return _KINDS.get(status, ApiError)(status, reason, message, details)


def error_of(event: Object) -> ApiError:
    """The error that a watch event of type ERROR holds."""
    status = int(event.get("code") or 500)
    return _error(status, orjson.dumps(event))


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines, however long; aiohttp's own iterator gives up at its buffer's size."""
    rest = b""
    async for piece in stream.iter_any():
        parts = (rest + piece).split(b"\n") if rest else piece.split(b"\n")
        rest = parts.pop()
        if len(rest) > LINE_BYTES_MAX:
            raise Away(f"a watch event is longer than {LINE_BYTES_MAX} bytes")
        for part in parts:
            if part:
                yield part


def _words(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
