"""One keep-alive connection to another system, and what its answers mean.

Secrets are read from their files when a connection is made, and once more after a 401 or 403, so
that a renewed token needs no restart; they are in no log line and no error text.
"""

import base64
import ssl
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from madang import __version__
from madang.telemetry.out.settings import Access

ANSWER_BYTES_MAX = 64 << 20
ERROR_CHARS_MAX = 200


MALFORMED = "the request cannot be made: look at the address, the headers, the secret's file"


class Away(Exception):
    """No answer came: refused, timed out, broken off; the text says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`retry_after_s` is what the other side asked for, 0 if nothing."""

    status: int
    body: bytes
    retry_after_s: float = 0.0

    @property
    def words(self) -> str:
        """The beginning of its body, for people."""
        text = self.body[: 4 * ERROR_CHARS_MAX].decode("utf-8", "replace").strip()
        first = text.splitlines()[0] if text else ""
        return first[:ERROR_CHARS_MAX]


class Line:
    """A connection to one address. Not for two threads at once."""

    def __init__(self, url: str, access: Access, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        parts = urlsplit(url)
        self.url = url
        self.host = parts.hostname or ""
        self._port = parts.port
        self._is_tls = parts.scheme == "https"
        self.path = parts.path or "/"
        if parts.query:
            self.path += f"?{parts.query}"
        self._connection: HTTPConnection | None = None
        self._secret: tuple[tuple[str, str], ...] = ()

    def post(self, body: bytes, headers: dict[str, str], path: str = "") -> Answer:
        """Send and return the answer, whatever its status.

        Raises:
            Away: there is none.
        """
        fresh = self._connection is None
        try:
            return self._post(body, headers, path or self.path)
        except (OSError, HTTPException) as failure:
            self.close()
            if fresh or isinstance(failure, TimeoutError):
                raise Away(_said(failure)) from failure
        except ValueError:
            self.close()
            raise Away(MALFORMED) from None  # its text may hold the secret
        try:  # a kept connection that the other side has closed meanwhile: once more on a new one
            return self._post(body, headers, path or self.path)
        except (OSError, HTTPException) as failure:
            self.close()
            raise Away(_said(failure)) from failure

    def close(self) -> None:
        """The next call connects anew and reads secrets anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes, headers: dict[str, str], path: str) -> Answer:
        if self._connection is None:
            self._secret = tuple(_secret(self._access).items())
            self._connection = self._connected()
        said = {"User-Agent": f"madang/{__version__}", **dict(self._access.headers), **headers}
        self._connection.request("POST", path, body, {**said, **dict(self._secret)})
        response = self._connection.getresponse()
        answer = Answer(response.status, _read(response), _retry_after_s(response))
        if answer.status in (401, 403) or response.will_close:
            self.close()
        return answer

    def _connected(self) -> HTTPConnection:
        if not self._is_tls:
            return HTTPConnection(self.host, self._port, timeout=self._timeout_s)
        ca_file = str(self._access.ca_file) if self._access.ca_file else None
        context = ssl.create_default_context(cafile=ca_file)
        return HTTPSConnection(self.host, self._port, timeout=self._timeout_s, context=context)


def _secret(access: Access) -> dict[str, str]:
    """The Authorization header.

    Raises:
        OSError: the file cannot be read.
    """
    if access.token_file is not None:
        return {"Authorization": f"Bearer {_line_of(access.token_file.read_text())}"}
    if access.user and access.password_file is not None:
        pair = f"{access.user}:{_line_of(access.password_file.read_text())}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _line_of(text: str) -> str:
    """A secret is one line: what follows would be another header."""
    return text.strip().splitlines()[0].strip() if text.strip() else ""


def _read(response: HTTPResponse) -> bytes:
    body = response.read(ANSWER_BYTES_MAX + 1)
    if len(body) > ANSWER_BYTES_MAX:
        raise HTTPException(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return body


def _retry_after_s(response: HTTPResponse) -> float:
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isdigit() else 0.0


def _said(failure: Exception) -> str:
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return (str(failure) or type(failure).__name__)[:ERROR_CHARS_MAX]
