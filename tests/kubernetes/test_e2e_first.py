import pytest
from madang.core.model import Phase
from tests.kubernetes.conftest import access_to
from tests.kubernetes.kubelet import Fleet
from tests.kubernetes.yard import opened, until, pods, create
import logging

pytestmark = pytest.mark.kubernetes

def pod(name, gpus=1, **more):
    return {"metadata": {"name": name, "annotations": {"test.madang.io/runs-s": "1"}},
     "spec": {"schedulerName": "madang", "restartPolicy": "Never", "containers": [{"name": "c", "image": "x",
       "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}], **more}}

def test_plain(shared, namespace, tmp_path):
    with Fleet(access_to(shared)) as fleet:
        fleet.add("e2e-1")
        try:
            with opened(shared, tmp_path) as yard:
                create(shared, f"/api/v1/namespaces/{namespace}/pods", pod("a"))
                job = until(lambda: yard.job_named("a"), "job")
                yard.wait_phase(job, Phase.SUCCEEDED)
                p = pods(shared, namespace)[0]
                print(p["metadata"]["annotations"], p["status"]["phase"])
                create(shared, f"/api/v1/namespaces/{namespace}/pods", pod("b", gpus=64))
                def cond():
                    return [c for c in pods(shared, namespace)[1]["status"].get("conditions", []) if c["type"]=="PodScheduled"]
                print(until(cond, "cond"))
        finally:
            fleet.remove("e2e-1")
