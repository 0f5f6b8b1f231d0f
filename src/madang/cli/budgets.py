"""budget ls, set, rm: how many members may be down at once."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.kept import Kept
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]


def _row(budget: Document) -> list[str]:
    counts = [str(budget[key]) for key in ("members", "down", "down_max")]
    return [clean(budget["id"]), clean(budget["project"]), *counts]


BUDGETS = Kept(
    "budgets",
    [
        Column("BUDGET"),
        Column("PROJECT"),
        Column("MEMBERS", right=True),
        Column("DOWN NOW", right=True),
        Column("DOWN AT MOST", right=True),
    ],
    _row,
    "no budgets yet: madang budget set NAME --project PROJECT --down-max MEMBERS",
)


def budget_ls_verb(_given: Given, desk: Desk) -> int:
    """Budgets and what is down under them."""
    return BUDGETS.listed(desk)


def budget_set_verb(given: Given, desk: Desk) -> int:
    """Make or change a budget."""
    down_max = given.count("down_max")
    if down_max is None or down_max < 0:
        raise UsageError(
            "how many members may be down at once?",
            code="usage",
            given="" if down_max is None else str(down_max),
            allowed="--down-max MEMBERS, 0 or more",
        )
    budget = desk.client.set_budget(
        given.text("budget"), down_max, given.text("project") or "default"
    )
    return BUDGETS.shown(desk, budget)


def budget_rm_verb(given: Given, desk: Desk) -> int:
    """Take a budget away."""
    left = desk.client.drop_budget(given.text("budget"))
    desk.answer(left, f"budget {clean(given.text('budget'))} is gone")
    return 0
