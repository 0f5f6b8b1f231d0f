"""The ledger: rows and journal in one database, one writer, any number of readers.

What is acknowledged after `commit` returned survives `kill -9` and a loss of power; what `commit`
refused was never there. A device cannot be promised twice: the database itself forbids it.
"""

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from madang.core.model import Allocation, Phase
from madang.ledger import reading
from madang.ledger.errors import CommitFailed, LedgerError
from madang.ledger.opening import Engines, open_engines
from madang.ledger.schema import journal, tokens
from madang.ledger.values import EventRecord, JobRecord, Loaded, Token, Turn
from madang.ledger.writing import Writer

PAGE_MAX = 1_000
PRUNE_EVENTS_MAX = 10_000  # a turn never waits long for a pruning

_ADD_TOKEN = sa.insert(tokens)
_DROP_TOKEN = sa.delete(tokens).where(tokens.c.name == sa.bindparam("gone"))
_PRUNE = sa.delete(journal).where(journal.c.seq < sa.bindparam("until"))
_FIRST_SEQ = sa.select(sa.func.min(journal.c.seq))


def open_ledger(url: str) -> "Ledger":
    """Open the database, made and migrated if need be.

    Args:
        url: `sqlite:////absolute/path/madang.db` or `postgresql://user@host/database`.

    Raises:
        LedgerError: it cannot be used; says why and what to do.
        SchemaTooNew: a newer version of Madang has migrated it.
    """
    return Ledger(open_engines(url))


class Ledger:
    """See the module's docstring. Every method may be called from any thread."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._writer = Writer(engines.writer)
        self._writing = threading.Lock()

    # -- the turn thread -------------------------------------------------------------------------

    def take_lead(self, holder: str) -> int:
        """Lead from now on, in the epoch returned; turns of older epochs are refused with LostLead.

        Raises:
            CommitFailed: nothing was written.
        """
        with self._writing:
            return self._writer.take_lead(holder)

    def load(self) -> Loaded:
        """The live rows, of one moment. Reads nothing of what has ended.

        Raises:
            LedgerError: it cannot be read.
        """
        with self._writing, self._told_apart():
            options = {"isolation_level": "REPEATABLE READ"}
            postgresql = self._engines.writer.dialect.name == "postgresql"
            writer = self._engines.writer
            if postgresql:
                writer = writer.execution_options(**options)
            with writer.begin() as connection:
                return reading.load(connection)

    def commit(self, turn: Turn) -> tuple[int, int]:
        """Write the turn, all of it or nothing; it is on the disk when this returns.

        Returns:
            The first and last journal seq of its events; (last + 1, last) if it has none.

        Raises:
            LostLead: another daemon leads. Nothing was written.
            CommitFailed: disk full, connection lost. Nothing was written; try again.
            CommitRefused: a bug of ours (a device twice, a key twice). Nothing was written.
            CommitUnknown: the connection broke during COMMIT; start again from the rows.
        """
        with self._writing:
            return self._writer.commit(turn)

    def prune(self, before_seq: int) -> int:
        """Forget journal lines with a lower seq, the oldest 10,000 of them at most a call.

        Returns:
            How many were forgotten; call again until it is 0.

        Raises:
            CommitFailed: nothing was forgotten.
        """
        with self._writing, self._written() as connection:
            first = connection.scalar(_FIRST_SEQ)
            if first is None:
                return 0
            until = min(before_seq, first + PRUNE_EVENTS_MAX)
            return connection.execute(_PRUNE, {"until": until}).rowcount

    # -- jobs and their allocations --------------------------------------------------------------

    def job(self, id_or_n: str | int) -> JobRecord | None:
        """The job `digits-42`, also by "42" or 42, live or ended."""
        with self._read() as connection:
            return reading.job(connection, id_or_n)

    def jobs(
        self,
        *,
        phases: Iterable[Phase] = (),
        project: str | None = None,
        owner: str | None = None,
        name: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[JobRecord]:
        """A page of jobs, newest first.

        Args:
            phases: any of these; none means any at all.
            limit: at most this many, and never more than 1,000.
            before: only jobs with a lower number; the last one's of the page before.
        """
        equals = {"project": project, "owner": owner, "name": name}
        with self._read() as connection:
            limit = max(0, min(limit, PAGE_MAX))
            return reading.jobs_page(connection, phases, equals, limit, before)

    def phase_counts(self) -> dict[Phase, int]:
        """How many jobs there are in each phase, the ended ones too."""
        with self._read() as connection:
            return reading.phase_counts(connection)

    def job_of_key(self, owner: str, key: str) -> str | None:
        """The job that this owner submitted with this idempotency key."""
        with self._read() as connection:
            return reading.job_of_key(connection, owner, key)

    def jobs_of_keys(self, owner: str, keys: Sequence[str]) -> dict[str, str]:
        """`job_of_key` of many at once: key → job, of those that have one."""
        with self._read() as connection:
            return reading.jobs_of_keys(connection, owner, keys)

    def live_keys(self, owner: str) -> dict[str, str]:
        """This owner's live jobs that have an idempotency key: key → job."""
        with self._read() as connection:
            return reading.live_keys(connection, owner)

    def allocation(self, id: str) -> Allocation | None:
        """The allocation `digits-42.1`, live or released."""
        with self._read() as connection:
            return reading.allocation(connection, id)

    def allocations(self, job_id: str) -> list[Allocation]:
        """Every allocation the job had, in their order."""
        with self._read() as connection:
            return reading.allocations_of(connection, job_id)

    # -- the journal -----------------------------------------------------------------------------

    def events(
        self,
        after: int,
        limit: int,
        job: str | None = None,
        node: str | None = None,
        kinds: Collection[str] = (),
    ) -> list[EventRecord]:
        """Journal lines with a higher seq, oldest first; of one job or one node, of these kinds."""
        with self._read() as connection:
            return reading.events(connection, after, max(0, limit), job, node, kinds)

    def journal_span(self) -> tuple[int, int]:
        """The seq of the oldest line kept and of the newest; (last + 1, last) if none is kept."""
        with self._read() as connection:
            return reading.journal_span(connection)

    # -- tokens ----------------------------------------------------------------------------------

    def add_token(self, name: str, digest: str, now_ms: int, role: str) -> None:
        """Keep the digest of a token under a name, and what its holder may do.

        Raises:
            LedgerError: the name is taken.
            CommitFailed: nothing was written.
        """
        try:
            with self._writing, self._written() as connection:
                row = {"name": name, "digest": digest, "made_ms": now_ms, "role": role}
                connection.execute(_ADD_TOKEN, row)
        except sa.exc.IntegrityError as error:
            raise LedgerError(
                f"there is a token named {name!r}; revoke it first, or choose another name"
            ) from error

    def token(self, digest: str) -> Token | None:
        """The token with this digest; None if there is no such token."""
        with self._read() as connection:
            return reading.token(connection, digest)

    def tokens(self) -> list[Token]:
        """Every token, by name."""
        with self._read() as connection:
            return reading.all_tokens(connection)

    def drop_token(self, name: str) -> bool:
        """Revoke the token; whether there was one.

        Raises:
            CommitFailed: nothing was written.
        """
        with self._writing, self._written() as connection:
            return connection.execute(_DROP_TOKEN, {"gone": name}).rowcount > 0

    # -- the connections -------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection. What was committed is on the disk already."""
        with self._writing:
            self._engines.dispose()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._told_apart(), self._engines.reader.connect() as connection:
            yield connection

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            why = " ".join(str(getattr(error, "orig", None) or error).split())
            raise LedgerError(
                f"the database {self._engines.place} cannot be read now: {why}; try again"
            ) from error

    @contextmanager
    def _written(self) -> Iterator[sa.Connection]:
        try:
            with self._engines.writer.begin() as connection:
                yield connection
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            why = " ".join(str(getattr(error, "orig", None) or error).split())
            raise CommitFailed(
                f"nothing was written to {self._engines.place}: {why}; check its disk and "
                "connection, then try again"
            ) from error
