"""Disruption budgets: how many members may be down at once."""

from fastapi import APIRouter

from madang.api.desk import Desk, router_of
from madang.api.nouns import Asked, Family, Noun, missing
from madang.core.budgets import budget_of, down_by_budget, members_of
from madang.core.events import BudgetSet
from madang.core.settings import DisruptionBudget
from madang.core.snapshot import Snapshot
from madang.wire import budgets as wire


def _setting(snapshot: Snapshot, asked: Asked) -> DisruptionBudget:
    """Raises:
    Problem: 404, no such project.
    """
    project = asked.body.project
    if project not in snapshot.projects:
        raise missing(
            f"project {project} does not exist",
            project,
            snapshot.projects,
            "see what there is: `madang project ls`, GET /v1/projects",
        )
    return DisruptionBudget(asked.id, project, asked.body.down_max)


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


BUDGETS = Noun(
    kind="budgets",
    one="budget",
    ls="madang budget ls",
    asked=wire.BudgetRequest,
    view=wire.BudgetView,
    listed=wire.BudgetListView,
    setting=_setting,
    fact=BudgetSet,
    views=budget_views,
    view_of=lambda snapshot, one: next(v for v in budget_views(snapshot) if v.id == one.id),
    most=10_000,
    docs=(
        "All budgets, and how many of their members are down now.",
        """Make or change a budget. A job counts under it by naming it, if it is of its project.

        Members that are down already count: until they run again nobody is stopped by choice.
        """,
        "Take a budget away: the jobs that name it may all be down at once.",
    ),
)


def budgets_router(desk: Desk) -> APIRouter:
    """The table of disruption budgets."""
    of = Family(desk, BUDGETS)
    return router_of("budgets", [of.list_route(), of.set_route(), of.drop_route()])
