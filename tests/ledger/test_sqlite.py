"""SQLite keeps the ledger's contract."""

import pytest

from madang.testing.ledger import LedgerContract


class TestSqlite(LedgerContract):
    @pytest.fixture
    def url(self, new_file):
        return f"sqlite:///{new_file()}"
