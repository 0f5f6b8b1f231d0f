"""From a ledger's journal to books: page by page, again and again, and after a pruning."""

from itertools import groupby

import pytest

from madang.core.usage.report import report
from madang.ledger import Ledger, Turn, bookkeeping, open_ledger
from madang.ledger.bookkeeping import Bookkeeper, journal_of
from madang.sim.journals import NoJournal, of_ledger
from tests.usage.test_books import Journal, kept, played


@pytest.fixture(scope="module")
def journal() -> Journal:
    return played(11)


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(bookkeeping, "PAGE", 7)
    monkeypatch.setattr(bookkeeping, "REST_S", 0)
    opened = open_ledger(f"sqlite:///{tmp_path / 'madang.db'}")
    yield opened
    opened.close()


def commit(ledger: Ledger, part: Journal) -> None:
    epoch = ledger.take_lead("test")
    for at_ms, events in groupby(part, key=lambda each: each[0]):
        ledger.commit(Turn(epoch, at_ms, tuple(event for _, event in events)))


def test_books_that_are_kept_up_are_those_of_one_reading(ledger, journal):
    middle = len(journal) // 2
    keeper = Bookkeeper(ledger)
    commit(ledger, journal[:middle])
    half = keeper.books()
    first_ms = half.at_ms
    commit(ledger, journal[middle:])
    books, once = keeper.books(), kept(journal)
    window = (0, books.at_ms)  # the ledger is not asked for kinds of events that no book needs

    assert first_ms == max(at for at, _ in journal[:middle])
    assert report(books, *window, ("project", "size")) == report(once, *window, ("project", "size"))
    assert books.begins_ms == 0
    assert [(at_ms, event) for _, at_ms, event in journal_of(ledger)] == journal


def test_a_pruned_journal_says_when_the_books_begin(ledger, journal, tmp_path):
    commit(ledger, journal)
    middle = len(journal) // 2
    while ledger.prune(middle + 1):
        pass
    books = Bookkeeper(ledger).books()
    found = report(books, 0, journal[-1][0] + 1)

    with pytest.raises(NoJournal, match="was pruned"):
        list(of_ledger(f"sqlite:///{tmp_path / 'madang.db'}"))
    assert found.begins_ms >= journal[middle][0] > 0
    assert books.strangers > 0
    assert found.total.amounts.held_gpu_us >= 0
    assert found.total.amounts.ended <= found.total.amounts.submitted


def test_books_stay_bounded(ledger, journal, monkeypatch):
    monkeypatch.setattr(bookkeeping, "ROWS_MAX", 40)
    commit(ledger, journal)
    keeper = Bookkeeper(ledger)
    before = kept(journal).rows()
    books = keeper.books()

    assert before > 40
    assert books.rows() < before
    assert books.begins_ms > 0


def test_after_a_failure_the_books_are_read_anew(ledger, journal, monkeypatch):
    commit(ledger, journal)
    keeper = Bookkeeper(ledger)
    real = ledger.events
    asked = []

    def breaks(*arguments, **more):
        asked.append(arguments)
        if len(asked) == 3:
            raise OSError("gone")
        return real(*arguments, **more)

    monkeypatch.setattr(ledger, "events", breaks)
    with pytest.raises(OSError, match="gone"):
        keeper.books()

    window = (0, keeper.books().at_ms)
    assert report(keeper.books(), *window) == report(kept(journal), *window)
