"""The fake kubelet does what tests of the engine take for granted."""

import time
from contextlib import contextmanager

import pytest

from tests.kubernetes.conftest import access_to
from tests.kubernetes.kubelet import RUNS, Fleet

pytestmark = pytest.mark.kubernetes


@pytest.fixture
def node(namespace):
    return f"n-{namespace}"


@pytest.fixture
def fleet(shared, node):
    with Fleet(access_to(shared), processes=True) as fleet:
        fleet.add(node)
        yield fleet
        fleet.remove(node)


@contextmanager
def patience(what, most_s=30.0):
    until_s = time.monotonic() + most_s

    def check():
        assert time.monotonic() < until_s, f"not seen: {what}"
        time.sleep(0.02)

    yield check


def pods(namespace):
    return f"/api/v1/namespaces/{namespace}/pods"


def make(shared, namespace, name, command, **more):
    """A pod for `sh -c`, bound by hand."""
    annotations = more.pop("annotations", {})
    node = more.pop("node")
    container = {"name": "main", "image": "none", "command": ["sh", "-c", command], **more}
    body = {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"restartPolicy": "Never", "schedulerName": "nobody", "containers": [container]},
    }
    shared.ask("POST", pods(namespace), body)
    binding = {
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    shared.ask("POST", f"{pods(namespace)}/{name}/binding", binding)


def status(shared, namespace, name):
    return shared.ask("GET", f"{pods(namespace)}/{name}")["status"]


def until_phase(shared, namespace, name, phase):
    with patience(f"{name} is {phase}") as wait:
        while status(shared, namespace, name).get("phase") != phase:
            wait()
    return status(shared, namespace, name)


def ended_with(shared, namespace, name, phase):
    containers = until_phase(shared, namespace, name, phase)["containerStatuses"]
    return containers[0]["state"]["terminated"]


@pytest.mark.parametrize(
    ("command", "phase", "code"),
    [("exit 0", "Succeeded", 0), ("exit 3", "Failed", 3), ("kill -9 $$", "Failed", 137)],
)
def test_a_process_ends_as_it_ended(shared, namespace, fleet, node, command, phase, code):
    make(shared, namespace, "one", command, node=node)

    assert ended_with(shared, namespace, "one", phase)["exitCode"] == code
    assert fleet.starts[namespace, "one"] == 1


def test_a_command_that_is_nowhere_cannot_start(shared, namespace, fleet, node):
    make(shared, namespace, "one", "", node=node, workingDir="/nowhere")

    assert "StartError" in ended_with(shared, namespace, "one", "Failed")["reason"]
    assert fleet.starts[namespace, "one"] == 0


def test_environment_and_log_are_real(shared, namespace, fleet, node):
    env = [
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "BOTH", "value": "on $(NODE)"},
    ]
    make(shared, namespace, "one", 'echo "$BOTH"', node=node, env=env)
    until_phase(shared, namespace, "one", "Succeeded")

    assert shared.kubectl("-n", namespace, "logs", "one") == f"on {node}\n"


def test_deletion_asks_first_and_kills_after_the_grace(shared, namespace, fleet, node):
    make(shared, namespace, "one", "trap '' TERM; sleep 60 & wait; wait", node=node)
    until_phase(shared, namespace, "one", "Running")
    shared.ask("DELETE", f"{pods(namespace)}/one", {"gracePeriodSeconds": 600})
    shared.ask("DELETE", f"{pods(namespace)}/one", {"gracePeriodSeconds": 1})

    with patience("the pod is gone") as wait:
        while shared.ask("GET", pods(namespace))["items"]:
            wait()
    assert fleet.pids(namespace, "one") == []


def test_a_pod_with_an_annotation_runs_that_long(shared, namespace, fleet, node):
    make(shared, namespace, "one", "no", node=node, annotations={RUNS: "0.1"})

    assert ended_with(shared, namespace, "one", "Succeeded")["exitCode"] == 0


def test_what_does_not_fit_fails(shared, namespace, fleet, node):
    many = {"limits": {"nvidia.com/gpu": "5"}}
    for name in ("one", "two"):
        make(shared, namespace, name, "sleep 60", node=node, resources=many)
        until_phase(shared, namespace, name, "Running" if name == "one" else "Failed")

    assert status(shared, namespace, "two")["reason"] == "OutOfnvidia.com/gpu"
    assert len(fleet.refused) == 1
    assert fleet.moved == []
