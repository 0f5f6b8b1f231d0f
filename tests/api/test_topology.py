"""The network tree over HTTP: shown, checked, set, refused, dropped."""

import pytest

from madang.core.model import Node
from tests.api.serving import serving

NODES = tuple(
    Node(f"n{at}", 8, 64_000, 1_024_000, "H100", domains=("b0", f"l{at // 2}")) for at in range(4)
)
TREE = {
    "levels": ["pod", "rack"],
    "domains": [
        {"name": "p0", "level": "pod", "domains_regex": ["r."]},
        {"name": "r0", "level": "rack", "nodes": ["n0"]},
        {"name": "r1", "level": "rack", "nodes_regex": ["n[12]"]},
    ],
}
GANG = {"command": ["train"], "gpus": 8, "members": 4}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("yard")
    with serving(place, nodes=NODES) as one:
        yield one.client


def domains(view) -> list[tuple[str, int, int]]:
    return [("/".join(one["path"]), one["nodes"], one["gpus_free"]) for one in view["domains"]]


def test_a_tree_is_shown_checked_set_and_dropped(client):
    before = client.get("/v1/topology").json()
    assert domains(before) == [("b0", 4, 32), ("b0/l0", 2, 16), ("b0/l1", 2, 16)]
    assert (before["declared"], before["within"]) == (False, "block")

    checked = client.post("/v1/topology/check", json=TREE).json()
    assert checked == {"ok": True, "flaws": [], "findings": ["n3 is in no domain"]}
    assert client.get("/v1/topology").json() == before

    after = client.put("/v1/topology", json=TREE).json()
    assert domains(after) == [("p0", 3, 24), ("p0/r0", 1, 8), ("p0/r1", 2, 16)]
    assert (after["declared"], after["within"], after["unplaced"]) == (True, "pod", ["n3"])
    assert after["file"]["domains"][2]["nodes_regex"] == ["n[12]"]
    refused = client.post("/v1/jobs", json=GANG).json()
    assert refused["reason"] == "domain_too_small"
    assert "the largest, p0, holds 3 such members" in refused["detail"]

    assert client.delete("/v1/topology").json() == before


def test_a_tree_with_flaws_is_refused_and_changes_nothing(client):
    before = client.get("/v1/topology").json()
    twice = {"levels": ["leaf"], "domains": [{"name": "a", "tier": 1}, {"name": "a", "tier": 1}]}

    answer = client.put("/v1/topology", json=twice)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert "domain 'a' is there twice" in answer.json()["detail"]
    assert client.post("/v1/topology/check", json=twice).json()["ok"] is False
    assert client.get("/v1/topology").json() == before
