"""Starts munged, slurmctld and slurmd in a temporary folder, and stops them again.

Nothing of the machine's own Slurm configuration is read or written; every daemon listens on
loopback on a free port and runs in the foreground as a child of this program.
"""

import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.measuring import PoolError

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "sinfo", "sdiag", "munged")
READY_S_MAX = 30.0
STOP_S_MAX = 10.0

# Slurm's High Throughput Computing guide asks for no accounting, priority/basic, little logging
# and ten munge threads; every profile does. They differ in SchedulerParameters:
#   default   none: what Debian's package gives
#   guide     the set that the guide publishes from a site with hundreds of jobs a second. It
#             gathers work for 20 s between passes, which suits thousands of slots, not two
#   tuned     the same levers turned the other way: every loop each second, nothing held back.
#             The best for latency and for throughput of the settings tried on two cores;
#             sched/builtin, which the guide names for short jobs, was slower (2.0 against
#             2.1 jobs/s one by one, 2.0 against 3.6 as an array): with it one loop fewer ticks
GUIDE = (
    "batch_sched_delay=20,bf_continue,bf_interval=300,bf_min_age_reserve=10800,"
    "bf_resolution=600,bf_yield_interval=1000000,partition_job_depth=500,"
    "sched_max_job_start=200,sched_min_interval=2000000"
)
TUNED = (
    "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue,"
    "bf_yield_interval=1000000"
)
PROFILES = {"default": "", "guide": GUIDE, "tuned": TUNED}

CONFIGURATION = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
{parameters}
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
PriorityType=priority/basic
MaxJobCount=50000
MaxArraySize=50001
SlurmctldDebug=error
SlurmdDebug=error
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(slots=True)
class SlurmPool:
    """The cluster as a pool under test; jobs are counted by slurmctld's own statistics."""

    name: str
    environment: dict[str, str]

    def submit(self, command: Sequence[str]) -> None:
        """One `sbatch`."""
        self._sbatch(command)

    def submit_batch(self, command: Sequence[str], count: int) -> None:
        """One `sbatch --array`: Slurm's own way to submit many equal jobs."""
        self._sbatch(command, f"--array=1-{count}")

    def ended(self) -> int:
        """Jobs completed since the cluster started, from `sdiag`."""
        said = self._run("sdiag")
        counted = {
            word: int(found[1])
            for word in ("completed", "canceled", "failed")
            if (found := re.search(rf"Jobs {word}: *(\d+)", said))
        }
        if counted.get("canceled") or counted.get("failed"):
            raise PoolError(f"{self.name}: jobs ended badly: {counted}")
        return counted["completed"]

    def _sbatch(self, command: Sequence[str], *options: str) -> None:
        script = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
        self._run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            words,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise PoolError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


class SlurmCluster:
    """`with SlurmCluster("tuned", slots=2) as pool:` — up inside, gone after."""

    def __init__(self, profile: str, slots: int) -> None:
        self.profile = profile
        self.slots = slots
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.children: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> SlurmPool:
        try:
            self._prepare()
            self._start(
                "munged",
                "--foreground",
                "--force",
                "--num-threads=10",
                *(
                    f"--{name}={self.folder}/munge/{name.removesuffix('-file')}"
                    for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")
                ),
            )
            self._wait_until((self.folder / "munge" / "socket").exists, "munged")
            self._start("slurmctld", "-D")
            self._start("slurmd", "-D")
            self._wait_until(self._is_idle, "the node")
        except BaseException:
            self.stop()
            raise
        return SlurmPool(f"Slurm, {self.profile}", self.environment)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the daemons, newest first, and remove the folder."""
        for child in reversed(self.children):
            child.terminate()
            try:
                child.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self) -> None:
        for name, mode in (("munge", 0o700), ("state", 0o755), ("spool", 0o755)):
            (self.folder / name).mkdir(mode=mode)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        parameters = PROFILES[self.profile]
        configuration = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            controller_port=free_port(),
            node_port=free_port(),
            parameters=f"SchedulerParameters={parameters}" if parameters else "",
            slots=self.slots,
        )
        (self.folder / "slurm.conf").write_text(configuration)

    def _start(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.out").open("wb") as output:
            self.children.append(
                subprocess.Popen(
                    words,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def _is_idle(self) -> bool:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.strip() == "idle"

    def _wait_until(self, is_ready: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + READY_S_MAX
        while not is_ready():
            ended = [child.args for child in self.children if child.poll() is not None]
            if ended or time.monotonic() > until:
                raise PoolError(f"Slurm: {what} did not come up: {self._words()}")
            time.sleep(0.05)

    def _words(self) -> str:
        said = (path.read_text(errors="replace") for path in sorted(self.folder.glob("*.out")))
        return " | ".join(text.strip()[-400:] for text in said if text.strip()) or "no word"


def is_installed() -> bool:
    """Whether all of Slurm's programs are there."""
    return all(shutil.which(program) for program in PROGRAMS)


def install() -> None:
    """Install Debian's packages; their own services are neither configured nor started.

    Raises:
        PoolError: apt-get failed; the message has its words.
    """
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "-qq", *words],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise PoolError(f"apt-get {words[0]} failed: {done.stderr.strip()[-400:]}")


def version() -> str:
    """`slurm-wlm 22.05.8`."""
    asked = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
