"""The yard as a whole: health, overview, the event stream."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from madang.api import views
from madang.api.desk import Desk, Route, answer, router_of
from madang.api.identity import now_ms
from madang.api.streams import Stream
from madang.wire import views as wire

ENDED_COUNTS_LIVE_MS = 2_000  # counting all ended jobs of years is not for every look
EVENT_STREAM = "text/event-stream"


class WholeYard:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard
        self._ended: tuple[int, dict[str, int]] = (0, {})

    async def health(self) -> Response:
        """Whether the daemon answers. Needs no token."""
        return answer(wire.HealthView(version=self._yard.version, role=self._yard.role))

    async def overview(self) -> Response:
        """The yard in one picture."""
        return answer(await self._desk.rows.read(self._overview))

    def _overview(self) -> wire.OverviewView:
        seq = self._yard.last_seq  # read first: what comes meanwhile is told once more, not lost
        snapshot = self._yard.snapshot()
        return wire.OverviewView(
            seq=seq,
            now_ms=now_ms(),
            version=self._yard.version,
            cluster=self._desk.settings.cluster,
            counts={**self._ended_counts(), **views.phase_counts(snapshot)},
            gpus=views.gpu_counts(snapshot),
            nodes=len(snapshot.node_ids),
        )

    def _ended_counts(self) -> dict[str, int]:
        counted_ms, counts = self._ended
        if now_ms() - counted_ms > ENDED_COUNTS_LIVE_MS:
            counts = {
                phase.value: count
                for phase, count in self._yard.ledger.phase_counts().items()
                if phase.is_final
            }
            self._ended = (now_ms(), counts)
        return counts

    async def stream_events(
        self,
        last_event_id: Annotated[str, Header(pattern=r"^\d{0,15}$")] = "",
        after: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    ) -> Response:
        """State changes as they are committed, as server-sent events.

        Each has the journal's sequence as its id; a client that comes back with `Last-Event-ID`
        (browsers do it by themselves) or `after` misses none. Without either it begins now. Types:
        `job`, `node`, `project`, `setting` (the policy, quotas, zones and their like), and `gap`
        where the journal has been pruned meanwhile: read anew.
        A client that does not read is cut off after a while, and may resume.
        """
        place = int(last_event_id) if last_event_id else after
        return Stream(
            self._desk.feed.listen(place),
            EVENT_STREAM,
            stall_wait_s=self._desk.settings.limits.stall_wait_s,
            leaving=self._desk.leaving,
            headers={"x-accel-buffering": "no"},
        )


def yard_router(desk: Desk) -> APIRouter:
    """The table of what concerns the whole yard."""
    yard = WholeYard(desk)
    return router_of(
        "yard",
        [
            Route("GET", "/v1/health", yard.health, wire.HealthView),
            Route("GET", "/v1/overview", yard.overview, wire.OverviewView),
            Route("GET", "/v1/events", yard.stream_events, None, 200, (422, 503), EVENT_STREAM),
        ],
    )
