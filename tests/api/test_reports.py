"""Reports over HTTP: what is answered, what is refused, and that the books keep up."""

import pytest

from madang.core.codec import decode_event
from madang.core.events import JobSubmitted


def usage(door, **query):
    return door.client.get("/v1/reports/usage", params=query)


def test_a_report_counts_every_job_that_came_since_the_last_one(door):
    before = usage(door).json()["total"]["submitted"]
    for _ in range(3):
        door.client.post("/v1/jobs", json={"command": ["true"], "gpus": 1})
    found = usage(door, by="project,size").json()

    assert found["total"]["submitted"] == before + 3
    assert found["by"] == ["project", "size"]
    assert {line["group"]["size"] for line in found["lines"]} >= {"1"}
    assert sum(line["submitted"] for line in found["lines"]) == found["total"]["submitted"]
    assert found["until_ms"] - found["since_ms"] == 30 * 86_400_000


def test_csv_says_the_same(door):
    answer = usage(door, by="project", format="csv")
    head, *lines = answer.text.splitlines()

    assert answer.headers["content-type"].startswith("text/csv")
    assert head.startswith("project,asked_gpu_h,held_gpu_h")
    assert lines[-1].startswith("(total),")


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("usage", {"since": "last week"}, "write 30d"),
        ("usage", {"by": "colour"}, "model, size, project"),
        ("usage", {"since": "1h", "until": "3h"}, "end before it begins"),
        ("usage", {"by": "day", "since": "1990-01-01"}, "1000 days"),
        ("usage", {"format": "xml"}, "json"),
        ("usage", {"since": "9" * 400}, "40"),
        ("pool", {"wait": "soon"}, "soon"),
        ("pool", {"share": "0"}, "1"),
    ],
)
def test_what_cannot_be_reported_is_a_problem_that_says_why(door, path, query, said):
    answer = door.client.get(f"/v1/reports/{path}", params=query)

    assert answer.status_code == 422
    assert said in answer.text


def test_advice_names_its_target_and_its_method(door):
    found = door.client.get("/v1/reports/pool", params={"wait": "30m", "share": 90}).json()

    assert (found["target_ms"], found["share_pct"]) == (1_800_000, 90)
    assert "90 % of the jobs wait at most 30 min" in found["method"]


def test_the_journal_can_be_read_page_by_page_and_decoded(door):
    made = door.client.post("/v1/jobs", json={"command": ["true"], "name": "journalled"}).json()
    lines, after = [], 0
    while page := door.client.get("/v1/journal", params={"after": after, "limit": 3}).json()[
        "lines"
    ]:
        assert len(page) <= 3
        lines += page
        after = page[-1][0]
    events = [decode_event(line) for _, _, line in lines]

    assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
    assert any(isinstance(event, JobSubmitted) and event.job.id == made["id"] for event in events)


def test_reports_are_for_those_who_are_let_in(door):
    with door.stranger() as stranger:
        for path in ("/v1/reports/usage", "/v1/reports/pool", "/v1/journal"):
            assert stranger.get(path).status_code == 401
