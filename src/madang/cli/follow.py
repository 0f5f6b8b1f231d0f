"""`--wait`: what a job waits for, then what it writes, then its end as an exit code."""

from __future__ import annotations

import sys
import time

from madang.cli.show import clean, cut, duration, has_colour, terminal_columns
from madang.client.api import ENDED

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    from madang.cli.desk import Desk

    Document = dict[str, Any]

FAILED = 1


class Progress:
    """One line on standard error that is written over, on a terminal; else a line per change."""

    def __init__(self) -> None:
        self._is_live = sys.stderr.isatty()
        self._shown = ""

    def say(self, text: str) -> None:
        """Show this now."""
        text = clean(text)
        if text == self._shown:
            return
        self._shown = text
        if self._is_live:
            shown = cut(text, max(terminal_columns(), 80) - 1)
            sys.stderr.write(f"\r\x1b[K\x1b[90m{shown}\x1b[0m" if has_colour(sys.stderr) else text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Give the line back."""
        if self._is_live and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._shown = ""


def followed(job: Document, desk: Desk) -> int:
    """Follow a job to its end; returns what this command exits with.

    Output goes to standard output as it comes; with --json it is left out, and the job as it ended
    is printed.
    """
    try:
        ended = _to_its_end(job, desk)
    except KeyboardInterrupt:
        number = job["id"]
        desk.note(f"\n{number} goes on. madang logs -f {number} · madang stop {number}")
        raise
    desk.answer(ended)
    if ended["phase"] != "succeeded" or not desk.is_json:
        desk.note(f"{ended['id']} {ended['phase']}{_how(ended)}")
    return code_of(ended)


def code_of(ended: Document) -> int:
    """The member's own exit code if there is one member; else 0 or 1."""
    if ended["phase"] == "succeeded":
        return 0
    code = ended.get("exit_code")
    if ended.get("members", 1) == 1 and isinstance(code, int) and 0 < code < 256:
        return code
    return FAILED


def _how(ended: Document) -> str:
    ran = ended.get("ended_ms", 0) - ended.get("running_ms", 0)
    words = [f" after {duration(ran)}"] if ended.get("running_ms") else []
    if ended.get("reason"):
        words.append(f": {clean(ended['reason'])}")
    return "".join(words)


def _to_its_end(job: Document, desk: Desk) -> Document:
    progress = Progress()
    attempts_read = 0
    found = job
    while True:
        for found in desk.client.changes(job["id"]):
            if found["phase"] in ENDED or (found["running_ms"] and found["phase"] == "running"):
                break
            progress.say(_waiting(found))
        progress.clear()
        attempt = found.get("attempt") or 0
        if attempt > attempts_read and not desk.is_json:
            from madang.cli.logs import copy_members

            attempts_read = attempt
            copy_members(desk, found, attempt=attempt, follow=True)
        elif found["phase"] not in ENDED:
            _until_changed(desk, found)
        if found["phase"] in ENDED:
            return found


def _until_changed(desk: Desk, found: Document) -> None:
    """Until it has left the attempt whose output was read to the end."""
    for newest in desk.client.changes(found["id"]):
        if newest["phase"] in ENDED or newest["attempt"] != found["attempt"]:
            return
        if newest["phase"] == "waiting":
            return


def _waiting(job: Document) -> str:
    since = duration(max(time.time() * 1000 - job["submitted_ms"], 0))
    why = (job.get("waits") or {}).get("text") or job.get("reason") or ""
    return f"{job['id']} {job['phase']} {since}{': ' + why if why else ''}"
