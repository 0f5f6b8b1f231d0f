"""Rows of integers that only grow at the end: the books' tables.

8 bytes a number, whatever the number of events; numpy sees a table as (rows, width) int64.
"""

from array import array

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Rows:
    """A table of so many columns."""

    __slots__ = ("_values", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self._values = array("q")

    def __len__(self) -> int:
        return len(self._values) // self.width

    def add(self, *row: int) -> None:
        """Append a row."""
        assert len(row) == self.width, f"{len(row)} numbers, {self.width} columns: {row}"
        self._values.extend(row)

    def table(self) -> Ints:
        """(rows, width): a copy, so that the rows may grow on."""
        return np.array(self._values, np.int64).reshape(-1, self.width)

    def drop_first(self, rows: int) -> None:
        """Forget the oldest rows."""
        del self._values[: rows * self.width]
