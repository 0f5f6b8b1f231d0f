"""The rights that the chart gives, on a real API server: who runs with them is not its admin."""

from pathlib import Path
from typing import Any

import yaml

from madang.engines.kubernetes.config import Access, from_kubeconfig
from tests.kubernetes.cluster import Cluster

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "postgres"
RELEASED_IN = "madang"  # the namespace in the plain manifests
TOKEN_S = 86_400
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": f"{RBAC}/namespaces/{{}}/roles",
    "RoleBinding": f"{RBAC}/namespaces/{{}}/rolebindings",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
}


def madang_access(cluster: Cluster, namespace: str) -> Access:
    """As the scheduler's account of a release in this namespace: its Lease, and jobs, are there."""
    return from_kubeconfig(madang_kubeconfig(cluster, namespace))


def madang_kubeconfig(cluster: Cluster, namespace: str) -> Path:
    """The same as a file, for `madang up --kubeconfig`."""
    for stated in chart_objects(namespace):
        folder = PATHS[stated["kind"]].format(namespace)
        cluster.ask(
            "PATCH",
            f"{folder}/{stated['metadata']['name']}?fieldManager=chart&force=true",
            stated,
            kind="application/apply-patch+yaml",
        )
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": TOKEN_S},
    }
    account = PATHS["ServiceAccount"].format(namespace)
    token = cluster.ask("POST", f"{account}/madang/token", asked)["status"]["token"]
    return cluster.kubeconfig(str(token))


def chart_objects(namespace: str) -> list[dict[str, Any]]:
    """Accounts and roles as the chart gives them for a release in this namespace.

    Cluster-wide bindings get the namespace into their name: the tests share one cluster.
    """
    found = []
    for name in ("accounts.yaml", "rbac.yaml"):
        for stated in yaml.safe_load_all((FOLDER / name).read_text()):
            if "namespace" in stated["metadata"]:
                assert stated["metadata"]["namespace"] == RELEASED_IN
                stated["metadata"]["namespace"] = namespace
            for subject in stated.get("subjects", ()):
                subject["namespace"] = namespace
            if stated["kind"] == "ClusterRoleBinding":
                stated["metadata"]["name"] += f"-{namespace}"
            found.append(stated)
    return found
