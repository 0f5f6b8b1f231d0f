"""Rules over HTTP: whose they are, how many there may be, and that shipped ones come back."""

from contextlib import contextmanager

import pytest

from madang.api.identity import digest_of
from madang.core.rules import RULES_OWN_MAX, SHIPPED
from madang.wire.access import Role

LOW = {"metric": "gpu_util_percent", "quantile": "p25", "below": 20, "for": "10m"}


@pytest.fixture
def alice(served):
    with member(served, "alice") as found:
        yield found


@contextmanager
def member(served, name):
    served.yard.ledger.add_token(name, digest_of(f"rules-{name}"), 1, Role.MEMBER)
    with served.stranger(authorization=f"Bearer rules-{name}") as found:
        yield found
    served.yard.ledger.drop_token(name)


def names(served):
    return [rule["name"] for rule in served.client.get("/v1/rules").json()["rules"]]


def test_a_rule_is_set_shown_and_taken_away(served):
    made = served.client.put("/v1/rules/low", json={**LOW, "text": "why"})
    assert made.status_code == 200
    assert {**made.json(), "toml": ""} == {
        **made.json(), "toml": "", "name": "low", "for": "10m", "is_shipped": False, "broken": 0,
    }  # fmt: skip
    assert 'for = "10m"' in made.json()["toml"]
    assert names(served) == sorted([*SHIPPED, "low"])

    assert served.client.delete("/v1/rules/low").status_code == 200
    assert names(served) == sorted(SHIPPED)
    assert served.client.delete("/v1/rules/low").status_code == 404
    assert served.client.get("/v1/violations").json() == {"violations": [], "count": 0}


def test_a_shipped_rule_is_changed_and_comes_back_but_never_goes(served):
    refused = served.client.delete("/v1/rules/idle-held")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    served.client.put("/v1/rules/idle-held", json={**LOW, "enabled": False})
    rules = served.client.get("/v1/rules").json()["rules"]
    assert [rule["enabled"] for rule in rules if rule["name"] == "idle-held"] == [False]

    back = served.client.delete("/v1/rules/idle-held").json()["rules"]
    assert [rule["enabled"] for rule in back if rule["name"] == "idle-held"] == [True]


def test_a_members_rule_is_about_its_own_jobs_only(served, alice):
    made = alice.put("/v1/rules/alices", json=LOW)
    assert (made.status_code, made.json()["scope"]["owner"]) == (200, "alice")

    with member(served, "bob") as bob:
        for caller, verb, name in (
            (bob, "PUT", "alices"),
            (bob, "DELETE", "alices"),
            (alice, "PUT", "idle-held"),
        ):
            answer = caller.request(verb, f"/v1/rules/{name}", json=LOW)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    others = alice.put("/v1/rules/more", json={**LOW, "scope": {"owner": "bob"}})
    assert others.status_code == 403
    assert alice.delete("/v1/rules/alices").status_code == 200


def test_a_member_has_so_many_rules_and_no_more(served, alice):
    answers = [alice.put(f"/v1/rules/a{n}", json=LOW) for n in range(RULES_OWN_MAX + 1)]

    assert [one.status_code for one in answers] == [200] * RULES_OWN_MAX + [409]
    assert answers[-1].json()["allowed"] == RULES_OWN_MAX
    assert alice.put("/v1/rules/a0", json={**LOW, "below": 5}).status_code == 200  # is not one more
    for n in range(RULES_OWN_MAX):
        alice.delete(f"/v1/rules/a{n}")


def test_an_unknown_metric_or_project_is_refused_with_what_there_is(served):
    metric = served.client.put("/v1/rules/x", json={**LOW, "metric": "gpu_utl_percent"})
    project = served.client.put("/v1/rules/x", json={**LOW, "scope": {"project": "nobody"}})
    preview = served.client.post("/v1/rules:preview", json={"rule": {**LOW, "metric": "y"}})

    assert (metric.status_code, project.status_code, preview.status_code) == (422, 404, 422)
    assert "did you mean gpu_util_percent?" in metric.text
    assert "default" in project.text
