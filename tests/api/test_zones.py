"""Zones and machine profiles over HTTP, as operators and the CLI use them."""


def test_a_zone_is_set_shown_and_taken_away(served):
    made = served.client.put("/v1/zones/small", json={"gpus_max": 2})
    shown = served.client.get("/v1/zones").json()["zones"]
    gone = served.client.delete("/v1/zones/small")

    assert made.status_code == 200
    assert (made.json()["gpus_max"], made.json()["is_set"]) == (2, True)
    assert [zone["id"] for zone in shown] == ["public", "small"]
    assert shown[0]["gpus"] > 0
    assert [zone["id"] for zone in gone.json()["zones"]] == ["public"]


def test_what_a_zone_cannot_be_is_refused_with_what_can(served):
    nobody = served.client.put("/v1/zones/lab", json={"owners": ["project:nobody"]})
    empty = served.client.put("/v1/zones/lab", json={"gpus_min": 8, "gpus_max": 2})
    unknown = served.client.delete("/v1/zones/moon")

    assert (nobody.status_code, empty.status_code, unknown.status_code) == (404, 422, 404)
    assert "default" in nobody.text


def test_profiles_say_what_comes_with_a_gpu_and_how_many_are_free(served):
    profiles = served.client.get("/v1/profiles").json()["profiles"]

    assert profiles[-1]["name"] == "any"
    assert profiles[-1]["gpus"] == sum(profile["gpus"] for profile in profiles[:-1])
    assert all(profile["gpus_free"] <= profile["gpus"] for profile in profiles)
    assert all(profile["most_free_on_one_node"] >= 1 for profile in profiles)
