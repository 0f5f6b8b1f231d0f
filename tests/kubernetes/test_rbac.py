"""What the chart's role may do and what it may not, as a real API server judges it.

Every resource that the server knows is asked about with every verb, in three places: the release's
own namespace, another one, and the whole cluster. What is allowed beyond the table below fails.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from madang.engines.kubernetes import foreign
from madang.engines.kubernetes.client import Client, Refused
from madang.engines.kubernetes.discovery import FOREIGN
from tests.kubernetes.conftest import access_to, play
from tests.kubernetes.role import madang_access

pytestmark = pytest.mark.kubernetes

VERBS = (
    *("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"),
    *("bind", "escalate", "impersonate", "approve", "sign", "use"),
)
READ = frozenset({"list", "watch"})
AT_ONCE = 32

# group/resource → verbs, in any namespace and for the whole cluster
EVERYWHERE: dict[str, frozenset[str]] = {
    "/nodes": READ,
    "/pods": READ | {"get", "delete"},
    "/pods/binding": frozenset({"create"}),
    "/pods/status": frozenset({"patch"}),
    "/pods/eviction": frozenset({"create"}),
    "/events": frozenset({"create"}),
    "/persistentvolumes": READ,
    "/persistentvolumeclaims": READ,
    "policy/poddisruptionbudgets": READ,
    "scheduling.k8s.io/priorityclasses": READ,
    "batch/jobs": READ,
    # what Kubernetes gives to everyone who has logged in
    "authorization.k8s.io/selfsubjectaccessreviews": frozenset({"create"}),
    "authorization.k8s.io/selfsubjectrulesreviews": frozenset({"create"}),
}
# in the release's namespace besides
AT_HOME: dict[str, frozenset[str]] = {
    "coordination.k8s.io/leases": frozenset({"create"}),  # get and update: one name alone, below
    "/pods": frozenset({"create", "patch"}),
    "/services": frozenset({"create", "delete"}),
    "/secrets": frozenset({"create", "delete"}),
    "/pods/log": frozenset({"get"}),
    "/pods/exec": frozenset({"get", "create"}),
}
# kinds of others, on servers where somebody has installed them; read and never written
OF_OTHERS = (
    *("jobset.x-k8s.io/jobsets", "leaderworkerset.x-k8s.io/leaderworkersets"),
    *("kubeflow.org/pytorchjobs", "trainer.kubeflow.org/trainjobs"),
    *("ray.io/rayclusters", "ray.io/rayjobs", "scheduling.x-k8s.io/podgroups"),
    *("scheduling.volcano.sh/podgroups", "scheduling.run.ai/podgroups"),
    *("scheduling.k8s.io/podgroups", "kueue.x-k8s.io/workloads"),
    "topology.volcano.sh/hypernodes",
)


@dataclass(frozen=True, slots=True)
class Question:
    """`name` is "" for all of a kind; `namespace` "" for the whole cluster."""

    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


@pytest.fixture(scope="module")
def home(shared):
    """A namespace with the chart released in it."""
    name = "rbac-home"
    for one in (name, "rbac-elsewhere"):
        shared.ask("POST", "/api/v1/namespaces", {"metadata": {"name": one}})
    return name, madang_access(shared, name)


async def known(client: Client) -> list[tuple[str, bool]]:
    """("group/resource", is it in namespaces) of all that the server has."""
    groups = [("", "/api/v1")]
    for group in (await client.get("/apis"))["groups"]:
        version = group["preferredVersion"]["groupVersion"]
        groups.append((group["name"], f"/apis/{version}"))
    found = []
    for group, path in groups:
        listed = (await client.get(path))["resources"]
        found += [(f"{group}/{one['name']}", bool(one["namespaced"])) for one in listed]
    return sorted(found)


async def allowed(client: Client, questions: list[Question]) -> list[bool]:
    """What the API server says to whom `client` is."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(asked: Question) -> bool:
        group, _, rest = asked.resource.partition("/")
        resource, _, sub = rest.partition("/")
        attributes: dict[str, Any] = {
            "group": group, "resource": resource, "subresource": sub, "verb": asked.verb,
            "namespace": asked.namespace, "name": asked.name,
        }  # fmt: skip
        body = {"spec": {"resourceAttributes": attributes}}
        async with gate:
            path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            return bool((await client.post(path, body))["status"]["allowed"])

    return list(await asyncio.gather(*(one(asked) for asked in questions)))


def expected(resource: str, namespace: str, home: str) -> frozenset[str]:
    at_home = AT_HOME.get(resource, frozenset()) if namespace == home else frozenset()
    others = READ if resource in OF_OTHERS else frozenset()
    return EVERYWHERE.get(resource, frozenset()) | at_home | others


def every_question(resources: list[tuple[str, bool]], home: str) -> Iterator[Question]:
    for resource, is_namespaced in resources:
        for namespace in (home, "rbac-elsewhere", "kube-system", "") if is_namespaced else ("",):
            for verb in VERBS:
                yield Question(resource, verb, namespace)


def test_the_role_allows_what_the_table_says_and_nothing_else(home):
    namespace, access = home

    async def work() -> None:
        async with Client(access) as client:
            resources = await known(client)
            questions = list(every_question(resources, namespace))
            answers = await allowed(client, questions)
        names = {name for name, _ in resources}
        assert {"/secrets", "/nodes/proxy", "/pods/exec", "/serviceaccounts/token"} <= names
        assert set(EVERYWHERE) | set(AT_HOME) <= names
        wrong = [
            (question, "allowed" if answer else "refused")
            for question, answer in zip(questions, answers, strict=True)
            if answer
            != (question.verb in expected(question.resource, question.namespace, namespace))
        ]
        assert wrong == []
        assert len(questions) > 3_000

    play(work(), 120)


@pytest.mark.parametrize(
    ("resource", "verb", "name", "is_allowed"),
    [
        ("coordination.k8s.io/leases", "update", "madang", True),
        ("coordination.k8s.io/leases", "get", "madang", True),
        ("coordination.k8s.io/leases", "update", "kube-scheduler", False),
        ("coordination.k8s.io/leases", "delete", "madang", False),
        ("/secrets", "get", "madang-database", False),
        ("/secrets", "list", "", False),
        ("/pods/ephemeralcontainers", "patch", "madang-0", False),
        ("rbac.authorization.k8s.io/roles", "escalate", "madang-leader", False),
    ],
)
def test_what_names_decide_at_home(home, resource, verb, name, is_allowed):
    namespace, access = home

    async def work() -> None:
        async with Client(access) as client:
            answers = await allowed(client, [Question(resource, verb, namespace, name)])
        assert answers == [is_allowed]

    play(work())


@pytest.mark.parametrize("group", OF_OTHERS)
def test_objects_of_others_are_read_and_never_written(home, group):
    _, access = home

    async def work() -> None:
        async with Client(access) as client:
            answers = await allowed(client, [Question(group, verb) for verb in VERBS])
        assert {verb for verb, is_allowed in zip(VERBS, answers, strict=True) if is_allowed} == READ

    play(work())


def test_every_kind_that_the_engine_mirrors_may_be_read(home):
    _, access = home
    mirrored = ["HyperNode", *foreign.KINDS, *foreign.GROUPS]
    asked = [
        Question(f"{FOREIGN[kind][0]}/{FOREIGN[kind][2]}", verb)
        for kind in mirrored
        for verb in sorted(READ)
    ]

    async def work() -> None:
        async with Client(access) as client:
            assert all(await allowed(client, asked))

    play(work())


REFUSED: list[tuple[str, str, Any]] = [
    ("get", "/api/v1/namespaces/rbac-elsewhere/secrets/its", None),
    ("get", "/api/v1/namespaces/{home}/secrets/its", None),
    ("get", "/api/v1/secrets", None),
    ("delete", "/api/v1/nodes/its", None),
    ("patch", "/api/v1/nodes/its", {"spec": {"unschedulable": True}}),
    ("patch", "/api/v1/nodes/its/status", {"status": {}}),
    ("post", "/api/v1/namespaces/rbac-elsewhere/pods", {"metadata": {"name": "mine"}}),
    ("post", "/api/v1/namespaces/rbac-elsewhere/pods/its/exec", None),
    ("get", "/api/v1/namespaces/rbac-elsewhere/pods/its/log", None),
    ("patch", "/api/v1/namespaces/rbac-elsewhere/pods/its", {"metadata": {"labels": {"a": "b"}}}),
    ("post", "/api/v1/namespaces/{home}/serviceaccounts/madang/token", {"spec": {}}),
    (
        "post",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": "mine"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
        },
    ),
]


@pytest.mark.parametrize(("verb", "path", "body"), REFUSED)
def test_requests_beyond_the_role_are_refused_by_the_server(home, verb, path, body):
    namespace, access = home

    async def work() -> None:
        async with Client(access) as client:
            words = [path.format(home=namespace)]
            ask = {"get": client.get, "post": client.post, "patch": client.patch,
                   "delete": client.delete}[verb]  # fmt: skip
            arguments = [*words, body or {}] if verb in ("post", "patch") else words
            with pytest.raises(Refused, match="cannot"):
                await ask(*arguments)  # type: ignore[operator]

    play(work())


def test_the_agent_account_may_do_nothing(shared, home):
    namespace, _ = home

    async def work() -> None:
        async with Client(access_to(shared)) as admin:
            account = f"/api/v1/namespaces/{namespace}/serviceaccounts/madang-agent"
            assert (await admin.get(account))["automountServiceAccountToken"] is False
            bindings = [
                subject
                for kind in ("rolebindings", "clusterrolebindings")
                for one in (await admin.get(f"/apis/rbac.authorization.k8s.io/v1/{kind}"))["items"]
                for subject in one.get("subjects") or ()
            ]
        assert not [one for one in bindings if one["name"] == "madang-agent"]
        assert [one for one in bindings if one["name"] == "madang"]

    play(work())
