"""Prometheus remote write 1.0: a `WriteRequest` from blocks, by templates.

    WriteRequest { repeated TimeSeries timeseries = 1 }
    TimeSeries   { repeated Label labels = 1; repeated Sample samples = 2 }
    Label        { string name = 1; string value = 2 }
    Sample       { double value = 1; int64 timestamp = 2 }

All frames of one layout whose node and group names are equally long have the same bytes but for the
names, the values and the times: these are written into copies of one template, many frames at once.
Labels are in byte order, as the protocol asks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.out.blocks import Block, Fact, Layout
from madang.telemetry.out.names import exposed, labels_of

# A time of six varint bytes: 1971 to 2109. Nothing else is sent.
TIME_MS = (1 << 35, (1 << 42) - 1)
TIME_BYTES = 6
TEMPLATES_MAX = 2_048  # layouts × lengths of names; beyond it all are made anew
STALE = (0x7FF0000000000002).to_bytes(8, "little")  # Prometheus' NaN for "it is no more"
NODE_MARK, GROUP_MARK = "\x00", "\x01"  # no label value holds them

Bytes = NDArray[np.uint8]
Intp = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Template:
    """`plain` (L,) and where in it the names (series, length), values (S, 8) and times go."""

    plain: Bytes
    nodes: Intp
    groups: Intp
    values: Intp
    times: Intp


class Encoder:
    """Writes blocks with the labels that are the same for all (`cluster`)."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._templates: dict[tuple[Layout, int, int], _Template] = {}

    def block(self, block: Block, groups: Sequence[str]) -> bytes:
        """The frames of a block, in order; `groups` (F,) are the nodes' machine groups.

        All names of nodes must be equally long in bytes, all groups too: see `equal_names`.
        """
        low, high = TIME_MS
        assert bool(np.all((block.at_ms >= low) & (block.at_ms <= high))), "see sendable"
        nodes = _letters(block.nodes)
        named = _letters(groups)
        template = self._template(block.layout, nodes.shape[1], named.shape[1])
        frames = len(block.nodes)
        out = np.tile(template.plain, (frames, 1))
        for places, letters in ((template.nodes, nodes), (template.groups, named)):
            if places.size:
                out[:, places] = letters[:, None, :]
        values = np.ascontiguousarray(block.values, "<f8").view(np.uint8)
        out[:, template.values] = values.reshape(frames, -1, 8)
        out[:, template.times] = _varints(block.at_ms)[:, None, :]
        return out.tobytes()

    def facts(self, facts: Iterable[Fact]) -> bytes:
        """Samples of anything else, in order; NaN says that a series has ended."""
        out = bytearray()
        for fact in facts:
            time = _varint(fact.at_ms)
            value = np.float64(fact.value).tobytes() if not math.isnan(fact.value) else STALE
            body = _labels(fact.name, {**self._labels, **dict(fact.labels)})
            body += _nested(2, b"\x09" + value + b"\x10" + time)
            out += _nested(1, body)
        return bytes(out)

    def _template(self, layout: Layout, node: int, group: int) -> _Template:
        key = (layout, node, group)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            template = self._templates[key] = self._made(layout, node, group)
        return template

    def _made(self, layout: Layout, node: int, group: int) -> _Template:
        plain = bytearray()
        values, times = [], []
        sample = b"\x09" + bytes(8) + b"\x10" + bytes(TIME_BYTES)
        for part in layout.parts:
            for key in part.keys:
                labels = {**self._labels, **labels_of(part.metric, part.subject, key)}
                labels["node"] = NODE_MARK * node
                if group:
                    labels["group"] = GROUP_MARK * group
                plain += _nested(1, _labels(exposed(part.metric), labels) + _nested(2, sample))
                values.append(len(plain) - len(sample) + 1)
                times.append(len(plain) - TIME_BYTES)
        marks = bytes(plain)
        return _Template(
            np.frombuffer(marks, np.uint8),
            _spans(_found(marks, b"\x0a\x04node\x12", node), node),
            _spans(_found(marks, b"\x0a\x05group\x12", group), group),
            _spans(values, 8),
            _spans(times, TIME_BYTES),
        )


def sendable(block: Block) -> NDArray[np.bool_]:
    """(F,): which frames have a time that can be written."""
    low, high = TIME_MS
    found: NDArray[np.bool_] = (block.at_ms >= low) & (block.at_ms <= high)
    return found


def equal_names(nodes: Sequence[str], groups: Sequence[str]) -> list[list[int]]:
    """Rows in sets whose names and groups are equally long, in order within each."""
    sets: dict[tuple[int, int], list[int]] = {}
    for row, (node, group) in enumerate(zip(nodes, groups, strict=True)):
        sets.setdefault((len(node.encode()), len(group.encode())), []).append(row)
    return list(sets.values())


def _letters(names: Sequence[str]) -> Bytes:
    """(F, length) of names that are equally long."""
    return np.frombuffer("".join(names).encode(), np.uint8).reshape(len(names), -1)


def _found(plain: bytes, label: bytes, length: int) -> list[int]:
    """Where the values of a label begin. Only the marks' own label can be followed by marks."""
    if not length:
        return []
    head = label + _varint(length)
    mark = (NODE_MARK if label.endswith(b"node\x12") else GROUP_MARK).encode() * length
    found = []
    at = plain.find(head + mark)
    while at >= 0:
        found.append(at + len(head))
        at = plain.find(head + mark, at + len(head) + length)
    return found


def _spans(begins: Sequence[int], length: int) -> Intp:
    return np.array(begins, np.intp).reshape(-1, 1) + np.arange(length)


def _varints(at_ms: NDArray[np.int64]) -> Bytes:
    """(F, 6) of times between TIME_MS."""
    shifts = np.arange(0, 7 * TIME_BYTES, 7)
    groups = (at_ms[:, None] >> shifts) & 0x7F
    groups[:, :-1] |= 0x80
    return groups.astype(np.uint8)


def _varint(number: int) -> bytes:
    assert number >= 0, number
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _nested(field: int, body: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(body)) + body


def _labels(name: str, labels: Mapping[str, str]) -> bytes:
    out = b""
    for key, value in sorted({"__name__": name, **labels}.items()):
        if value:  # a label without a value is no label
            pair = _nested(1, key.encode()) + _nested(2, value.encode())
            out += _nested(1, pair)
    return out
