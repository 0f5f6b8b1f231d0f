"""A long queue on a real daemon: who is first in it is told why they wait."""

import pytest

from madang.api.routes.jobs import WAITS_SHOWN_MAX
from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.e2e


def test_a_list_says_why_of_the_first_in_the_queue_not_of_the_newest(tmp_path):
    with LiveYard(tmp_path / "state", devices=2) as yard:
        blocker = yard.ask("POST", "/v1/jobs", {"command": ["sleep", "600"], "gpus": 2})["id"]
        later = [{"command": ["true"], "gpus": 2}] * (WAITS_SHOWN_MAX + 5)
        urgent = [{"command": ["true"], "gpus": 2, "provisioning": "reserved"}]
        made = yard.ask("POST", "/v1/jobs:batch", {"jobs": later + urgent})["jobs"]

        listed = yard.ask("GET", "/v1/jobs?phase=waiting&limit=1000")["jobs"]

        explained = {view["id"] for view in listed if view["waits"]}
        ids = [view["id"] for view in made]
        assert explained == {ids[-1], *ids[: WAITS_SHOWN_MAX - 1]}
        assert yard.ask("GET", f"/v1/jobs/{ids[-2]}")["waits"]["code"] == "capacity"
        yard.ask("POST", f"/v1/jobs/{blocker}/stop", {"grace": "0s"})
        yard.wait_ended(ids)
