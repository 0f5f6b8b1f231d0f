"""Who schedules: started as a process of its own, beside the same API server, and ended."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import yard
from benchmarks.kubernetes import bare
from tests.kubernetes.cluster import Cluster, free_port

END_S_MAX = 20.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Contestant:
    """`scheduler` is the name that its pods ask for. `limit_s`: stopped after so long, where its
    own limits would make the run take minutes; its rate is steady by then."""

    name: str
    scheduler: str
    limit_s: float = 240.0
    gangs: bool = False  # takes part where pods come while it runs


BARE = Contestant("bare binding", bare.NAME)
KUBE = Contestant("kube-scheduler, limits 5000/10000", "default-scheduler", gangs=True)
KUBE_DEFAULT = Contestant("kube-scheduler, its default limits", "default-scheduler", limit_s=30.0)
MADANG = Contestant("madang", "madang", gangs=True)
ALL = {"bare": BARE, "kube": KUBE, "kube-default": KUBE_DEFAULT, "madang": MADANG}


@contextmanager
def running(contestant: Contestant, cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """It runs within; its log is kept in the cluster's folder."""
    state = Path(tempfile.mkdtemp(prefix="bench-madang-"))
    log = cluster.folder / f"{contestant.scheduler}.log"
    ours = yard.environment(state)
    root = str(Path(__file__).resolve().parents[2])
    ours["PYTHONPATH"] = f"{ours['PYTHONPATH']}{os.pathsep}{root}"
    try:
        with log.open("ab") as out:
            ran = subprocess.Popen(
                _argv(contestant, cluster, state),
                env=ours,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            yield ran
        finally:
            ran.send_signal(signal.SIGTERM)
            try:
                ran.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                ran.kill()
                ran.wait()
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _argv(contestant: Contestant, cluster: Cluster, state: Path) -> Sequence[str]:
    kubeconfig = str(cluster.kubeconfig())
    if contestant is BARE:
        return [sys.executable, "-m", "benchmarks.kubernetes.bare", kubeconfig]
    if contestant is KUBE:
        return cluster.scheduler_argv(qps=5000, burst=10_000)
    if contestant is KUBE_DEFAULT:
        return cluster.scheduler_argv()
    words = ["up", "--engine", "kubernetes", "--kubeconfig", kubeconfig, "--state", str(state)]
    return [*yard.program(), *words, "--port", str(free_port())]


def cpu_s(pid: int) -> float:
    """CPU of a process and its living descendants since they began, user and system."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0.0
    own = sum(int(fields[n]) for n in (11, 12, 13, 14)) / TICKS_PER_S
    return own + sum(cpu_s(child) for child in children)


def all_cpu_s() -> float:
    """CPU that this machine has used since it began, whoever used it, stolen time included."""
    fields = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
