"""Holes: room that is made by moving jobs, and kept for one to come.

Not of the family of `api/nouns.py`: a hole is not set but searched for, made in the turn or not at
all, and reckoned without being made.
"""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.identity import now_ms
from madang.api.problems import Problem
from madang.core import explain_upkeep
from madang.core.draft import Draft
from madang.core.events import HoleAsked, SettingDropped
from madang.core.holes import HolePlan, NoHole, plan_hole
from madang.core.model import WHOLE_GPU_MILLI, ReleaseReason, Seat
from madang.core.passes.honour import honour
from madang.core.passes.make_room import make_room
from madang.core.settings import Hole
from madang.core.snapshot import Snapshot
from madang.wire import holes as wire
from madang.wire.jobs import JobRequest

HOLES_MAX = 64  # each is looked at in every turn


class Holes:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def list_holes(self) -> Response:
        """Every hole that is kept."""
        return answer(await self._desk.rows.read(self._list))

    def _list(self) -> wire.HoleListView:
        snapshot = self._yard.snapshot()
        kept = sorted(snapshot.settings.holes.values(), key=lambda hole: hole.key)
        return wire.HoleListView(holes=[_kept_view(snapshot, hole) for hole in kept if hole.seats])

    async def make(self, request: Request, body: wire.HoleRequest) -> Response:
        """Make room: move who can go elsewhere; keep it for the first job that asks for all of it.

        With `dry_run` nothing happens; the answer says who would move where and what it would cost.
        """
        view, hole = await self._desk.rows.read(self._reckon, body, who(request).name)
        if body.dry_run:
            return answer(view)
        await self._yard.ask(HoleAsked(hole))
        return answer(await self._desk.rows.read(self._made, hole), 201)

    async def drop(self, request: Request, id: str) -> Response:
        """Give a hole up. Who moved for it stays where it is."""
        kept = await self._desk.rows.read(self._one, id)
        await self._yard.ask(SettingDropped("holes", id, who(request).name))
        return answer(kept)

    def _reckon(self, body: wire.HoleRequest, by: str) -> tuple[wire.HoleView, Hole]:
        """What would happen now; the same search over the same yard as the turn's.

        Raises:
            Problem: there is no such hole to be made.
        """
        snapshot = self._yard.snapshot()
        hole = self._hole(snapshot, body, by)
        plan = plan_hole(_draft(snapshot), hole)
        if isinstance(plan, NoHole):
            raise _impossible(snapshot, hole, plan)
        return _planned_view(snapshot, hole, plan, dry=body.dry_run), hole

    def _hole(self, snapshot: Snapshot, body: wire.HoleRequest, by: str) -> Hole:
        holes = snapshot.settings.holes
        if body.project and body.project not in snapshot.projects:
            known = sorted(snapshot.projects)[:20]
            raise Problem(
                404, "no_such_project", "no such project", given=body.project, allowed=known
            )
        if body.name in holes or len(holes) >= HOLES_MAX:
            raise Problem(
                409,
                "conflict",
                "there is a hole of this name" if body.name in holes else "too many holes are kept",
                given=body.name,
                tries=["give one up: madang make-room --drop NAME"],
            )
        free = next(n for n in range(1, len(holes) + 2) if f"room-{n}" not in holes)
        asked = JobRequest(command=["room"], gpus=body.gpus, profile=body.profile)
        return Hole(
            id=body.name or f"room-{free}",
            shape=self._yard.shape_of(asked),
            members=body.members,
            until_ms=now_ms() + body.kept,
            within=body.within,
            project=body.project,
            by=by,
        )

    def _made(self, hole: Hole) -> wire.HoleView:
        snapshot = self._yard.snapshot()
        kept = snapshot.settings.holes.get(hole.id)
        if kept is None or not kept.seats:
            plan = plan_hole(_draft(snapshot), hole)
            why = plan if isinstance(plan, NoHole) else NoHole("changed")
            raise _impossible(snapshot, hole, why)
        return _kept_view(snapshot, kept)

    def _one(self, id: str) -> wire.HoleView:
        snapshot = self._yard.snapshot()
        hole = snapshot.settings.holes.get(id)
        if hole is None:
            known = sorted(snapshot.settings.holes)
            raise Problem(404, "no_such_hole", "no such hole", given=id[:128], allowed=known)
        return _kept_view(snapshot, hole)


def _draft(snapshot: Snapshot) -> Draft:
    """What the turn's own pass would find: promises and other holes are kept."""
    draft = Draft(snapshot)
    honour(draft)
    make_room(draft)
    return draft


def _impossible(snapshot: Snapshot, hole: Hole, why: NoHole) -> Problem:
    return Problem(
        409,
        "no_room",
        explain_upkeep.no_hole(hole, why, snapshot.policy.levels),
        given=f"{hole.members}x{hole.shape.gpus}",
        tries=explain_upkeep.smaller_hole(hole, why),
    )


def _planned_view(snapshot: Snapshot, hole: Hole, plan: HolePlan, *, dry: bool) -> wire.HoleView:
    ids = snapshot.node_ids
    moves = [
        _move(
            move.mover.job.id,
            move.mover.allocation.shape.milli * len(move.places),
            [seat.node for seat in move.mover.allocation.seats],
            [ids[row] for row, _ in move.places],
            move.mover.bill_gpu_ms,
        )
        for move in plan.moves
    ]
    seats = tuple(Seat(ids[row], gpus) for row, gpus in plan.places)
    return _view(hole, seats, moves, until_ms=0 if dry else hole.until_ms)


def _kept_view(snapshot: Snapshot, hole: Hole) -> wire.HoleView:
    """The hole and those that still leave it."""
    nodes = {seat.node for seat in hole.seats}
    moves = [
        _move(
            allocation.job,
            allocation.shape.milli * len(allocation.seats),
            [seat.node for seat in allocation.seats],
            [seat.node for seat in snapshot.nominations.get(allocation.job, ())],
            explain_upkeep.move_cost_gpu_ms(snapshot, allocation),
        )
        for allocation in snapshot.allocations.values()
        if allocation.release_reason is ReleaseReason.MOVED
        and nodes & {seat.node for seat in allocation.seats}
    ]
    return _view(hole, hole.seats, moves, until_ms=hole.until_ms)


def _move(
    job: str, milli: int, leaves: list[str], goes_to: list[str], bill_gpu_ms: int
) -> wire.MoveView:
    return wire.MoveView(
        job=job,
        gpus=milli / WHOLE_GPU_MILLI,
        leaves=list(dict.fromkeys(leaves)),
        goes_to=list(dict.fromkeys(goes_to)),
        cost_gpu_s=bill_gpu_ms // 1000,
    )


def _view(
    hole: Hole, seats: tuple[Seat, ...], moves: list[wire.MoveView], *, until_ms: int
) -> wire.HoleView:
    cost_gpu_s = sum(move.cost_gpu_s for move in moves)
    return wire.HoleView(
        id=hole.id,
        members=hole.members,
        gpus=hole.shape.gpus,
        within=hole.within,
        project=hole.project,
        by=hole.by,
        until_ms=until_ms,
        is_free=not moves,
        pieces=[wire.PieceView(node=seat.node, gpus=list(seat.gpus)) for seat in seats],
        moves=moves,
        cost_gpu_s=cost_gpu_s,
        text=explain_upkeep.hole_cost(len(moves), cost_gpu_s),
    )


def holes_router(desk: Desk) -> APIRouter:
    """The table of what one can do with holes."""
    holes = Holes(desk)
    problems = (404, 409, 422, 503)
    return router_of(
        "holes",
        [
            Route("GET", "/v1/holes", holes.list_holes, wire.HoleListView),
            Route("POST", "/v1/holes", holes.make, wire.HoleView, 201, problems, also=200),
            Route("DELETE", "/v1/holes/{id}", holes.drop, wire.HoleView, 200, (404, 503)),
        ],
    )
