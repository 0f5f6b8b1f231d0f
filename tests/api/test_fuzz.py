"""Random requests after the API's own document: whatever comes, no failure of ours, and no answer
that the document does not know.
"""

import json
from typing import Any
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from tests.api.serving import Served

pytestmark = pytest.mark.slow

UNBOUNDED = {"/v1/events", "/v1/jobs/{id}/log"}  # streams, tested by themselves
WORDS = st.sampled_from(
    ["command", "gpus", "members", "name", "env", "time", "jobs", "memo", "quota_gpus", "grace",
     "digits-1", "1", "0", "-1", "n1", "default", "true", "2h", "running", "newest"]
)  # fmt: skip
TEXTS = WORDS | st.text(st.characters(codec="utf-8"), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
NEARLY_JOBS = st.fixed_dictionaries(
    {"command": st.lists(TEXTS, max_size=3)},
    optional={
        "gpus": st.floats(0, 8) | VALUES,
        "members": st.integers(1, 3) | VALUES,
        "name": TEXTS,
        "env": st.dictionaries(TEXTS, TEXTS, max_size=3),
        "time": TEXTS | st.integers(),
        "memo": TEXTS,
        "project": TEXTS,
        "profile": TEXTS,
        "image": TEXTS,
        "forked_from": TEXTS,
    },
)
BODIES = (
    VALUES
    | NEARLY_JOBS
    | st.fixed_dictionaries({"jobs": st.lists(NEARLY_JOBS | VALUES, max_size=4)})
    | st.fixed_dictionaries({"memo": TEXTS})
    | st.fixed_dictionaries({"quota_gpus": st.floats() | st.integers() | st.none()})
)


@pytest.fixture(scope="module")
def operations(served: Served) -> list[tuple[str, str, dict[str, Any]]]:
    document = served.client.get("/openapi.json").json()
    return [
        (path, verb, operation)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
        if path not in UNBOUNDED
    ]


@settings(
    max_examples=1_500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_request_makes_it_fail(served, operations, data):
    served.engine.quick = True
    path, verb, operation = data.draw(st.sampled_from(operations))
    query = {}
    for one in operation.get("parameters", ()):
        value = data.draw(TEXTS, label=one["name"])
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", quote(value, safe="") or "x")
        elif one["in"] == "query" and data.draw(st.booleans()):
            query[one["name"]] = value
    body = data.draw(BODIES) if verb in ("post", "put") else None
    content = None if body is None else json.dumps(body).encode("utf-8", "surrogatepass")

    answer = served.client.request(
        verb, path, params=query, content=content, headers={"content-type": "application/json"}
    )

    known = {int(status) for status in operation["responses"]}
    assert answer.status_code < 500, answer.text
    assert answer.status_code in known or answer.status_code in (404, 405), answer.text
    if answer.status_code >= 400 and verb != "head" and not path.startswith("/login"):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
