"""From the journal to the books of usage: page by page, so that memory does not grow with it."""

from collections.abc import Callable, Collection, Iterator

from madang.core.codec import decode_event
from madang.core.events import Event
from madang.core.usage.books import KINDS_READ, Books
from madang.ledger.ledger import Ledger

PAGE = 2_000  # some 20 ms of work: who else wants the processor waits no longer


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
