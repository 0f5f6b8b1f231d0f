"""Where a journal to replay comes from: a ledger's database, or lines that a daemon gave."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from madang.core.codec import decode_event
from madang.core.events import Event
from madang.ledger import LedgerError, open_ledger
from madang.ledger.bookkeeping import journal_of

SQLITE = "sqlite:///"
RECORDS = "madang.db"  # in a state directory


class NoJournal(ValueError):
    """There is none to be read there; the text says why and what to do."""


def url_of_state(state: str) -> str:
    """The database under a state directory; "" if the daemon there keeps its records elsewhere."""
    path = Path(state).absolute() / RECORDS
    return f"{SQLITE}{path}" if path.exists() else ""


def of_ledger(url: str) -> Iterator[tuple[int, Event]]:
    """(at_ms, event) of a database, from the first line.

    Raises:
        NoJournal: there is no such database, or it cannot be read.
    """
    if url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists():
        raise NoJournal(
            "there is no such database; write sqlite:////absolute/path/madang.db or "
            "postgresql://user@host/database"
        )
    try:
        ledger = open_ledger(url)
        try:
            check_whole(ledger.journal_span()[0])
            for _, at_ms, event in journal_of(ledger):
                yield at_ms, event
        finally:
            ledger.close()
    except LedgerError as failure:
        raise NoJournal(str(failure)) from failure


def check_whole(first_seq: int) -> None:
    """Raises:
    NoJournal: the journal's first lines are gone, and with them what the yard was made of.
    """
    if first_seq > 1:
        raise NoJournal(
            f"the journal was pruned and begins with line {first_seq}; a replay needs all of it"
        )


def of_lines(lines: Iterator[Sequence[int | str]]) -> Iterator[tuple[int, Event]]:
    """(at_ms, event) of [seq, at_ms, line] as `GET /v1/journal` gives them."""
    for _, at_ms, line in lines:
        yield int(at_ms), decode_event(str(line))
