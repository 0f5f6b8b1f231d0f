"""From a URL to a database that is there, is ours, and has the newest schema.

SQLite runs in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns, and
readers never wait for the writer. The writer's transactions are `BEGIN IMMEDIATE`; readers cannot
write.
Alembic is imported only when there is something to migrate.
"""

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from madang.ledger.errors import LedgerError, SchemaTooNew
from madang.ledger.schema import SCHEMA

SQLITE_OLDEST = (3, 35, 0)  # RETURNING
BUSY_MS = 5_000  # another process that writes (a backup, an upgrade) is waited for this long
READERS_MAX = 16  # API threads that read at once; the rest waits
READER_WAIT_S = 10
WAL_BYTES_MAX = 64 << 20  # what a burst may leave of the write-ahead log's file
CONNECT_WAIT_S = 10
STATEMENT_MS_MAX = 30_000  # a turn thread that hangs for ever is worse than a failed commit
MIGRATION_LOCK = 0x6D6164616E67  # "madang": one daemon migrates at a time


@dataclass(frozen=True, slots=True)
class Engines:
    """`writer` has one connection, `reader` several that cannot write; `place` may be shown."""

    writer: sa.Engine
    reader: sa.Engine
    place: str

    def dispose(self) -> None:
        self.reader.dispose()
        self.writer.dispose()


def open_engines(url: str) -> Engines:
    """Connect, and bring the schema up to date.

    Raises:
        LedgerError: not a URL we know, or nothing answers there.
        SchemaTooNew: a newer version has migrated it.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise LedgerError(_unknown_url(url.partition("@")[2] or url)) from error
    match parsed.get_backend_name():
        case "sqlite":
            engines = _sqlite(parsed)
        case "postgresql" | "postgres":
            engines = _postgresql(parsed)
        case _:
            raise LedgerError(_unknown_url(parsed.render_as_string(hide_password=True)))
    try:
        _bring_up_to_date(engines)
    except sa.exc.DBAPIError as error:
        engines.dispose()
        raise LedgerError(_not_usable(engines.place, error)) from error
    except BaseException:
        engines.dispose()
        raise
    return engines


def _unknown_url(given: str) -> str:
    return (
        f"{given!r} is not a database Madang can use; "
        "write sqlite:////absolute/path/madang.db or postgresql://user@host/database"
    )


def _not_usable(place: str, error: sa.exc.DBAPIError) -> str:
    why = " ".join(str(error.orig).split())
    return f"the database {place} cannot be used: {why}; check that it is there and may be written"


# -- SQLite ------------------------------------------------------------------------------------


def _sqlite(url: sa.URL) -> Engines:
    if sqlite3.sqlite_version_info < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        raise LedgerError(
            f"SQLite {sqlite3.sqlite_version} is too old, Madang needs {oldest}; "
            "use a newer Python or a PostgreSQL database"
        )
    if not url.database or url.database == ":memory:" or url.query:
        raise LedgerError(_unknown_url(str(url)))
    path = Path(url.database).absolute()
    try:
        # The -wal and -shm files get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise LedgerError(f"the database {path} cannot be opened: {error.strerror}") from error
    address = f"file:{quote(str(path))}"

    def connect_writer() -> sqlite3.Connection:
        return _sqlite_connection(
            f"{address}?mode=rw",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"journal_size_limit = {WAL_BYTES_MAX}",
        )

    def connect_reader() -> sqlite3.Connection:
        return _sqlite_connection(f"{address}?mode=ro", "query_only = ON")

    writer = sa.create_engine(
        "sqlite://", creator=connect_writer, poolclass=QueuePool, pool_size=1, max_overflow=0
    )
    sa.event.listen(writer, "begin", _begin_immediate)
    reader = sa.create_engine(
        "sqlite://",
        creator=connect_reader,
        poolclass=QueuePool,
        pool_size=READERS_MAX,
        max_overflow=0,
        pool_timeout=READER_WAIT_S,
    )
    return Engines(writer, reader, str(path))


def _sqlite_connection(address: str, *pragmas: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address,
        uri=True,
        timeout=BUSY_MS / 1000,
        isolation_level=None,  # we say BEGIN ourselves
        check_same_thread=False,  # a pool gives a connection to one thread at a time
    )
    try:
        for pragma in pragmas:
            _set(connection, pragma)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _set(connection: sqlite3.Connection, pragma: str) -> None:
    """Set it; two who turn a new database to WAL at once are told "locked" without a wait."""
    until_s = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}").fetchall()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(0.01)


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


# -- PostgreSQL --------------------------------------------------------------------------------


def _postgresql(url: sa.URL) -> Engines:
    url = url.set(drivername="postgresql+psycopg")
    place = url.render_as_string(hide_password=True)
    common = f"-c statement_timeout={STATEMENT_MS_MAX} -c lock_timeout={STATEMENT_MS_MAX}"
    try:
        writer = sa.create_engine(
            url,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args=_psycopg_arguments("madang ledger", common),
        )
        reader = sa.create_engine(
            url,
            pool_size=READERS_MAX,
            max_overflow=0,
            pool_timeout=READER_WAIT_S,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            connect_args=_psycopg_arguments(
                "madang reader", f"{common} -c default_transaction_read_only=on"
            ),
        )
    except ModuleNotFoundError as error:
        raise LedgerError(
            f"{place} needs psycopg, which is not installed: pip install 'madang[postgres]'"
        ) from error
    sa.event.listen(writer, "connect", _make_commits_durable)
    return Engines(writer, reader, place)


def _psycopg_arguments(name: str, options: str) -> dict[str, object]:
    return {
        "application_name": name,
        "connect_timeout": CONNECT_WAIT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "options": options,
    }


def _make_commits_durable(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    """A server that is set to answer before its log is on the disk must not do so to us."""
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()
    cursor.close()


# -- the schema --------------------------------------------------------------------------------


def _bring_up_to_date(engines: Engines) -> None:
    with engines.writer.connect() as connection:
        found = schema_of(connection)
    if found == SCHEMA:
        return
    with engines.writer.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        found = schema_of(connection)  # another daemon may have been quicker
        if found > SCHEMA:
            raise SchemaTooNew(
                f"the database {engines.place} was last used by a newer Madang (its schema is "
                f"{found}, this version knows up to {SCHEMA}); upgrade this Madang, or use "
                "another database"
            )
        if found < SCHEMA:
            migrate(connection)


def schema_of(connection: sa.Connection) -> str:
    """The schema's revision; "" in a database that has never been used."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.scalar(sa.text("SELECT max(version_num) FROM alembic_version")) or ""


def migrate(connection: sa.Connection, to: str = "head") -> None:
    """Run the migrations inside the connection's transaction."""
    # Here and not above: it costs a third of a second, and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    scripts = str(Path(__file__).with_name("migrations")).replace("%", "%%")
    config.set_main_option("script_location", scripts)
    config.attributes["connection"] = connection
    command.upgrade(config, to)
