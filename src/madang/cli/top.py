"""`madang top`: use of machines and members, again and again on a terminal, once into a pipe."""

from __future__ import annotations

import sys
import time

from madang.cli.desk import Desk
from madang.cli.parse import Given
from madang.cli.show import Column, clean, coloured, mib, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

INTERVAL_S = 2.0
INTERVAL_S_MIN = 0.2
MEMBERS_SHOWN = 40
BAR_CELLS = 10


def top_verb(given: Given, desk: Desk) -> int:
    """Show use now; on a terminal until Ctrl-C."""
    if desk.is_json or given.flag("once") or not sys.stdout.isatty():
        found = desk.client.top()
        desk.answer(found, top_text(found))
        return 0
    interval_s = max(given.number("interval") or INTERVAL_S, INTERVAL_S_MIN)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")  # the other screen, no cursor
    try:
        while True:
            lines = top_text(desk.client.top()).split("\n")
            head = coloured(f"madang top · {time.strftime('%H:%M:%S')} · Ctrl-C ends", "90")
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in [head, *lines]))
            sys.stdout.write("\x1b[J")
            sys.stdout.flush()
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return 0
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")


def top_text(found: Document) -> str:
    """Nodes with their GPUs, then members by their use of CPU."""
    rows = []
    for node in found["nodes"]:
        rows.append([clean(node["id"]), "", _percent(node["cpu_percent"]), "", *_blank(node)])
        rows += [_gpu_row(gpu) for gpu in node["gpus"]]
    columns = [Column("NODE"), Column("GPU", right=True), Column("CPU"), Column("USE")]
    columns += [Column(name, right=True) for name in ("MEMORY", "POWER", "HEAT")]
    text = table(columns, rows)
    members = sorted(
        found["members"], key=lambda each: (-(each["cpu_percent"] or 0), each["job"], each["rank"])
    )
    return f"{text}\n\n{_members(members)}" if members else text


def _gpu_row(gpu: Document) -> list[str]:
    return [
        "",
        str(gpu["index"]),
        "",
        _percent(gpu["util_percent"]),
        mib(gpu["memory_used_mib"]),
        _unit(gpu["power_w"], "W"),
        _unit(gpu["temperature_c"], "°C"),
    ]


def _blank(node: Document) -> list[str]:
    return [mib(node["memory_used_mib"]), "", ""]


def _members(members: list[Document]) -> str:
    columns = [Column("JOB"), Column("RANK", right=True), Column("CPU", right=True)]
    columns.append(Column("MEMORY", right=True))
    rows = [
        [
            clean(each["job"]),
            str(each["rank"]),
            _unit(each["cpu_percent"], "%"),
            mib(each["memory_mib"]),
        ]
        for each in members[:MEMBERS_SHOWN]
    ]
    text = table(columns, rows)
    left = len(members) - MEMBERS_SHOWN
    return f"{text}\n… and {left} more members" if left > 0 else text


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    filled = round(max(0.0, min(value, 100.0)) / 100 * BAR_CELLS)
    return f"{'█' * filled}{'·' * (BAR_CELLS - filled)} {value:3.0f} %"


def _unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.0f} {unit}"
