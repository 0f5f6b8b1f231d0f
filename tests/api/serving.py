"""The API on a real port, with a real turn loop and ledger behind it."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from madang.api import ApiSettings, create_app, make_server
from madang.api.identity import digest_of
from madang.api.settings import Limits
from madang.core.events import ProjectSet
from madang.core.model import Node, Project
from madang.daemon.clock import WallClock
from madang.daemon.loop import TurnLoop
from madang.daemon.yard import DaemonYard
from madang.engines.code_store import CodeStore
from madang.ledger import open_ledger
from madang.telemetry.store import Store
from madang.wire.access import Role
from tests.api.puppet import NODES, Puppet

TOKEN = "a-token-of-the-tests"
OWNER = "tester"
READY_S = 20


class Served:
    """What a test needs of it."""

    def __init__(self, port: int, app: FastAPI, engine: Puppet, yard: DaemonYard) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.app = app
        self.loop = yard.loop
        self.engine = engine
        self.yard = yard
        self.client = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30
        )

    def submit(self, **request: object) -> dict[str, object]:
        """The view of a new job."""
        answer = self.client.post("/v1/jobs", json={"command": ["true"], **request})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def stranger(self, **headers: str) -> httpx.Client:
        """A client without a token."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def wait_until(self, id: str, *phases: str) -> dict[str, object]:
        """The view once the job is in one of the phases."""
        with self.client.stream("GET", "/v1/events?after=0") as events:
            for line in events.iter_lines():
                if not line.startswith("data:") and line:
                    continue
                view = self.client.get(f"/v1/jobs/{id}").json()
                if view["phase"] in phases:
                    return dict(view)
        raise AssertionError("the events ended")


@contextmanager
def serving(
    place: Path,
    limits: Limits | None = None,
    send_buffer_bytes: int = 0,
    web: Path | None = None,
    nodes: Sequence[Node] = NODES,
    **settings: Any,
) -> Iterator[Served]:
    """Serve in a thread of this process until the block ends."""
    ledger = open_ledger(f"sqlite:///{place}/madang.db")
    ledger.add_token(OWNER, digest_of(TOKEN), 1, Role.OWNER)
    code = CodeStore(place / "code")
    (place / "logs").mkdir()
    engine = Puppet(place / "logs", nodes)
    failures: list[str] = []
    loop = TurnLoop(ledger, engine, WallClock(), "tests", lambda: failures.append(loop.failure))
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if send_buffer_bytes:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
        store = Store(place / "telemetry")
        yard = DaemonYard(loop, code, f"http://127.0.0.1:{port}", store)
        asked = ApiSettings(port=port, limits=limits or Limits(), web=web, **settings)
        app = create_app(yard, asked)
        server = make_server(app, asked)
        loop.open([ProjectSet(Project("default")), ProjectSet(Project("small", quota_milli=2000))])
        thread = threading.Thread(target=server.run, name="http", kwargs={"sockets": [door]})
        thread.start()
        served = Served(port, app, engine, yard)
        try:
            _wait_ready(served)
            yield served
        finally:
            served.client.close()
            server.should_exit = True
            thread.join(READY_S)
            loop.close()
            ledger.close()
    assert not thread.is_alive(), "the server did not stop"
    assert failures == [], f"the turn loop broke: {failures}"


def _wait_ready(served: Served) -> None:
    """Until the server answers and both nodes are there."""
    # Not by an event loop: a browser's may run in this very thread.
    until_s = time.monotonic() + READY_S
    while len(served.yard.snapshot().nodes) < 2:
        assert time.monotonic() < until_s, "the nodes did not come"
        time.sleep(0.01)
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport) as client:
        assert client.get(f"{served.url}/v1/health").status_code == 200
