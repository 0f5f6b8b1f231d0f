"""PostgreSQL keeps the ledger's contract."""

import pytest

from madang.testing.ledger import LedgerContract


@pytest.mark.postgres
class TestPostgresql(LedgerContract):
    @pytest.fixture
    def url(self, new_database):
        return new_database()
