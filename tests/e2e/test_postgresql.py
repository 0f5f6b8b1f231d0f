"""The same daemon on PostgreSQL: jobs run, and what was acknowledged survives kill -9."""

from pathlib import Path

import pytest

from madang.testing.postgresql import postgresql_server
from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.postgres


def test_a_daemon_on_postgresql_survives_being_killed(tmp_path: Path) -> None:
    """Ten jobs, a kill in the middle, and every one ends as it should."""
    with postgresql_server() as server:
        database = server.make_database("yard")
        yard = LiveYard(tmp_path / "state", devices=2, arguments=("--database", database))
        with yard:
            jobs = []
            for number in range(10):
                body = {"command": ["sh", "-c", f"sleep 0.2; exit {number % 2}"]}
                jobs.append(yard.ask("POST", "/v1/jobs", body)["id"])
            yard.kill()
            yard.start()
            views = yard.wait_ended(jobs)

    assert [views[job]["exit_code"] for job in jobs] == [0, 1] * 5
    assert not (tmp_path / "state" / "madang.db").exists()
