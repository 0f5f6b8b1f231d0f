"""kill -9 at any moment: each turn is there whole or not at all, and the acknowledged ones are."""

import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from madang.core import events as ev
from madang.core.check import check
from madang.core.codec import decode_event
from madang.core.controller import Controller
from madang.core.state import State
from madang.ledger import Ledger, open_ledger
from madang.testing.yard import state_of

KILLS = 50
ROOT = Path(__file__).parents[2]


def folded(ledger: Ledger) -> State:
    """The state that the journal tells, from its first line on."""
    state = State()
    after = 0
    while lines := ledger.events(after, 10_000):
        assert [line.seq for line in lines] == list(range(after + 1, after + len(lines) + 1))
        for line in lines:
            event = decode_event(line.line)
            if not isinstance(event, ev.JobRejected):
                assert state.apply(event, line.at_ms), f"not news: {line}"
        after = lines[-1].seq
    return state


def examine(ledger: Ledger) -> int:
    """Rows and journal tell the same, and the state is sound; the number of jobs there are."""
    loaded = ledger.load()
    state = state_of(loaded)
    check(state)
    told = folded(ledger)
    assert told.jobs == state.jobs
    assert told.allocations == state.allocations
    assert told.nodes == state.nodes
    assert sum(ledger.phase_counts().values()) == len(told.jobs) + len(told.ended_jobs)
    assert ledger.journal_span()[1] == loaded.last_seq
    Controller(state).step([], loaded.last_ms + 1)
    check(state)
    return loaded.next_n - 1


def kill_and_examine(url: str, log: Path, kills: int) -> None:
    dice = random.Random(11)
    jobs = 0
    for trial in range(kills):
        log.unlink(missing_ok=True)
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.writer", url, str(log), str(trial)],
            cwd=ROOT,
            env={"PYTHONPATH": "src:.", "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE,
        )
        # Let it get to work, then kill it at a random moment.
        wait_s = dice.uniform(0.0, 0.25)
        assert writer.stderr is not None
        while not log.exists() and writer.poll() is None:
            try:
                writer.wait(0.01)
            except subprocess.TimeoutExpired:
                pass
        try:
            writer.wait(wait_s)
        except subprocess.TimeoutExpired:
            writer.kill()
        assert writer.wait() == -signal.SIGKILL, writer.stderr.read().decode()
        writer.stderr.close()
        acknowledged = [line.split() for line in log.read_text().splitlines()[1:]]
        with closing(open_ledger(url)) as ledger:
            # As the next daemon does: PostgreSQL may still be about a commit of who was killed.
            ledger.take_lead("examiner")
            jobs_now = examine(ledger)
            if acknowledged:
                seq, n = map(int, acknowledged[-1])
                assert ledger.journal_span()[1] >= seq
                assert jobs_now >= n
                assert ledger.job(n) is not None
            assert jobs_now >= jobs
        jobs = jobs_now
    assert jobs > kills


@pytest.mark.crash
def test_a_writer_that_is_killed_leaves_whole_turns_in_sqlite(new_file, tmp_path):
    kill_and_examine(f"sqlite:///{new_file()}", tmp_path / "acknowledged", KILLS)


@pytest.mark.crash
@pytest.mark.postgres
def test_a_writer_that_is_killed_leaves_whole_turns_in_postgresql(new_database, tmp_path):
    kill_and_examine(new_database(), tmp_path / "acknowledged", KILLS // 5)
