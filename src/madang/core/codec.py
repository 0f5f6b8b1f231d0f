"""Events and rows as plain JSON values, and back. One form for the journal, digests and replay.

A frozen dataclass becomes a list of its fields in order behind a one-word kind; adding a field with
a default at the end keeps old journals readable. An int beyond 53 bits is written as hex text, so a
field that may be text or a number holds smaller ones only.
"""

import dataclasses
import json
import operator
import types
import typing
from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import cache
from typing import Any

from madang.core.events import DECISIONS, FACTS, Event

T = typing.TypeVar("T")
KINDS: dict[str, type] = {kind.__name__: kind for kind in (*FACTS, *DECISIONS)}


dumps = json.JSONEncoder(separators=(",", ":")).encode
_EXACT = 1 << 53
_ENCODERS: dict[type, Callable[[Any], Any]] = {}


def to_json(value: Any) -> Any:
    """A dataclass as a list of its fields; tuples as lists; enums as their words."""
    kind = type(value)
    encode = _ENCODERS.get(kind)
    if encode is None:
        encode = _ENCODERS[kind] = _encoder(kind)
    return encode(value)


def from_json(kind: type[T], value: Any) -> T:
    """The value of `kind` that `to_json` made this of.

    Raises:
        TypeError, ValueError: it was not.
    """
    return typing.cast(T, _decoder(typing.cast(Hashable, kind))(value))


def encode_event(event: Event) -> str:
    """One event as a line of JSON, byte for byte the same on every machine."""
    return dumps([type(event).__name__, to_json(event)])


def decode_event(line: str) -> Event:
    """The event of a line.

    Raises:
        KeyError: a kind this version does not know.
    """
    kind, fields = json.loads(line)
    return typing.cast(Event, from_json(KINDS[kind], fields))


def _same(value: Any) -> Any:
    return value


def _int_to_json(value: int) -> int | str:
    return value if -_EXACT < value < _EXACT else hex(value)  # bit sets of large gangs


def _tuple_to_json(value: tuple[Any, ...]) -> list[Any]:
    return [to_json(item) for item in value]


def _encoder(kind: type) -> Callable[[Any], Any]:
    """A function from a value of exactly this class to JSON; a journal calls it for every event."""
    if issubclass(kind, bool | str):
        return _same
    if issubclass(kind, int):
        return _int_to_json
    if issubclass(kind, tuple):
        return _tuple_to_json
    if not dataclasses.is_dataclass(kind):
        return _same
    hints = typing.get_type_hints(kind)
    names = _names(typing.cast(Hashable, kind))
    rest = [(place, hints[name]) for place, name in enumerate(names)]
    ints = [place for place, hint in rest if hint is int]
    others = [place for place, hint in rest if not _is_plain(hint)]
    # attrgetter gives a tuple of the fields at once, unless it is asked for one only.
    fields = operator.attrgetter(*names) if len(names) > 1 else None

    def encode(value: Any) -> list[Any]:
        values = list(fields(value)) if fields else [getattr(value, names[0])]
        for place in ints:
            if not -_EXACT < values[place] < _EXACT:
                values[place] = hex(values[place])
        for place in others:
            values[place] = to_json(values[place])
        return values

    return encode


def _is_plain(hint: Any) -> bool:
    """True iff every value of the field is JSON already, or an int that is looked after."""
    return isinstance(hint, type) and issubclass(hint, int | str)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    """A function from JSON to a value of the kind: dataclass, enum, tuple, int, str or bool."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = [_decoder(hints[name]) for name in _names(typing.cast(Hashable, kind))]
        make = typing.cast(Callable[..., Any], kind)
        return lambda value: make(
            *[field(item) for field, item in zip(fields, value, strict=False)]
        )
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and args[-1] is Ellipsis:
        item = _decoder(args[0])
        return lambda value: tuple([item(one) for one in value])
    if origin is tuple:
        items = [_decoder(arg) for arg in args]
        return lambda value: tuple([each(one) for each, one in zip(items, value, strict=True)])
    if kind is int:
        return lambda value: int(value, 16) if isinstance(value, str) else int(value)
    if kind in (str, bool) or isinstance(kind, types.UnionType):
        return lambda value: value
    raise TypeError(f"no JSON form for {kind}")
