"""One of each kind of workload that others make, on a real API server, to its end.

Its object is made from the schema of its CRD, its pods as its controller would make them (those
controllers are not here), except for a batch/v1 Job, whose real controller is: test_placing.py.
"""

from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import yaml

from madang.core.model import Phase
from tests.kubernetes.conftest import access_to
from tests.kubernetes.examples import all_examples, objects_for, pods_for, reference
from tests.kubernetes.kubelet import RUNS, Fleet
from tests.kubernetes.yard import create, opened, pods, until

pytestmark = pytest.mark.kubernetes

CRDS = Path(__file__).parent / "crds"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NODES = tuple(f"kinds-{n}" for n in range(7))
OWN_CONTROLLER = ("indexed-job", "loose-job")
EXAMPLES = [one for one in all_examples() if one.on_1_20 and one.name not in OWN_CONTROLLER]


@pytest.fixture(scope="module")
def kinds(shared):
    """The API server with the kinds of others, and nodes."""
    for path in sorted(CRDS.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            try:
                shared.ask("POST", DEFINITIONS, document)
            except HTTPError as failure:
                if failure.code != 409:
                    raise
    until(lambda: all(_is_served(one) for one in shared.ask("GET", DEFINITIONS)["items"]), "CRDs")
    with Fleet(access_to(shared)) as fleet:
        fleet.add(*NODES)
        yield shared, fleet
        for name in NODES:
            fleet.remove(name)


def _is_served(definition):
    conditions = definition.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def collection(body, namespace):
    version = body["apiVersion"]
    plural = "rayclusters" if body["kind"] == "RayCluster" else f"{body['kind'].lower()}s"
    return f"/apis/{version}/namespaces/{namespace}/{plural}"


def make_all(cluster, namespace, example):
    """The example's objects with their owners, then its pods, which each run for a moment."""
    made: dict[tuple[str, str], Any] = {}
    originals = {(one["kind"], one["metadata"]["name"]): one for one in example.objects}
    for body in objects_for(example, namespace):
        mine = originals[body["kind"], body["metadata"]["name"]]
        for owner in mine["metadata"].get("ownerReferences", ()):
            above = made[owner["kind"], owner["name"]]
            body["metadata"].setdefault("ownerReferences", []).append(reference(above))
        path = collection(body, namespace)
        made[body["kind"], body["metadata"]["name"]] = cluster.ask("POST", path, body)
    uids = {key: one["metadata"]["uid"] for key, one in made.items()}
    bodies = pods_for(example, uids, namespace)
    for body in bodies:
        body["metadata"].setdefault("annotations", {})[RUNS] = "0.5"
        create(cluster, f"/api/v1/namespaces/{namespace}/pods", body)
    return len(bodies)


@pytest.mark.parametrize("example", EXAMPLES, ids=[one.name for one in EXAMPLES])
def test_it_goes_from_submit_to_finished(kinds, namespace, tmp_path, example):
    """Its gangs are those that its object says, each bound whole, and each ends well."""
    cluster, fleet = kinds
    with opened(cluster, tmp_path) as yard:
        count = make_all(cluster, namespace, example)
        until(
            lambda: (
                [one["status"]["phase"] for one in pods(cluster, namespace)]
                == ["Succeeded"] * count
            ),
            "all its pods succeed",
        )
        jobs = until(
            lambda: [
                one
                for one in [yard.ledger.jobs(project=namespace)]
                if all(job.standing.phase.is_final for job in one)
            ],
            "its jobs have ended",
        )[0]
        whole = {
            (one["metadata"]["annotations"]["madang.io/allocation"],
             one["metadata"]["annotations"]["madang.io/rank"])
            for one in pods(cluster, namespace)
        }  # fmt: skip

    assert sorted(job.job.members for job in jobs) == sorted(example.gangs)
    assert {job.standing.phase for job in jobs} == {Phase.SUCCEEDED}
    assert len(whole) == count
    assert (fleet.moved, fleet.refused) == ([], [])
