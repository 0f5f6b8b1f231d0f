"""Where windows are in a pool that fills as time goes on, at one time after the other.

To place all of them anew each time costs most where nothing has changed for them. A window's place
depends on nothing but how many of its members each row has room for, and on the devices of the rows
that it is on (windows.py). So who is on none of the rows that changed, and has as much room on them
as he had, as far as his members count, is where he was.

Promises: the same places as placing anew, up to `PLACED_MAX`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from madang.core.model import Shape
from madang.core.placement import members_room, room_on
from madang.core.pool import Ints, Pool
from madang.core.windows import Places, Sites, Want

PLACED_MAX = 1_024  # windows placed in a pool; beyond it who has a place keeps that, if it fits
FEW = 32  # rows, up to which it is cheaper to look at them one by one


@dataclass(frozen=True, slots=True)
class Due:
    """Who is gone when."""

    at_ms: int
    places: Places
    shape: Shape


@dataclass(slots=True)
class Filling:
    """A pool to which ever more is given back. `due` in order; `given`: so many of them are gone.

    `fresh`: rows on which somebody has gone since the windows were looked at.
    """

    sites: Sites
    pool: Pool
    due: list[Due]
    given: int = 0
    fresh: set[int] = field(default_factory=set)
    placed: int = 0
    _known: dict[Want, tuple[Places, Ints]] = field(default_factory=dict)  # with room by row
    _left: Pool | None = None  # without the places of those that are known
    _rooms: dict[Want, Ints] = field(default_factory=dict)

    def until(self, at_ms: int) -> None:
        """Let go who is gone by then; to be asked for ever later times."""
        while self.given < len(self.due) and self.due[self.given].at_ms <= at_ms:
            one = self.due[self.given]
            for place in one.places:
                self.pool.give(place, one.shape)
                if self._left is not None:
                    self._left.give(place, one.shape)
            rows = {row for row, _ in one.places}
            self.fresh |= rows
            for want, room in self._rooms.items():
                self._look(want, room, rows)
            self.given += 1

    def has_room(self, want: Want) -> bool:
        """False if the window surely lacks members, also if there were no other."""
        if want not in self._rooms:
            rows = self.sites.rows_of(self.pool, want)
            self._rooms[want] = members_room(self.pool, want.shape, rows)
        return int(self._rooms[want].sum()) >= want.members

    def _look(self, want: Want, room: Ints, rows: set[int]) -> None:
        eligible = self.sites.rows_of(self.pool, want)
        for row in rows:
            if eligible is None or eligible.item(row):
                room[row] = room_on(self.pool, row, want.shape)

    def in_turn(self, wants: Sequence[Want]) -> list[Places]:
        """Where each of the windows goes that comes after those before it."""
        dirty, self.fresh = self.fresh, set()
        for want in [one for one in self._known if one not in wants]:
            places, _ = self._known.pop(want)
            dirty.update(row for row, _ in places)
            if self._left is not None:
                for place in places:
                    self._left.give(place, want.shape)
        # Nobody so far is on a row that changed: of those all that the pool has is left to him.
        same = 0
        while same < len(wants) and self._is_same(self.pool, wants[same], dirty):
            same += 1
        left = self._left
        if left is None or same < len(self._known):
            left = self.pool.scratch()
            for want in wants[:same]:
                left.take(self._known[want][0], want.shape)
        for want in wants[same:]:
            if not self._is_same(left, want, dirty):
                dirty.update(self._place(left, want))
            left.take(self._known[want][0], want.shape)
        self._left = left
        return [self._known[want][0] for want in wants]

    def _is_same(self, left: Pool, want: Want, dirty: set[int]) -> bool:
        """True if the window is where it was, after these rows have changed. Where cells are
        promised, which rows these close depends on all that is taken."""
        if want not in self._known:
            return False
        if not dirty:
            return True
        places, room = self._known[want]
        if self.sites.snapshot.cells is not None or any(row in dirty for row, _ in places):
            return False
        rows = self.sites.rows_of(left, want)
        if len(dirty) > FEW:
            now = np.minimum(members_room(left, want.shape, rows), want.members)
            return np.array_equal(now, room)
        return all(
            min(room_on(left, row, want.shape), want.members) == room.item(row)
            for row in dirty
            if rows is None or rows.item(row)
        )

    def _place(self, left: Pool, want: Want) -> set[int]:
        """Place it anew; the rows on which something changes by that for those after it."""
        self.placed += 1
        were = self._known[want][0] if want in self._known else ()
        places, whole = were, len(were) == want.members
        if self.placed <= PLACED_MAX or not whole or not left.has_free(were, want.shape):
            places = self.sites.fit(left, want)
        room = members_room(left, want.shape, self.sites.rows_of(left, want))
        self._known[want] = places, np.minimum(room, want.members)
        return {row for row, _ in (*were, *places)} if places != were else set()
