"""What can go wrong, as exceptions that carry a guide: what was given, what is allowed, what to do.

MadangError
├── Unreachable      no daemon answers
├── CodeError        the working directory cannot be packed
├── WaitTimeout      `Client.wait` waited as long as it was told to
└── ApiError         the daemon answered with a problem (RFC 9457)
    ├── Refused      401, 403: no token, not this one, or not its role
    ├── NotFound     404
    ├── Invalid      422: the request has mistakes in it; `errors` names each
    └── Rejected     422: it can never run like this; `tries` says what would
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

SHOWN_CHARS_MAX = 400  # of what was given: it may be a whole file


class MadangError(Exception):
    """Anything this SDK raises on purpose."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "error",
        given: str = "",
        allowed: str = "",
        tries: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.given = given
        self.allowed = allowed
        self.tries = tuple(tries)

    def __str__(self) -> str:
        parts = [self.message]
        if self.given:
            parts.append(f"given: {self.given}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        parts += [f"try: {each}" for each in self.tries]
        return "\n  ".join(parts)

    def problem(self) -> dict[str, Any]:
        """The error as a problem document, for programs."""
        return {
            "title": self.message,
            "code": self.code,
            "given": self.given,
            "allowed": self.allowed,
            "try": list(self.tries),
        }


class Unreachable(MadangError):
    """No daemon answers at the address."""


class CodeError(MadangError):
    """The working directory cannot be packed as it is."""


class WaitTimeout(MadangError):
    """The job has not ended within the time given to `wait`."""


class ApiError(MadangError):
    """The daemon's answer was a problem.

    `errors` are its single findings: dicts with `where`, `given`, `problem`.
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        title = str(document.get("title") or f"the daemon answered {status}")
        detail = str(document.get("detail") or "")
        super().__init__(
            detail or title,
            code=str(document.get("code") or f"http_{status}"),
            given=_shown(document.get("given")),
            allowed=_shown(document.get("allowed")),
            tries=[str(each) for each in document.get("try") or ()],
        )
        self.status = status
        self.document = dict(document)
        self.errors = [each for each in document.get("errors") or () if isinstance(each, dict)]

    def __str__(self) -> str:
        found = [
            f"{each.get('where', '')}: {each.get('problem', '')} "
            f"(given: {_shown(each.get('given'))})"
            for each in self.errors
        ]
        return "\n  ".join([super().__str__(), *found])

    def problem(self) -> dict[str, Any]:
        return {**self.document, "status": self.status}


class Refused(ApiError):
    """401: the token is missing, unknown or revoked; 403: its role does not allow that."""


class NotFound(ApiError):
    """404: there is no such thing."""


class Invalid(ApiError):
    """422: mistakes in what was sent."""


class Rejected(ApiError):
    """422: it can never run like this."""


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(each) for each in value)
    text = str(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


def error_of(status: int, document: Mapping[str, Any]) -> ApiError:
    """The exception for a problem document."""
    if status == 422 and document.get("code") == "invalid":
        return Invalid(status, document)
    kind = {401: Refused, 403: Refused, 404: NotFound, 422: Rejected}.get(status, ApiError)
    return kind(status, document)
