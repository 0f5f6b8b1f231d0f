"""The calendar: GPUs × window for a project."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.identity import now_ms
from madang.api.problems import Problem
from madang.core.admission import Rejected
from madang.core.events import ReservationSet, SettingDropped
from madang.core.explain_time import refusal_guide
from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.passes.calendar import used_milli
from madang.core.profiles import derived_profiles
from madang.core.reserving import refusal
from madang.core.settings import Reservation
from madang.core.snapshot import Snapshot
from madang.wire import reservations as wire
from madang.wire.jobs import NAME_PATTERN

KNOWN_SHOWN_MAX = 20
ReservationId = Annotated[str, Path(pattern=NAME_PATTERN)]


class Calendar:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def list_reservations(self) -> Response:
        """All reservations, by when they begin, and what jobs inside them hold."""
        return answer(await self._desk.rows.read(self._list))

    def _list(self) -> wire.ReservationListView:
        snapshot = self._yard.snapshot()
        known = sorted(snapshot.settings.reservations.values(), key=lambda r: (r.begin_ms, r.id))
        used = used_milli(snapshot.allocations.values(), snapshot.jobs)
        views = [_view(one, used.get(one.id, 0)) for one in known]
        return wire.ReservationListView(reservations=views)

    async def set_reservation(self, body: wire.ReservationRequest) -> Response:
        """Make a reservation, or change the one of that name.

        What cannot coexist with the machines, the other reservations or jobs that may not be
        stopped is refused (409) with what would work.
        """
        asked = Reservation(
            id=body.id,
            project=body.project,
            shape=await self._desk.rows.read(self._shape, body),
            members=body.members,
            begin_ms=body.begin_ms,
            end_ms=body.end_ms,
        )
        rejected = await self._desk.rows.read(self._refusal, asked)
        if rejected is None:
            await self._yard.ask(ReservationSet(asked))
            snapshot = await self._desk.rows.read(self._yard.snapshot)
            if snapshot.settings.reservations.get(asked.id) == asked:
                return answer(_view(asked, 0))
            # Somebody was quicker: the turn has judged it again, beside theirs.
            rejected = await self._desk.rows.read(self._refusal, asked)
        text, tries = refusal_guide(rejected or Rejected("reservation_window", ()))
        raise Problem(
            409,
            "conflict",
            text,
            given=f"{body.members} × {body.gpus} GPUs",
            tries=tries,
            reason=rejected.code if rejected else "",
            numbers=dict(rejected.numbers) if rejected else {},
        )

    def _shape(self, body: wire.ReservationRequest) -> Shape:
        """What a member gets: its GPUs, and CPU and memory in proportion."""
        named = body.profile or "any"
        nodes = (live.node for live in self._yard.snapshot().nodes.values())
        for profile in derived_profiles(nodes):
            if profile.name == named:
                return profile.shape(body.gpus)
        return Shape(body.gpus, models=(body.profile,) if body.profile else ())

    def _refusal(self, asked: Reservation) -> Rejected | None:
        return refusal(_now(self._yard.snapshot()), asked)

    async def drop_reservation(self, id: ReservationId) -> Response:
        """Take a reservation away. Jobs inside it go on as ordinary ones."""
        known = (await self._desk.rows.read(self._yard.snapshot)).settings.reservations
        if id not in known:
            raise Problem(
                404,
                "not_found",
                f"there is no reservation {id}",
                given=id,
                allowed=", ".join(sorted(known)[:KNOWN_SHOWN_MAX]) or "none",
                tries=["see what there is: `madang reserve ls`, GET /v1/reservations"],
            )
        await self._yard.ask(SettingDropped("reservations", id))
        return answer(await self._desk.rows.read(self._list))


def _now(snapshot: Snapshot) -> Snapshot:
    """A window is judged by the clock, not by the last turn."""
    return replace(snapshot, now_ms=max(snapshot.now_ms, now_ms()))


def _view(one: Reservation, held_milli: int) -> wire.ReservationView:
    at_ms = now_ms()
    state = "waiting" if at_ms < one.begin_ms else "open" if at_ms < one.end_ms else "over"
    return wire.ReservationView(
        id=one.id,
        project=one.project,
        gpus=one.shape.gpus,
        members=one.members,
        profile="|".join(one.shape.models),
        begin_ms=one.begin_ms,
        end_ms=one.end_ms,
        by=one.by,
        state=state,
        held_gpus=held_milli / WHOLE_GPU_MILLI,
    )


def reservations_router(desk: Desk) -> APIRouter:
    """The table of the calendar."""
    of = Calendar(desk)
    all_of_them, one = "/v1/reservations", "/v1/reservations/{id}"
    listed = wire.ReservationListView
    return router_of(
        "reservations",
        [
            Route("GET", all_of_them, of.list_reservations, listed),
            Route(
                "PUT",
                all_of_them,
                of.set_reservation,
                wire.ReservationView,
                200,
                (409, 422, 503),
            ),
            Route("DELETE", one, of.drop_reservation, listed, 200, (404, 422, 503)),
        ],
    )
