"""What of a batch a destination gets: filters over blocks and facts, and its parts for sending."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.out.blocks import Batch, Block, Fact, Layout, Part
from madang.telemetry.out.names import PREFIX, GroupOf
from madang.telemetry.out.protobuf import Encoder, equal_names, sendable
from madang.telemetry.out.settings import Selection

CUTS_MAX = 4_096


class Chooser:
    """Applies one selection. Not for two threads at once."""

    def __init__(self, selection: Selection, group_of: GroupOf) -> None:
        self._selection = selection
        self._group_of = group_of
        self._cuts: dict[Layout, tuple[Layout, NDArray[np.intp]] | None] = {}

    def chosen(self, batches: Iterable[Batch]) -> list[Batch]:
        """What the destination gets of these, in order; without what is empty."""
        found: list[Batch] = []
        for batch in batches:
            one = self._block(batch) if isinstance(batch, Block) else self._facts(batch)
            if one is not None:
                found.append(one)
        return found

    def _facts(self, facts: Sequence[Fact]) -> tuple[Fact, ...] | None:
        takes = self._selection.takes
        kept = []
        for fact in facts:
            labels = dict(fact.labels)
            node = labels.get("node", "")
            subject = "" if not node else "gpu" if "gpu" in labels else "node"
            if not takes(fact.name.removeprefix(PREFIX), subject):
                continue
            if node and not self._selection.takes_group(self._group_of(node)):
                continue
            kept.append(fact)
        return tuple(kept) or None

    def _block(self, block: Block) -> Block | None:
        cut = self._cut(block.layout)
        if cut is None:
            return None
        layout, columns = cut
        rows = sendable(block)
        if self._selection.groups:
            in_groups = [self._selection.takes_group(self._group_of(one)) for one in block.nodes]
            rows &= np.array(in_groups, bool)
        if not rows.any():
            return None
        if rows.all() and len(columns) == block.layout.series:
            return block
        nodes = tuple(node for node, kept in zip(block.nodes, rows, strict=True) if kept)
        return Block(layout, nodes, block.at_ms[rows], block.values[rows][:, columns])

    def _cut(self, layout: Layout) -> tuple[Layout, NDArray[np.intp]] | None:
        if layout not in self._cuts:
            if len(self._cuts) >= CUTS_MAX:
                self._cuts.clear()
            self._cuts[layout] = self._made(layout)
        return self._cuts[layout]

    def _made(self, layout: Layout) -> tuple[Layout, NDArray[np.intp]] | None:
        parts: list[Part] = []
        columns: list[int] = []
        for part, begin in zip(layout.parts, layout.begins, strict=True):
            if self._selection.takes(part.metric, part.subject):
                parts.append(part)
                columns += range(begin, begin + len(part.keys))
        return (Layout(tuple(parts)), np.array(columns, np.intp)) if parts else None


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent in one request. `split` halves it, to find what a receiver does not take."""

    pieces: tuple[Batch, ...]

    @property
    def samples(self) -> int:
        return sum(map(samples_of, self.pieces))

    def encoded(self, encoder: Encoder, group_of: GroupOf) -> bytes:
        """The bytes of its WriteRequest."""
        out = []
        for piece in self.pieces:
            if not isinstance(piece, Block):
                out.append(encoder.facts(piece))
                continue
            groups = [group_of(node) for node in piece.nodes]
            out += [
                encoder.block(_rows(piece, rows), [groups[row] for row in rows])
                for rows in equal_names(piece.nodes, groups)
            ]
        return b"".join(out)

    def split(self) -> "list[Parcel]":
        """Two halves in order; none if it is one sample."""
        if len(self.pieces) > 1:
            middle = len(self.pieces) // 2
            return [Parcel(self.pieces[:middle]), Parcel(self.pieces[middle:])]
        piece = self.pieces[0]
        if samples_of(piece) < 2:
            return []
        if not isinstance(piece, Block):
            middle = len(piece) // 2
            return [Parcel((piece[:middle],)), Parcel((piece[middle:],))]
        frames = len(piece.nodes)
        if frames > 1:
            first, second = range(frames // 2), range(frames // 2, frames)
            return [Parcel((_rows(piece, first),)), Parcel((_rows(piece, second),))]
        middle = piece.layout.series // 2
        return [Parcel((half,)) for half in _columns(piece, middle)]


def parcels(batches: Iterable[Batch], senders: int, samples_max: int) -> list[list[Parcel]]:
    """What each sender sends, in order: a node is always the same sender's."""
    shares: list[list[Batch]] = [[] for _ in range(senders)]
    for batch in batches:
        if not isinstance(batch, Block):
            shares[0].append(batch)
            continue
        of_row = [crc32(node.encode()) % senders for node in batch.nodes]
        for sender in range(senders):
            rows = [row for row, whose in enumerate(of_row) if whose == sender]
            step = max(1, samples_max // max(1, batch.layout.series))
            for begin in range(0, len(rows), step):
                shares[sender].append(_rows(batch, rows[begin : begin + step]))
    return [_filled(share, samples_max) for share in shares]


def samples_of(batch: Batch) -> int:
    return batch.samples if isinstance(batch, Block) else len(batch)


def _filled(pieces: Sequence[Batch], samples_max: int) -> list[Parcel]:
    """Pieces in parcels of at most `samples_max` samples, unless one piece is larger."""
    filled: list[Parcel] = []
    held: list[Batch] = []
    count = 0
    for piece in pieces:
        size = samples_of(piece)
        if held and count + size > samples_max:
            filled.append(Parcel(tuple(held)))
            held, count = [], 0
        held.append(piece)
        count += size
    return [*filled, Parcel(tuple(held))] if held else filled


def _rows(block: Block, rows: Sequence[int]) -> Block:
    if len(rows) == len(block.nodes):
        return block
    places = np.array(rows, np.intp)
    nodes = tuple([block.nodes[row] for row in rows])
    return Block(block.layout, nodes, block.at_ms[places], block.values[places])


def _columns(block: Block, middle: int) -> list[Block]:
    """A block's series before and from `middle` on."""
    halves: list[list[Part]] = [[], []]
    at = 0
    for part in block.layout.parts:
        keys = part.keys
        cut = min(max(middle - at, 0), len(keys))
        at += len(keys)
        for half, its in zip(halves, (keys[:cut], keys[cut:]), strict=True):
            if its:
                half.append(Part(part.metric, part.subject, its))
    spans = block.values[:, :middle], block.values[:, middle:]
    return [
        Block(Layout(tuple(parts)), block.nodes, block.at_ms, values)
        for parts, values in zip(halves, spans, strict=True)
    ]
