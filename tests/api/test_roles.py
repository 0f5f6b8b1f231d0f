"""Every route × every role, and whose jobs a member may touch."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from madang.api.identity import digest_of
from madang.api.roles import LEAST, names_of
from madang.wire.access import Role
from madang.wire.problems import MEDIA_TYPE
from tests.api.serving import OWNER, TOKEN, Served

# Who may: owner, member, viewer, agent. Written out, so that no change of it goes unseen.
TABLE = """
GET /v1/me                       omv-
GET /v1/jobs                     omv-
GET /v1/jobs/{id}                omv-
GET /v1/jobs/{id}/request        omv-
GET /v1/jobs/{id}/why            omv-
GET /v1/jobs/{id}/events         omv-
GET /v1/jobs/{id}/log            omv-
GET /v1/jobs/{id}/reports        omv-
GET /v1/schema/job               omv-
GET /v1/code/{digest}            omv-
HEAD /v1/code/{digest}           omv-
GET /v1/nodes                    omv-
GET /v1/top                      omv-
GET /v1/overview                 omv-
GET /v1/events                   omv-
GET /v1/journal                  omv-
GET /v1/projects                 omv-
GET /v1/workspaces               omv-
GET /v1/quotas                   omv-
GET /v1/policy                   omv-
GET /v1/zones                    omv-
GET /v1/profiles                 omv-
GET /v1/reservations             omv-
GET /v1/budgets                  omv-
GET /v1/holes                    omv-
GET /v1/topology                 omv-
GET /v1/reports/usage            omv-
GET /v1/reports/idle             omv-
GET /v1/reports/pool             omv-
GET /v1/series                   omv-
GET /v1/quantiles                omv-
GET /v1/signals                  omv-
GET /v1/metrics/names            omv-
GET /v1/telemetry/health         omv-
GET /v1/rules                    omv-
GET /v1/violations               omv-
WEBSOCKET /v1/live               omv-
GET /v1/live/history             omv-
GET /v1/live/moment              omv-
POST /v1/try                     omv-
POST /v1/topology/check          omv-
POST /v1/login-links             omv-
POST /v1/logout                  omv-
POST /v1/jobs                    om--
POST /v1/jobs:batch              om--
PUT /v1/code/{digest}            om--
POST /v1/jobs/{id}/stop          om--
POST /v1/jobs/{id}/requeue       om--
PUT /v1/jobs/{id}/memo           om--
WEBSOCKET /v1/jobs/{id}/exec     om--
POST /v1/rules:preview           om--
PUT /v1/rules/{id}               om--
DELETE /v1/rules/{id}            om--
PUT /v1/projects/{id}            o---
PUT /v1/workspaces/{id}          o---
PUT /v1/quotas                   o---
DELETE /v1/quotas                o---
PUT /v1/policy                   o---
PUT /v1/zones/{id}               o---
DELETE /v1/zones/{id}            o---
PUT /v1/reservations             o---
DELETE /v1/reservations/{id}     o---
PUT /v1/budgets/{id}             o---
DELETE /v1/budgets/{id}          o---
POST /v1/holes                   o---
DELETE /v1/holes/{id}            o---
PUT /v1/topology                 o---
DELETE /v1/topology              o---
POST /v1/nodes/{id}/cordon       o---
POST /v1/nodes/{id}/uncordon     o---
DELETE /v1/nodes/{id}            o---
GET /v1/tokens                   o---
POST /v1/tokens                  o---
DELETE /v1/tokens/{name}         o---
POST /v1/frames                  o--a
"""
ROUTES = [line.rsplit(maxsplit=1) for line in TABLE.split("\n") if line]
OPEN = {"GET /v1/health", "GET /login"}
UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass(frozen=True)
class People:
    """A client for each role; alice and bob are members."""

    owner: httpx.Client
    alice: httpx.Client
    bob: httpx.Client
    viewer: httpx.Client
    agent: httpx.Client

    def of(self, role: Role) -> httpx.Client:
        return self.alice if role is Role.MEMBER else getattr(self, role.value)


@pytest.fixture(scope="module")
def people(served: Served) -> Iterator[People]:
    roles = {"alice": Role.MEMBER, "bob": Role.MEMBER, "viewer": Role.VIEWER, "agent": Role.AGENT}
    for name, role in roles.items():
        served.yard.ledger.add_token(name, digest_of(f"of-{name}"), 1, role)
    with ExitStack() as open_ones:
        clients = {name: open_ones.enter_context(client(served, f"of-{name}")) for name in roles}
        yield People(owner=served.client, **clients)


def client(served: Served, token: str) -> httpx.Client:
    return served.stranger(authorization=f"Bearer {token}")


def asked(caller: httpx.Client, route: str) -> tuple[int, str]:
    """(status, problem's code) of a request that names nothing that there is."""
    verb, path = route.split()
    path = path.format(id="none", name="none", digest="0" * 64)
    headers, content = {}, None
    if verb == "WEBSOCKET":
        verb, headers = "GET", UPGRADE
    elif verb in ("POST", "PUT"):
        headers, content = {"content-type": "application/json"}, b"[]"
    with caller.stream(verb, path, headers=headers, content=content) as answer:
        is_problem = answer.headers.get("content-type") == MEDIA_TYPE and verb != "HEAD"
        return answer.status_code, json.loads(answer.read())["code"] if is_problem else ""


def test_every_route_is_in_the_table_and_nothing_else_is(served):
    routes = {name for route in served.app.state.routes for name in names_of(route)}

    assert routes - OPEN == {name for name, _ in ROUTES}
    assert set(LEAST) == routes - OPEN


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("route", "who"), ROUTES)
def test_a_route_lets_in_whom_the_table_names_and_nobody_else(people, route, who, role):
    status, code = asked(people.of(role), route)

    assert status != 401
    if role.value[0] in who:
        assert code != "forbidden"
    elif route.startswith("HEAD"):
        assert status == 403
    else:
        assert (status, code) == (403, "forbidden")


def test_a_refusal_says_who_one_is_who_may_and_what_to_do(people):
    refused = people.viewer.post("/v1/jobs", json={"command": ["true"]}).json()

    assert refused["detail"] == "viewer is a viewer of this yard; this takes a member"
    assert (refused["given"], refused["allowed"]) == ("viewer", ["owner", "member"])
    assert "madang token add" in refused["try"][0]


# -- jobs -------------------------------------------------------------------------------------


def job_of(caller: httpx.Client, **more: object) -> str:
    made = caller.post("/v1/jobs", json={"command": ["true"], **more})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def touches(caller: httpx.Client, id: str) -> dict[str, int]:
    """The statuses of everything that acts on a job."""
    one = f"/v1/jobs/{id}"
    return {
        "memo": caller.put(f"{one}/memo", json={"memo": "x"}).status_code,
        "request": caller.get(f"{one}/request").status_code,
        "exec": caller.get(f"{one}/exec?member=7", headers=UPGRADE).status_code,
        "requeue": caller.post(f"{one}/requeue", json={}).status_code,
        "stop": caller.post(f"{one}/stop", json={}).status_code,
    }


@pytest.mark.parametrize("who", ["alice", "owner"])
def test_a_job_is_acted_on_by_who_submitted_it_and_by_owners(people, who):
    id = job_of(people.alice, env={"KEY": "secret"})
    done = touches(getattr(people, who), id)

    assert done == {"memo": 200, "request": 200, "exec": 404, "requeue": 202, "stop": 202}


def test_a_member_does_not_act_on_the_jobs_of_others(people):
    id = job_of(people.alice, env={"KEY": "secret"})
    done = touches(people.bob, id)
    refused = people.bob.post(f"/v1/jobs/{id}/stop", json={}).json()
    seen = people.bob.get(f"/v1/jobs/{id}")
    people.alice.post(f"/v1/jobs/{id}/stop", json={})

    assert done == dict.fromkeys(done, 403)
    assert refused["detail"] == f"{id} is alice's; bob, a member of this yard, cannot stop it"
    assert refused["allowed"] == ["alice", "owners of this yard"]
    assert refused["try"][0] == "ask alice, or an owner of this yard"
    assert seen.json()["env_names"] == ["KEY"]
    assert "secret" not in seen.text


def test_a_request_without_an_environment_is_seen_by_all(people):
    id = job_of(people.alice)

    assert people.viewer.get(f"/v1/jobs/{id}/request").json()["command"] == ["true"]


# -- links, sessions, tokens --------------------------------------------------------------------


def logged_in(served: Served, link: str) -> httpx.Client:
    """A browser that has used the link."""
    with served.stranger() as stranger:
        cookie = stranger.get(link).headers["set-cookie"].partition(";")[0]
    return served.stranger(cookie=cookie, origin=served.url)


@pytest.mark.parametrize(
    ("who", "body", "user", "role"),
    [
        ("owner", {}, OWNER, "owner"),
        ("owner", {"role": "viewer"}, OWNER, "viewer"),
        ("owner", {"user": "carol"}, "carol", "member"),
        ("owner", {"user": "carol", "role": "viewer"}, "carol", "viewer"),
        ("owner", {"user": "dora", "role": "owner"}, "dora", "owner"),
        ("alice", {}, "alice", "member"),
        ("alice", {"user": "alice", "role": "viewer"}, "alice", "viewer"),
        ("viewer", {}, "viewer", "viewer"),
    ],
)
def test_a_link_logs_in_whom_it_names_with_the_role_it_names(served, people, who, body, user, role):
    made = getattr(people, who).post("/v1/login-links", json=body)
    with logged_in(served, made.json()["url"]) as browser:
        me = browser.get("/v1/me").json()
        may_submit = browser.post("/v1/jobs", json={"command": ["true"]}).status_code
        browser.post("/v1/logout", json={})

    assert made.status_code == 201
    assert me == {"user": user, "role": role, "via": "cookie"}
    assert may_submit == (403 if role == "viewer" else 201)


@pytest.mark.parametrize(
    ("who", "body"),
    [
        ("alice", {"role": "owner"}),
        ("alice", {"user": "bob"}),
        ("alice", {"user": "bob", "role": "viewer"}),
        ("viewer", {"role": "member"}),
        ("viewer", {"user": "alice"}),
    ],
)
def test_nobody_makes_a_link_to_more_than_they_are(people, who, body):
    refused = getattr(people, who).post("/v1/login-links", json=body)

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_a_link_for_an_agent_is_a_mistake(people):
    assert people.owner.post("/v1/login-links", json={"role": "agent"}).status_code == 422


def test_a_new_token_is_a_member_unless_said(people):
    made = people.owner.post("/v1/tokens", json={"name": "plain"}).json()
    people.owner.delete("/v1/tokens/plain")

    assert made["role"] == "member"


def test_revoking_a_name_takes_its_browsers_and_its_links_with_it(served, people):
    made = people.owner.post("/v1/tokens", json={"name": "eve", "role": "owner"}).json()
    with ExitStack() as open_ones:
        eve = open_ones.enter_context(client(served, made["token"]))
        used, unused = (eve.post("/v1/login-links").json()["url"] for _ in range(2))
        browser = open_ones.enter_context(logged_in(served, used))
        before = [one.get("/v1/jobs").status_code for one in (eve, browser)]
        gone = people.owner.delete("/v1/tokens/eve").status_code
        after = [one.get("/v1/jobs").status_code for one in (eve, browser)]
        late = open_ones.enter_context(served.stranger()).get(unused).status_code

    assert (before, gone, after, late) == ([200, 200], 204, [401, 401], 403)
    assert "eve" not in [each["user"] for each in people.owner.get("/v1/tokens").json()["tokens"]]


def test_a_role_that_this_version_does_not_know_opens_nothing(served):
    served.yard.ledger.add_token("odd", digest_of("of-odd"), 1, "emperor")

    with client(served, "of-odd") as odd:
        refused = odd.get("/v1/jobs").status_code
    served.yard.ledger.drop_token("odd")

    assert refused == 401


def test_the_token_of_before_is_an_owner_still(served):
    with client(served, TOKEN) as first:
        assert first.get("/v1/me").json() == {"user": OWNER, "role": "owner", "via": "token"}
