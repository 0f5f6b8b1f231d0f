"""The family of what operators set: one story that every noun passes.

Reservations, which need a time, have tests of their own.
"""

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from madang.api.nouns import Asked, Family
from madang.api.problems import Problem
from madang.api.routes.budgets import BUDGETS
from madang.api.routes.owners import PROJECTS, WORKSPACES
from madang.api.routes.quotas import QUOTAS
from madang.api.routes.zones import ZONES
from madang.wire.zones import ZoneRequest


@dataclass(frozen=True)
class Story:
    """How one is set at `put`, changed, shown and dropped; what is refused and how it is told."""

    noun: Any
    put: str
    body: dict[str, Any]
    change: dict[str, Any]
    drop: str = ""
    wrong: dict[str, Any] = field(default_factory=dict)
    told: str = ""


STORIES = [
    Story(
        BUDGETS,
        "/v1/budgets/x",
        {"down_max": 1},
        {"down_max": 2},
        "/v1/budgets/x",
        {"project": "nobody", "down_max": 1},
        "project nobody does not exist",
    ),
    Story(
        ZONES,
        "/v1/zones/x",
        {"gpus_max": 2},
        {"gpus_max": 4},
        "/v1/zones/x",
        {"owners": ["workspace:nobody"]},
        "there is no workspace nobody",
    ),
    Story(
        QUOTAS,
        "/v1/quotas",
        {"owner": "project:default", "weight": 2},
        {"owner": "project:default", "weight": 3},
        "/v1/quotas?owner=project%3Adefault",
        {"owner": "project:nobody"},
        "there is no project nobody",
    ),
    Story(
        PROJECTS,
        "/v1/projects/x",
        {"quota_gpus": 1},
        {"quota_gpus": None},
        wrong={"quota_gpus": 1, "workspace": "nobody"},
        told="there is no workspace nobody",
    ),
    Story(WORKSPACES, "/v1/workspaces/x", {}, {}),
]


@pytest.fixture(params=STORIES, ids=lambda story: story.noun.kind)
def story(request):
    return request.param


def listed(served, noun):
    return served.client.get(f"/v1/{noun.kind}").json()[noun.kind]


def test_one_is_set_changed_listed_and_taken_away(served, story):
    before = listed(served, story.noun)
    made = served.client.put(story.put, json=story.body)
    changed = served.client.put(story.put, json=story.change)
    between = listed(served, story.noun)
    assert (made.status_code, changed.status_code) == (200, 200)
    assert made.json().items() >= story.body.items()
    assert changed.json() in between
    assert len(between) == len(before) + 1
    if not story.drop:
        return
    gone = served.client.delete(story.drop)
    again = served.client.delete(story.drop)

    assert gone.json()[story.noun.kind] == before
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    assert story.noun.ls in again.json()["try"][0]


def test_what_names_nobody_is_refused_with_who_there_is(served, story):
    if not story.wrong:
        pytest.skip("it names nobody")
    refused = served.client.put(story.put, json=story.wrong).json()

    assert (refused["status"], refused["code"], refused["detail"]) == (404, "not_found", story.told)
    assert "default" in refused["allowed"]
    assert refused["try"]


# -- what only a crowd or a race brings about ----------------------------------------------------


class Rows:
    """Reads at once, in this thread."""

    async def read(self, work: Any, *given: Any) -> Any:
        return work(*given)


class DeafYard:
    """A yard whose turns do not take what was asked."""

    def __init__(self, snapshot: Any) -> None:
        self.snapshot = lambda: snapshot

    async def ask(self, fact: Any) -> None:
        pass


def put(served, noun: Any) -> Any:
    desk: Any = SimpleNamespace(rows=Rows(), yard=DeafYard(served.yard.snapshot()))
    return asyncio.run(Family(desk, noun).put(Asked("me", "new", ZoneRequest())))


def test_there_are_so_many_and_no_more(served):
    served.client.put("/v1/zones/first", json={})
    with pytest.raises(Problem) as refused:
        put(served, replace(ZONES, most=1))
    served.client.delete("/v1/zones/first")

    assert refused.value.view.detail == "there are too many zones"
    assert (refused.value.status_code, refused.value.view.allowed) == (409, 1)


def test_what_the_turn_did_not_take_is_not_answered_as_done(served):
    with pytest.raises(Problem) as refused:
        put(served, ZONES)

    assert refused.value.status_code == 409
    assert "zone new is not in force" in refused.value.view.detail
