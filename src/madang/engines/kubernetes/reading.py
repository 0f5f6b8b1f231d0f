"""Parsed JSON of others, read without trust: what has another form than it must have is said.

Promises: nothing here raises anything but `Malformed`, whatever the object is; the message names
the field, what was found there and what belongs there. Callers at the edge turn it into a refusal.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

_SHOWN_CHARS_MAX = 40


class Malformed(ValueError):
    """A field that cannot be what it is."""


def mapping(of: Any, *path: str) -> Mapping[str, Any]:
    """The map at a path of keys; {} if it, or one on the way, is absent. Raises: Malformed."""
    found = value(of, *path)
    if isinstance(found, dict):
        return found
    if found is None:
        return {}
    raise Malformed(f"{_named(path)} is {_shown(found)}, not a map")


def items(of: Any, *path: str) -> Iterator[Mapping[str, Any]]:
    """The maps in the list at a path; none if it is absent. Raises: Malformed."""
    for at, one in enumerate(listed(of, *path)):
        if not isinstance(one, dict):
            raise Malformed(f"{_named(path)}[{at}] is {_shown(one)}, not a map")
        yield one


def listed(of: Any, *path: str) -> list[Any]:
    """The list at a path; [] if it is absent. Raises: Malformed."""
    found = value(of, *path)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Malformed(f"{_named(path)} is {_shown(found)}, not a list")
    return found


def value(of: Any, *path: str) -> Any:
    """Whatever is at a path, None if nothing is. Raises: Malformed if the way there is none.

    Maps are dicts, as parsers make them: asking for any Mapping costs four times as much.
    """
    for depth, key in enumerate(path):
        if not isinstance(of, dict):
            if of is None:
                return None
            raise Malformed(f"{_named(path[:depth])} is {_shown(of)}, not a map")
        of = of.get(key)
    return of


def text(of: Any, *path: str, default: str = "") -> str:
    """The text at a path. Raises: Malformed."""
    found = value(of, *path)
    if found is None:
        return default
    if not isinstance(found, str):
        raise Malformed(f"{_named(path)} is {_shown(found)}, not a text")
    return found


def named(of: Any, *path: str) -> str:
    """The text at a path, which must be there. Raises: Malformed."""
    found = text(of, *path)
    if not found:
        raise Malformed(f"{_named(path)} is missing")
    return found


def texts(of: Any, *path: str) -> tuple[str, ...]:
    """The texts in the list at a path. Raises: Malformed."""
    found = listed(of, *path)
    for at, one in enumerate(found):
        if not isinstance(one, str):
            raise Malformed(f"{_named(path)}[{at}] is {_shown(one)}, not a text")
    return tuple(found)


def pairs(of: Any, *path: str) -> dict[str, str]:
    """The map of texts at a path, as labels are. Raises: Malformed."""
    found = mapping(of, *path)
    for key, one in found.items():
        if not isinstance(one, str):
            raise Malformed(f"{_named(path)}[{key}] is {_shown(one)}, not a text")
    return dict(found)


def whole(of: Any, *path: str, default: int = 0, least: int = 0, most: int = 2**31 - 1) -> int:
    """The whole number at a path, from `least` to `most`. Raises: Malformed."""
    found = value(of, *path)
    if found is None:
        return default
    if not isinstance(found, int) or isinstance(found, bool):
        raise Malformed(f"{_named(path)} is {_shown(found)}, not a whole number")
    if not least <= found <= most:
        raise Malformed(f"{_named(path)} is {found}; it is from {least} to {most}")
    return found


def truth(of: Any, *path: str, default: bool = False) -> bool:
    """The claim at a path. Raises: Malformed."""
    found = value(of, *path)
    if found is None:
        return default
    if not isinstance(found, bool):
        raise Malformed(f"{_named(path)} is {_shown(found)}, neither true nor false")
    return found


def time_ms(of: Any, *path: str) -> int:
    """The moment at a path (RFC 3339), in ms since 1970; 0 if absent. Raises: Malformed."""
    found = text(of, *path)
    if not found:
        return 0
    try:
        return int(datetime.fromisoformat(found).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise Malformed(f"{_named(path)} is {_shown(found)}, not a time") from None


def digits(text_of: str) -> int | None:
    """A label's value as a number from 0 on, None if it is none."""
    plain = text_of.isascii() and text_of.isdigit() and len(text_of) < 10
    return int(text_of) if plain else None


def _named(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the object"


def _shown(of: Any) -> str:
    words = repr(of)
    return words if len(words) <= _SHOWN_CHARS_MAX else f"{words[: _SHOWN_CHARS_MAX - 1]}…"
