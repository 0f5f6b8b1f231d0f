"""One served API for each file of tests; and, for the contract, the real daemon too."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.api.serving import TOKEN, Served, serving
from tests.e2e.yard import LiveYard


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """All real but the engine, which does what the test says."""
    with serving(tmp_path_factory.mktemp("yard")) as one:
        yield one


@dataclass(frozen=True)
class Door:
    """All that a contract test may use: an address and a token."""

    url: str
    token: str
    client: httpx.Client

    def stranger(self, **headers: str) -> httpx.Client:
        """A client without a token."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@pytest.fixture(
    scope="module",
    params=["served", pytest.param("daemon", marks=pytest.mark.slow)],
)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """The API over a puppet engine, and the same over a daemon in a process of its own."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    place = factory.mktemp(request.param)
    if request.param == "served":
        with serving(place) as one:
            one.engine.quick = True
            yield Door(one.url, TOKEN, one.client)
        return
    with LiveYard(place / "state") as live:
        headers = {"authorization": f"Bearer {live.token()}"}
        with httpx.Client(base_url=live.url, headers=headers, timeout=30) as client:
            yield Door(live.url, live.token(), client)
