"""budget ls, set, rm: how many members may be down at once."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]


def budget_ls_verb(_given: Given, desk: Desk) -> int:
    """Budgets and what is down under them."""
    budgets = desk.client.budgets()
    columns = [
        Column("BUDGET"),
        Column("PROJECT"),
        Column("MEMBERS", right=True),
        Column("DOWN", right=True),
        Column("DOWN MAX", right=True),
    ]
    rows = [
        [
            clean(each["id"]),
            clean(each["project"]),
            *[str(each[key]) for key in ("members", "down", "down_max")],
        ]
        for each in budgets
    ]
    desk.answer({"budgets": budgets}, table(columns, rows))
    return 0


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
    desk.answer(budget, f"of {_members(budget)} {down_max} may be down at once")
    return 0


def _members(budget: Document) -> str:
    name, members = clean(budget["id"]), budget["members"]
    return f"the {members} member{'s' * (members != 1)} of budget {name}"


def budget_rm_verb(given: Given, desk: Desk) -> int:
    """Take a budget away."""
    left = desk.client.drop_budget(given.text("budget"))
    desk.answer(left, f"budget {clean(given.text('budget'))} is gone")
    return 0
