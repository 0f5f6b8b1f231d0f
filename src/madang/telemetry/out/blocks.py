"""What the disk queue holds: samples by node and time, written small and read back as arrays.

A `Layout` is what a frame measures (which metrics of which subjects and keys), a `Block` the values
of many frames of one layout: rows are frames, columns are series. Names are written once a segment
and then meant by number. Values are float64, because totals outgrow float32, and their bytes are
written plane by plane: the zero bytes of what was float32 cost nothing after compression.

Letters: F frames, S series of a layout.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import zstandard
from numpy.typing import NDArray

NAMES = 1  # kinds of records
FRAMES = 2
FACTS = 3

PAYLOAD_BYTES_MAX = 256 << 20  # unpacked; beyond it the record is foreign
ZSTD_LEVEL = 1  # measured: level 3 saves a twentieth and takes twice as long

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class BrokenRecord(Exception):
    """A record that this program did not write; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One metric of a layout and the keys that it is known for."""

    metric: str
    subject: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Parts in order; the same for all nodes that measure the same."""

    parts: tuple[Part, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.parts)

    @cached_property
    def series(self) -> int:
        """S."""
        return sum(len(part.keys) for part in self.parts)

    @cached_property
    def begins(self) -> tuple[int, ...]:
        """(parts,): where each part's columns begin."""
        ends = np.cumsum([0, *(len(part.keys) for part in self.parts)])
        return tuple(int(end) for end in ends[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """`values[f, s]` was measured on `nodes[f]` at `at_ms[f]`."""

    layout: Layout
    nodes: tuple[str, ...]
    at_ms: Int64
    values: Float64

    @property
    def samples(self) -> int:
        return self.values.size


@dataclass(frozen=True, slots=True)
class Measured:
    """One frame on its way into the queue: `values` are those of its parts, one after the other."""

    node: str
    at_ms: int
    parts: tuple[Part, ...]
    values: Float64


@dataclass(frozen=True, slots=True)
class Fact:
    """A sample of anything else: labels without the name, in any order. NaN: the series has ended,
    and need not be looked for any more.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    at_ms: int
    value: float


Batch = Block | tuple[Fact, ...]


@dataclass(slots=True)
class Packer:
    """Writes records for one segment: make a new one with each."""

    _nodes: dict[str, int] = field(default_factory=dict)
    _parts: dict[Part, int] = field(default_factory=dict)
    _new_nodes: list[str] = field(default_factory=list)
    _new_parts: list[Part] = field(default_factory=list)

    def frames(self, frames: Sequence[Measured]) -> list[tuple[int, bytes, int]]:
        """(kind, payload, samples) of the records that hold these frames."""
        nodes = [self._node(frame.node) for frame in frames]
        parts = [[self._part(part) for part in frame.parts] for frame in frames]
        values = np.concatenate([frame.values for frame in frames])
        head = np.array([len(frames), sum(map(len, parts)), len(values)], "<u4")
        plain = b"".join(
            (
                head.tobytes(),
                np.array(nodes, "<u4").tobytes(),
                np.array([frame.at_ms for frame in frames], "<i8").tobytes(),
                np.array([len(one) for one in parts], "<u4").tobytes(),
                np.array([id for one in parts for id in one], "<u4").tobytes(),
                values.astype("<f8", copy=False).view(np.uint8).reshape(-1, 8).T.tobytes(),
            )
        )
        return [*self._names(), (FRAMES, _squeezed(plain), len(values))]

    def facts(self, facts: Sequence[Fact]) -> list[tuple[int, bytes, int]]:
        """(kind, payload, samples) of the record that holds these."""
        rows = [[one.name, one.labels, one.at_ms, one.value] for one in facts]
        return [(FACTS, _squeezed(json.dumps(rows).encode()), len(rows))]

    def _node(self, node: str) -> int:
        number = self._nodes.get(node)
        if number is None:
            number = self._nodes[node] = len(self._nodes)
            self._new_nodes.append(node)
        return number

    def _part(self, part: Part) -> int:
        number = self._parts.get(part)
        if number is None:
            number = self._parts[part] = len(self._parts)
            self._new_parts.append(part)
        return number

    def _names(self) -> Iterator[tuple[int, bytes, int]]:
        if not self._new_nodes and not self._new_parts:
            return
        parts = [[part.metric, part.subject, part.keys] for part in self._new_parts]
        plain = json.dumps([self._new_nodes, parts]).encode()
        self._new_nodes, self._new_parts = [], []
        yield NAMES, _squeezed(plain), 0


@dataclass(slots=True)
class Unpacker:
    """Reads the records of one segment in order, from its start: make a new one with each."""

    _nodes: list[str] = field(default_factory=list)
    _parts: list[Part] = field(default_factory=list)
    _layouts: dict[bytes, Layout] = field(default_factory=dict)

    def read(self, kind: int, payload: bytes) -> Iterable[Batch]:
        """What a record holds, each node's frames in their order; nothing for names.

        Raises:
            BrokenRecord: it cannot be read.
        """
        try:
            plain = zstandard.ZstdDecompressor().decompress(payload, PAYLOAD_BYTES_MAX)
            if kind == NAMES:
                self._learn(plain)
                return ()
            return self._blocks(plain) if kind == FRAMES else _facts(plain)
        except (zstandard.ZstdError, ValueError, LookupError, TypeError) as failure:
            raise BrokenRecord(f"a record of kind {kind}: {failure}") from failure

    def _learn(self, plain: bytes) -> None:
        nodes, parts = json.loads(plain)
        self._nodes += nodes
        self._parts += [Part(metric, subject, tuple(keys)) for metric, subject, keys in parts]

    def _blocks(self, plain: bytes) -> list[Block]:
        frames, parts, values = (int(one) for one in np.frombuffer(plain, "<u4", 3))
        sizes = [12, 4 * frames, 8 * frames, 4 * frames, 4 * parts, 8 * values]
        ends = np.cumsum(sizes)
        if int(ends[-1]) != len(plain):
            raise ValueError(f"{len(plain)} bytes where {ends[-1]} are meant")
        nodes = np.frombuffer(plain, "<u4", frames, int(ends[0]))
        at_ms = np.frombuffer(plain, "<i8", frames, int(ends[1]))
        counts = np.frombuffer(plain, "<u4", frames, int(ends[2]))
        ids = np.frombuffer(plain, "<u4", parts, int(ends[3]))
        planes = np.frombuffer(plain, np.uint8, 8 * values, int(ends[4])).reshape(8, -1)
        floats = np.ascontiguousarray(planes.T).view("<f8").ravel()
        layouts = [self._layout(one) for one in np.split(ids, np.cumsum(counts)[:-1])]
        blocks: list[Block] = []
        first = 0
        for run in _runs([self._nodes[node] for node in nodes], layouts):
            blocks += _of_run(run, at_ms, floats, first)
            first += sum(layout.series * len(rows) for layout, (_, rows) in run.items())
        return blocks

    def _layout(self, ids: NDArray[np.uint32]) -> Layout:
        key = ids.tobytes()
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = Layout(tuple(self._parts[id] for id in ids))
        return layout


_Run = dict[Layout, tuple[list[str], list[int]]]


def _runs(nodes: Sequence[str], layouts: Sequence[Layout]) -> Iterator[_Run]:
    """Rows by layout, in runs such that no node changes its layout within one: then putting the
    rows of a layout together leaves each node's frames in order.
    """
    run: _Run = {}
    of_node: dict[str, int] = {}
    for row, (node, layout) in enumerate(zip(nodes, layouts, strict=True)):
        if of_node.get(node, id(layout)) != id(layout):
            yield run
            run, of_node = {}, {}
        of_node[node] = id(layout)
        named, rows = run.setdefault(layout, ([], []))
        named.append(node)
        rows.append(row)
    if run:
        yield run


def _of_run(run: _Run, at_ms: Int64, floats: Float64, first: int) -> list[Block]:
    """The blocks of a run whose values begin at `first`."""
    sizes = {row: layout.series for layout, (_, rows) in run.items() for row in rows}
    begins = {}
    for row in sorted(sizes):
        begins[row] = first
        first += sizes[row]
    blocks = []
    for layout, (nodes, rows) in run.items():
        places = np.array([begins[row] for row in rows])[:, None] + np.arange(layout.series)
        blocks.append(Block(layout, tuple(nodes), at_ms[rows], floats[places]))
    return blocks


def _facts(plain: bytes) -> tuple[tuple[Fact, ...]]:
    rows = json.loads(plain)
    return (
        tuple(
            Fact(name, tuple((key, value) for key, value in labels), at_ms, value)
            for name, labels, at_ms, value in rows
        ),
    )


def _squeezed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
