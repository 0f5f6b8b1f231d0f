"""The chart's pod as a process: its words, its environment, its rights, on a real API server."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.cluster import Cluster, free_port
from tests.kubernetes.conftest import access_to
from tests.kubernetes.kubelet import Fleet
from tests.kubernetes.replica import Replica
from tests.kubernetes.role import madang_kubeconfig
from tests.kubernetes.yard import create, until
from tools.manifests import KINDS, helm, rendered

pytestmark = [pytest.mark.kubernetes, pytest.mark.helm]

POD = "madang-0"
NODE = "chart-runs-1"


def stated(namespace: str) -> dict[str, Any]:
    """The pod that the chart's Deployment makes, with SQLite."""
    text = rendered(helm(), [*KINDS["sqlite"], "leaseSeconds=2"])
    [found] = [one for one in yaml.safe_load_all(text) if one and one["kind"] == "Deployment"]
    template: dict[str, Any] = found["spec"]["template"]
    return template


def as_process(cluster: Cluster, namespace: str, folder: Path, port: int) -> Replica:
    """What kubelet would start, but for the account's files, the host's name and the port."""
    [container] = stated(namespace)["spec"]["containers"]
    replica = Replica(cluster, folder, folder / "unused.db", namespace=namespace)
    words = {
        "--in-cluster": f"--kubeconfig={madang_kubeconfig(cluster, namespace)}",
        "--port=7070": f"--port={port}",
    }
    said = [words.get(word, word) for word in container["args"]]
    replica.argv = [sys.executable, "-m", "madang", *said]
    replica.env |= {one["name"]: one["value"] for one in container["env"] if "value" in one}
    replica.env |= {
        "MADANG_STATE": str(folder / "state"),
        "POD_NAME": POD,
        "POD_NAMESPACE": namespace,
    }
    replica.argv = [word.replace("$(POD_NAMESPACE)", namespace) for word in replica.argv]
    return replica


def told(port: int, host: str) -> tuple[int, Any]:
    """(status, document) of the health check under this host name; (0, None): nobody answers."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/health", headers={"Host": host})
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, None
    except OSError:
        return 0, None


def test_the_charts_pod_leads_is_labelled_and_runs_a_gang(shared, namespace, tmp_path):
    port = free_port()
    pods = f"/api/v1/namespaces/{namespace}/pods"
    replica = as_process(shared, namespace, tmp_path, port)
    body = {
        "metadata": {"name": POD, "labels": stated(namespace)["metadata"]["labels"]},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{"name": "madang", "image": "madang"}],
        },
    }
    create(shared, pods, body)

    def role() -> str:
        labels = shared.ask("GET", f"{pods}/{POD}")["metadata"]["labels"]
        return str(labels.get("madang.io/role", ""))

    with Fleet(access_to(shared)) as fleet:
        fleet.add(NODE)
        replica.start()
        try:
            until(lambda: role() == "leader", "the leader's label")
            until(lambda: told(port, "localhost")[0] == 200, "the API")
            for host in ("madang.madang.svc:7070", "madang.madang:7070", "madang:7070"):
                assert told(port, host) == (200, told(port, "localhost")[1]), host
            assert told(port, "evil.example:7070")[0] == 421
            assert told(port, "localhost")[1]["role"] == "leader"

            create(shared, f"/apis/batch/v1/namespaces/{namespace}/jobs", job())
            path = f"/apis/batch/v1/namespaces/{namespace}/jobs/hello"
            until(lambda: shared.ask("GET", path)["status"].get("succeeded") == 4, "a gang's end")
            assert replica.end() == 0, replica.log
        finally:
            replica.kill()
            fleet.remove(NODE)

    assert role() == ""
    assert "forbidden" not in replica.log, replica.log


def job() -> dict[str, Any]:
    limits = {"nvidia.com/gpu": 1}
    return {
        "metadata": {"name": "hello", "annotations": {"madang.io/gang": "true"}},
        "spec": {
            "parallelism": 4,
            "completions": 4,
            "template": {
                "metadata": {"annotations": {"test.madang.io/runs-s": "0.1"}},
                "spec": {
                    "schedulerName": "madang",
                    "restartPolicy": "Never",
                    "containers": [{"name": "it", "image": "it", "resources": {"limits": limits}}],
                },
            },
        },
    }
