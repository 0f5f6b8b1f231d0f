"""Databases for the ledger's tests: SQLite files that are migrated once, a PostgreSQL server."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from madang.ledger import open_ledger
from madang.testing.postgresql import Server, postgresql_server


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger's file: a copy is quicker than a migration."""
    path = tmp_path_factory.mktemp("migrated") / "madang.db"
    with closing(open_ledger(f"sqlite:///{path}")):
        pass
    return path


@pytest.fixture
def new_file(migrated: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes empty ledgers."""
    counter = itertools.count()

    def make() -> Path:
        return Path(shutil.copy(migrated, tmp_path / f"madang-{next(counter)}.db"))

    return make


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def new_database(postgresql: Server) -> Callable[[], str]:
    """Makes empty databases; their URLs."""
    counter = itertools.count()
    return lambda: postgresql.make_database(f"madang_{next(counter)}")
