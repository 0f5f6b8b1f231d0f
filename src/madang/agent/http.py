"""HTTP for the agent: a request, a bounded answer, nothing followed, no proxy; by http.client."""

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWER_BYTES_MAX = 1 << 20


class HttpError(Exception):
    """No answer, or none that can be used; the text says why."""


class Place:
    """`http://127.0.0.1:9400/metrics`, `https://yard.example.org/madang`.

    Raises:
        HttpError: it is no such address.
    """

    __slots__ = ("host", "is_secure", "path", "port", "url")

    def __init__(self, url: str) -> None:
        allowed = "http://HOST[:PORT][/PATH] or https://…"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise HttpError(f"{url!r} is not an address; allowed is {allowed}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HttpError(f"{url!r} is not an address; allowed is {allowed}")
        if parts.username is not None or parts.password is not None:
            raise HttpError("an address must hold no password: others would see it; use a file")
        self.is_secure = parts.scheme == "https"
        self.host = parts.hostname
        self.port = port or (443 if self.is_secure else 80)
        self.path = (parts.path.rstrip("/") or "") + (f"?{parts.query}" if parts.query else "")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names are small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Line:
    """A connection to one place that is kept between requests. One thread."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        self._place, self._timeout_s = place, timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """Ask once; a kept connection that was closed meanwhile is opened again.

        Raises:
            HttpError: no whole answer came. Whether the request was carried out is not known.
        """
        is_new = self._connection is None
        try:
            return self._ask(method, path, headers or {}, body, bytes_max)
        except (ConnectionError, http.client.BadStatusLine) as error:
            self.close()
            if is_new:
                raise HttpError(_words(error)) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise HttpError(_words(error)) from error
        try:
            return self._ask(method, path, headers or {}, body, bytes_max)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise HttpError(_words(error)) from error

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, bytes_max: int
    ) -> Answer:
        connection = self._connection = self._connection or self._opened()
        connection.request(method, path or "/", body=body or None, headers=dict(headers))
        response = connection.getresponse()
        content = response.read(bytes_max + 1)
        if len(content) > bytes_max:
            self.close()
            raise HttpError(f"the answer is longer than {bytes_max} bytes")
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, content)

    def _opened(self) -> http.client.HTTPConnection:
        place = self._place
        if place.is_secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                place.host, place.port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(place.host, place.port, timeout=self._timeout_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def get(place: Place, timeout_s: float, bytes_max: int) -> bytes:
    """The body at this place.

    Raises:
        HttpError: none came, or not with status 200.
    """
    line = Line(place, timeout_s)
    try:
        answer = line.ask("GET", place.path, bytes_max=bytes_max)
    finally:
        line.close()
    if answer.status != 200:
        raise HttpError(f"it answers with status {answer.status}")
    return answer.body


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    strerror = getattr(error, "strerror", None)
    return str(strerror or str(error) or type(error).__name__).lower()
