"""One receiver of remote write: reads the queue, sends, and remembers how far it came.

Promises: every sample that it is to get is delivered at least once and in each node's order, unless
it fell off the queue's end or the receiver will not have it; both are counted and said. It may be
delivered twice after a crash: the same labels, time and value, which receivers leave out (of
VictoriaMetrics this must be asked for: `-dedup.minScrapeInterval=1ms`).

What an answer means: 2xx is taken. 400, 409, 413, 415 and 422 are about what was sent: the request
is halved until the samples that are not wanted stand alone, and those are dropped. All others,
wrong credentials included, may pass: it is tried again, later and later, and the queue holds.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import cramjam
import zstandard

from madang.telemetry.out.blocks import NAMES, Batch, Block, BrokenRecord, Unpacker
from madang.telemetry.out.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from madang.telemetry.out.choose import Chooser, Parcel, parcels, samples_of
from madang.telemetry.out.minutes import Minutes
from madang.telemetry.out.names import GroupOf
from madang.telemetry.out.post import Answer, Away, Line
from madang.telemetry.out.protobuf import Encoder
from madang.telemetry.out.settings import Destination
from madang.telemetry.out.spool import Position, Record, Spool

log = logging.getLogger("madang.telemetry.out")

ROUND_BYTES_MAX = 256 << 10  # of the queue: some 80,000 samples, some MB a request when encoded
LINGER_S = 0.5  # so long news are gathered: a few large requests instead of many small ones
WAIT_S = 5.0
PAUSE_S = (0.2, 10.0)  # least and most between two tries
REFUSED = frozenset({400, 409, 413, 415, 422})
SPLITS_MAX = 64  # requests to find what of one is not wanted; then the rest of it is dropped
SAID_EVERY_S = 60.0  # the same trouble is logged so often
HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}


@dataclass(slots=True)
class Counts:
    """What became of samples since the start; read by other threads, written under a lock."""

    sent: int = 0
    sent_bytes: int = 0  # as they went over the wire
    requests: int = 0
    retries: int = 0
    refused: int = 0  # the receiver will not have them
    overrun: int = 0  # fell off the queue's end unread
    broken: int = 0  # records that could not be read
    trouble: str = ""  # why nothing goes out just now; "" if it does
    delivered_ms: int = 0  # the newest sample that was taken
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Leaving(Exception):
    """The daemon stops: what is not delivered stays in the queue."""


class Sender:
    """A thread for one destination; `open` it, `close` it."""

    def __init__(
        self, settings: Destination, labels: dict[str, str], spool: Spool, group_of: GroupOf
    ) -> None:
        self.settings = settings
        self.counts = Counts()
        self._spool = spool
        self._group_of = group_of
        self._path = spool.path.parent / f"{settings.name}.place"
        self._chooser = Chooser(settings.selection, group_of)
        self._losses = Chooser(settings.selection, group_of)  # another thread's
        self._encoders = [Encoder(labels) for _ in range(settings.senders)]
        self._lines = [
            Line(settings.url, settings.access, settings.timeout_s) for _ in range(settings.senders)
        ]
        self._minutes = Minutes() if settings.minutes else None
        self._unpacker = Unpacker()
        self._reading = threading.Lock()  # between reading on and counting what goes unread
        self._place = Position()
        self.committed = Position()
        self._leaving = threading.Event()
        self._said_s: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(settings.senders, f"out-{settings.name}")
        self._thread = threading.Thread(target=self._run, name=f"out-{settings.name}", daemon=True)

    def open(self) -> None:
        """Go on where the last run stopped."""
        self._take_up(read_checkpoint(self._path))
        self._spool.add_reader(self)
        self._thread.start()

    def close(self, wait_s: float = 5.0) -> None:
        """Stop; what is not delivered stays in the queue."""
        self._leaving.set()
        self._spool.wake()
        self._thread.join(wait_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def lag_bytes(self) -> int:
        """What it has not been delivered of the queue."""
        return self._spool.bytes_after(self.committed)

    def _take_up(self, known: Checkpoint | None) -> None:
        place = known.place if known is not None else Position()
        if place > self._spool.end:
            place = Position()  # another queue's: the directory was emptied
        if known is not None and known.state and self._minutes is not None:
            try:
                self._minutes.restore(known.state)
            except (ValueError, LookupError, TypeError, zstandard.ZstdError):
                log.warning("%s: the open minutes of the last run cannot be read", self.name)
        self._place = self.committed = place
        whole = self._spool.read(Position(place.segment, 0), 1 << 62) if place.offset else []
        for record in whole:
            if record.kind == NAMES and record.end <= place:
                self._batches([record])

    @property
    def name(self) -> str:
        return self.settings.name

    # -- the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        version = -1
        try:
            while not self._leaving.is_set():
                records = self._next()
                if records:
                    self._round(records)
                    if sum(len(one.payload) for one in records) < ROUND_BYTES_MAX // 2:
                        self._leaving.wait(LINGER_S)
                    continue
                version = self._spool.wait(version, WAIT_S)
                self._leaving.wait(LINGER_S)
        except _Leaving:
            pass
        except Exception:
            log.critical("%s: the sender broke; nothing is lost, restart", self.name, exc_info=True)
            self.counts.trouble = "the sender broke: see the log"
        for line in self._lines:
            line.close()

    def _next(self) -> list[Record]:
        """The next records; from here on they are ours to deliver."""
        with self._reading:
            records = self._spool.read(self._place, ROUND_BYTES_MAX)
            if records and records[0].begin.segment != self._place.segment:
                self._unpacker = Unpacker()
            if records:
                self._place = records[-1].end
        return records

    def _round(self, records: Sequence[Record]) -> None:
        batches = self._chooser.chosen(self._batches(records))
        if self._minutes is not None:
            blocks = [one for one in batches if isinstance(one, Block)]
            facts = [one for one in batches if not isinstance(one, Block)]
            whole = self._minutes.add(blocks)
            batches = [*facts, *whole]
            self._deliver(batches)
            if whole:
                self._commit(Checkpoint(records[-1].end, self._minutes.state()))
            return
        self._deliver(batches)
        self._commit(Checkpoint(records[-1].end))

    def _commit(self, checkpoint: Checkpoint) -> None:
        try:
            write_checkpoint(self._path, checkpoint)
        except OSError as failure:
            self._say(f"{self._path} cannot be written: {failure}")
            return
        self.committed = checkpoint.place

    def _batches(self, records: Sequence[Record]) -> list[Batch]:
        found: list[Batch] = []
        for record in records:
            try:
                found += self._unpacker.read(record.kind, record.payload)
            except BrokenRecord as failure:
                self.counts.broken += 1
                self._say(f"a record of the queue cannot be read: {failure}")
        return found

    # -- what is lost --------------------------------------------------------------------------

    def forget(self, segment: int, records: Sequence[Record]) -> None:
        """See spool.Reader: count what of a segment has not been read."""
        with self._reading:
            place = self._place
        if place.segment > segment:
            return
        unpacker = Unpacker()
        lost = 0
        for record in records:
            with contextlib.suppress(BrokenRecord):
                batches = list(unpacker.read(record.kind, record.payload))
                if record.begin >= place:
                    lost += sum(map(samples_of, self._losses.chosen(batches)))
        with self.counts.lock:
            self.counts.overrun += lost
        if lost:
            log.error(
                "%s: the queue has reached its bound of %d bytes: %d samples were never sent",
                *(self.name, self._spool.bytes_max, lost),
            )

    # -- sending -------------------------------------------------------------------------------

    def _deliver(self, batches: Sequence[Batch]) -> None:
        """Returns once every sample was taken or refused.

        Raises:
            _Leaving: the daemon stops first.
        """
        limit = self.settings.samples_per_send
        shares = parcels(batches, self.settings.senders, limit)
        if sum(map(len, shares)) <= 1:
            for number, share in enumerate(shares):
                self._send_all(number, share)
            return
        futures = [self._pool.submit(self._send_all, *one) for one in enumerate(shares)]
        failures = [failure for one in futures if (failure := one.exception()) is not None]
        if failures:
            raise failures[0]

    def _send_all(self, number: int, share: Sequence[Parcel]) -> None:
        for parcel in share:
            answer = self._send(number, parcel)
            if answer.status in REFUSED:
                self._divide(number, parcel, answer)

    def _divide(self, number: int, parcel: Parcel, answer: Answer) -> None:
        """Deliver what is wanted of a refused request, and drop the rest."""
        left = [parcel]
        tries = SPLITS_MAX
        while left:
            one = left.pop(0)
            halves = one.split() if tries > 0 else []
            if not halves:
                self._refused(one, answer)
                continue
            for half in halves:
                tries -= 1
                answer = self._send(number, half)
                if answer.status in REFUSED:
                    left.append(half)

    def _refused(self, parcel: Parcel, answer: Answer) -> None:
        with self.counts.lock:
            self.counts.refused += parcel.samples
        self._say(
            f"{parcel.samples} samples are refused and dropped: {answer.status} {answer.words}"
        )

    def _send(self, number: int, parcel: Parcel) -> Answer:
        """The answer that settles it: taken or refused. Tries until there is one."""
        plain = parcel.encoded(self._encoders[number], self._group_of)
        body = bytes(cast("bytes", cramjam.snappy.compress_raw(plain)))
        tries = 0
        while True:
            if self._leaving.is_set():
                raise _Leaving
            answer, trouble = self._try(number, body)
            if answer is not None and not trouble:
                if answer.status not in REFUSED:
                    self._taken(parcel, len(body))
                return answer
            tries += 1
            with self.counts.lock:
                self.counts.retries += 1
                self.counts.trouble = trouble
            self._say(f"{trouble}; trying again, {self.lag_bytes:,} bytes wait")
            asked_s = answer.retry_after_s if answer is not None else 0.0
            self._leaving.wait(max(asked_s, pause_s(tries, random.random())))

    def _try(self, number: int, body: bytes) -> tuple[Answer | None, str]:
        """(answer, "") if it settles the request, else (answer or None, why not)."""
        try:
            answer = self._lines[number].post(body, HEADERS)
        except Away as away:
            return None, f"{self._lines[number].host} is away: {away}"
        finally:
            with self.counts.lock:
                self.counts.requests += 1
        if 200 <= answer.status < 300 or answer.status in REFUSED:
            return answer, ""
        return answer, f"{self._lines[number].host} answers {answer.status} {answer.words}"

    def _taken(self, parcel: Parcel, sent_bytes: int) -> None:
        newest_ms = max(
            int(one.at_ms.max()) if isinstance(one, Block) else max(fact.at_ms for fact in one)
            for one in parcel.pieces
        )
        with self.counts.lock:
            self.counts.sent += parcel.samples
            self.counts.sent_bytes += sent_bytes
            self.counts.delivered_ms = max(self.counts.delivered_ms, newest_ms)
            if self.counts.trouble:
                log.warning("%s: it goes out again", self.name)
            self.counts.trouble = ""

    def _say(self, text: str) -> None:
        """Log a trouble, the same kind of it now and then only."""
        kind = text[:24]
        now_s = time.monotonic()
        if now_s - self._said_s.get(kind, -SAID_EVERY_S) >= SAID_EVERY_S:
            self._said_s[kind] = now_s
            log.warning("%s: %s", self.name, text)


def pause_s(tries: int, chance: float) -> float:
    """How long after so many tries in vain; `chance` in [0, 1) keeps many daemons apart."""
    least, most = PAUSE_S
    whole = min(most, least * 2.0 ** min(tries, 16))
    return whole * (0.5 + chance / 2)
