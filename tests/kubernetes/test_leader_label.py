import pytest

from madang.engines.kubernetes.client import Client, Missing
from madang.engines.kubernetes.leader_label import lead, step_down
from tests.kubernetes.conftest import play

pytestmark = pytest.mark.kubernetes


def pods(shared, namespace, *names):
    for name in names:
        spec = {
            "containers": [{"name": "madang", "image": "madang"}],
            "automountServiceAccountToken": False,
        }
        body = {"metadata": {"name": name, "labels": {"app": "it"}}, "spec": spec}
        shared.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts",
                   {"metadata": {"name": f"for-{name}"}})  # fmt: skip
        body["spec"]["serviceAccountName"] = f"for-{name}"
        shared.ask("POST", f"/api/v1/namespaces/{namespace}/pods", body)


def labelled(shared, namespace):
    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=madang.io/role%3Dleader"
    return [one["metadata"]["name"] for one in shared.ask("GET", path)["items"]]


def versions(shared, namespace):
    listed = shared.ask("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {one["metadata"]["name"]: one["metadata"]["resourceVersion"] for one in listed}


def test_the_label_is_on_the_leader_alone_however_often_it_changes(shared, namespace, as_madang):
    pods(shared, namespace, "one", "two")
    seen = []

    async def work():
        async with Client(as_madang) as client:
            for leader in ("one", "two", "one"):
                await lead(client, namespace, leader)
                seen.append(labelled(shared, namespace))
            before = versions(shared, namespace)
            await lead(client, namespace, "one")
            seen.append(versions(shared, namespace) == before)
            await step_down(client, namespace, "one")
            await step_down(client, namespace, "one")
            await step_down(client, namespace, "gone")
            seen.append(labelled(shared, namespace))

    play(work())

    assert seen == [["one"], ["two"], ["one"], True, []]


def test_a_leader_whose_pod_is_gone_is_told(shared, namespace, as_madang):
    async def work():
        async with Client(as_madang) as client:
            with pytest.raises(Missing):
                await lead(client, namespace, "gone")

    play(work())
