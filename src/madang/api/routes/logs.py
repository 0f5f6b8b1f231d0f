"""What members wrote: logs as bytes, reports as JSON; read at once or followed."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from madang.api import views
from madang.api.desk import Desk, Route, answer, router_of
from madang.api.problems import busy
from madang.api.streams import Stream
from madang.core.model import Allocation
from madang.wire import views as wire

BYTES_MAX = 8 << 20  # of one read; beyond: ask again with the next offset
BYTES_USUAL = 1 << 20
TAIL_LINES_MAX = 100_000
TAIL_BLOCK_BYTES = 64 * 1024
FOLLOW_BLOCK_BYTES = 256 * 1024
FOLLOW_POLL_S = 0.2  # what is written is seen this soon
STARTED_POLL_S = 10.0  # an event comes with every start; this is for a missed one
REPORT_BYTES_MAX = 1 << 20
TEXT = "text/plain; charset=utf-8"
Member = Annotated[int, Query(ge=0, le=65_535, description="The rank.")]
ReadBlock = Callable[[int, int], bytes]  # (offset, bytes_max) -> bytes


class LogQuery(BaseModel):
    """Which part of which log."""

    model_config = ConfigDict(extra="forbid")

    member: int = Field(0, ge=0, le=65_535, description="The rank.")
    attempt: int | None = Field(None, ge=1, le=1_000_000, description="Default: the newest.")
    offset: int = Field(0, ge=0, le=2**53, description="Bytes to leave out from the beginning.")
    limit: int = Field(BYTES_USUAL, ge=1, le=BYTES_MAX, description="Bytes at most.")
    tail: int | None = Field(
        None, ge=0, le=TAIL_LINES_MAX, description="Only the last lines; instead of `offset`."
    )
    follow: bool = Field(False, description="Go on until the member has ended. No `limit` then.")

    @model_validator(mode="after")
    def _either(self) -> "LogQuery":
        if self.tail is not None and self.offset:
            raise ValueError("give either tail or offset")
        return self


class Logs:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard
        self._followers = 0

    async def read_log(self, request: Request, id: str, query: Annotated[LogQuery, Query()]) -> Any:
        """A member's log, standard output and errors in the order they were written.

        The bytes are the member's own, whatever they are. The header `Madang-Offset` is where to
        go on reading (with `follow`: where this answer begins). A followed log of a job that still
        waits begins when the job does.
        """
        job = await self._desk.job(id)
        allocation = await self._desk.allocation(job, query.attempt)
        if query.follow:
            return self._follow(job.job.id, allocation, query)
        if allocation is None:
            return _log(b"", 0)
        self._desk.check_member(allocation, query.member)
        block, start = await self._desk.files.read(self._read, allocation.id, query)
        return _log(block, start + len(block))

    def _read(self, allocation: str, query: LogQuery) -> tuple[bytes, int]:
        read = self._reader(allocation, query.member)
        start = query.offset if query.tail is None else tail_offset(read, query.tail)
        return read_full(read, start, query.limit), start

    def _reader(self, allocation: str, member: int) -> ReadBlock:
        return lambda offset, bytes_max: self._yard.read_log(allocation, member, offset, bytes_max)

    # -- following ---------------------------------------------------------------------------------

    def _follow(self, job: str, allocation: Allocation | None, query: LogQuery) -> Stream:
        bound = self._desk.settings.limits.streams_max
        if self._followers >= bound:
            raise busy(f"{self._followers} clients follow logs already")
        if allocation is not None:
            self._desk.check_member(allocation, query.member)
        return Stream(
            self._followed(job, allocation, query),
            TEXT,
            stall_wait_s=self._desk.settings.limits.stall_wait_s,
            leaving=self._desk.leaving,
            headers={"x-accel-buffering": "no", "madang-offset": str(query.offset)},
        )

    async def _followed(
        self, job: str, allocation: Allocation | None, query: LogQuery
    ) -> AsyncIterator[bytes]:
        self._followers += 1
        try:
            yield b""  # the status goes out at once, not with the first line
            if allocation is None:
                allocation = await self._started(job)
            if allocation is None or query.member >= len(allocation.seats):
                return
            seq = -1
            offset = query.offset
            if query.tail is not None:
                read = self._reader(allocation.id, query.member)
                offset = await self._desk.files.read(tail_offset, read, query.tail)
            while True:
                block, ended = await self._desk.files.read(
                    self._next, allocation.id, query.member, offset
                )
                offset += len(block)
                if block:
                    yield block
                elif ended:
                    return
                else:
                    # A log grows without an event, too.
                    seq = await self._desk.pulse.beat(seq, FOLLOW_POLL_S)
        finally:
            self._followers -= 1

    def _next(self, allocation: str, member: int, offset: int) -> tuple[bytes, bool]:
        """What came since, and whether that was all."""
        # Asked before the read: what was written before the end is then in the file.
        live = self._yard.snapshot().allocations.get(allocation)
        kept = live or self._yard.ledger.allocation(allocation)
        ended = kept is None or not kept.holds(member)
        return self._yard.read_log(allocation, member, offset, FOLLOW_BLOCK_BYTES), ended

    async def _started(self, job: str) -> Allocation | None:
        """The newest allocation of a job that waits, once there is one; None if it never will."""
        seq = -1
        while True:
            record = await self._desk.job(job)
            if record.newest is not None or record.standing.phase.is_final:
                return record.newest
            seq = await self._desk.pulse.beat(seq, STARTED_POLL_S)

    # -- reports -----------------------------------------------------------------------------------

    async def read_reports(
        self,
        id: str,
        member: Member = 0,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    ) -> Response:
        """What a member told by `madang.report`, oldest first.

        Ask again with the `offset` of the answer for what came since.
        """
        job = await self._desk.job(id)
        allocation = await self._desk.allocation(job, attempt)
        if allocation is None:
            return answer(wire.ReportsView(offset=0, reports=[]))
        self._desk.check_member(allocation, member)
        return answer(await self._desk.files.read(self._reports, allocation.id, member, offset))

    def _reports(self, allocation: str, member: int, offset: int) -> wire.ReportsView:
        block = self._yard.read_reports(allocation, member, offset, REPORT_BYTES_MAX)
        whole = block[: block.rfind(b"\n") + 1]
        if not whole and len(block) >= REPORT_BYTES_MAX:
            whole = block  # one endless line: no report, and no reason to stand still before it
        found = (views.report_of(line) for line in whole.splitlines())
        return wire.ReportsView(
            offset=offset + len(whole), reports=[report for report in found if report is not None]
        )


def _log(block: bytes, next_offset: int) -> Response:
    return Response(block, headers={"madang-offset": str(next_offset)}, media_type=TEXT)


def read_full(read: ReadBlock, start: int, bytes_max: int) -> bytes:
    """Up to `bytes_max` bytes from `start`, whatever the size of the engine's own blocks."""
    blocks: list[bytes] = []
    count = 0
    while count < bytes_max and (block := read(start + count, bytes_max - count)):
        blocks.append(block)
        count += len(block)
    return b"".join(blocks)


def log_size(read: ReadBlock) -> int:
    """The bytes of a log, found by asking for single ones: O(log size) reads.

    An engine promises to read from an offset and nothing else; so this works for each of them.
    """
    if not read(0, 1):
        return 0
    high = 1
    while read(high, 1):
        high *= 2
    low = high // 2  # there is a byte at `low`, none at `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if read(middle, 1) else (low, middle)
    return high


def tail_offset(read: ReadBlock, lines: int) -> int:
    """Where the last `lines` lines begin, read backwards block by block.

    A last line without a newline counts as one.
    """
    end = log_size(read)
    if lines == 0 or end == 0:
        return end
    if read(end - 1, 1) == b"\n":
        lines += 1  # the newline at the end ends a line and begins none
    at = end
    while at > 0:
        start = max(0, at - TAIL_BLOCK_BYTES)
        block = read_full(read, start, at - start)
        cut = len(block)
        while (cut := block.rfind(b"\n", 0, cut)) >= 0:
            lines -= 1
            if lines == 0:
                return start + cut + 1
        at = start
    return 0


def logs_router(desk: Desk) -> APIRouter:
    """The table of what one can read of members."""
    logs = Logs(desk)
    one = "/v1/jobs/{id}"
    problems = (404, 422, 503)
    return router_of(
        "jobs",
        [
            Route("GET", one + "/log", logs.read_log, None, 200, problems, "text/plain"),
            Route("GET", one + "/reports", logs.read_reports, wire.ReportsView, 200, problems),
        ],
    )
