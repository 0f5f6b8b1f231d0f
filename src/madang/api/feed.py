"""The journal as server-sent events, read once for all who listen.

One task follows the journal while anybody listens and keeps the newest messages, ready to be sent,
in a ring. A listener owns only a place in the journal: it takes what comes after it from the ring,
or from the ledger page by page when it has fallen behind. So a listener costs the same however
slow it is, and one that reads nothing at all is cut off and may resume at its Last-Event-ID.
"""

import asyncio
import json
import logging
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import BaseModel

from madang.api.problems import busy
from madang.api.pulse import Pulse
from madang.api.readers import Readers
from madang.api.sentences import project_of, sentence
from madang.api.yard import Yard
from madang.core.events import ProjectSet
from madang.core.snapshot import Snapshot
from madang.ledger import EventRecord

log = logging.getLogger("madang.api")

RING_MAX = 2_048  # messages; about 600 KB
PAGE_MAX = 256  # messages of one read and of one write
HEARTBEAT_S = 15.0
RETRY_S = 1.0
RETRY_AFTER_S = 5
ENDED_KNOWN_MAX = 4_096

Standings = dict[str, tuple[str, str]]  # job → (phase, reason)


class JobEventView(BaseModel):
    """`data` of an event `job`. `phase` and `reason` are the job's now, as the message is made."""

    seq: int
    at_ms: int
    kind: str
    job: str
    phase: str
    reason: str
    text: str


class NodeEventView(BaseModel):
    """`data` of an event `node`. `state` is the node's now."""

    seq: int
    at_ms: int
    kind: str
    node: str
    state: str
    text: str


class SettingEventView(BaseModel):
    """`data` of an event `setting`: policy, quotas, zones and their like."""

    seq: int
    at_ms: int
    kind: str
    text: str


class ProjectEventView(BaseModel):
    """`data` of an event `project`."""

    seq: int
    at_ms: int
    kind: str
    project: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One event as it goes over the wire."""

    seq: int
    text: bytes


class Feed:
    """See the module's docstring. Used on the event loop."""

    def __init__(self, yard: Yard, pulse: Pulse, rows: Readers, listeners_max: int) -> None:
        self._yard = yard
        self._pulse = pulse
        self._rows = rows
        self._listeners_max = listeners_max
        self._listeners = 0
        self._ring: deque[Message] = deque(maxlen=RING_MAX)
        self._tail = -1  # the newest sequence the ring has, or could have; -1: not known yet
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended: OrderedDict[str, tuple[str, str]] = OrderedDict()

    async def listen(self, after: int | None) -> AsyncIterator[bytes]:
        """Messages after a sequence (None: after now), in blocks, for ever.

        Raises:
            Problem: 503, too many listen already; before anything is yielded.
        """
        if self._listeners >= self._listeners_max:
            raise busy(f"{self._listeners} clients listen to events already", RETRY_AFTER_S)
        self._listeners += 1
        try:
            newest = await self._yard.wait_for_events(-1)
            if self._task is None:
                self._tail = newest
                self._task = asyncio.create_task(self._follow(), name="madang-feed")
            after = newest if after is None else min(after, newest)
            # Tells at once that the stream stands, and where: what a resume would name.
            yield b": after %d\n\n" % after
            while True:
                batch = await self._after(after)
                if batch:
                    after = batch[-1].seq
                yield b"".join([message.text for message in batch]) or b": still here\n\n"
        finally:
            self._listeners -= 1
            if self._listeners == 0:
                self._rest()

    def _rest(self) -> None:
        """Nobody listens: nothing is read, and the ring, which would get a gap, is dropped."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._ring.clear()

    async def _after(self, after: int) -> Sequence[Message]:
        """The next messages, at least one unless a heartbeat is due."""
        while True:
            news = self._news
            if self._ring and self._ring[0].seq <= after + 1:
                start = bisect_right(self._ring, after, key=lambda message: message.seq)
                if start < len(self._ring):
                    return list(islice(self._ring, start, start + PAGE_MAX))
            elif after < self._tail:
                batch = await self._rows.read(self._read, after)
                if batch:
                    return batch
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await news.wait()
            except TimeoutError:
                return ()

    async def _follow(self) -> None:
        """Fill the ring as the journal grows; a read that failed is tried again."""
        while True:
            try:
                if await self._pulse.beat(self._tail, HEARTBEAT_S) <= self._tail:
                    continue
                batch = await self._rows.read(self._read, self._tail)
            except Exception as error:  # the ledger is away, or the line before it is full
                log.warning("the event feed cannot read the journal: %s", error)
                batch = ()
            if not batch:
                await asyncio.sleep(RETRY_S)
                continue
            self._ring.extend(batch)
            self._tail = batch[-1].seq
            self._news.set()
            self._news = asyncio.Event()

    # -- in a reader thread ------------------------------------------------------------------------

    def _read(self, after: int) -> Sequence[Message]:
        """A page of the journal, put into words once for all listeners."""
        records = self._yard.ledger.events(after, PAGE_MAX)
        snapshot = self._yard.snapshot()
        jobs = {record.job: None for record in records if record.job}
        standings = self._standings(snapshot, jobs)
        messages = [_message(record, snapshot, standings) for record in records]
        if messages and messages[0].seq > after + 1:
            messages[0] = _with_gap(after, messages[0])
        return messages

    def _standings(self, snapshot: Snapshot, jobs: Mapping[str, None]) -> Standings:
        """Of each job now: the live ones' from the snapshot, else the ledger's."""
        live = snapshot.jobs
        found: dict[str, tuple[str, str]] = {}
        for id in jobs:
            if id in live:
                standing = live[id].standing
                found[id] = (standing.phase.value, standing.reason)
            elif id in self._ended:
                found[id] = self._ended[id]
            elif (record := self._yard.ledger.job(id)) is not None:
                found[id] = (record.standing.phase.value, record.standing.reason)
                if record.standing.phase.is_final:
                    self._ended[id] = found[id]
        while len(self._ended) > ENDED_KNOWN_MAX:
            self._ended.popitem(last=False)
        return found


def _message(record: EventRecord, snapshot: Snapshot, standings: Standings) -> Message:
    common = {"seq": record.seq, "at_ms": record.at_ms, "kind": record.kind}
    text = sentence(record.line)
    view: BaseModel
    if record.job:
        phase, reason = standings.get(record.job, ("", ""))
        noun = "job"
        view = JobEventView(**common, job=record.job, phase=phase, reason=reason, text=text)
    elif record.node:
        live = snapshot.nodes.get(record.node)
        noun, state = "node", live.state.value if live is not None else ""
        view = NodeEventView(**common, node=record.node, state=state, text=text)
    elif record.kind != ProjectSet.__name__:
        noun = "setting"
        view = SettingEventView(**common, text=text)
    else:
        noun = "project"
        view = ProjectEventView(**common, project=project_of(record.line), text=text)
    block = f"id: {record.seq}\nevent: {noun}\ndata: {view.model_dump_json()}\n\n"
    return Message(record.seq, block.encode())


def _with_gap(after: int, first: Message) -> Message:
    """Tells a listener that what it missed has been pruned: it must read anew, not patch."""
    missed = json.dumps({"after": after, "before": first.seq})
    return Message(first.seq, b"event: gap\ndata: %b\n\n" % missed.encode() + first.text)
