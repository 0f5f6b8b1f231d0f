"""Named devices on a real API server: written into claims before pods are bound, and taken back.

That server is older than DRA. Its ResourceClaims, slices and classes are stand-ins (crds/devices),
kept, versioned and garbage-collected by the real server; it drops a pod's `resourceClaims`, so here
an annotation says them when a pod is trimmed. Everything else is as it runs.
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml

from madang.core.model import Phase
from madang.engines.kubernetes import manifests, trim
from madang.engines.kubernetes.binder import Binder
from madang.engines.kubernetes.claiming import Claimer
from madang.engines.kubernetes.dra import FINALIZER
from madang.engines.kubernetes.values import ClaimUse
from tests.kubernetes import made_objects
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import access_to
from tests.kubernetes.kubelet import RUNS, Fleet
from tests.kubernetes.made_objects import DRIVER
from tests.kubernetes.role import PATHS, madang_kubeconfig
from tests.kubernetes.yard import create, opened, pods, until

pytestmark = pytest.mark.kubernetes

CRDS = Path(__file__).parent / "crds" / "devices" / "resource.k8s.io.yaml"
RBAC = Path(__file__).parents[2] / "deploy/helm/madang/templates/rbac.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ROOT = "/apis/resource.k8s.io/v1"
CLAIMS = "test.madang.io/claims"
TAINT = {"key": "xid", "effect": "NoSchedule"}
SPACE = "devices"


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """A control plane of this module alone: others see no resource.k8s.io."""
    cluster = Cluster(tmp_path_factory.mktemp("devices"), controllers=True)
    for document in yaml.safe_load_all(CRDS.read_text()):
        cluster.ask("POST", DEFINITIONS, document)
    for plural in ("resourceclaims", "resourceslices", "deviceclasses"):
        until(partial(is_served, cluster, plural), plural)
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}})
    madang_kubeconfig(cluster, SPACE)
    for kind, body in rights():
        cluster.ask("POST", PATHS[kind], body)
    cluster.ask("POST", f"{ROOT}/deviceclasses", bare(made_objects.device_class()))
    with Fleet(access_to(cluster)) as fleet:
        fleet.add("d-0", "d-1", gpus=0)
        taken = [made_objects.device(f"gpu-{n}", taints=[TAINT] * (n == 1)) for n in range(4)]
        cluster.ask("POST", f"{ROOT}/resourceslices", slice_of("d-0", devices=taken))
        cluster.ask("POST", f"{ROOT}/resourceslices", slice_of("d-1", count=4))
        yield cluster
    cluster.close()


def is_served(cluster, plural):
    try:
        return bool(cluster.ask("GET", f"{ROOT}/{plural}"))
    except HTTPError:
        return False


def rights():
    """What rbac.dra adds to the chart's role."""
    blocks = re.findall(r"rbac\.dra \}\}\n(.*?)\{\{- end", RBAC.read_text(), re.S)
    rules = [rule for block in blocks for rule in yaml.safe_load(block)]
    assert len(rules) == 4
    yield "ClusterRole", {"metadata": {"name": "dra"}, "rules": rules}
    account = {"kind": "ServiceAccount", "name": "madang", "namespace": SPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "dra"}
    yield (
        "ClusterRoleBinding",
        {"metadata": {"name": "dra"}, "roleRef": role, "subjects": [account]},
    )


def bare(of):
    """To be created."""
    meta = of["metadata"]
    return {**of, "metadata": {"name": meta["name"]}}


def slice_of(node, **rest):
    body = made_objects.resource_slice(node, **rest)
    body["spec"]["pool"]["name"] = node
    return bare(body)


@pytest.fixture(autouse=True)
def claims_by_annotation(monkeypatch):
    """What the server drops of a pod is read from an annotation."""
    read = trim.pod

    def pod(of):
        found = read(of)
        name = (of["metadata"].get("annotations") or {}).get(CLAIMS, "")
        if not found or not name:
            return found
        asks = replace(found.asks, claims=("gpus",))
        return replace(found, claims=(ClaimUse("gpus", name),), asks=asks)

    monkeypatch.setattr(trim, "pod", pod)


@pytest.fixture
def space(control, request):
    name = request.node.originalname.replace("_", "-")[:50].strip("-")
    control.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


def claims_path(space):
    return f"{ROOT}/namespaces/{space}/resourceclaims"


def gang_of(control, space, size, gpus=2, runs_s=""):
    """A gang by Kueue's labels; then a claim for each pod, as the controller of claims makes it."""
    for n in range(size):
        notes = {CLAIMS: f"p-{n}", "kueue.x-k8s.io/pod-group-total-count": str(size)}
        notes |= {RUNS: runs_s} if runs_s else {}
        metadata = {
            "name": f"p-{n}",
            "labels": {"kueue.x-k8s.io/pod-group-name": "gang"},
            "annotations": notes,
        }
        spec = {
            "schedulerName": "madang",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "any"}],
        }
        body = {"metadata": metadata, "spec": spec}
        pod = create(control, f"/api/v1/namespaces/{space}/pods", body)
        claim = made_objects.claim(f"p-{n}", gpus)
        owner = {"apiVersion": "v1", "kind": "Pod", "name": f"p-{n}", "controller": True}
        owner["uid"] = pod["metadata"]["uid"]
        claim["metadata"] = {"name": f"p-{n}", "ownerReferences": [owner]}
        control.ask("POST", claims_path(space), claim)


def claims_of(control, space):
    listed = control.ask("GET", claims_path(space))["items"]
    return {one["metadata"]["name"]: one for one in listed}


def devices_of(claim):
    said = (claim.get("status") or {}).get("allocation") or {"devices": {"results": []}}
    return [(one["pool"], one["device"]) for one in said["devices"]["results"]]


def give_elsewhere(control, space, name, *devices):
    """As another scheduler does."""
    results = [
        {"request": "gpus", "driver": DRIVER, "pool": pool, "device": device}
        for pool, device in devices
    ]
    body = {"status": {"allocation": {"devices": {"results": results}}}}
    path = f"{claims_path(space)}/{name}/status"
    control.ask("PATCH", path, body, kind="application/merge-patch+json")


def is_free(claim):
    status = claim.get("status") or {}
    kept = claim["metadata"].get("finalizers") or []
    return not status.get("allocation") and not status.get("reservedFor") and FINALIZER not in kept


def test_a_gang_gets_named_devices_before_it_is_bound(control, space, tmp_path, monkeypatch):
    """None that is tainted or another's, none twice; a 409 is read anew; the end gives them back,
    and others get them."""
    other = bare(made_objects.claim("other", 1))
    control.ask("POST", claims_path(space), other)
    give_elsewhere(control, space, "other", ("d-0", "gpu-0"))
    seen: dict[str, list[tuple[str, str]]] = {}
    crossed: list[str] = []
    post, patch = Binder._post, Claimer._patch

    async def seen_bound(self, ask, most_s):
        seen[ask.pod] = devices_of(claims_of(control, space)[ask.pod])
        await post(self, ask, most_s)

    async def crossing(self, path, *rest):
        if path.endswith("/p-0/status") and not crossed:
            crossed.append(path)
            body = {"metadata": {"labels": {"somebody": "else"}}}
            kind = "application/merge-patch+json"
            control.ask("PATCH", f"{claims_path(space)}/p-0", body, kind=kind)
        return await patch(self, path, *rest)

    monkeypatch.setattr(Binder, "_post", seen_bound)
    monkeypatch.setattr(Claimer, "_patch", crossing)
    with opened(control, tmp_path, namespace=SPACE):
        gang_of(control, space, 3)
        until(
            lambda: [one["status"]["phase"] for one in pods(control, space)] == ["Running"] * 3,
            "all three run",
        )
        claims, bound = claims_of(control, space), pods(control, space)
        for pod in bound:
            claim = claims[pod["metadata"]["name"]]
            assert claim["status"]["reservedFor"] == [
                {
                    "resource": "pods",
                    "name": pod["metadata"]["name"],
                    "uid": pod["metadata"]["uid"],
                }
            ]
            field = claim["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]
            assert field["matchFields"][0]["values"] == [pod["spec"]["nodeName"]]
            assert {pool for pool, _ in devices_of(claim)} == {pod["spec"]["nodeName"]}
            assert FINALIZER in claim["metadata"]["finalizers"]
        given = [device for name in sorted(seen) for device in seen[name]]
        for pod in bound:
            path = f"/api/v1/namespaces/{space}/pods/{pod['metadata']['name']}"
            control.ask("DELETE", path)
        until(lambda: list(claims_of(control, space)) == ["other"], "claims go with their pods")
        gang_of(control, space, 1, gpus=4, runs_s="0.5")
        until(lambda: pods(control, space)[0]["status"]["phase"] == "Succeeded", "four at once")
        until(lambda: is_free(claims_of(control, space)["p-0"]), "an ended pod's claim is free")

    free = {("d-0", "gpu-2"), ("d-0", "gpu-3"), *(("d-1", f"gpu-{n}") for n in range(4))}
    assert (len(given), set(given)) == (6, free)
    assert crossed
    assert devices_of(claims_of(control, space)["other"]) == [("d-0", "gpu-0")]
    control.ask("DELETE", f"{claims_path(space)}/other")


def test_a_gang_that_is_rolled_back_holds_no_devices(control, space, tmp_path, monkeypatch):
    """Another scheduler is faster with one claim: the other one is cleared, nobody is bound."""
    give = Claimer.give

    async def beaten(self, given):
        if given.pod.name == "p-1":
            give_elsewhere(control, space, "p-1", ("d-1", "gpu-3"), ("d-1", "gpu-2"))
        return await give(self, given)

    monkeypatch.setattr(Claimer, "give", beaten)
    written: list[str] = []
    patch = Claimer._patch

    async def recorded(self, path, *rest):
        written.append(path.rpartition("resourceclaims/")[2])
        return await patch(self, path, *rest)

    monkeypatch.setattr(Claimer, "_patch", recorded)
    with opened(control, tmp_path, namespace=SPACE) as yard:
        gang_of(control, space, 2)
        until(lambda: "p-0/status" in written, "the first claim gets devices")
        until(lambda: written.count("p-0/status") > 1, "they are taken back")
        until(lambda: is_free(claims_of(control, space)["p-0"]), "it is free")
        yard.wait_phase(yard.job_named("gang", space), Phase.STOPPED)
        until(lambda: is_free(claims_of(control, space)["p-0"]), "nor after the last attempt")
        assert not any(one["spec"].get("nodeName") for one in pods(control, space))
        assert not [one for one in written if one.startswith("p-1")]
        given = devices_of(claims_of(control, space)["p-1"])
        for name in ("p-0", "p-1"):
            control.ask("DELETE", f"/api/v1/namespaces/{space}/pods/{name}")
        until(lambda: not claims_of(control, space), "claims go with their pods")

    assert given == [("d-1", "gpu-3"), ("d-1", "gpu-2")]


def test_a_job_of_our_own_asks_by_claim_where_it_is_set_up_so(control, tmp_path):
    settings = manifests.Settings(
        image="madang",
        url="http://127.0.0.1:9",
        code_token=lambda launch: "",
        namespace_of=lambda project: SPACE,
        device_class=DRIVER,
    )

    def made(launch):
        objects = manifests.objects_of(launch, settings)
        for one in objects:
            if one["kind"] == "Pod":
                claim = one["spec"]["resourceClaims"][0]["resourceClaimName"]
                one["metadata"]["annotations"] |= {CLAIMS: claim, RUNS: "1"}
        return objects

    with opened(control, tmp_path, namespace=SPACE, made=made) as yard:
        until(lambda: len(yard.loop.snapshot().nodes) == 2, "two nodes")
        job = yard.run("true", gpus=2, members=2)
        given = until(
            lambda: (
                [
                    one
                    for one in [[*map(devices_of, claims_of(control, SPACE).values())]]
                    if all(one)
                ]
                if len(claims_of(control, SPACE)) == 2
                else []
            ),
            "claims get their devices",
        )[0]
        yard.wait_phase(job, Phase.SUCCEEDED)
        until(lambda: not claims_of(control, SPACE), "its claims go")

    assert len({device for one in given for device in one}) == 4
