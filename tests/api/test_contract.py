"""What any client may rely on, over HTTP alone: the same tests for a served API and a daemon."""

import json
import secrets
from typing import Any

import pytest

from tests.api.conftest import Door

ENDED = ("succeeded", "failed", "stopped")


def submitted(door: Door, **request: Any) -> dict[str, Any]:
    answer = door.client.post("/v1/jobs", json={"command": ["true"], **request})
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


def ended(door: Door, id: str) -> dict[str, Any]:
    """The job's view once it has ended, seen by following its log to the end."""
    with door.client.stream("GET", f"/v1/jobs/{id}/log", params={"follow": True}) as log:
        log.read()
    with door.client.stream("GET", "/v1/events", params={"after": 0}) as events:
        for line in events.iter_lines():
            if line.startswith("data:") and json.loads(line[5:]).get("phase") in ENDED:
                view: dict[str, Any] = door.client.get(f"/v1/jobs/{id}").json()
                if view["phase"] in ENDED:
                    return view
    raise AssertionError("the event stream ended")


def test_health_needs_no_token(door):
    with door.stranger() as stranger:
        answer = stranger.get("/v1/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/events"),
        ("GET", "/v1/tokens"),
        ("POST", "/v1/login-links"),
        ("GET", "/v1/no/such/path"),
        ("PUT", f"/v1/code/{'0' * 64}"),
    ],
)
def test_all_else_needs_one(door, verb, path):
    with door.stranger() as stranger:
        without = stranger.request(verb, path)
        wrong = stranger.request(verb, path, headers={"authorization": "Bearer wrong"})

    for answer in (without, wrong):
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthorized"


def test_a_job_is_there_by_id_and_by_number_as_soon_as_it_is_acknowledged(door):
    made = submitted(door, name="seen", time="2h", env={"A": "1"}, memo="a note")

    by_id = door.client.get(f"/v1/jobs/{made['id']}").json()
    by_number = door.client.get(f"/v1/jobs/{made['n']}").json()
    fixed = ("id", "n", "name", "owner", "command", "env_names", "time_ms", "memo", "gpus")

    assert made["id"] == f"seen-{made['n']}"
    assert made["time_ms"] == 7_200_000
    assert made["env_names"] == ["A"]
    for view in (by_id, by_number):
        assert {key: view[key] for key in fixed} == {key: made[key] for key in fixed}


def test_the_request_comes_back_so_that_it_can_be_sent_again(door):
    request = {"command": ["true"], "name": "again", "time": "90m", "grace": "5s", "gpus": 1}
    made = submitted(door, **request)

    back = door.client.get(f"/v1/jobs/{made['id']}/request").json()
    twin = submitted(door, **back)

    assert twin["time_ms"] == made["time_ms"] == 5_400_000
    assert twin["grace_ms"] == made["grace_ms"] == 5_000
    assert twin["id"] != made["id"]


def test_an_idempotency_key_makes_one_job_however_often_it_is_sent(door):
    key = {"idempotency-key": secrets.token_hex(8)}
    body = {"command": ["true"], "name": "once"}

    first = door.client.post("/v1/jobs", json=body, headers=key)
    second = door.client.post("/v1/jobs", json=body, headers=key)
    other = door.client.post("/v1/jobs", json={**body, "members": 2}, headers=key)

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert other.status_code == 409
    assert other.json()["code"] == "key_reused"


def test_a_batch_is_judged_job_by_job_and_answered_in_its_order(door):
    batch = [
        {"command": ["true"], "name": "one"},
        {"command": ["true"], "gpu": 1},
        {"command": ["true"], "project": "nobody-made-it"},
        {"command": ["true"], "name": "four"},
    ]

    answer = door.client.post("/v1/jobs:batch", json={"jobs": batch})
    jobs = answer.json()["jobs"]

    assert answer.status_code == 201
    assert [job.get("name") for job in jobs] == ["one", None, None, "four"]
    assert jobs[1]["errors"][0] == {
        "where": "jobs.1.gpu",
        "given": 1,
        "problem": "there is no key 'gpu'; did you mean 'gpus'?",
    }
    assert (jobs[2]["code"], jobs[2]["reason"]) == ("rejected", "unknown_project")


def test_a_job_that_can_never_run_is_rejected_with_what_would_work(door):
    answer = door.client.post("/v1/jobs", json={"command": ["true"], "gpus": 64, "members": 9})
    problem = answer.json()

    assert answer.status_code == 422
    assert problem["code"] == "rejected"
    assert "× 64 " in problem["detail"]
    assert problem["numbers"]["gpus_max"] == 4


def test_try_tells_the_same_without_submitting(door):
    before = door.client.get("/v1/jobs?limit=1").json()["jobs"]

    never = door.client.post("/v1/try", json={"command": ["true"], "gpus": 64}).json()
    fits = door.client.post("/v1/try", json={"command": ["true"], "gpus": 1}).json()
    after = door.client.get("/v1/jobs?limit=1").json()["jobs"]

    assert never["code"] == "never"
    assert fits["code"] in ("starts_now", "waits")
    assert [job["id"] for job in after] == [job["id"] for job in before]


def test_pages_of_jobs_are_newest_first_and_meet_without_gap_or_overlap(door):
    made = [submitted(door, name="paged")["n"] for _ in range(5)]

    numbers: list[int] = []
    before: int | None = 0
    while before is not None:
        page = door.client.get(f"/v1/jobs?name=paged&limit=2&before={before}").json()
        numbers += [job["n"] for job in page["jobs"]]
        before = page["next"]

    assert numbers == sorted(made, reverse=True)


def test_a_quick_job_ends_well_and_why_says_so(door):
    view = ended(door, submitted(door, name="quick")["id"])
    why = door.client.get(f"/v1/jobs/{view['id']}/why").json()
    kinds = [
        event["kind"] for event in door.client.get(f"/v1/jobs/{view['n']}/events").json()["events"]
    ]

    assert (view["phase"], view["exit_code"]) == ("succeeded", 0)
    assert view["submitted_ms"] <= view["running_ms"] <= view["ended_ms"]
    assert why["code"] == "succeeded"
    assert kinds[0] == "JobSubmitted"
    assert kinds[-1] == "JobEnded"


def test_stopping_an_ended_job_changes_nothing(door):
    view = ended(door, submitted(door)["id"])

    answer = door.client.post(f"/v1/jobs/{view['id']}/stop", json={})

    assert answer.status_code == 200
    assert answer.json() == view


def test_a_memo_is_kept(door):
    made = submitted(door)

    answer = door.client.put(f"/v1/jobs/{made['id']}/memo", json={"memo": "größer 🙂"})

    assert answer.status_code == 200
    assert door.client.get(f"/v1/jobs/{made['id']}").json()["memo"] == "größer 🙂"


def test_what_is_not_there_is_said_to_be_not_there(door):
    for path in ("/v1/jobs/none-77777", "/v1/jobs/99999999999999999999", "/v1/jobs/%00"):
        answer = door.client.get(path)

        assert answer.status_code == 404, path
        assert answer.json()["code"] == "no_such_job"


def test_projects_are_made_and_their_quota_bounds_jobs(door):
    id = f"p-{secrets.token_hex(3)}"

    made = door.client.put(f"/v1/projects/{id}", json={"quota_gpus": 1})
    listed = door.client.get("/v1/projects").json()["projects"]
    over = door.client.post("/v1/jobs", json={"command": ["true"], "project": id, "gpus": 2})
    freed = door.client.put(f"/v1/projects/{id}", json={"quota_gpus": None})

    assert made.json() == {"id": id, "workspace": "default", "quota_gpus": 1, "used_gpus": 0}
    assert made.json() in listed
    assert over.json()["reason"] == "over_quota"
    assert freed.json()["quota_gpus"] is None


def test_a_cordoned_node_shows_it_and_comes_back(door):
    node = door.client.get("/v1/nodes").json()["nodes"][0]["id"]

    closed = door.client.post(f"/v1/nodes/{node}/cordon")
    opened = door.client.post(f"/v1/nodes/{node}/uncordon")
    unknown = door.client.post("/v1/nodes/nowhere/cordon")

    assert closed.json()["state"] == "cordoned"
    assert opened.json()["state"] == "ready"
    assert unknown.status_code == 404
    assert node in unknown.json()["allowed"]


def test_only_a_node_out_of_sight_can_be_taken_off_the_lists(door):
    node = door.client.get("/v1/nodes").json()["nodes"][0]["id"]

    in_sight = door.client.delete(f"/v1/nodes/{node}")
    unknown = door.client.delete("/v1/nodes/nowhere")

    assert in_sight.status_code == 409
    assert in_sight.json()["allowed"] == ["lost"]
    assert unknown.status_code == 404
    assert node in [one["id"] for one in door.client.get("/v1/nodes").json()["nodes"]]


def test_the_overview_adds_up(door):
    view = door.client.get("/v1/overview").json()
    gpus = view["gpus"]
    nodes = door.client.get("/v1/nodes").json()["nodes"]

    assert view["nodes"] == len(nodes)
    assert gpus["total"] == sum(len(node["gpus"]) for node in nodes)
    assert gpus["held"] + gpus["free"] + gpus["unhealthy"] == gpus["total"]


def test_sensors_answer(door):
    view = door.client.get("/v1/top").json()

    assert set(view) == {"nodes", "members"}


def test_a_token_opens_until_it_is_revoked(door):
    name = f"ci-{secrets.token_hex(3)}"
    made = door.client.post("/v1/tokens", json={"name": name})
    bearer = {"authorization": f"Bearer {made.json()['token']}"}

    with door.stranger(**bearer) as robot:
        job = robot.post("/v1/jobs", json={"command": ["true"]}).json()
        twice = door.client.post("/v1/tokens", json={"name": name})
        listed = door.client.get("/v1/tokens")
        gone = door.client.delete(f"/v1/tokens/{name}")
        after = robot.get("/v1/jobs")

    assert job["owner"] == name
    assert twice.json()["code"] == "name_taken"
    assert name in [token["name"] for token in listed.json()["tokens"]]
    assert made.json()["token"] not in listed.text
    assert gone.status_code == 204
    assert after.status_code == 401


def test_the_schema_of_a_job_takes_durations_as_people_write_them(door):
    schema = door.client.get("/v1/schema/job").json()

    assert schema["additionalProperties"] is False
    assert schema["properties"]["time"]["type"] == ["string", "number"]
    assert schema["required"] == ["command"]
