"""From the journal to the books of usage: page by page, so that memory does not grow with it."""

import time
from collections.abc import Callable, Collection, Iterator

from madang.core.codec import decode_event
from madang.core.events import Event
from madang.core.usage.books import KINDS_READ, Books
from madang.core.usage.idleness import KINDS as KINDS_OF_IDLENESS
from madang.core.usage.idleness import Idleness
from madang.ledger.ledger import Ledger

PAGE = 1_000  # some 15 ms of work
REST_S = 0.003  # between two pages
ROWS_MAX = 8_000_000  # some 350 MB: about two million jobs


def journal_of(
    ledger: Ledger, after: int = 0, kinds: Collection[str] = ()
) -> Iterator[tuple[int, int, Event]]:
    """(seq, at_ms, event) of each journal line with a higher seq, in order; of these kinds if any.

    Raises:
        LedgerError: it cannot be read.
        KeyError: a kind of event that this version does not know.
    """
    while page := ledger.events(after, PAGE, kinds=kinds):
        for record in page:
            yield record.seq, record.at_ms, decode_event(record.line)
        after = page[-1].seq


def catch_up(
    books: Books, ledger: Ledger, after: int = 0, rest: Callable[[], None] = lambda: None
) -> int:
    """Read on from the last seq read; returns the new one. `rest` is called between pages.

    Raises:
        LedgerError: it cannot be read; the books hold what was read until then, so begin anew.
    """
    first, last = ledger.journal_span()
    pruned = first > after + 1
    while page := ledger.events(after, PAGE, kinds=KINDS_READ):
        if pruned:
            books.begins_ms, pruned = page[0].at_ms, False
        for record in page:
            books.apply(decode_event(record.line), record.at_ms)
        after = page[-1].seq
        rest()
    return max(after, last)


class Bookkeeper:
    """Books that are kept up: each call reads what was committed since the last.

    One caller at a time. Bounded: beyond ROWS_MAX the oldest rows go, and reports that reach back
    so far say when the books begin.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._books = Books()
        self._seq = 0

    def books(self) -> Books:
        """The books up to the last committed event.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        try:
            self._seq = catch_up(self._books, self._ledger, self._seq, _let_others)
        except BaseException:
            self._books, self._seq = Books(), 0
            raise
        if self._books.rows() > ROWS_MAX:
            ends = self._books.held.table()[:, 2]
            self._books.forget(int(ends[len(ends) // 4]))
        return self._books


class IdleKeeper:
    """What was idle and what was taken back, kept up in the same way."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._idleness = Idleness()
        self._seq = 0

    def idleness(self) -> Idleness:
        """Up to the last committed event.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        last = self._ledger.journal_span()[1]
        for seq, at_ms, event in journal_of(self._ledger, self._seq, KINDS_OF_IDLENESS):
            self._idleness.apply(event, at_ms)
            self._seq = seq
        self._seq = max(self._seq, last)
        if self._idleness.rows() > ROWS_MAX:
            ends = sorted(row[2] for row in self._idleness.idle)
            self._idleness.forget(ends[len(ends) // 4])
        return self._idleness


def _let_others() -> None:
    """A turn of the daemon must not wait for a reader of a long journal."""
    time.sleep(REST_S)
