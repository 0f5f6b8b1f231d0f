"""The calendar over HTTP: made, refused with a guide, used by jobs, taken away."""

import time

HOUR_MS = 3_600_000


def window(name: str, **changes):
    begin_ms = int(time.time() * 1000) + 48 * HOUR_MS
    body = {"id": name, "project": "default", "begin_ms": begin_ms, "end_ms": begin_ms + HOUR_MS}
    return {**body, **changes}


def test_a_reservation_is_made_listed_and_taken_away(door):
    made = door.client.put("/v1/reservations", json=window("night-1"))
    listed = door.client.get("/v1/reservations").json()["reservations"]
    gone = door.client.delete("/v1/reservations/night-1")
    again = door.client.delete("/v1/reservations/night-1")

    assert made.status_code == 200
    assert made.json() in listed
    assert made.json()["state"] == "waiting"
    assert "night-1" not in [one["id"] for one in gone.json()["reservations"]]
    assert again.status_code == 404
    assert again.json()["code"] == "not_found"


def test_what_cannot_coexist_is_refused_with_what_would_work(door):
    refused = door.client.put("/v1/reservations", json=window("huge", members=1000))

    assert refused.status_code == 409
    body = refused.json()
    assert body["reason"] == "reservation_clash"
    assert body["numbers"]["members"] == 1000
    assert body["try"]
    assert "huge" not in [
        one["id"] for one in door.client.get("/v1/reservations").json()["reservations"]
    ]


def test_a_window_that_is_none_is_a_mistake(door):
    backwards = door.client.put("/v1/reservations", json=window("odd", end_ms=5))
    past = door.client.put("/v1/reservations", json=window("old", begin_ms=1, end_ms=5))

    assert backwards.status_code == 422
    assert past.status_code == 409
    assert past.json()["reason"] == "reservation_window"


def test_a_job_names_a_reservation_that_is_there(door):
    door.client.put("/v1/reservations", json=window("night-2"))
    job = {"command": ["true"], "gpus": 1}

    taken = door.client.post("/v1/jobs", json={**job, "reservation": "night-2"})
    unknown = door.client.post("/v1/jobs", json={**job, "reservation": "nobodys"})
    why = door.client.get(f"/v1/jobs/{taken.json()['id']}/why").json()
    door.client.post(f"/v1/jobs/{taken.json()['id']}/stop")
    door.client.delete("/v1/reservations/night-2")

    assert unknown.status_code == 422
    assert unknown.json()["reason"] == "unknown_reservation"
    assert why["code"] == "reservation"
    assert why["earliest_ms"] > time.time() * 1000
