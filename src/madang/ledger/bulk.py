"""Statements that write any number of rows at once, the fast way of each database.

SQLite executes one prepared statement per row, a function call away. PostgreSQL gets all rows as
one JSON document, a record set there: one round trip, and arrays would take longer to be quoted.
Both are written in SQLAlchemy Core; SQLite's is compiled once and then given tuples, since a
thousand rows take longer through the compiler's parameters than through the database.
PostgreSQL's are made when one is written to: its dialect would cost every start an import.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from madang.core.codec import dumps

Row = Mapping[str, Any]
DOCUMENT = "document"
DOCUMENT_BYTES_MAX = 32 << 20  # far from the 1 GiB where PostgreSQL ends, and easy on its memory
PREFIX = "a_"  # a bare column name is reserved by SQLAlchemy inside UPDATE


@dataclass(frozen=True, slots=True, eq=False)
class Bulk:
    """One statement over many rows; each row maps the statement's columns to values."""

    by_row: sa.ClauseElement
    by_document: Callable[[], sa.Executable]  # makes it

    def write(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        """Write the rows; how many the database touched."""
        if not rows:
            return 0
        if connection.dialect.name == "sqlite":
            statement = _compiled(self)
            return connection.exec_driver_sql(
                statement.text, list(map(statement.row, rows))
            ).rowcount
        return self._write_document(connection, rows)

    def _write_document(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        document = dumps(list(rows))
        if len(document) > DOCUMENT_BYTES_MAX and len(rows) > 1:
            half = len(rows) // 2
            return self._write_document(connection, rows[:half]) + self._write_document(
                connection, rows[half:]
            )
        return connection.execute(_by_document(self), {DOCUMENT: document}).rowcount


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement's text, and what takes its parameters from a row, in their order."""

    text: str
    row: Callable[[Row], tuple[Any, ...]]


@cache
def _compiled(bulk: Bulk) -> _Compiled:
    compiled = bulk.by_row.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    assert isinstance(compiled, SQLCompiler), f"no statement: {compiled}"
    names = [name.removeprefix(PREFIX) for name in compiled.positiontup or ()]
    if len(names) == 1:
        return _Compiled(str(compiled), lambda row: (row[names[0]],))
    return _Compiled(str(compiled), itemgetter(*names))


@cache
def _by_document(bulk: Bulk) -> sa.Executable:
    return bulk.by_document()


def inserting(table: sa.Table) -> Bulk:
    """Insert whole rows."""
    names = [column.name for column in table.columns]
    return Bulk(
        sqlite.insert(table).values({name: sa.bindparam(_bound(name)) for name in names}),
        lambda: sa.insert(table).from_select(names, sa.select(_document(table, names))),
    )


def upserting(table: sa.Table, key: str) -> Bulk:
    """Insert whole rows, or replace those with the same key."""
    names = [column.name for column in table.columns]
    rest = [name for name in names if name != key]
    one = sqlite.insert(table).values({name: sa.bindparam(_bound(name)) for name in names})

    def by_document() -> sa.Executable:
        from sqlalchemy.dialects import postgresql

        rows = postgresql.insert(table).from_select(names, sa.select(_document(table, names)))
        return rows.on_conflict_do_update(
            index_elements=[key], set_={name: rows.excluded[name] for name in rest}
        )

    return Bulk(
        one.on_conflict_do_update(
            index_elements=[key], set_={name: one.excluded[name] for name in rest}
        ),
        by_document,
    )


def updating(table: sa.Table, key: str, names: Sequence[str]) -> Bulk:
    """Set the named columns of the row with this key."""

    def by_document() -> sa.Executable:
        rows = _document(table, [key, *names])
        return (
            sa.update(table)
            .where(table.c[key] == rows.c[key])
            .values({name: rows.c[name] for name in names})
        )

    return Bulk(
        sa.update(table)
        .where(table.c[key] == sa.bindparam(_bound(key)))
        .values({name: sa.bindparam(_bound(name)) for name in names}),
        by_document,
    )


def deleting(table: sa.Table, keys: Sequence[str]) -> Bulk:
    """Delete the rows with these keys."""

    def by_document() -> sa.Executable:
        rows = _document(table, keys)
        return sa.delete(table).where(*[table.c[key] == rows.c[key] for key in keys])

    return Bulk(
        sa.delete(table).where(*[table.c[key] == sa.bindparam(_bound(key)) for key in keys]),
        by_document,
    )


def _bound(name: str) -> str:
    return PREFIX + name


def _document(table: sa.Table, names: Sequence[str]) -> sa.TableValuedAlias:
    """`json_to_recordset(:document) AS rows(x BIGINT, y TEXT)`."""
    columns = [sa.column(name, _element(table.c[name])) for name in names]
    document = sa.cast(sa.bindparam(DOCUMENT, type_=sa.Text), sa.JSON)
    rows = sa.func.json_to_recordset(document).table_valued(*columns, name="rows")
    return rows.render_derived(with_types=True)


def _element(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    return sa.Text() if isinstance(column.type, sa.Text) else sa.BigInteger()
