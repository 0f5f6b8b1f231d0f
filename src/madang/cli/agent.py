"""`madang agent`: reads this node's sensors and pushes a frame an interval to a daemon."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    from madang.agent.loop import Settings

    Document = dict[str, Any]

INTERVAL = "10s"
BUFFER_MAX = "256MiB"
BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
KEYS_SHOWN = 8  # of one metric; the rest is counted


def agent_verb(given: Given, desk: Desk) -> int:
    """Run until it is told to stop; with --once one frame, with --print nowhere but here."""
    from madang.agent.buffer import BufferError_
    from madang.agent.loop import AgentError, checked, run_agent

    _begin_log()
    try:
        settings = checked(_settings(given))
        if given.flag("print"):
            return _print(settings, desk, once=given.flag("once"))
        return run_agent(settings, once=given.flag("once"))
    except (AgentError, BufferError_) as error:
        raise UsageError(str(error), code="usage", tries=["madang agent --help"]) from None


def _settings(given: Given) -> Settings:
    from madang.agent.kernel_source import KMSG
    from madang.agent.loop import Settings
    from madang.client.places import address_and_token

    url, token = given.text("url"), ""
    token_file = given.text("token_file")
    if not given.flag("print"):
        url, token = address_and_token(url, None, os.environ)
    buffer, pods = given.text("buffer"), given.text("pod_resources")
    return Settings(
        url=url,
        token_file=Path(token_file) if token_file else None,
        token="" if token_file else token,
        node=given.text("node"),
        interval_ms=_interval_ms(given.text("interval") or INTERVAL),
        dcgm=given.text("dcgm"),
        pod_resources=Path(pods) if pods else None,
        kernel_log=Path(given.text("kernel_log") or KMSG),
        buffer=Path(buffer) if buffer else None,
        buffer_bytes_max=_bytes(given.text("buffer_max") or BUFFER_MAX),
    )


def _interval_ms(text: str) -> int:
    from madang.wire.jobs import duration_ms

    try:
        return duration_ms(text)
    except ValueError as wrong:
        raise UsageError(f"--interval: {wrong}", code="usage", given=text) from None


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12})\s*([KMG]iB|B|)", text.strip())
    if found is None:
        raise UsageError(
            "--buffer-max is not a size", code="usage", given=text, allowed="64MiB, 2GiB"
        )
    return int(found[1]) * BYTES[found[2]]


def _begin_log() -> None:
    import logging

    level = os.environ.get("MADANG_LOG", "warning" if sys.stderr.isatty() else "info").upper()
    known = level if level in ("DEBUG", "INFO", "WARNING", "ERROR") else "WARNING"
    # No time: who reads a log in the background stamps its lines.
    logging.basicConfig(level=known, format="%(levelname)s %(message)s")


def _print(settings: Settings, desk: Desk, *, once: bool) -> int:
    from madang.agent.loop import look_on, look_once

    if once:
        _show(*look_once(settings), settings, desk)
        return 0
    for reading, now_ms in look_on(settings):
        _show(reading, now_ms, settings, desk)
        sys.stdout.flush()
    return 0


def _show(reading: Any, now_ms: int, settings: Settings, desk: Desk) -> None:
    found = document(reading, now_ms, settings.node)
    desk.answer(found, "" if desk.is_json else text(found))


def document(reading: Any, now_ms: int, node: str) -> Document:
    """What a frame would say, as JSON; null is what is not known."""
    return {
        "node": node,
        "at_ms": now_ms,
        "columns": [
            {
                "metric": column.metric,
                "subject": str(column.subject),
                "values": {
                    key: None if value != value else value  # noqa: PLR0124 - NaN
                    for key, value in zip(column.keys, column.values.tolist(), strict=True)
                },
            }
            for column in reading.columns
        ],
        "signals": [
            {
                "at_ms": one.at_ms,
                "kind": one.kind,
                "code": one.code,
                "subject": str(one.subject),
                "key": one.key,
                "text": one.text,
            }
            for one in reading.signals
        ],
    }


def text(found: Document) -> str:
    """The same for people: a line a metric, a column a device."""
    rows = []
    for column in found["columns"]:
        cells = [
            f"{clean(key)}={_number(value)}" if key else _number(value)
            for key, value in column["values"].items()
        ]
        more = f" … {len(cells) - KEYS_SHOWN} more" if len(cells) > KEYS_SHOWN else ""
        rows.append([column["metric"], "  ".join(cells[:KEYS_SHOWN]) + more])
    lines = [table([Column("METRIC"), Column(f"ON {clean(found['node'])}")], rows)]
    lines += [f"{one['kind']} {one['code']}: {clean(one['text'])}" for one in found["signals"]]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 1e4 else f"{value:.4g}"
