"""A client of /v1/live, as short as the protocol allows: columns that follow the messages."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from madang.api.live import frames
from madang.api.live.schema import (
    BY_ID,
    BY_NAME,
    JOBS_TABLE,
    NEWS_TABLE,
    NODES_TABLE,
    STATES,
    Bytes,
)
from tests.api.serving import TOKEN


@dataclass
class Picture:
    """What a client has after some messages. `kinds` are those of the last message's frames."""

    columns: dict[int, Bytes] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    jobs: dict[int, list[Any]] = field(default_factory=dict)
    ticks: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    seq: int = -1
    told: set[str] = field(default_factory=set)  # jobs of which there were news

    def take(self, message: bytes) -> None:
        self.kinds = []
        for one in frames.frames_in(message):
            self.kinds.append(one.kind)
            match one.kind:
                case frames.TICK:
                    self.ticks.append(one.tick)
                    _, self.seq = frames.MOMENT.unpack(one.body)
                case frames.WHOLE:
                    column = np.frombuffer(frames.inflated(one.body), np.uint8)
                    self.columns[one.field] = column
                case frames.DELTA:
                    change = np.frombuffer(frames.inflated(one.body), np.uint8)
                    self.columns[one.field] = self.columns[one.field] + change
                case frames.TABLE | frames.PATCH:
                    self._table(one.field, json.loads(frames.inflated(one.body)), one.kind)

    def _table(self, table: int, body: dict[str, Any], kind: int) -> None:
        if table == NODES_TABLE and kind == frames.TABLE:
            self.nodes = body
        elif table == NODES_TABLE:
            for row, state in body["state"]:
                self.nodes["state"][row] = state
        elif table == NEWS_TABLE:
            self.told |= set(body["jobs"])
        else:
            assert table == JOBS_TABLE
            if kind == frames.TABLE:
                self.jobs = {}
            for slot in body.get("drop", ()):
                self.jobs.pop(slot)
            for entry in body["set"]:
                self.jobs[entry[0]] = entry

    @property
    def states(self) -> list[str]:
        return [STATES[code] for code in self.columns[BY_NAME["state"].id]]

    @property
    def holders(self) -> list[str]:
        """Of each device the job, "" if none."""
        planes = self.columns[BY_NAME["job"].id].reshape(BY_NAME["job"].width, -1)
        weights = 1 << 8 * np.arange(len(planes))
        slots = (planes.astype(np.int64) * weights[:, None]).sum(axis=0)
        return [self.jobs[slot][1] if slot else "" for slot in slots.tolist()]

    def same_as(self, other: "Picture") -> bool:
        return (
            self.columns.keys() == other.columns.keys()
            and all(np.array_equal(self.columns[id], other.columns[id]) for id in self.columns)
            and self.jobs == other.jobs
            and self.nodes == other.nodes
        )


class Watch:
    """An open socket and its picture."""

    def __init__(self, wire: ClientConnection, picture: Picture | None = None) -> None:
        self.wire = wire
        self.hello = json.loads(wire.recv(timeout=20))
        self.picture = picture or Picture()

    def step(self) -> Picture:
        """Take the next message."""
        message = self.wire.recv(timeout=20)
        assert isinstance(message, bytes)
        self.picture.take(message)
        return self.picture

    def until(self, done: Any) -> Picture:
        """Take messages until the picture is as wanted."""
        while not (self.picture.ticks and done(self.picture)):
            self.step()
        return self.picture


@contextmanager
def watching(
    port: int, query: str = "", picture: Picture | None = None, **more: Any
) -> Iterator[Watch]:
    headers = more.pop("headers", {"Authorization": f"Bearer {TOKEN}"})
    address = f"ws://127.0.0.1:{port}/v1/live{query}"
    with connect(
        address, additional_headers=headers, open_timeout=20, proxy=None, max_size=None, **more
    ) as wire:
        yield Watch(wire, picture)


def names_of(ids: Iterable[int]) -> list[str]:
    return [BY_ID[id].name for id in ids]
