"""An agent and a real daemon: what a node's sensors say can be asked for, whatever is killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.doubles import serving
from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.e2e

NODE = "node-17"


def page(power_w: float) -> bytes:
    labels = 'gpu="3",UUID="GPU-3",pci_bus_id="00000000:3B:00.0",Hostname="exporter-pod"'
    return f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} {power_w}\n".encode()


class Node:
    """`madang agent` with the page of an exporter and a kernel log of our own."""

    def __init__(self, yard: LiveYard, folder: Path, exporter: str) -> None:
        self.log = folder / "kern.log"
        self.log.touch()
        token = folder / "token"
        token.write_text(yard.token())
        self.words = ["--node", NODE, "--interval", "1s", "--url", yard.url]
        self.words += ["--token-file", str(token), "--buffer", str(folder / "ring")]
        self.words += ["--kernel-log", str(self.log), "--dcgm", f"{exporter}/metrics"]
        self.yard = yard
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "madang", "agent", *self.words]
        self.agent = subprocess.Popen(command, env=self.yard.environment())

    def stop(self) -> None:
        assert self.agent is not None
        self.agent.send_signal(signal.SIGTERM)
        assert self.agent.wait(30) == 0


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[LiveYard]:
    with LiveYard(tmp_path / "state", devices=2) as live:
        yield live


@pytest.fixture
def node(yard: LiveYard, tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "node"
    folder.mkdir()
    with serving((200, {}, page(651.5))) as exporter:
        made = Node(yard, folder, exporter.url)
        made.start()
        yield made
        made.stop()


def health(yard: LiveYard, node: str) -> dict[str, Any] | None:
    """How the node reports; None: nothing was heard of it."""
    nodes = yard.ask("GET", "/v1/telemetry/health")["nodes"]
    return next((one for one in nodes if one["node"] == node), None)


def taken(yard: LiveYard) -> int:
    found = health(yard, NODE)
    return 0 if found is None else int(found["taken"])


def test_what_an_agent_reads_can_be_asked_for(yard: LiveYard, node: Node) -> None:
    yard.wait_until(lambda: taken(yard) >= 2)
    with open(node.log, "a") as log:
        log.write("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=python, GPU has fallen off.\n")
    before_ms = time.time() * 1000
    yard.wait_until(lambda: bool(yard.ask("GET", f"/v1/signals?node={NODE}")["signals"]))

    told_w: list[float] = []

    def is_told() -> bool:  # a step is told once it is over
        path = f"/v1/series?metric=gpu_power_w&node={NODE}&from=5m&step=10s"
        for series in yard.ask("GET", path)["series"]:
            assert series["key"] == f"{NODE}/3"
            told_w[:] = [value for value in series["values"] if value is not None]
        return bool(told_w)

    yard.wait_until(is_told)
    assert set(told_w) == {651.5}
    (xid,) = yard.ask("GET", f"/v1/signals?node={NODE}")["signals"]
    assert (xid["kind"], xid["code"], xid["key"]) == ("xid", 79, "3")
    assert abs(xid["at_ms"] - before_ms) < 60_000
    told = health(yard, NODE)
    assert told is not None
    assert (told["refused"], told["dropped"], told["marks"]) == (0, 0, [])


def test_frames_wait_for_a_daemon_that_was_killed(yard: LiveYard, node: Node) -> None:
    yard.wait_until(lambda: taken(yard) >= 2)
    yard.kill()
    ring = Path(node.words[node.words.index("--buffer") + 1])
    size = sum(path.stat().st_size for path in ring.glob("*.frames"))
    yard.wait_until(lambda: sum(p.stat().st_size for p in ring.glob("*.frames")) > size + 1_500)
    yard.start()
    yard.wait_until(lambda: taken(yard) >= 5)

    told = health(yard, NODE)
    assert told is not None
    assert told["dropped"] == 0
    assert told["refused"] == 0


def test_the_daemon_reads_the_machine_that_it_is_on(yard: LiveYard) -> None:
    own = yard.ask("GET", "/v1/nodes")["nodes"][0]["id"]
    path = f"/v1/series?metric=node_load&node={own}&from=5m&step=10s"

    def is_told() -> bool:
        return any(
            value is not None
            for series in yard.ask("GET", path)["series"]
            for value in series["values"]
        )

    yard.wait_until(is_told)
