"""Events and rows as plain JSON values, and back. One form for the journal, digests and replay.

A frozen dataclass becomes a list of its fields in order behind a one-word kind; adding a field with
a default at the end keeps old journals readable. An int beyond 53 bits is written as hex text, so a
field that may be text or a number holds smaller ones only.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any

from madang.core.events import DECISIONS, FACTS, Event

T = typing.TypeVar("T")
_SAFE = 1 << 53
_LINE = json.JSONEncoder(separators=(",", ":"), check_circular=False)
KINDS: dict[str, type] = {kind.__name__: kind for kind in (*FACTS, *DECISIONS)}


def to_json(value: Any) -> Any:
    """A dataclass as a list of its fields; tuples as lists; enums as their words."""
    kind = type(value)
    if dataclasses.is_dataclass(value):
        encode = _encoder(typing.cast(Hashable, kind))
        return value if encode is None else encode(value)
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return _int_to_json(value) if kind is int else value


def from_json(kind: type[T], value: Any) -> T:
    """The value of `kind` that `to_json` made this of.

    Raises:
        TypeError, ValueError: it was not.
    """
    return typing.cast(T, _decoder(typing.cast(Hashable, kind))(value))


def encode_event(event: Event) -> str:
    """One event as a line of JSON, byte for byte the same on every machine."""
    return _LINE.encode([type(event).__name__, to_json(event)])


def decode_event(line: str) -> Event:
    """The event of a line.

    Raises:
        KeyError: a kind this version does not know.
    """
    kind, fields = json.loads(line)
    return typing.cast(Event, from_json(KINDS[kind], fields))


def _int_to_json(value: int) -> int | str:
    """Bit sets of large gangs are beyond what JSON readers agree on, and slow in decimal."""
    return value if -_SAFE < value < _SAFE else hex(value)


@cache
def _encoder(kind: Any) -> Callable[[Any], Any] | None:
    """A function from a value of the kind to JSON; None where the value is its own JSON.

    Made once per kind from its annotations: a journal line costs no look at types.
    """
    if dataclasses.is_dataclass(kind):
        return _fields_encoder(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and args[-1] is Ellipsis:
        item = _encoder(args[0])
        return list if item is None else lambda value: [item(one) for one in value]
    if origin is tuple:
        items = [_encoder(arg) for arg in args]
        return lambda value: [
            one if each is None else each(one) for each, one in zip(items, value, strict=True)
        ]
    return _int_to_json if kind is int else None


def _fields_encoder(kind: Any) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    names = _names(kind)
    fields = [(at, _encoder(hints[name])) for at, name in enumerate(names)]
    changed = [(at, encode) for at, encode in fields if encode is not None]
    read = attrgetter(*names)

    def encode_fields(value: Any) -> list[Any]:
        values = list(read(value)) if len(names) > 1 else [read(value)]
        for at, encode in changed:
            values[at] = encode(values[at])
        return values

    return encode_fields


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
