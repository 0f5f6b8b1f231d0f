"""May this calendar reservation be made? Asked when it is set, and again by the fold's caller.

What cannot coexist is refused with numbers for a guide: with the machines, with the reservations
that are there, or with jobs that may not be stopped and are not expected to end by then.
"""

from collections.abc import Iterable
from dataclasses import replace

from madang.core.admission import Rejected
from madang.core.draft import Draft
from madang.core.model import UNLIMITED
from madang.core.pool import Pool
from madang.core.settings import Reservation
from madang.core.snapshot import Snapshot
from madang.core.timeline import left_of
from madang.core.windows import Places, Sites, turn_of, whole

RESERVATIONS_MAX = 1_000  # each costs every plan a look
AHEAD_MS_MAX = 366 * 86_400_000  # a mistaken unit must not reserve the next century
NAMED_MAX = 5


def refusal(snapshot: Snapshot, asked: Reservation) -> Rejected | None:
    """Why the reservation cannot be made; None if it can."""
    known = snapshot.settings.reservations
    if asked.id not in known and len(known) >= RESERVATIONS_MAX:
        return Rejected("too_many_reservations", (("most", RESERVATIONS_MAX),))
    window = _window(snapshot, asked)
    if window is not None:
        return window
    project = snapshot.projects.get(asked.project)
    if project is None:
        names = " ".join(sorted(snapshot.projects)) or "none"
        return Rejected("unknown_project", (("asked", asked.project), ("known", names)))
    milli = asked.members * asked.shape.milli
    if project.quota_milli != UNLIMITED and milli > project.quota_milli:
        return Rejected(
            "reservation_over_quota",
            (("asked_milli", milli), ("quota_milli", project.quota_milli)),
        )
    return _room(snapshot, asked)


def _window(snapshot: Snapshot, asked: Reservation) -> Rejected | None:
    numbers = (
        ("begin_ms", asked.begin_ms),
        ("end_ms", asked.end_ms),
        ("now_ms", snapshot.now_ms),
        ("ahead_ms_max", AHEAD_MS_MAX),
    )
    backwards = asked.end_ms <= asked.begin_ms or asked.end_ms <= snapshot.now_ms
    if backwards or asked.end_ms - snapshot.now_ms > AHEAD_MS_MAX:
        return Rejected("reservation_window", numbers)
    return None


def _room(snapshot: Snapshot, asked: Reservation) -> Rejected | None:
    draft = Draft(snapshot)
    empty = _given(draft, snapshot.allocations)
    others = _booked(snapshot, empty, asked)
    beside = _seated(snapshot, empty, asked, others)
    if beside < asked.members:
        alone = _seated(snapshot, empty, asked, [])
        clash = [one.id for one, _ in others if _overlap(one, asked)] if alone > beside else []
        return Rejected(
            "reservation_clash",
            (
                ("members", asked.members),
                ("members_max", beside),
                ("with", " ".join(clash[:NAMED_MAX]) or "none"),
                ("begin_ms", _next_begin_ms(snapshot, empty, asked, others)),
            ),
        )
    stays = _who_stays(snapshot, asked)
    left = _given(draft, [id for id in snapshot.allocations if id not in stays])
    room = _seated(snapshot, left, asked, others)
    if room >= asked.members:
        return None
    return Rejected(
        "reservation_blocked",
        (
            ("members", asked.members),
            ("members_max", room),
            ("by", " ".join(sorted(dict.fromkeys(stays.values()))[:NAMED_MAX])),
        ),
    )


def _given(draft: Draft, ids: Iterable[str]) -> Pool:
    """The yard as if these allocations had ended."""
    pool = draft.view.scratch()
    for id in ids:
        allocation = draft.snapshot.allocations[id]
        for place in draft.held_places(allocation):
            pool.give(place, allocation.shape)
    return pool


def _who_stays(snapshot: Snapshot, asked: Reservation) -> dict[str, str]:
    """Allocation → job, of those that may not be stopped and are not expected to end by then."""
    stays = {}
    for id, allocation in snapshot.allocations.items():
        live = snapshot.jobs.get(allocation.job)
        if live is None or live.allocation != id or live.job.preemptible:
            continue
        if left_of(snapshot, allocation).end_ms(snapshot.now_ms) > asked.begin_ms:
            stays[id] = allocation.job
    return stays


Booked = list[tuple[Reservation, Places]]


def _booked(snapshot: Snapshot, empty: Pool, asked: Reservation) -> Booked:
    """Where the others would be, one after the other, in an empty yard."""
    others: Booked = []
    sites = Sites(snapshot)
    for one in sorted(snapshot.settings.reservations.values(), key=turn_of):
        if one.id != asked.id and snapshot.now_ms < one.end_ms:
            others.append((one, sites.fit(_without(empty, one, others), whole(one))))
    return others


def _without(empty: Pool, asked: Reservation, others: Booked) -> Pool:
    pool = empty.scratch()
    for one, places in others:
        if _overlap(one, asked):
            pool.block(places, one.shape)
    return pool


def _seated(snapshot: Snapshot, empty: Pool, asked: Reservation, others: Booked) -> int:
    """How many of its members there is room for beside the others."""
    return len(Sites(snapshot).fit(_without(empty, asked, others), whole(asked)))


def _overlap(one: Reservation, other: Reservation) -> bool:
    return one.begin_ms < other.end_ms and other.begin_ms < one.end_ms


def _next_begin_ms(snapshot: Snapshot, empty: Pool, asked: Reservation, others: Booked) -> int:
    """The next time at which as long a window would fit; 0 if none does."""
    length_ms = asked.end_ms - asked.begin_ms
    for begin_ms in sorted(one.end_ms for one, _ in others if one.end_ms > asked.begin_ms):
        later = replace(asked, begin_ms=begin_ms, end_ms=begin_ms + length_ms)
        if _seated(snapshot, empty, later, others) >= asked.members:
            return begin_ms
    return 0
