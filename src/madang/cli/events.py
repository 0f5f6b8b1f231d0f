"""`madang events`: the journal of one job, or state changes as they come."""

from __future__ import annotations

import json
import time

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.cli.show import clean, coloured, phase

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Document = dict[str, Any]

PAGE = 1_000


def events_verb(given: Given, desk: Desk) -> int:
    """What happened."""
    if not given.text("job") and not given.flag("follow"):
        raise UsageError(
            "events of what?",
            code="usage",
            allowed="a job, or -f for everything from now on",
            tries=["madang events JOB", "madang events -f"],
        )
    job = desk.job(given.text("job"))["id"] if given.text("job") else ""
    after = given.count("after")
    if not given.flag("follow"):
        found = list(_of_job(job, after or 0, desk))
        if desk.is_json:
            desk.answer({"events": found})
        else:
            _print(found)
        return 0
    return _follow_job(job, after or 0, desk) if job else _follow_all(after, desk)


def _of_job(job: str, after: int, desk: Desk) -> Iterator[Document]:
    while page := desk.client.job_events(job, after=after, limit=PAGE):
        yield from page
        if page[-1]["seq"] <= after:
            return
        after = page[-1]["seq"]


def _print(events: list[Document]) -> None:
    for event in events:
        stamp = time.strftime("%m-%d %H:%M:%S", time.localtime(event["at_ms"] / 1000))
        stamp += f".{event['at_ms'] % 1000:03d}"
        print(f"{coloured(stamp, '90')}  {clean(event['text'])}", flush=True)


def _follow_job(job: str, after: int, desk: Desk) -> int:
    for _ in desk.client.changes(job):
        for event in _of_job(job, after, desk):
            after = event["seq"]
            if desk.is_json:
                print(json.dumps(event, ensure_ascii=False), flush=True)
            else:
                _print([event])
    return 0


def _follow_all(after: int | None, desk: Desk) -> int:
    for event in desk.client.events(after):
        if desk.is_json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            print(_line(event), flush=True)
    return 0


def _line(event: Document) -> str:
    value = event["value"] if isinstance(event["value"], dict) else {}
    about = value.get(event["type"]) or ""
    at_s = value["at_ms"] / 1000 if "at_ms" in value else None
    stamp = coloured(time.strftime("%m-%d %H:%M:%S", time.localtime(at_s)), "90")
    state = value.get("phase") or value.get("state") or ""
    text = clean(value.get("text") or about)
    return f"{stamp}  {text}{'  ' + phase(state) if state else ''}"
