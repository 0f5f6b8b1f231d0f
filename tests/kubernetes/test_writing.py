"""Pods are bound, rolled back and evicted on a real API server, also when much goes wrong."""

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from madang.engines.kubernetes import reasons
from madang.engines.kubernetes.binder import BindAsk, Binder, Bound, NotBound
from madang.engines.kubernetes.client import ApiError, Client
from madang.engines.kubernetes.config import Token
from madang.engines.kubernetes.evicting import Evicted, Evictor, Held, Vanished
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.notes import Notes
from madang.engines.kubernetes.values import PodFacts
from tests.kubernetes.conftest import access_to, play
from tests.kubernetes.faults import CALM, ROUGH, FaultyDoor
from tests.kubernetes.kubelet import Fleet

pytestmark = pytest.mark.kubernetes

PODS = "/api/v1/namespaces/{}/pods"
LONG_S = 60.0


def leads():
    return True


async def make_pods(client, namespace, names, **spec):
    """Pods that nobody schedules but the test; {name: uid}."""
    container = {"name": "main", "image": "none"}
    spec = {"schedulerName": "madang", "containers": [container], **spec}
    line = asyncio.Semaphore(32)

    async def one(name):
        body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
        async with line:
            made = await client.post(PODS.format(namespace), body)
        return made["metadata"]["uid"]

    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


async def read_pods(client, namespace):
    listed = await client.get(PODS.format(namespace))
    return {pod["metadata"]["name"]: pod for pod in listed["items"]}


async def on_nodes(client, namespace):
    pods = await read_pods(client, namespace)
    return {name: pod["spec"].get("nodeName") for name, pod in pods.items()}


async def until(ask, holds):
    """The first answer of which it holds; the story's own patience is the bound."""
    while not holds(answer := await ask()):  # noqa: ASYNC110 - another program does it
        await asyncio.sleep(0.02)
    return answer


def asks(namespace, uids, node="n-{}", allocation="j-1.1"):
    return [
        BindAsk(
            namespace,
            name,
            uid,
            node.format(rank),
            (("madang.io/allocation", allocation), ("madang.io/rank", str(rank))),
        )
        for rank, (name, uid) in enumerate(uids.items())
    ]


def whys(outcomes):
    return Counter(one.why if isinstance(one, NotBound) else "bound" for one in outcomes)


@asynccontextmanager
async def admin(cluster):
    async with Client(access_to(cluster)) as client:
        yield client


# -- a whole gang ----------------------------------------------------------------------------------


def test_a_gang_is_bound_to_its_nodes_with_its_annotations(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, [f"p-{n}" for n in range(64)])
            said = await Binder(client, leads).bind(asks(namespace, uids), LONG_S)
            return said, await read_pods(client, namespace)

    said, pods = play(story())
    assert all(isinstance(one, Bound) for one in said)
    assert [one.ask.pod for one in said] == [f"p-{n}" for n in range(64)]
    for one in said:
        pod = pods[one.ask.pod]
        assert pod["spec"]["nodeName"] == one.ask.node
        assert pod["metadata"]["annotations"] == dict(one.ask.annotations)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_goes_wrong_each_pod_is_bound_once_to_its_node(shared, namespace, seed):
    """Answers are lost, refused and late: 100 pods in gangs of 1 to 16."""

    async def story():
        async with admin(shared) as sure:
            uids = await make_pods(sure, namespace, [f"p-{n}" for n in range(100)])
            with FaultyDoor(shared, seed, ROUGH) as door:
                async with Client(door.access) as client:
                    binder = Binder(client, leads)
                    wanted = asks(namespace, uids)
                    gangs, size = [], 1
                    while wanted:
                        gangs.append(wanted[:size])
                        wanted, size = wanted[size:], size % 16 + 1
                    said = await asyncio.gather(*(binder.bind(gang, LONG_S) for gang in gangs))
            return [one for gang in said for one in gang], await on_nodes(sure, namespace), door

    said, nodes, door = play(story(), 120)
    assert whys(said) == {"bound": 100}
    assert {one.ask.pod: one.ask.node for one in said} == nodes
    for fault in ("409", "429", "500", "lost"):
        assert door.counts[fault] > 0, f"the seed never drew {fault}: {door.counts}"


def test_of_two_that_bind_the_same_pods_one_wins_each(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, [f"p-{n}" for n in range(40)])
            ours = asks(namespace, uids, "left-{}", "a-1.1")
            theirs = asks(namespace, uids, "right-{}", "b-1.1")
            said = await asyncio.gather(
                Binder(client, leads).bind(ours, LONG_S), Binder(client, leads).bind(theirs, LONG_S)
            )
            return said, await on_nodes(client, namespace)

    (left, right), nodes = play(story())
    for one, other in zip(left, right, strict=True):
        assert {type(one), type(other)} == {Bound, NotBound}
        winner, loser = (one, other) if isinstance(one, Bound) else (other, one)
        assert nodes[winner.ask.pod] == winner.ask.node
        assert loser.why == "elsewhere"
        assert winner.ask.node in loser.text


def test_the_same_node_by_another_allocation_is_not_ours(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, ["p"])
            binder = Binder(client, leads)
            first = await binder.bind(asks(namespace, uids, "n", "a-1.1"), LONG_S)
            again = await binder.bind(asks(namespace, uids, "n", "a-1.1"), LONG_S)
            other = await binder.bind(asks(namespace, uids, "n", "b-1.1"), LONG_S)
            return whys(first), whys(again), whys(other)

    assert play(story()) == ({"bound": 1}, {"bound": 1}, {"elsewhere": 1})


def test_a_pod_that_is_deleted_while_its_gang_is_bound_is_gone(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, [f"p-{n}" for n in range(8)])
            wanted = asks(namespace, uids)
            await client.delete(PODS.format(namespace) + "/p-3")
            return await Binder(client, leads).bind(wanted, LONG_S)

    said = play(story())
    assert [n for n, one in enumerate(said) if isinstance(one, NotBound)] == [3]
    assert said[3].why == "gone"


def test_who_may_not_bind_is_refused_at_once(shared, namespace):
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = shared.ask("POST", account, asked)["status"]["token"]
    access = replace(access_to(shared), token=Token(fixed=token))

    async def story():
        async with admin(shared) as sure, Client(access) as client:
            uids = await make_pods(sure, namespace, ["p"])
            return await Binder(client, leads).bind(asks(namespace, uids), LONG_S)

    (said,) = play(story())
    assert said.why == "refused"
    assert "pods/binding" in said.text


def test_nothing_is_written_by_who_is_not_the_leader(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, [f"p-{n}" for n in range(40)])
            left = iter(range(17))  # leads for so many writes
            binder = Binder(client, lambda: next(left, None) is not None)
            said = await binder.bind(asks(namespace, uids), LONG_S)
            nodes = await on_nodes(client, namespace)
            deposed = Binder(client, lambda: False)
            with pytest.raises(Deposed):
                await deposed.unbind([one.ask for one in said if isinstance(one, Bound)], "no")
            marked = await deposed.mark_unschedulable(namespace, "p-0", uids["p-0"], "no")
            return said, nodes, marked, await on_nodes(client, namespace)

    said, nodes, marked, after = play(story())
    assert whys(said) == {"bound": 17, "deposed": 23}
    assert sum(node is not None for node in nodes.values()) == 17
    assert not marked
    assert after == nodes


# -- deadlines and roll-back -----------------------------------------------------------------------


def test_a_gang_that_is_half_bound_past_its_deadline_is_rolled_back(shared, namespace):
    """Half of its bindings are refused for ever; a neighbour that was never asked for stays."""

    def upper_half(verb, path):
        return path.endswith("/binding") and int(path.split("/")[-2].split("-")[1]) >= 8

    async def story():
        async with admin(shared) as sure:
            uids = await make_pods(sure, namespace, [f"p-{n}" for n in range(16)])
            other = await make_pods(sure, namespace, ["other"])
            await Binder(sure, leads).bind(asks(namespace, other, "n-9"), LONG_S)
            broken = replace(CALM, broken=1.0)
            with FaultyDoor(shared, 1, broken, upper_half) as door:
                async with Client(door.access) as client:
                    binder = Binder(client, leads)
                    said = await binder.bind(asks(namespace, uids), 1.0)
                    bound = [one.ask for one in said if isinstance(one, Bound)]
                    left = await binder.unbind(bound, "its gang was not bound whole")
            return said, left, await read_pods(sure, namespace)

    said, left, pods = play(story())
    assert whys(said) == {"bound": 8, "late": 8}
    assert left == []
    assert {name for name in pods if is_going(pods[name])} == {f"p-{n}" for n in range(8)}
    assert all(pods[f"p-{n}"]["spec"].get("nodeName") is None for n in range(8, 16))
    assert disruption(pods["p-0"]) == ("True", "its gang was not bound whole")
    assert disruption(pods["other"]) is None


def test_a_namesake_that_came_after_is_not_rolled_back(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, ["p"])
            old = asks(namespace, uids, "n")
            await client.delete(PODS.format(namespace) + "/p")
            await make_pods(client, namespace, ["p"])
            left = await Binder(client, leads).unbind(old, "no")
            return left, await read_pods(client, namespace)

    left, pods = play(story())
    assert left == []
    assert not is_going(pods["p"])
    assert disruption(pods["p"]) is None


def test_after_a_binding_that_nobody_answered_the_verdict_is_true(own):
    """etcd stands still for longer than the deadline, and goes on while the verdict is sought."""
    etcd = own.programs["etcd"]

    async def story():
        async with admin(own) as client:
            uids = await make_pods(client, "default", [f"p-{n}" for n in range(20)])
            etcd.stand_still()
            binding = asyncio.create_task(Binder(client, leads).bind(asks("default", uids), 1.0))
            await asyncio.wait((binding,), timeout=2.0)
            assert not binding.done()
            etcd.go_on()
            return await binding, await on_nodes(client, "default")

    said, nodes = play(story())
    assert set(whys(said)) <= {"bound", "late"}
    for one in said:
        assert nodes[one.ask.pod] == (one.ask.node if isinstance(one, Bound) else None)


def test_what_nobody_knows_is_said_to_be_unknown_and_can_be_rolled_back(own):
    etcd = own.programs["etcd"]

    async def story():
        async with admin(own) as client:
            uids = await make_pods(client, "default", [f"p-{n}" for n in range(4)])
            binder = Binder(client, leads)
            etcd.stand_still()
            said = await binder.bind(asks("default", uids), 0.5)
            etcd.go_on()
            left = [one.ask for one in said]
            while left:
                left = await binder.unbind(left, "nobody knows")
            return said, await read_pods(client, "default")

    said, pods = play(story())
    assert whys(said) == {"away": 4}
    assert all(is_going(pod) or not pod["spec"].get("nodeName") for pod in pods.values())
    assert not any(name for name, pod in pods.items() if not is_going(pod))


def test_a_killed_api_server_loses_and_doubles_no_binding(own):
    async def story():
        async with admin(own) as client:
            uids = await make_pods(client, "default", [f"p-{n}" for n in range(200)])
            binder = Binder(client, leads, at_once=8)
            wanted = asks("default", uids)
            done = [
                asyncio.create_task(binder.bind(wanted[at : at + 8], LONG_S))
                for at in range(0, 200, 8)
            ]
            for cut in (3, 12):
                await asyncio.wait(done[cut : cut + 1])
                await asyncio.to_thread(own.restart_api_server)
            said = [one for task in done for one in await task]
            return said, await on_nodes(client, "default")

    said, nodes = play(story(), 120)
    assert whys(said) == {"bound": 200}
    assert {one.ask.pod: one.ask.node for one in said} == nodes


# -- evictions -------------------------------------------------------------------------------------


@pytest.fixture
def node(shared, namespace):
    """A node on which pods become ready, so that budgets count them."""
    name = f"n-{namespace}"
    with Fleet(access_to(shared)) as fleet:
        fleet.add(name)
        yield name
        fleet.remove(name)


async def running(client, namespace, node, names, **spec):
    uids = await make_pods(client, namespace, names, **spec)
    await Binder(client, leads).bind(asks(namespace, uids, node), LONG_S)
    await until(
        lambda: read_pods(client, namespace),
        lambda pods: all(pod["status"].get("phase") == "Running" for pod in pods.values()),
    )
    return uids


async def budget(client, namespace, name, app):
    """One that allows nothing, once the controller has looked."""
    path = f"/apis/policy/v1beta1/namespaces/{namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}}
    await client.post(path, {"metadata": {"name": name}, "spec": spec})
    await until(
        lambda: client.get(f"{path}/{name}"),
        lambda found: (found.get("status") or {}).get("currentHealthy") == 1,
    )


def test_an_evicted_pod_says_why_and_goes(shared, namespace, node):
    async def story():
        async with admin(shared) as client:
            uids = await running(client, namespace, node, ["p"])
            said = await Evictor(client, leads).evict(namespace, "p", uids["p"], 600, "for j-7")
            marked = await read_pods(client, namespace)
            await until(lambda: read_pods(client, namespace), lambda pods: not pods)
            return said, marked

    said, marked = play(story())
    assert said == Evicted()
    assert not marked or disruption(marked["p"]) == ("True", "for j-7")


@pytest.mark.parametrize("budgets", [1, 2])
def test_a_budget_holds_and_the_pod_is_not_touched(shared, namespace, node, budgets):
    """Two budgets for one pod are an error 500 of the server."""

    async def story():
        async with admin(shared) as client:
            uids = await running(client, namespace, node, ["p"])
            for n in range(budgets):
                await budget(client, namespace, f"b-{n}", "p")
            before = await read_pods(client, namespace)
            said = await Evictor(client, leads).evict(namespace, "p", uids["p"], 600, "for j-7")
            return said, before, await read_pods(client, namespace)

    said, before, after = play(story())
    assert isinstance(said, Held)
    assert "budget" in said.text.lower()
    assert after == before


def test_a_namesake_is_not_evicted(shared, namespace, node):
    async def story():
        async with admin(shared) as client:
            await running(client, namespace, node, ["p"])
            evictor, other = Evictor(client, leads), "01234567-89ab-cdef-0123-456789abcdef"
            said = [
                await evictor.evict(namespace, "p", other, 600, "no"),
                await evictor.evict(namespace, "none", other, 600, "no"),
                await evictor.remove(namespace, "p", other, 600, "no"),
            ]
            return said, await read_pods(client, namespace)

    said, pods = play(story())
    assert said == [Vanished(), Vanished(), False]
    assert not is_going(pods["p"])


@pytest.mark.parametrize("seed", range(2))
def test_whatever_goes_wrong_those_asked_for_are_evicted_and_no_other(
    shared, namespace, node, seed
):
    rough = replace(ROUGH, conflict=0.1, broken=0.1, lost=0.1)

    async def story():
        async with admin(shared) as sure:
            names = [f"p-{n}" for n in range(20)]
            uids = await running(sure, namespace, node, names)
            with FaultyDoor(shared, seed, rough) as door:
                async with Client(door.access) as client:
                    evictor = Evictor(client, leads)

                    async def surely(name):
                        with suppress(ApiError):  # whatever its last try was answered
                            return await evictor.evict(namespace, name, uids[name], 1, "for j-7")

                    left = names[::2]
                    while left:
                        said = await asyncio.gather(*(surely(name) for name in left))
                        left = [name for name, end in zip(left, said, strict=True) if end is None]
            left = await until(
                lambda: read_pods(sure, namespace), lambda pods: len(pods) <= len(names) // 2
            )
            return left, door.counts

    left, counts = play(story())
    assert set(left) == {f"p-{n}" for n in range(1, 20, 2)}
    assert not any(is_going(pod) for pod in left.values())
    assert counts["lost"] > 0


# -- words -----------------------------------------------------------------------------------------


def test_a_pod_that_waits_says_why_and_where_room_is_made(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, ["p", "q"])
            binder = Binder(client, leads)
            said = [
                await binder.mark_unschedulable(namespace, "p", uids["p"], "8 of 4 GPUs"),
                await binder.nominate(namespace, "p", uids["p"], "n-1"),
                await binder.nominate(namespace, "q", uids["q"], "n-1"),
                await binder.nominate(namespace, "q", uids["q"], ""),
                await binder.mark_unschedulable(namespace, "q", uids["p"], "of another"),
            ]
            return said, await read_pods(client, namespace)

    said, pods = play(story())
    assert said == [True, True, True, True, False]
    (condition,) = pods["p"]["status"]["conditions"]
    assert condition["reason"] == "Unschedulable"
    assert condition["message"] == "8 of 4 GPUs"
    assert pods["p"]["status"]["nominatedNodeName"] == "n-1"
    assert "nominatedNodeName" not in pods["q"]["status"]
    assert "conditions" not in pods["q"]["status"]


def test_the_last_reason_is_written_though_it_came_too_soon(shared, namespace, monkeypatch):
    """Nobody says it again; a pod that was bound meanwhile keeps what it says."""
    monkeypatch.setattr(reasons, "AGAIN_S", 0.5)

    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, ["p", "q"])
            p, q = (PodFacts(f"{namespace}/{n}", namespace, n, uid=uids[n]) for n in "pq")
            waiting = {p.uid, q.uid}
            notes = Notes(Binder(client, leads), lambda pod: pod.uid in waiting, time.monotonic)
            task = asyncio.create_task(notes.run())
            notes.waits([p, q], "first")
            await until(lambda: read_pods(client, namespace), says(p="first", q="first"))
            for text in ("second", "third"):
                notes.waits([p, q], text)
            waiting.remove(q.uid)
            await until(lambda: read_pods(client, namespace), says(p="third", q="first"))
            task.cancel()
            return notes

    play(story())


def says(**texts):
    """Whether each pod says this of why it waits."""

    def holds(pods):
        said = {
            name: [one["message"] for one in pod["status"].get("conditions") or []]
            for name, pod in pods.items()
        }
        return all(said[name] == [text] for name, text in texts.items())

    return holds


def test_an_event_is_shown_at_its_object(shared, namespace):
    async def story():
        async with admin(shared) as client:
            uids = await make_pods(client, namespace, ["p"])
            about = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uids["p"]}
            return await Binder(client, leads).event(
                namespace, about, "Waiting", "9 GPUs asked, 8 are there", "Warning"
            )

    assert play(story())
    assert "9 GPUs asked, 8 are there" in shared.kubectl("-n", namespace, "describe", "pod", "p")


# -- little readers --------------------------------------------------------------------------------


def is_going(pod):
    return "deletionTimestamp" in pod["metadata"]


def disruption(pod):
    """(status, message) of the condition by which controllers know, or None."""
    for one in pod["status"].get("conditions") or []:
        if one["type"] == "DisruptionTarget":
            return one["status"], one["message"]
    return None
