"""Values as rows and back. An allocation's body has two parts: what stays, and what changes.

Promises: a text is byte for byte what `codec.dumps` makes, on every machine. Where orjson is
installed it writes those that it writes the same way; floats it would not, and the core has none.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from madang.core import events as ev
from madang.core.codec import dumps, from_json, to_json
from madang.core.model import Allocation

try:
    import orjson
except ImportError:  # it comes with the extras that need it for more
    orjson = None  # type: ignore[assignment]

T = TypeVar("T")
NOTHING: Mapping[str, str] = MappingProxyType({})

# The fields of an Allocation that its binding settles. The rest moves; a new field goes to the end.
_FIXED = frozenset({"id", "job", "project", "attempt", "shape", "seats", "bound_ms"})
_FIELDS = tuple(Allocation.__dataclass_fields__)
_STANDING = tuple(name for name in _FIELDS if name in _FIXED)
_MOVING = tuple(name for name in _FIELDS if name not in _FIXED)


def text_of(value: Any) -> str:
    """JSON values without floats as a text."""
    if orjson is not None:
        try:
            told = orjson.dumps(value)
        except TypeError:  # a number of more than 64 bits, half a surrogate pair
            return dumps(value)
        if told.isascii() and b"\x7f" not in told:  # signs that are escaped there alone
            return told.decode("ascii")
    return dumps(value)


def line_of(event: ev.Event, texts: Mapping[str, str] = NOTHING) -> str:
    """An event as the journal has it: what `codec.encode_event` makes. `texts` has the bodies of
    jobs that are submitted, where they were made already."""
    if isinstance(event, ev.JobSubmitted) and (text := texts.get(event.job.id)) is not None:
        return f'["JobSubmitted",[{text}]]'
    return text_of([type(event).__name__, to_json(event)])


def body(value: Any) -> str:
    """A value of the core as a JSON text."""
    return text_of(to_json(value))


def of_body(kind: type[T], text: str) -> T:
    """The value of `kind` that `body` made the text of."""
    return from_json(kind, json.loads(text))


def fixed_body(allocation: Allocation) -> str:
    """What of an allocation never changes."""
    return _fields(allocation, _STANDING)


def moving_body(allocation: Allocation) -> str:
    """What of an allocation changes."""
    return _fields(allocation, _MOVING)


def _fields(allocation: Allocation, names: Sequence[str]) -> str:
    return text_of([to_json(getattr(allocation, name)) for name in names])


def allocation_of(fixed: str, moving: str) -> Allocation:
    """The allocation of its two parts. Fields that an older version did not write have defaults."""
    fixed_values, moving_values = iter(json.loads(fixed)), iter(json.loads(moving))
    values = []
    for name in _FIELDS:
        try:
            values.append(next(fixed_values if name in _FIXED else moving_values))
        except StopIteration:
            break
    return from_json(Allocation, values)


def subject_of(event: ev.Event) -> tuple[str | None, str | None]:
    """The job and the node that an event is about: the journal's columns for filtering."""
    match event:
        case ev.JobSubmitted():
            return event.job.id, None
        case ev.AllocationBound():
            return event.allocation.job, None
        case (
            ev.MemberStarted()
            | ev.MemberEnded()
            | ev.ReleaseAsked()
            | ev.ReleaseHeld()
            | ev.RuleBroken()
            | ev.RuleKept()
        ):
            return job_of_allocation(event.allocation), None
        case ev.NodeSeen():
            return None, event.node.id
        case ev.NodeLost() | ev.NodeCordoned() | ev.NodeFlagged() | ev.NodeRemoved():
            return None, event.node
        case _:
            return getattr(
                event, "job", None
            ) or None, None  # settings and projects have no subject


def job_of_allocation(allocation_id: str) -> str:
    """`digits-42` of `digits-42.1`."""
    return allocation_id.rpartition(".")[0]


def number_of(job_id: str) -> int:
    """42 of `digits-42`; 0 where there is none."""
    tail = job_id.rpartition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() else 0
