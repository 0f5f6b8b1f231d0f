"""Bad input: each is answered by what was given, what is allowed, and what to do."""

import json
import logging

import pytest

from madang.api.problems import TITLES

TOO_DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("body", "where", "word"),
    [
        ({}, "command", "missing"),
        ({"command": []}, "command", "at least 1 item"),
        ({"command": "true"}, "command", "list"),
        ({"command": [""]}, "command", "empty"),
        ({"command": ["a\0b"]}, "command", "NUL"),
        ({"command": ["true"], "gpu": 1}, "gpu", "did you mean 'gpus'?"),
        ({"command": ["true"], "memmory_mib": 1}, "memmory_mib", "did you mean 'memory_mib'?"),
        ({"command": ["true"], "zzz": 1}, "zzz", "there are: command, name"),
        ({"command": ["true"], "gpus": -1}, "gpus", "greater than or equal to 0"),
        ({"command": ["true"], "gpus": 1.5}, "gpus", "whole GPUs"),
        ({"command": ["true"], "gpus": 1e300}, "gpus", "less than or equal to 64"),
        ({"command": ["true"], "members": 0}, "members", "greater than or equal to 1"),
        ({"command": ["true"], "members": 10**30}, "members", "less than or equal to 65536"),
        ({"command": ["true"], "members": "many"}, "members", "valid integer"),
        ({"command": ["true"], "time": "soon"}, "time", "write 90s, 30m, 2h"),
        ({"command": ["true"], "time": "100000d"}, "time", "between 0 and 10 years"),
        ({"command": ["true"], "name": "Größe"}, "name", "lower-case"),
        ({"command": ["true"], "env": {"1": "x"}}, "env", "variable name"),
        ({"command": ["true"], "category": "sport"}, "category", "'serving', 'training'"),
        ({"command": ["true"], "code": "abc"}, "code", "match pattern"),
        ({"command": ["true"], "memo": "a\0"}, "memo", "NUL"),
    ],
)
def test_each_mistake_in_a_job_names_its_place(served, body, where, word):
    answer = served.client.post("/v1/jobs", json=body)
    problem = answer.json()

    assert answer.status_code == 422
    assert problem["code"] == "invalid"
    assert [error["where"] for error in problem["errors"]] == [where]
    assert word in problem["errors"][0]["problem"]
    assert where in problem["detail"]


def test_all_mistakes_are_told_at_once(served):
    body = {"command": [], "gpus": -1, "gpu": 2, "name": "-", "retries": 1000}

    problem = served.client.post("/v1/jobs", json=body).json()

    assert [error["where"] for error in problem["errors"]] == [
        "command", "name", "gpus", "retries", "gpu",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b'{"command": ["true"],}', 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (TOO_DEEP, 400, "bad_json"),
        (b"null", 422, "invalid"),
        (b"[]", 422, "invalid"),
        (b'"text"', 422, "invalid"),
        (b"", 422, "invalid"),
        (b'{"command": ["\\ud800"]}', 422, "invalid"),
        (b'{"command": ["true"], "gpus": NaN}', 422, "invalid"),
        (b'{"command": ["true"], "gpus": Infinity}', 422, "invalid"),
        (b'{"command": ["true"], "gpus": ' + b"9" * 5_000 + b"}", 400, "bad_json"),
    ],
)
def test_what_is_no_job_at_all_is_said_to_be_none(served, body, status, code):
    answer = served.client.post(
        "/v1/jobs", content=body, headers={"content-type": "application/json"}
    )

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert len(answer.content) < 4_000


@pytest.mark.parametrize(
    ("query", "where", "word"),
    [
        ("phase=runing", "query.phase", "there are: waiting"),
        ("phas=running", "query.phas", "did you mean 'phase'?"),
        ("limit=0", "query.limit", "greater than or equal to 1"),
        ("limit=1001", "query.limit", "less than or equal to 1000"),
        ("before=-1", "query.before", "greater than or equal to 0"),
        ("limit=x", "query.limit", "valid integer"),
    ],
)
def test_each_mistake_in_a_query_names_its_place(served, query, where, word):
    problem = served.client.get(f"/v1/jobs?{query}").json()

    assert problem["errors"][0]["where"] == where
    assert word in problem["errors"][0]["problem"]


@pytest.mark.parametrize(
    ("verb", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "no_such_path"),
        ("POST", "/v1/nothing", 404, "no_such_path"),
        ("GET", "/nothing.js", 404, "no_such_path"),
        ("GET", "/v1/jobs/", 404, "no_such_path"),
        ("GET", "/../../etc/passwd", 404, "no_such_path"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "no_such_path"),
        ("DELETE", "/v1/jobs", 405, "wrong_method"),
        ("GET", "/v1/jobs:batch", 405, "wrong_method"),
        ("POST", "/docs", 405, "wrong_method"),
        ("GET", "/v1/code/xyz", 422, "invalid"),
        ("PUT", "/v1/projects/UPPER", 415, "wrong_media_type"),
    ],
)
def test_paths_and_methods_that_are_not_there(served, verb, path, status, code):
    answer = served.client.request(verb, path, content=b"{}" if verb == "PUT" else None)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_method_is_told_the_right_ones(served):
    answer = served.client.delete("/v1/jobs")

    assert answer.headers["allow"] == "GET, POST"
    assert answer.json()["allowed"] == ["GET", "POST"]


def test_a_failure_of_ours_shows_an_id_and_the_log_has_the_rest(served, monkeypatch, caplog):
    def broken(request, owner):
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(served.yard, "trial", broken)
    with caplog.at_level(logging.ERROR, logger="madang.api"):
        answer = served.client.post("/v1/try", json={"command": ["true"]})
    problem = answer.json()

    assert answer.status_code == 500
    assert problem["code"] == "internal"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert problem["id"] in caplog.text
    assert "the secret reason" in caplog.text


def test_every_code_that_can_be_answered_is_explained_in_the_reference(served):
    page = served.client.get("/docs").text

    for code in TITLES:
        assert f"id='{code}'" in page


def test_the_document_shows_problems_and_who_may_call(served):
    document = served.client.get("/openapi.json").json()
    submit = document["paths"]["/v1/jobs"]["post"]

    assert set(submit["responses"]) >= {"201", "400", "401", "409", "413", "415", "422", "503"}
    schema = submit["responses"]["422"]["content"]["application/problem+json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Problem"}
    assert document["paths"]["/v1/health"]["get"]["security"] == []
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_reference_in_the_document_leads_somewhere(served):
    document = served.client.get("/openapi.json").json()
    names = set(document["components"]["schemas"])
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert used <= names
