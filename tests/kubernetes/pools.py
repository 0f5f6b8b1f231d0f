"""Nodes of one test alone, and workloads that ask for them.

A module of its own: pytest loads test modules apart from who imports them, and two counters of
pools would give two tests the same nodes.
"""

import itertools
from contextlib import contextmanager, suppress

from madang.engines.kubernetes.client import Missing
from tests.kubernetes.conftest import access_to
from tests.kubernetes.kubelet import RUNS, Fleet
from tests.kubernetes.yard import create

POOL = "test.madang.io/pool"
GPU = "nvidia.com/gpu"
_POOLS = itertools.count(1)


@contextmanager
def pool_of(cluster, *labels, gpus=8, processes=False):
    """Nodes of this test alone, one for each dict of `labels`: (the fleet, their pool's name)."""
    pool = f"pool-{next(_POOLS)}"
    with Fleet(access_to(cluster), processes=processes) as fleet:
        names = []
        for n, extra in enumerate(labels):
            names.append(f"{pool}-{n}")
            fleet.add(names[-1], gpus=gpus, labels={POOL: pool, **extra})
        try:
            yield fleet, pool
        finally:
            for name in names:
                with suppress(Missing):
                    fleet.remove(name)


def pod_spec(pool, gpus=1, **more):
    container = {"name": "main", "image": "any", "resources": {"limits": {GPU: str(gpus)}}}
    return {
        "schedulerName": "madang",
        "restartPolicy": "Never",
        "nodeSelector": {POOL: pool},
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        **more,
    }


def a_pod(name, pool, gpus=1, runs_s="", annotations=None, **more):
    notes = {**(annotations or {}), **({RUNS: runs_s} if runs_s else {})}
    metadata = {"name": name, "annotations": notes, "labels": {"app": name}}
    return {"metadata": metadata, "spec": pod_spec(pool, gpus, **more)}


def a_job(name, pool, members, gpus=1, runs_s="0.5", annotations=None):
    """A batch/v1 Job whose pods are one gang."""
    template = {
        "metadata": {"annotations": {RUNS: runs_s} if runs_s else {}, "labels": {"app": name}},
        "spec": pod_spec(pool, gpus),
    }
    return {
        "metadata": {
            "name": name,
            "annotations": {"madang.io/gang": "true", **(annotations or {})},
        },
        "spec": {
            "parallelism": members,
            "completions": members,
            "backoffLimit": 6,
            "template": template,
        },
    }


def submit_pod(cluster, namespace, body):
    return create(cluster, f"/api/v1/namespaces/{namespace}/pods", body)


def submit_job(cluster, namespace, body):
    return create(cluster, f"/apis/batch/v1/namespaces/{namespace}/jobs", body)


def condition(pod, kind):
    found = pod["status"].get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})
