"""A daemon's turn loop over the real API server, in this process: what tests do and look at."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from madang.core.events import PolicySet, ProjectSet
from madang.core.model import Allocation, Phase, Project
from madang.core.policies import MADANG
from madang.daemon.clock import WallClock
from madang.daemon.inbox import Submit
from madang.daemon.loop import TurnLoop
from madang.daemon.telling import Teller
from madang.engines.kubernetes.config import from_kubeconfig
from madang.engines.kubernetes.engine import KubernetesEngine, Settings
from madang.ledger import JobRecord, open_ledger
from madang.wire.jobs import JobRequest
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.role import madang_kubeconfig

PATIENCE_S = 45.0
POLICY = replace(MADANG, run_ms_min=0)  # else nobody may be moved aside in his first minutes


def until(holds: Callable[[], Any], what: str, most_s: float = PATIENCE_S) -> Any:
    """What other programs do sets no event here."""
    end_s = time.monotonic() + most_s
    while True:
        if found := holds():
            return found
        assert time.monotonic() < end_s, f"never came: {what}"
        time.sleep(0.02)


class Yard:
    """Open it with `opened`."""

    def __init__(self, cluster: Cluster, folder: Path, engine: KubernetesEngine) -> None:
        self.cluster = cluster
        self.engine = engine
        self.failed: list[str] = []
        self.ledger = open_ledger(f"sqlite:///{folder / 'madang.db'}")
        self.loop = TurnLoop(
            self.ledger, engine, WallClock(), "test", lambda: self.failed.append("failed")
        )

    def open(self) -> None:
        self.loop.open([ProjectSet(Project("default")), PolicySet(POLICY)])
        self.teller = Teller(self.loop)
        self.teller.open()

    def close(self) -> None:
        self.teller.close()
        self.loop.close()
        self.ledger.close()
        assert not self.failed, self.loop.failure

    def run(self, *command: str, **fields: Any) -> str:
        """Submit a job of our own."""
        ask = Submit(JobRequest(command=list(command), **fields), "ada")
        self.loop.inbox.put([ask])
        return str(ask.answer.result(PATIENCE_S).job_id)

    def record(self, job: str) -> JobRecord:
        record = self.ledger.job(job)
        assert record is not None, f"no job {job}"
        return record

    def phase(self, job: str) -> Phase:
        return self.record(job).standing.phase

    def job_named(self, name: str, project: str = "") -> str:
        """The newest job of this name, "" without one."""
        found = self.ledger.jobs(name=name, project=project or None, limit=1)
        return found[0].job.id if found else ""

    def wait_phase(self, job: str, phase: Phase, most_s: float = PATIENCE_S) -> None:
        until(lambda: self.phase(job) is phase, f"{job} is {phase}", most_s)

    def newest(self, job: str) -> Allocation:
        record = self.record(job)
        assert record.newest is not None, f"{job} has never got anything"
        return record.newest


@contextmanager
def opened(cluster: Cluster, folder: Path, **fields: Any) -> Iterator[Yard]:
    """A yard with a new engine, which has the chart's rights and no others, as a release in the
    namespace of the engine (or `access`); the ledger in `folder` outlives it."""
    kubeconfig = madang_kubeconfig(cluster, fields.get("namespace", "default"))
    access = fields.pop("access", None)
    settings = Settings(
        access=access or from_kubeconfig(kubeconfig),
        folder=folder / "kubernetes",
        made=fields.pop("made", lambda launch: ()),
        words=("--kubeconfig", str(kubeconfig)),
        **fields,
    )
    yard = Yard(cluster, folder, KubernetesEngine(settings))
    yard.open()
    try:
        yield yard
    finally:
        yard.close()


def pods(cluster: Cluster, namespace: str, **labels: str) -> list[Any]:
    """Pods of a namespace with these labels."""
    chosen = ",".join(f"{key.replace('__', '/')}={value}" for key, value in labels.items())
    query = f"?labelSelector={chosen}" if chosen else ""
    listed = cluster.ask("GET", f"/api/v1/namespaces/{namespace}/pods{query}")
    return list(listed["items"])


PYTHON = sys.executable


def create(cluster: Cluster, path: str, body: Any) -> Any:
    """POST; in a namespace that is new the account of its pods comes a moment later."""
    wait_account(cluster, path.split("/namespaces/")[1].split("/", maxsplit=1)[0])
    return cluster.ask("POST", path, body)


def wait_account(cluster: Cluster, namespace: str) -> None:
    """Until pods may be made there."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    until(
        lambda: [one for one in cluster.ask("GET", accounts)["items"] if one.get("secrets")],
        f"an account in {namespace}",
    )
