"""The calendar: GPUs × window for a project."""

from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter

from madang.api.desk import Desk, router_of
from madang.api.identity import now_ms
from madang.api.nouns import Asked, Family, Noun
from madang.api.problems import Problem
from madang.core.events import ReservationSet
from madang.core.explain_time import refusal_guide
from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.passes.calendar import used_milli
from madang.core.profiles import derived_profiles
from madang.core.reserving import refusal
from madang.core.settings import Reservation
from madang.core.snapshot import Snapshot
from madang.wire import reservations as wire


def _setting(snapshot: Snapshot, asked: Asked) -> Reservation:
    """Raises:
    Problem: 409, it cannot coexist with what there is; says what would work.
    """
    body: wire.ReservationRequest = asked.body
    reservation = Reservation(
        id=body.id,
        project=body.project,
        shape=_shape(snapshot, body),
        members=body.members,
        begin_ms=body.begin_ms,
        end_ms=body.end_ms,
        by=asked.by,
    )
    rejected = refusal(_now(snapshot), reservation)
    if rejected is None:
        return reservation
    text, tries = refusal_guide(rejected)
    raise Problem(
        409,
        "conflict",
        text,
        given=f"{body.members} × {body.gpus} GPUs",
        tries=tries,
        reason=rejected.code,
        numbers=dict(rejected.numbers),
    )


def _shape(snapshot: Snapshot, body: wire.ReservationRequest) -> Shape:
    """What a member gets: its GPUs, and CPU and memory in proportion."""
    named = body.profile or "any"
    for profile in derived_profiles(live.node for live in snapshot.nodes.values()):
        if profile.name == named:
            return profile.shape(body.gpus)
    return Shape(body.gpus, models=(body.profile,) if body.profile else ())


def _now(snapshot: Snapshot) -> Snapshot:
    """A window is judged by the clock, not by the last turn."""
    return replace(snapshot, now_ms=max(snapshot.now_ms, now_ms()))


def _views(snapshot: Snapshot) -> Sequence[wire.ReservationView]:
    known = sorted(snapshot.settings.reservations.values(), key=lambda r: (r.begin_ms, r.id))
    used = used_milli(snapshot.allocations.values(), snapshot.jobs)
    return [_view(one, used.get(one.id, 0)) for one in known]


def _view_of(snapshot: Snapshot, one: Reservation) -> wire.ReservationView:
    used = used_milli(snapshot.allocations.values(), snapshot.jobs)
    return _view(one, used.get(one.id, 0))


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


RESERVATIONS = Noun(
    kind="reservations",
    one="reservation",
    ls="madang reserve ls",
    asked=wire.ReservationRequest,
    view=wire.ReservationView,
    listed=wire.ReservationListView,
    setting=_setting,
    fact=ReservationSet,
    views=_views,
    view_of=_view_of,
    named=False,
    docs=(
        "All reservations, by when they begin, and what jobs inside them hold.",
        """Make a reservation, or change the one of that name.

        What cannot coexist with the machines, the other reservations or jobs that may not be
        stopped is refused (409) with what would work.
        """,
        "Take a reservation away. Jobs inside it go on as ordinary ones.",
    ),
)


def reservations_router(desk: Desk) -> APIRouter:
    """The table of the calendar."""
    of = Family(desk, RESERVATIONS)
    routes = [of.list_route(), of.set_route((409, 422, 503)), of.drop_route()]
    return router_of("reservations", routes)
