"""A full disk: the commit fails whole, nothing acknowledged, and all goes on once there is room."""

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from madang.core import events as ev
from madang.core.check import check
from madang.ledger import CommitFailed, Ledger, LedgerError, open_ledger
from madang.testing.yard import Yard, state_of

TMPFS_KIB = 2_048


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    options = f"size={TMPFS_KIB}k,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system needs the right to mount one (root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill the file system to the last byte."""
    ballast = place / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (65_536, 4_096, 1):
            try:
                while True:
                    os.write(descriptor, b"\0" * size)
            except OSError:
                pass
    finally:
        os.close(descriptor)
    return ballast


def everything(ledger: Ledger) -> tuple[object, ...]:
    return (
        ledger.load(),
        ledger.events(0, 100_000),
        ledger.jobs(limit=1_000),
        ledger.phase_counts(),
        ledger.tokens(),
    )


def reread(yard: Yard) -> Yard:
    """What a daemon does after a failed commit: be again what the rows say."""
    check(state_of(yard.ledger.load()))
    return Yard(yard.ledger)


def submit_many(yard: Yard) -> None:
    yard.turn(*[ev.JobSubmitted(yard.job()) for _ in range(200)])


def test_a_full_file_system_fails_the_turn_whole(small_disk):
    with closing(open_ledger(f"sqlite:///{small_disk}/madang.db")) as ledger:
        yard = Yard(ledger).open(nodes=2)
        yard.run(*[yard.job() for _ in range(5)])
        ballast = fill(small_disk)
        before = everything(ledger)
        for _ in range(3):
            with pytest.raises(CommitFailed, match=r"nothing was written.*full"):
                submit_many(yard)
            assert everything(ledger) == before
        with pytest.raises(CommitFailed, match="full"):
            ledger.add_token("x" * 100_000, "d", 1, "member")
        assert everything(ledger) == before

        ballast.unlink()
        yard = reread(yard)
        submit_many(yard)

        assert len(ledger.jobs(limit=1_000)) == 205
        lines = ledger.events(0, 100_000)
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
        check(yard.controller.state)


def test_a_disk_that_fills_up_while_turns_are_written_keeps_what_it_acknowledged(small_disk):
    url = f"sqlite:///{small_disk}/madang.db"
    acknowledged = 0
    with closing(open_ledger(url)) as ledger:
        yard = Yard(ledger).open()
        with pytest.raises(CommitFailed, match="full"):  # noqa: PT012 (which turn fails is open)
            while True:
                yard.turn(*[ev.JobSubmitted(yard.job()) for _ in range(20)])
                acknowledged += 20
        assert acknowledged
    # And it opens again, full as it is.
    with closing(open_ledger(url)) as ledger:
        counts = ledger.phase_counts()
        check(state_of(ledger.load()))

    assert sum(counts.values()) == acknowledged


def test_a_full_database_fails_the_turn_whole(new_file):
    """The same where nothing can be mounted: SQLite counts pages instead of the disk."""
    with closing(open_ledger(f"sqlite:///{new_file()}")) as ledger:
        yard = Yard(ledger).open()

        @sa.event.listens_for(ledger._engines.writer, "checkout")
        def fill_up(connection, *_):
            pages = connection.execute("PRAGMA page_count").fetchone()[0] + room
            connection.execute(f"PRAGMA max_page_count = {pages}")

        room = 3
        before = everything(ledger)
        for _ in range(3):
            with pytest.raises(CommitFailed, match="full"):
                submit_many(yard)
            assert everything(ledger) == before
        room = 100_000
        submit_many(Yard(ledger))

        assert len(ledger.jobs(limit=1_000)) == 200


def test_a_full_disk_is_said_when_a_ledger_is_made(small_disk):
    fill(small_disk)

    with pytest.raises(LedgerError, match=r"full|No space left"):
        open_ledger(f"sqlite:///{small_disk}/madang.db")
