"""`madang make-room`: room by moving jobs; who moves where, and what it costs."""

from __future__ import annotations

import re

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, duration, gpus, pairs, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]?)")
MOVES_SHOWN = 30
NODES_SHOWN = 4


def make_room_verb(given: Given, desk: Desk) -> int:
    """Make room, list what is kept, or give it up."""
    if name := given.text("drop"):
        desk.answer(desk.client.drop_hole(name), f"{clean(name)} is given up")
        return 0
    if not given.text("size"):
        return _list(desk)
    hole = desk.client.make_room(**_asked(given))
    desk.answer(hole, "" if desk.is_json else hole_text(hole, dry=given.flag("dry_run")))
    return 0


def _asked(given: Given) -> Document:
    size = SIZE.fullmatch(given.text("size").lower())
    if size is None:
        raise UsageError(
            "not a size",
            code="usage",
            given=given.text("size"),
            allowed="NODESxGPUS, for example 8x8",
            tries=["madang make-room 8x8 --dry-run"],
        )
    asked: Document = {"members": int(size[1]), "gpus": int(size[2])}
    for option in ("profile", "within", "project", "name"):
        if given.text(option):
            asked[option] = given.text(option)
    if given.text("for"):
        asked["kept"] = given.text("for")
    if given.flag("dry_run"):
        asked["dry_run"] = True
    return asked


def hole_text(hole: Document, *, dry: bool) -> str:
    """A hole as names and values, then who moves."""
    import time

    kept_ms = hole["until_ms"] - int(time.time() * 1000)
    nodes = dict.fromkeys(piece["node"] for piece in hole["pieces"])
    rows = [
        ("room", f"{clean(hole['id'])}: {hole['members']} × {hole['gpus']} GPUs"),
        ("on", _nodes(list(nodes))),
        ("for", clean(hole["project"]) if hole["project"] else "the first who asks for all of it"),
        ("kept", "" if dry else duration(kept_ms)),
        ("cost" if dry else "is", clean(hole["text"])),
    ]
    if dry:
        rows.append(("", "nothing was done (--dry-run)"))
    text = pairs([row for row in rows if row[1]])
    return f"{text}\n\n{_moves(hole['moves'])}" if hole["moves"] else text


def _moves(moves: list[Document]) -> str:
    columns = [
        Column("MOVES", shrinks=True),
        Column("GPUS", right=True),
        Column("LEAVES"),
        Column("GOES TO"),
        Column("COST", right=True),
    ]
    rows = [
        [
            clean(move["job"]),
            gpus(move["gpus"]),
            _nodes(move["leaves"]),
            _nodes(move["goes_to"]),
            f"{move['cost_gpu_s'] / 3600:.2f} GPU-h",
        ]
        for move in moves[:MOVES_SHOWN]
    ]
    more = len(moves) - MOVES_SHOWN
    return table(columns, rows) + (f"\n… and {more} more" if more > 0 else "")


def _nodes(nodes: list[str]) -> str:
    shown = ", ".join(clean(node) for node in nodes[:NODES_SHOWN])
    more = len(nodes) - NODES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown or "–"


def _list(desk: Desk) -> int:
    import time

    holes = desk.client.holes()
    columns = [
        Column("ROOM"),
        Column("SIZE"),
        Column("FOR"),
        Column("KEPT", right=True),
        Column("NODES", shrinks=True),
        Column("STATE", shrinks=True),
    ]
    now_ms = int(time.time() * 1000)
    rows = [
        [
            clean(hole["id"]),
            f"{hole['members']}x{hole['gpus']}",
            clean(hole["project"] or "anybody"),
            duration(hole["until_ms"] - now_ms),
            _nodes(list(dict.fromkeys(piece["node"] for piece in hole["pieces"]))),
            "free" if hole["is_free"] else f"{len(hole['moves'])} still leaving",
        ]
        for hole in holes
    ]
    desk.answer({"holes": holes}, table(columns, rows) if rows else "no room is kept")
    return 0
