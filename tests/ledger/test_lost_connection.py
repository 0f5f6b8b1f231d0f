"""A PostgreSQL that goes away: what was acknowledged is there, what was not is known not to be."""

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
import sqlalchemy as sa

from madang.core import events as ev
from madang.core.check import check
from madang.ledger import CommitFailed, CommitUnknown, Ledger, LedgerError, LostLead, open_ledger
from madang.testing.postgresql import Server, postgresql_server
from madang.testing.yard import Yard, state_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def yard(new_database):
    with closing(open_ledger(new_database())) as ledger:
        yield Yard(ledger).open(nodes=2)


def once_at_commit(ledger: Ledger, act: Callable[[sa.Connection], None]) -> None:
    """Do something in the place of the next COMMIT."""
    sa.event.listen(ledger._engines.writer, "commit", act, once=True)


def backend_of(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def cut_before_commit(url: str) -> Callable[[sa.Connection], None]:
    other = sa.create_engine(url)

    def cut(connection: sa.Connection) -> None:
        pid = backend_of(connection)
        with other.begin() as killer:
            killer.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        other.dispose()

    return cut


def commit_and_lose_the_answer(connection: sa.Connection) -> None:
    connection.engine.dialect.do_commit(connection.connection)
    raise sa.exc.OperationalError("COMMIT", {}, Exception("the answer was lost"))


def sound(ledger: Ledger) -> int:
    """Check the rows; how many jobs there are."""
    check(state_of(ledger.load()))
    return len(ledger.jobs(limit=1_000))


def test_a_commit_whose_answer_was_lost_is_found_to_have_happened(yard):
    once_at_commit(yard.ledger, commit_and_lose_the_answer)
    yard.turn(ev.JobSubmitted(yard.job()))
    yard.turn(ev.JobSubmitted(yard.job()))

    assert [span[0] for span in yard.spans] == [1, 4, 6]
    assert sound(yard.ledger) == 2


def test_a_commit_that_was_cut_off_is_found_not_to_have_happened(yard):
    before = yard.ledger.load()
    once_at_commit(yard.ledger, cut_before_commit(yard.ledger._engines.writer.url))
    with pytest.raises(CommitFailed, match="nothing was written"):
        yard.turn(ev.JobSubmitted(yard.job()))

    assert yard.ledger.load() == before
    again = Yard(yard.ledger)
    again.turn(ev.JobSubmitted(again.job()))
    assert sound(yard.ledger) == 1


def test_a_turn_that_is_cut_off_in_its_middle_fails_and_the_next_goes_on(yard):
    writer = yard.ledger._engines.writer
    cut = cut_before_commit(writer.url)

    cuts: list[str] = []

    def cut_once(connection, cursor, statement, *_):
        if "INSERT INTO jobs" in statement and not cuts:
            cuts.append(statement)
            cut(connection)

    sa.event.listen(writer, "before_cursor_execute", cut_once)
    with pytest.raises(CommitFailed, match="nothing was written"):
        yard.turn(ev.JobSubmitted(yard.job()))

    assert sound(yard.ledger) == 0
    again = Yard(yard.ledger)
    again.turn(ev.JobSubmitted(again.job()))
    assert sound(yard.ledger) == 1


def test_who_lost_the_lead_while_the_connection_was_lost_is_told_so(yard):
    cut = cut_before_commit(yard.ledger._engines.writer.url)

    def cut_and_be_overtaken(connection: sa.Connection) -> None:
        url = connection.engine.url.render_as_string(hide_password=False)
        cut(connection)
        with closing(open_ledger(url)) as other:
            other.take_lead("other")

    once_at_commit(yard.ledger, cut_and_be_overtaken)
    with pytest.raises(LostLead, match="other leads"):
        yard.turn(ev.JobSubmitted(yard.job()))


def test_a_connection_that_was_closed_between_turns_is_made_again(yard):
    writer = yard.ledger._engines.writer
    with writer.connect() as connection:
        pid = backend_of(connection)
    other = sa.create_engine(writer.url)
    with other.begin() as killer:
        killer.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    other.dispose()

    yard.turn(ev.JobSubmitted(yard.job()))
    assert sound(yard.ledger) == 1


@pytest.fixture
def own_server():
    with postgresql_server() as server:
        yield server


def test_a_server_that_stops_is_said_and_when_it_is_back_all_goes_on(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("madang.ledger.writing.OUTCOME_WAITS_S", (0.0, 0.1))
    with closing(open_ledger(own_server.make_database("madang"))) as ledger:
        yard = Yard(ledger).open()
        own_server.stop()
        with pytest.raises(CommitFailed, match="nothing was written"):
            yard.turn(ev.JobSubmitted(yard.job()))
        with pytest.raises(LedgerError, match="cannot be read now"):
            ledger.jobs()
        with pytest.raises(LedgerError):
            ledger.load()
        with pytest.raises(CommitFailed):
            ledger.add_token("ci", "d", 1, "member")
        own_server.start()
        again = Yard(ledger)
        again.turn(ev.JobSubmitted(again.job()))
        assert sound(ledger) == 1

        once_at_commit(ledger, lambda _: own_server.stop())
        with pytest.raises(CommitUnknown, match="restart the daemon"):
            again.turn(ev.JobSubmitted(again.job()))
        own_server.start()
        assert sound(ledger) == 1


@pytest.mark.crash
def test_what_a_killed_server_acknowledged_is_there_when_it_is_back(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("madang.ledger.writing.OUTCOME_WAITS_S", (0.0,))
    with closing(open_ledger(own_server.make_database("madang"))) as ledger:
        for _ in range(5):
            yard = Yard(ledger)
            if not yard.controller.state.nodes:
                yard.open()
            acknowledged = sound(ledger)
            killer = threading.Timer(0.3, own_server.stop, kwargs={"kill": True})
            killer.start()
            try:
                while True:
                    yard.turn(ev.JobSubmitted(yard.job()))
                    acknowledged += 1
            except (CommitFailed, CommitUnknown):
                pass
            killer.join()
            own_server.start()

            # The last turn may have been written without an answer: it was not acknowledged.
            assert sound(ledger) in (acknowledged, acknowledged + 1)
