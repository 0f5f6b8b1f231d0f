"""One real control plane for all tests that only add objects of their own to it."""

import asyncio
import itertools
import time
from collections.abc import Coroutine
from typing import Any
from urllib.error import HTTPError

import pytest

from madang.engines.kubernetes.config import Access, from_kubeconfig
from tests.kubernetes.cluster import PATIENCE_S, Cluster
from tests.kubernetes.role import madang_access, madang_kubeconfig

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """An API server with its controllers, shared: use a namespace of your own."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), controllers=True)
    yield cluster
    cluster.close()


@pytest.fixture
def own(tmp_path):
    """An API server of this test alone, to be killed and stopped."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def access_to(cluster: Cluster) -> Access:
    return from_kubeconfig(cluster.kubeconfig())


def play(work: Coroutine[Any, Any, Any], most_s: float = 60.0) -> Any:
    """Run it to its end; only something broken takes `most_s`."""
    return asyncio.run(asyncio.wait_for(work, most_s))


@pytest.fixture
def namespace(shared, request):
    """A new namespace of the shared cluster, in which pods can be made."""
    words = "".join(c if c.isalnum() else "-" for c in request.node.originalname.lower())
    name = f"{words[:50].strip('-')}-{next(_NUMBERS)}"
    shared.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    pod = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            shared.ask("POST", f"/api/v1/namespaces/{name}/pods?dryRun=All", pod)
            break
        except HTTPError as failure:
            said = failure.read().decode()
        # The controllers have not made its account yet.
        assert time.monotonic() < until_s, said
        time.sleep(0.05)
    yield name
    # What a test leaves must not ask later ones for nodes: controllers make pods for ever.
    shared.ask("DELETE", f"/api/v1/namespaces/{name}")
    shared.ask("DELETE", f"/api/v1/namespaces/{name}/pods", {"gracePeriodSeconds": 0})


@pytest.fixture
def as_madang(shared, namespace):
    """Access with exactly the rights that the chart gives, released in the test's namespace."""
    return madang_access(shared, namespace)


@pytest.fixture
def as_madang_file(shared, namespace):
    """The same as a kubeconfig file."""
    return madang_kubeconfig(shared, namespace)
