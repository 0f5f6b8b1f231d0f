"""How a request is written: paths, queries, JSON."""

from __future__ import annotations

import json

from madang.client.errors import MadangError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")


def quoted(part: str | int) -> str:
    """One segment of a path."""
    text = str(part)
    if text and _SAFE.issuperset(text) and text not in (".", ".."):
        return text
    from urllib.parse import quote

    return quote(text, safe="").replace(".", "%2E") or "%20"


def with_query(path: str, query: Mapping[str, Any]) -> str:
    said = {
        key: ("true" if value is True else value)
        for key, value in query.items()
        if value is not None and value is not False and value != ""
    }
    if not said:
        return path
    from urllib.parse import urlencode

    return f"{path}?{urlencode(said)}"


def encoded(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise MadangError(
            f"this cannot be written as JSON: {error}", code="bad_request", given=repr(value)[:200]
        ) from None
