"""What the mirror of a real API server promises."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from madang.engines.kubernetes.client import Client, Conflict, Missing, Refused
from madang.engines.kubernetes.config import from_kubeconfig
from madang.engines.kubernetes.discovery import discover
from madang.engines.kubernetes.watching import Mirror
from tests.kubernetes.conftest import access_to, play

pytestmark = pytest.mark.kubernetes

MAPS = "/api/v1/namespaces/{}/configmaps"


def a_map(name, **values):
    return {"metadata": {"name": name}, "data": values}


def value_of(item):
    return (item.get("data") or {}).get("value", "")


@asynccontextmanager
async def mirrored(cluster, path, **options):
    async with Client(access_to(cluster)) as client:
        mirror = Mirror(client, path, value_of, **options)
        task = asyncio.create_task(mirror.run())
        try:
            await mirror.synced.wait()
            yield client, mirror
        finally:
            await ended(task)


async def ended(task):
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(holds):
    while not holds():  # noqa: ASYNC110 - what another program does sets no event
        await asyncio.sleep(0.01)


def seen(mirror, prefix):
    return {
        key.split("/")[1]: value
        for key, value in mirror.objects.items()
        if key.split("/")[1].startswith(prefix)
    }


def test_it_follows_what_is_made_changed_and_deleted(shared, namespace):
    path = MAPS.format(namespace)
    told = []

    async def story():
        async with mirrored(shared, path, told=lambda key, now: told.append((key, now))) as (
            client,
            mirror,
        ):
            await client.post(path, a_map("x-1", value="a"))
            await until(lambda: seen(mirror, "x") == {"x-1": "a"})
            await client.patch(f"{path}/x-1", {"data": {"value": "b"}})
            await until(lambda: seen(mirror, "x") == {"x-1": "b"})
            await client.delete(f"{path}/x-1")
            await until(lambda: seen(mirror, "x") == {})

    play(story())
    key = f"{namespace}/x-1"
    assert [one for one in told if one[0] == key] == [(key, "a"), (key, "b"), (key, None)]


def test_a_cut_watch_goes_on_without_losing_or_doubling(own):
    """The API server is killed while objects change hands with another one's help."""
    path = MAPS.format("default")
    told = []

    async def story():
        async with mirrored(own, path, told=lambda key, now: told.append((key, now))) as (
            client,
            mirror,
        ):
            await client.post(path, a_map("x-1", value="1"))
            await until(lambda: "x-1" in seen(mirror, "x"))
            for cut in range(3):
                await asyncio.to_thread(own.restart_api_server)
                await asyncio.to_thread(
                    own.ask, "POST", path, a_map(f"x-{cut + 2}", value=str(cut))
                )
                await until(lambda cut=cut: f"x-{cut + 2}" in seen(mirror, "x"))
            await asyncio.to_thread(own.ask, "DELETE", f"{path}/x-1")
            await until(lambda: "x-1" not in seen(mirror, "x"))
            return seen(mirror, "x")

    assert play(story(), 120) == {"x-2": "0", "x-3": "1", "x-4": "2"}
    changes = [one for one in told if "/x-" in one[0]]
    assert len(changes) == len(set(changes)) == 5


def test_a_forgotten_version_makes_a_new_list(own):
    """A server that was started anew remembers nothing of before; nor does etcd, once compacted."""
    path = MAPS.format("default")

    async def story():
        async with Client(access_to(own)) as client:
            await client.post(path, a_map("x-1", value="kept"))
            await client.post(path, a_map("x-2", value="dropped"))
            mirror = Mirror(client, path, value_of)
            task = asyncio.create_task(mirror.run())
            await until(lambda: len(seen(mirror, "x")) == 2)
            await ended(task)
            await client.delete(f"{path}/x-2")
            for n in range(5):
                await client.post(path, a_map(f"y-{n}"))
            await asyncio.to_thread(own.forget_history)
            task = asyncio.create_task(mirror.run())
            await until(lambda: len(seen(mirror, "x")) == 1)
            await ended(task)
            return mirror.lists, seen(mirror, "x")

    assert play(story(), 120) == (2, {"x-1": "kept"})


def test_a_list_of_many_pages_is_whole(shared, namespace, monkeypatch):
    monkeypatch.setattr("madang.engines.kubernetes.client.PAGE", 7)
    path = MAPS.format(namespace)
    for n in range(20):
        shared.ask("POST", path, a_map(f"x-{n}", value=str(n)))

    async def story():
        async with mirrored(shared, path) as (_, mirror):
            return seen(mirror, "x")

    assert play(story()) == {f"x-{n}": str(n) for n in range(20)}


def test_refusals_have_their_names(shared, namespace):
    path = MAPS.format(namespace)

    async def story():
        async with Client(access_to(shared)) as client:
            await client.post(path, a_map("x-1"))
            with pytest.raises(Conflict):
                await client.post(path, a_map("x-1"))
            with pytest.raises(Missing):
                await client.get(f"{path}/nobody")
        async with Client(from_kubeconfig(shared.kubeconfig("not-a-token"))) as client:
            with pytest.raises(Refused):
                await client.get(path)

    play(story())


def test_it_says_what_the_server_lacks(shared):
    async def story():
        async with Client(access_to(shared)) as client:
            return await discover(client)

    support = play(story())
    assert support.paths["Job"] == ("/apis/batch/v1", "jobs")
    if support.version == (1, 20):
        assert (support.policy, support.gates, support.dra) == ("policy/v1beta1", False, "")
        said = " ".join(support.lacks)
        assert all(one in said for one in ("policy/v1beta1", "scheduling gates", "claims"))
