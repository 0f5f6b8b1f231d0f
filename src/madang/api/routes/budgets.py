"""Disruption budgets: how many members may be down at once."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.problems import Problem
from madang.core.budgets import budget_of, down_by_budget, members_of
from madang.core.events import BudgetSet, SettingDropped
from madang.core.settings import DisruptionBudget
from madang.core.snapshot import Snapshot
from madang.wire import budgets as wire
from madang.wire.jobs import NAME_PATTERN

BUDGETS_MAX = 10_000
KNOWN_SHOWN_MAX = 20
BudgetId = Annotated[str, Path(pattern=NAME_PATTERN)]


class Budgets:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def list_budgets(self) -> Response:
        """All budgets, and how many of their members are down now."""
        return answer(await self._desk.rows.read(self._list))

    async def set_budget(self, id: BudgetId, body: wire.BudgetRequest) -> Response:
        """Make or change a budget. A job counts under it by naming it, if it is of its project.

        Members that are down already count: until they run again nobody is stopped by choice.
        """
        snapshot = await self._desk.rows.read(self._yard.snapshot)
        known = snapshot.settings.budgets
        if body.project not in snapshot.projects:
            raise Problem(
                404,
                "not_found",
                f"project {body.project} does not exist",
                given=body.project,
                allowed=_shown(list(snapshot.projects)),
                tries=["see what there is: `madang project ls`, GET /v1/projects"],
            )
        if id not in known and len(known) >= BUDGETS_MAX:
            raise Problem(
                409, "conflict", "there are too many budgets", given=id, allowed=BUDGETS_MAX
            )
        await self._yard.ask(BudgetSet(DisruptionBudget(id, body.project, body.down_max)))
        found = await self._desk.rows.read(self._list)
        return answer(next(one for one in found.budgets if one.id == id))

    async def drop_budget(self, id: BudgetId) -> Response:
        """Take a budget away: the jobs that name it may all be down at once."""
        known = (await self._desk.rows.read(self._yard.snapshot)).settings.budgets
        if id not in known:
            raise Problem(
                404,
                "not_found",
                f"there is no budget {id}",
                given=id,
                allowed=_shown(list(known)),
                tries=["see what there is: `madang budget ls`, GET /v1/budgets"],
            )
        await self._yard.ask(SettingDropped("budgets", id))
        return answer(await self._desk.rows.read(self._list))

    def _list(self) -> wire.BudgetListView:
        return wire.BudgetListView(budgets=budget_views(self._yard.snapshot()))


def budget_views(snapshot: Snapshot) -> list[wire.BudgetView]:
    """Every budget with its members, those that are down among them."""
    budgets = snapshot.settings.budgets
    down = down_by_budget(budgets, snapshot.jobs.values(), snapshot.allocations)
    members = dict.fromkeys(budgets, 0)
    for live in snapshot.jobs.values() if budgets else ():
        id = budget_of(budgets, live.job)
        if id and not live.standing.stop_asked:
            held = snapshot.allocations.get(live.allocation) if live.allocation else None
            members[id] += members_of(live.job, held)
    return [
        wire.BudgetView(
            id=id,
            project=one.project,
            down_max=one.down_max,
            members=members[id],
            down=down[id],
        )
        for id, one in sorted(budgets.items())
    ]


def _shown(names: list[str]) -> str:
    more = len(names) - KNOWN_SHOWN_MAX
    shown = ", ".join(sorted(names)[:KNOWN_SHOWN_MAX]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def budgets_router(desk: Desk) -> APIRouter:
    """The table of disruption budgets."""
    of = Budgets(desk)
    one = "/v1/budgets/{id}"
    return router_of(
        "budgets",
        [
            Route("GET", "/v1/budgets", of.list_budgets, wire.BudgetListView),
            Route("PUT", one, of.set_budget, wire.BudgetView, 200, (404, 409, 422, 503)),
            Route("DELETE", one, of.drop_budget, wire.BudgetListView, 200, (404, 422, 503)),
        ],
    )
