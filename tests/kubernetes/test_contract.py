"""The engine contract, on a real API server: members are pods whose containers are processes."""

import sys
from contextlib import closing, suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest

import madang
from madang.engines.base import Launch
from madang.engines.kubernetes import manifests
from madang.engines.kubernetes.engine import KubernetesEngine
from madang.engines.kubernetes.engine import Settings as EngineSettings
from madang.testing.engine import FAIL_CODE, Behaviour, EngineContract, World
from tests.engines.local_world import BEGUN
from tests.kubernetes.conftest import access_to
from tests.kubernetes.kubelet import Fleet
from tests.kubernetes.role import madang_access, madang_kubeconfig
from tests.kubernetes.yard import wait_account

pytestmark = pytest.mark.kubernetes

NODE = "contract-1"
COMMANDS = {
    Behaviour.SUCCEED: f"{BEGUN}exit 0",
    Behaviour.FAIL: f"{BEGUN}exit {FAIL_CODE}",
    Behaviour.RUN_ON: f"{BEGUN}exec sleep 3600",
    Behaviour.DEFY: f"trap '' TERM; {BEGUN}while :; do sleep 3600; done",
    Behaviour.TALK: (
        f"{BEGUN}echo hello from the member; "
        """printf '\\036{"step": 1}\\n\\036{"step": 2}\\n' >> "$MADANG_REPORT_FILE" """
    ),
}


def made_in(namespace: str):
    """Our own jobs' objects; the image is this checkout."""
    settings = manifests.Settings(
        image="madang",
        url="http://127.0.0.1:9",
        code_token=lambda launch: "",
        namespace_of=lambda project: namespace,
    )

    def made(launch: Launch):
        objects = manifests.objects_of(launch, settings)
        for one in objects:
            for container in one.get("spec", {}).get("initContainers", ()):
                container["command"][0] = sys.executable
                source = str(Path(madang.__file__).parent.parent)
                container["env"].append({"name": "PYTHONPATH", "value": source})
        return objects

    return made


class KubernetesWorld(World):
    node, gpus = NODE, 8
    reads_members = False

    def __init__(self, cluster, namespace, fleet, folder):
        self.cluster = cluster
        self.namespace = namespace
        self.fleet = fleet
        self.folder = folder

    def engine(self) -> KubernetesEngine:
        return KubernetesEngine(
            EngineSettings(
                access=madang_access(self.cluster, self.namespace),
                folder=self.folder / "kubernetes",
                made=made_in(self.namespace),
                namespace=self.namespace,
                words=("--kubeconfig", str(madang_kubeconfig(self.cluster, self.namespace))),
            )
        )

    def command(self, behaviour: Behaviour) -> tuple[str, ...]:
        if behaviour is Behaviour.IMPOSSIBLE:
            return ("a-program-that-is-nowhere",)
        return ("sh", "-c", COMMANDS[behaviour])

    def _pod(self, allocation: str, rank: int) -> str:
        job, _, attempt = allocation.rpartition(".")
        return f"{job}-a{attempt}-{rank}"

    def starts(self, allocation: str, rank: int) -> int:
        return int(self.fleet.starts[self.namespace, self._pod(allocation, rank)])

    def settled(self, allocation: str, rank: int) -> bool:
        pod = self._pod(allocation, rank)
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        return b"begun" in self.cluster._ask("GET", path)

    def close(self) -> None:
        for pod in self.cluster.ask("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]:
            name = pod["metadata"]["name"]
            path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
            with suppress(HTTPError):  # one that was ending is gone meanwhile
                self.cluster.ask("DELETE", path, {"gracePeriodSeconds": 1})


@pytest.fixture(scope="module")
def place(shared):
    namespace = "contract"
    shared.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    wait_account(shared, namespace)
    with Fleet(access_to(shared), processes=True) as fleet:
        fleet.add(NODE)
        yield namespace, fleet
        fleet.remove(NODE)


class TestKubernetesEngine(EngineContract):
    @pytest.fixture
    def world(self, shared, place, tmp_path):
        namespace, fleet = place
        with closing(KubernetesWorld(shared, namespace, fleet, tmp_path)) as world:
            yield world
