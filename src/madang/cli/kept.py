"""What operators set (zones, quotas, reservations, budgets, …), shown: one table a noun."""

from __future__ import annotations

from madang.cli.show import table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from madang.cli.desk import Desk
    from madang.cli.show import Column

    Document = dict[str, Any]


class Kept:
    """A noun: its name in the API and the client, its columns, one of them as a row.

    `none` is said where there is nothing yet: what to type.
    """

    __slots__ = ("columns", "none", "noun", "row")

    def __init__(
        self,
        noun: str,
        columns: Sequence[Column],
        row: Callable[[Document], list[str]],
        none: str,
    ) -> None:
        self.noun = noun
        self.columns = columns
        self.row = row
        self.none = none

    def text(self, found: Sequence[Document]) -> str:
        """The table."""
        return table(self.columns, [self.row(each) for each in found]) if found else self.none

    def listed(self, desk: Desk) -> int:
        """All of them: `madang NOUN ls`."""
        found = getattr(desk.client, self.noun)()
        desk.answer({self.noun: found}, self.text(found))
        return 0

    def shown(self, desk: Desk, view: Document) -> int:
        """The one that was made or changed: `madang NOUN set`."""
        desk.answer(view, self.text([view]))
        return 0
