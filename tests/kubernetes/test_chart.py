"""The chart: what a real helm makes of it, a real API server and the published schemas take."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from madang.engines.kubernetes.client import Client
from madang.engines.kubernetes.config import Access
from tests.kubernetes.conftest import access_to, play
from tools.manifests import CHART, KINDS, helm, main, rendered

pytestmark = pytest.mark.helm

SCHEMAS = [f"1.{minor}" for minor in range(25, 38)]
BUILT_IN = {"v1", "apps", "batch", "policy", "admissionregistration.k8s.io"}
MUCH = (
    *("serviceMonitor.enabled=true", "state.volume.enabled=true", "priorityClassName=mine"),
    *(
        "state.volume.accessMode=ReadWriteMany",
        "agent.kernelLog=/dev/kmsg",
        "jobs.namespace=madang-jobs",
    ),
    *("agent.dcgm=http://127.0.0.1:9400/metrics", "api.serviceType=LoadBalancer"),
    *("imagePullSecrets[0].name=pull", "names={yard.example.org}", "podLabels.team=infra"),
)


def objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def of_kind(text: str, kind: str) -> dict[str, Any]:
    found = [one for one in objects(text) if one["kind"] == kind]
    assert len(found) == 1, (kind, found)
    return found[0]


def test_helm_finds_nothing_to_complain_about():
    ran = subprocess.run(
        [helm(), "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout


def test_the_plain_manifests_are_what_the_chart_gives(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["database.secretName="], "SQLite is one file for one replica"),
        (["database.secretName=", "replicas=1"], "would be lost with the pod"),
        (["state.volume.enabled=true"], "use ReadWriteMany"),
        (["replicas=0"], "minimum"),
        (["schedulerName=default-scheduler"], "schedulerName"),
        (["networkpolicy.enabled=false"], "networkpolicy"),
        (["jobs.namespace=kube-system"], "namespace"),
        (["agent.url=http://user:secret@host"], "url"),
        (["agent.bufferMax=1GB"], "bufferMax"),
        (["image.digest=sha256:abc"], "digest"),
        (["resources.requests.memory=lots"], "memory"),
        (["api.port=80"], "port"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_name(sets, said):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(helm(), sets)

    assert said in refused.value.stderr


@pytest.mark.parametrize("version", SCHEMAS)
@pytest.mark.parametrize("sets", [*KINDS.values(), MUCH], ids=[*KINDS, "much"])
def test_every_object_is_what_the_published_schema_of_its_version_says(version, sets):
    validate = pytest.importorskip("kubernetes_validate").validate
    for one in objects(rendered(helm(), sets, f"{version}.0")):
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):
            validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("version", "api"),
    [("1.20.2", "policy/v1beta1"), ("1.21.0", "policy/v1"), ("1.37.0", "policy/v1")],
)
def test_the_budget_is_of_the_version_that_the_server_has(version, api):
    budget = of_kind(rendered(helm(), [], version), "PodDisruptionBudget")

    assert budget["apiVersion"] == api


def test_one_replica_has_no_budget_that_would_keep_its_node():
    text = rendered(helm(), KINDS["sqlite"])

    assert "PodDisruptionBudget" not in {one["kind"] for one in objects(text)}
    assert of_kind(text, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.kubernetes
@pytest.mark.parametrize("sets", KINDS.values(), ids=KINDS)
def test_a_real_api_server_takes_them_and_its_controllers_make_the_pods(shared, sets, request):
    namespace = f"chart-{request.node.callspec.id}"
    version = shared.ask("GET", "/version")["gitVersion"].removeprefix("v")
    text = rendered(helm(), sets, version).replace(
        "namespace: madang\n", f"namespace: {namespace}\n"
    )
    shared.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})

    tried = shared.kubectl("apply", "--dry-run=server", "--validate=true", "-f", "-", text=text)
    shared.kubectl("apply", "-f", "-", text=text)

    assert len(tried.splitlines()) == len(objects(text))
    assert "server dry run" in tried
    replicas = of_kind(text, "Deployment")["spec"]["replicas"]
    names = play(made(access_to(shared), namespace, replicas))
    assert len(names) == replicas
    shared.kubectl("delete", "-f", "-", text=text)


async def made(access: Access, namespace: str, count: int) -> set[str]:
    """The pods that the Deployment's controller has made; waits for as many as are wanted."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    async with Client(access) as client:
        listed = await client.get(path)
        found = {one["metadata"]["name"] for one in listed["items"]}
        events = client.watch(path, listed["metadata"]["resourceVersion"])
        while len(found) < count:
            found.add(json.loads(await anext(events))["object"]["metadata"]["name"])
    return found


def test_what_is_in_the_pods_is_what_operators_are_promised():
    pod = of_kind(rendered(helm(), []), "Deployment")["spec"]["template"]["spec"]
    agent = of_kind(rendered(helm(), []), "DaemonSet")["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any(key.startswith("host") for key in pod)
    assert not any("hostPath" in one for one in pod["volumes"])
    assert agent["automountServiceAccountToken"] is False
    assert agent["containers"][0]["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["SYS_PTRACE"],
    }
    secrets = [one for one in container["env"] if "secretKeyRef" in one.get("valueFrom", {})]
    assert [one["name"] for one in secrets] == ["MADANG_DATABASE"]
    assert not [word for word in container["args"] if "DATABASE" in word]


def pages() -> list[Path]:
    return sorted((CHART.parents[2] / "docs" / "kubernetes").glob("*.md"))


def blocks(page: Path) -> list[str]:
    """The YAML that people are told to write."""
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_what_the_pages_tell_to_apply_is_what_the_schemas_say():
    validate = pytest.importorskip("kubernetes_validate").validate
    seen = []
    for page in pages():
        for one in (one for block in blocks(page) for one in objects(block)):
            if one.get("apiVersion", "").partition("/")[0] in BUILT_IN:
                validate(one, "1.37", strict=True)
                seen.append(one["kind"])
    assert {"Job", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} <= set(seen)


def test_the_values_in_install_are_values_of_the_chart(tmp_path):
    [install] = [page for page in pages() if page.name == "install.md"]
    [stated] = [block for block in blocks(install) if block.startswith("image:")]
    (tmp_path / "values.yaml").write_text(stated)

    text = rendered(helm(), [], file=str(tmp_path / "values.yaml"))

    pod = of_kind(text, "Deployment")["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert "--name=madang.example.org" in pod["containers"][0]["args"]


def test_the_cookie_is_secure_only_where_values_say_so():
    def words(*sets):
        spec = of_kind(rendered(helm(), list(sets)), "Deployment")["spec"]["template"]["spec"]
        return spec["containers"][0]["args"]

    assert "--behind-tls" in words("api.behindTls=true")
    assert "--behind-tls" not in words()


def test_the_words_in_the_pods_are_words_of_the_command_line():
    """Each option that the chart says is one that `madang` has."""
    from madang.cli.table import VERBS

    known = {verb.name: {name for one in verb.options for name in one.names} for verb in VERBS}
    text = rendered(helm(), MUCH)
    for kind in ("Deployment", "DaemonSet"):
        verb, *words = of_kind(text, kind)["spec"]["template"]["spec"]["containers"][0]["args"]
        said = {word.partition("=")[0] for word in words}
        assert said <= known[verb] | {"--state"}, (verb, said - known[verb])
