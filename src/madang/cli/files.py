"""Files that people write and hand to a verb: read whole, within a bound, or refused in words."""

from __future__ import annotations

import sys

from madang.cli.parse import UsageError

TEXT_BYTES_MAX = 1 << 20


def text_of(path: str, bytes_max: int = TEXT_BYTES_MAX, *, stdin: bool = False) -> str:
    """The text of a file; with `stdin`, of what is piped in where the path is `-`.

    Raises:
        UsageError: it cannot be read, is no text, or too long.
    """
    try:
        if stdin and path == "-":
            text = sys.stdin.read(bytes_max + 1)
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read(bytes_max + 1)
    except (OSError, UnicodeDecodeError) as failure:
        why = getattr(failure, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {why}", code="usage", given=path) from None
    if len(text.encode()) > bytes_max:
        raise UsageError(
            f"{path} is too long", code="usage", given=path, allowed=f"{bytes_max:,} bytes"
        )
    return text
