"""Disruption budgets as they go over the wire."""

from pydantic import BaseModel, ConfigDict, Field

from madang.wire.jobs import NAME_PATTERN


class BudgetRequest(BaseModel):
    """How many members of those jobs of a project that count under it may be down at once."""

    model_config = ConfigDict(extra="forbid", title="Budget")

    project: str = Field(
        "default",
        pattern=NAME_PATTERN,
        description="Whose jobs may count under it.",
    )
    down_max: int = Field(
        ge=0,
        le=1_000_000,
        description="Members that may be down at once, those that are down anyway counted in.",
        examples=[1],
    )


class BudgetView(BudgetRequest):
    """A budget, and how many of its members are down now."""

    model_config = ConfigDict(title="Budget")

    id: str
    members: int = Field(description="Members that should run.")
    down: int = Field(description="Those of them that do not.")


class BudgetListView(BaseModel):
    """All budgets, by name."""

    budgets: list[BudgetView]
