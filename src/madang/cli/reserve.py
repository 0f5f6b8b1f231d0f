"""reserve ls, add, rm: GPUs × window for a project."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.kept import Kept
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, gpus

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

WHEN = "now, +2h, or a date and time such as 2026-11-22T02:00"


def _row(one: Document) -> list[str]:
    return [
        clean(one["id"]),
        clean(one["project"]),
        str(one["members"]),
        str(one["gpus"]),
        clean(one["profile"] or "any"),
        _shown(one["begin_ms"]),
        _shown(one["end_ms"]),
        clean(one["state"]),
        gpus(one["held_gpus"]),
    ]


def _shown(at_ms: int) -> str:
    from datetime import UTC, datetime

    local = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone()
    return local.strftime("%Y-%m-%d %H:%M")


RESERVATIONS = Kept(
    "reservations",
    [
        Column("NAME"),
        Column("PROJECT"),
        Column("MEMBERS", right=True),
        Column("GPUS EACH", right=True),
        Column("PROFILE"),
        Column("BEGIN"),
        Column("END"),
        Column("STATE"),
        Column("GPUS HELD", right=True),
    ],
    _row,
    "no reservations yet: madang reserve add NAME --project PROJECT --gpus 8 --begin +1h --for 6h",
)


def reserve_ls_verb(_given: Given, desk: Desk) -> int:
    """Reservations, by when they begin."""
    return RESERVATIONS.listed(desk)


def reserve_add_verb(given: Given, desk: Desk) -> int:
    """Make or change a reservation."""
    return RESERVATIONS.shown(desk, desk.client.set_reservation(_body(given)))


def reserve_rm_verb(given: Given, desk: Desk) -> int:
    """Take a reservation away."""
    name = given.text("name")
    left = desk.client.drop_reservation(name)
    desk.answer(left, f"reservation {clean(name)} is taken away")
    return 0


def _body(given: Given) -> Document:
    import time

    now_ms = int(time.time() * 1000)
    begin_ms = _at_ms("--begin", given.text("begin") or "now", now_ms)
    length, end = given.text("for"), given.text("end")
    if bool(length) == bool(end):
        raise UsageError(
            "say how long, or when it ends: one of the two",
            code="usage",
            allowed="--for 6h, or --end WHEN",
        )
    end_ms = begin_ms + _length_ms("--for", length) if length else _at_ms("--end", end, now_ms)
    return {
        "id": given.text("name"),
        "project": given.text("project") or "default",
        "gpus": given.count("gpus") or 1,
        "members": given.count("members") or 1,
        "profile": given.text("profile"),
        "begin_ms": begin_ms,
        "end_ms": end_ms,
    }


def _at_ms(option: str, text: str, now_ms: int) -> int:
    """A moment in words, in ms since 1970."""
    from datetime import datetime

    if text == "now":
        return now_ms
    if text.startswith("+"):
        return now_ms + _length_ms(option, text[1:])
    if text.isdecimal() and len(text) > 9:
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} is not a time", code="usage", given=text, allowed=WHEN
        ) from None


def _length_ms(option: str, text: str) -> int:
    from madang.wire.jobs import duration_ms

    try:
        return duration_ms(text)
    except ValueError as wrong:
        raise UsageError(
            f"{option}: {wrong}", code="usage", given=text, allowed="90m, 6h, 1d12h"
        ) from None
