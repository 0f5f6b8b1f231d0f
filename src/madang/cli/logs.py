"""`madang logs`: bytes as members wrote them; lines of several members carry their rank."""

from __future__ import annotations

import sys
import threading
from functools import partial

from madang.cli.parse import Given, UsageError
from madang.client.errors import MadangError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from madang.cli.desk import Desk

    Document = dict[str, Any]

FOLLOWED_MAX = 32  # members at once: a connection and a thread each
LINE_BYTES_MAX = 1 << 20  # then a line is cut, so that one member cannot hold the others back


def logs_verb(given: Given, desk: Desk) -> int:
    """Print, or follow, what members wrote."""
    job = desk.job(given.text("job"))
    ranks = _ranks(given.text("member"), job["members"])
    follow, attempt = given.flag("follow"), given.count("attempt")
    if not job.get("attempt") and follow:
        job = _when_started(job, desk)
    if not job.get("attempt"):
        desk.note(f"{job['id']} is {job['phase']} and has written nothing: madang why {job['id']}")
    else:
        copy_members(
            desk, job, ranks=ranks, attempt=attempt, follow=follow, tail=given.count("tail")
        )
    return 0


def _ranks(text: str, members: int) -> list[int]:
    if text == "all":
        return list(range(members))
    if not text:
        return [0]
    if not text.isdigit() or int(text) >= members:
        allowed = f"0 to {members - 1}, or all" if members > 1 else "0: it has one member"
        raise UsageError("there is no such member", code="usage", given=text, allowed=allowed)
    return [int(text)]


def _when_started(job: Document, desk: Desk) -> Document:
    from madang.cli.follow import Progress, _waiting

    progress = Progress()
    found = job
    for found in desk.client.changes(job["id"]):
        if found["attempt"]:
            break
        progress.say(_waiting(found))
    progress.clear()
    return found


def copy_members(
    desk: Desk,
    job: Document,
    *,
    ranks: list[int] | None = None,
    attempt: int | None = None,
    follow: bool = False,
    tail: int | None = None,
) -> None:
    """Copy members' output to standard output: one as it is, several line by line."""
    ranks = ranks if ranks is not None else list(range(job["members"]))
    if follow and len(ranks) > FOLLOWED_MAX:
        desk.note(f"note: only the first {FOLLOWED_MAX} of {len(ranks)} members are followed")
        ranks = ranks[:FOLLOWED_MAX]
    out = sys.stdout
    read = partial(
        desk.client.logs, job["id"], attempt=attempt or job.get("attempt"), tail=tail, follow=follow
    )
    if len(ranks) == 1 and not desk.is_json:
        for piece in read(member=ranks[0]):
            out.buffer.write(piece)
            out.buffer.flush()
        return
    printer = _Printer(desk.is_json, len(str(ranks[-1])))
    if not follow:
        for rank in ranks:
            printer.copy(rank, read(member=rank))
    else:
        _at_once(printer, {rank: read(member=rank) for rank in ranks})


def _at_once(printer: _Printer, streams: dict[int, Iterable[bytes]]) -> None:
    failures: list[BaseException] = []

    def copy(rank: int, pieces: Iterable[bytes]) -> None:
        try:
            printer.copy(rank, pieces)
        except (MadangError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=copy, args=item, daemon=True) for item in streams.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class _Printer:
    """Whole lines of several members, each with its rank (or as NDJSON), never mixed."""

    def __init__(self, as_json: bool, digits: int) -> None:
        self._as_json = as_json
        self._digits = digits
        self._guard = threading.Lock()

    def copy(self, rank: int, pieces: Iterable[bytes]) -> None:
        """Print a member's lines as they come; the last one also without its end."""
        rest = b""
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            self._print(rank, lines)
        if rest:
            self._print(rank, [rest])

    def _print(self, rank: int, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._as_json:
            import json

            made = [
                json.dumps({"member": rank, "line": line.decode("utf-8", "replace")}).encode()
                for line in lines
            ]
        else:
            made = [b"[%*d] %s" % (self._digits, rank, line) for line in lines]
        with self._guard:
            sys.stdout.buffer.write(b"\n".join(made) + b"\n")
            sys.stdout.buffer.flush()
