"""What a ledger may be opened on, and what it says where it may not."""

import os
import re
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from madang.ledger import LedgerError, SchemaTooNew, Token, open_ledger
from madang.ledger.opening import migrate, schema_of
from madang.ledger.schema import SCHEMA, metadata
from madang.testing.yard import Yard


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a database Madang can use"),
        ("madang.db", "not a database Madang can use"),
        ("mysql://root:secret@host/x", r"'mysql://root:\*\*\*@host/x' is not a database"),
        ("sqlite://", "sqlite:////absolute/path"),
        ("sqlite:///:memory:", "sqlite:////absolute/path"),
        ("sqlite:////tmp/x.db?mode=memory", "sqlite:////absolute/path"),
        ("sqlite:////nowhere/at/all/madang.db", "No such file or directory"),
        ("sqlite:////tmp", "Is a directory"),
        ("postgresql://ada:secret@127.0.0.1:1/x", "cannot be used: .*check that it is there"),
    ],
)
def test_a_url_that_cannot_be_used_is_answered_with_what_can(url, words):
    with pytest.raises(LedgerError, match=words) as caught:
        open_ledger(url)

    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)

    with pytest.raises(LedgerError, match="not a database"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_text() == "not a database, " * 100


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "a#b.db", "ü.db", "%(here)s.db"])
def test_a_path_may_hold_any_letter(tmp_path, name):
    path = tmp_path / name
    url = sa.URL.create("sqlite", database=str(path)).render_as_string()
    with closing(open_ledger(url)) as ledger:
        Yard(ledger).open()

    assert path.exists()


def test_only_its_owner_may_read_the_database(tmp_path):
    before = os.umask(0)
    try:
        with closing(open_ledger(f"sqlite:///{tmp_path}/madang.db")) as ledger:
            Yard(ledger).open()
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(("madang.db", "madang.db-shm", "madang.db-wal"), 0o600)


def test_sqlite_is_set_to_keep_what_it_acknowledged(new_file):
    with closing(open_ledger(f"sqlite:///{new_file()}")) as ledger:
        with ledger._engines.writer.connect() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }

        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,  # FULL
            "foreign_keys": 1,
            "busy_timeout": 5000,
        }


def test_a_reader_cannot_write(new_file):
    with (
        closing(open_ledger(f"sqlite:///{new_file()}")) as ledger,
        ledger._engines.reader.connect() as connection,
        pytest.raises(sa.exc.OperationalError, match="readonly"),
    ):
        connection.exec_driver_sql("DELETE FROM lead")


@pytest.mark.postgres
def test_a_reader_cannot_write_in_postgresql(new_database):
    with (
        closing(open_ledger(new_database())) as ledger,
        ledger._engines.reader.connect() as connection,
        pytest.raises(sa.exc.InternalError, match="read-only"),
    ):
        connection.exec_driver_sql("DELETE FROM lead")


def test_a_newer_schema_is_left_alone(new_file):
    path = new_file()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()

    with pytest.raises(SchemaTooNew, match=f"9999, this version knows up to {SCHEMA}"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE devices (somebody_elses TEXT)")

    with pytest.raises(LedgerError, match="devices already exists"):
        open_ledger(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("devices",)]


def test_the_tables_are_those_that_the_migrations_make(new_file):
    engine = sa.create_engine(f"sqlite:///{new_file()}")
    assert differences(engine) == []
    engine.dispose()


@pytest.mark.postgres
def test_the_tables_are_those_that_the_migrations_make_in_postgresql(new_database):
    url = new_database()
    with closing(open_ledger(url)):
        pass
    engine = sa.create_engine(url)
    assert differences(engine) == []
    engine.dispose()


def differences(engine: sa.Engine) -> list[object]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def test_the_newest_migration_is_the_schema_that_the_code_knows():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    folder = Path(sys.modules["madang.ledger.opening"].__file__ or "").with_name("migrations")
    config.set_main_option("script_location", str(folder))
    scripts = ScriptDirectory.from_config(config)
    revisions = [script.revision for script in scripts.walk_revisions()]

    assert scripts.get_heads() == [SCHEMA]
    assert revisions == sorted(revisions, reverse=True)  # so that text tells newer from older


def test_two_may_open_a_new_database_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/madang.db"
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(open_ledger, [url] * 4))
    try:
        epochs = sorted(ledger.take_lead("x") for ledger in ledgers)
    finally:
        for ledger in ledgers:
            ledger.close()

    assert epochs == [1, 2, 3, 4]


@pytest.mark.postgres
def test_two_may_open_a_new_postgresql_database_at_once(new_database):
    url = new_database()
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(open_ledger, [url] * 4))
    for ledger in ledgers:
        ledger.close()

    assert len(ledgers) == 4


def test_a_start_without_a_migration_does_not_import_alembic(new_file):
    code = (
        "import sys; from madang.ledger import open_ledger;"
        f"open_ledger('sqlite:///{new_file()}').close();"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'alembic', 'psycopg'}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )

    assert answer.stdout.strip() == "[]"


def test_an_empty_database_has_no_schema():
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        assert schema_of(connection) == ""
        migrate(connection)
        assert re.fullmatch(r"\d{4}", schema_of(connection))
    engine.dispose()


def test_the_tokens_of_before_the_roles_stay_owners(tmp_path):
    url = f"sqlite:///{tmp_path}/madang.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        migrate(connection, "0002")
        connection.exec_driver_sql(
            "INSERT INTO tokens (name, digest, made_ms) VALUES ('laptop', 'd1', 5)"
        )
    engine.dispose()
    with closing(open_ledger(url)) as ledger:
        assert ledger.token("d1") == Token("laptop", "d1", 5, "owner")
