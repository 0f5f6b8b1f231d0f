"""What every engine promises: it acts, it observes, it adopts.

- `act` is idempotent by allocation id: the same Start twice starts once; Stop of an unknown or
  ended allocation does nothing, and a Start that comes after its Stop starts nothing and is told as
  ended, as is a Stop of what was adopted and never started. It returns soon; what comes of it is
  observed.
- `observe` returns facts in the order they were seen. Each member that starts is reported once by
  MemberStarted, each that ends (also one that could never start) by MemberEnded; repeats
  are allowed.
- `adopt` is called once after a start with the live allocations of the ledger. The engine reports
  what it finds of each (started, ended), also what happened while nobody watched; a member that has
  never been started is left for the Start that follows; one that was, and left no exit, ended
  `lost`.
- Members outlive the daemon. An engine that is closed, or killed, ends none of them.

Every engine passes `madang.testing.engine.EngineContract`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from madang.core.events import Fact
from madang.core.model import Allocation, Need, Seat, Shape, Toleration
from madang.core.settings import Shield


class EngineError(Exception):
    """The world's fault: it becomes a fact or a clear answer, never a crash."""


@dataclass(frozen=True, slots=True)
class Launch:
    """All an engine needs to start an allocation.

    `code` is the sha256 hex digest of the code snapshot (a .tar.zst in the code store), or "".
    `env` is the user's own; the engine adds torchrun's variables, CUDA_VISIBLE_DEVICES and
    MADANG_*.
    `checkpoint_key` names a directory that survives retries and may be shared with a forked job.
    `arrival` is the key of the arrival that the job was made of; such a job brings its own members,
    and has no command of ours. `needs`, `tolerates`, `grace_ms` are the job's, for those who must
    say them again elsewhere.
    """

    allocation: Allocation
    name: str
    owner: str
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    image: str = ""
    code: str = ""
    checkpoint_key: str = ""
    arrival: str = ""
    needs: tuple[tuple[Need, ...], ...] = ()
    tolerates: tuple[Toleration, ...] = ()
    grace_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class Start:
    launch: Launch


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGTERM to each member's process group, then SIGKILL after `grace_ms`. A second Stop may only
    shorten the grace."""

    allocation: str
    grace_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """A word for the members of an allocation, in place of the last one; they may not read it."""

    allocation: str
    text: str


@dataclass(frozen=True, slots=True)
class Promise:
    """Seats kept for a job that arrived, until those who hold them have left; none: no more."""

    job: str
    seats: tuple[Seat, ...]


Action = Start | Stop | Tell | Promise


# -- work that comes to the engine by itself: only an engine that has `arrivals` is asked ----------


@dataclass(frozen=True, slots=True)
class Arrival:
    """Work that somebody gave to what the engine runs on, and that waits to be placed.

    `key` names it for ever; `kind` and `name` are for people. `priority` is added to that of its
    class. A project that is not there yet is made. The rest is as in `core.model.Job`.
    """

    key: str
    kind: str
    name: str
    project: str
    members: int
    shape: Shape
    members_min: int = 0
    priority: int = 0
    preemptible: bool = True
    within: str = ""
    within_soft: bool = False
    spread_nodes: int = 0
    grace_ms: int = 30_000
    needs: tuple[tuple[Need, ...], ...] = ()
    tolerates: tuple[Toleration, ...] = ()
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class Past:
    """What the yard knows of what an engine has told: its nodes, the shields, and by which of them
    how many members of which jobs are covered."""

    nodes: tuple[str, ...] = ()
    shields: Mapping[str, Shield] = field(default_factory=dict)
    shielded: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)


class Receives(Protocol):
    """The verbs of an engine that has arrivals. An arrival is offered until it is answered by
    `known` or `refused`, and may be offered again; `parted` says that its job has ended."""

    def arrivals(self, arrivals_max: int) -> list[Arrival]:
        """What has come, oldest first. Never waits."""

    def recall(self, past: Past) -> None:
        """What the yard has from before; told before `adopt`."""

    def known(self, key: str, job: str) -> None:
        """The arrival is this job, which is committed; its Start comes later than this."""

    def refused(self, key: str, why: str) -> None:
        """It can never run here as things are. It may be offered again when they have changed."""

    def parted(self, key: str) -> None:
        """Its job has ended, for good."""

    def explain(self, key: str, why: str) -> None:
        """Why it waits, in one line. Any thread may call it."""


# -- what sensors say; None is "no sensor" --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One device at one moment."""

    index: int
    util_percent: float | None = None
    memory_used_mib: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class NodeSample:
    """One node that can be heard. CPU percent is 100 when every core is busy."""

    node: str
    cpu_percent: float | None = None
    memory_used_mib: int | None = None
    gpus: tuple[GpuSample, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberSample:
    """One running member and its process tree. CPU percent is 100 a core."""

    allocation: str
    rank: int
    cpu_percent: float | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Every node that can be heard, and every member that runs there."""

    nodes: tuple[NodeSample, ...] = ()
    members: tuple[MemberSample, ...] = ()


# -- what sensors say, for telemetry: canonical metrics; NaN is "no sensor" -----------------------


class Column(NamedTuple):
    """One metric of one node. `values`: (len(keys),) float32, NaN where nothing is known."""

    metric: str
    subject: str
    keys: tuple[str, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Metrics of one kind of thing: `gpu` (keys "0" …, the device index on the node), `node` (one
    key, ""), `member` ("ALLOCATION/RANK") or `port` ("mlx5_0/1").

    `values`: (len(metrics), len(keys)) float32 of NumPy, not to be written to; NaN is unknown.
    A metric that counts says the increase since the node's last readings.
    """

    subject: str
    metrics: tuple[str, ...]
    keys: tuple[str, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Signal:
    """What happened once, at `at_ms`: an Xid (`kind` "xid", `code` 79), a port that went down
    ("mlx5"). `subject` and `key` as in `Block`."""

    at_ms: int
    kind: str
    code: int
    subject: str
    key: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """One node that can be heard, at one moment; `interval_ms` after its last readings (0: these
    are the first, and nothing that counts is known yet), in the time of the node: a virtual fleet's
    runs faster."""

    node: str
    at_ms: int
    interval_ms: int
    blocks: tuple[Block, ...]
    signals: tuple[Signal, ...] = ()

    @property
    def columns(self) -> Iterator[Column]:
        """Every metric of which some value is known."""
        for block in self.blocks:
            values, subject, keys = block.values, block.subject, block.keys
            known = ~np.isnan(values)
            if known.all():
                for row, metric in enumerate(block.metrics):
                    yield Column(metric, subject, keys, values[row])
                continue
            for row, metric in enumerate(block.metrics):
                if known[row].any():
                    yield Column(metric, subject, keys, values[row])


class Engine(Protocol):
    """See the module's docstring."""

    def open(self, wake: Callable[[], None]) -> None:
        """Begin to observe; call `wake` (from any thread, cheaply) whenever there are new facts."""

    def adopt(self, allocations: Sequence[Allocation]) -> None:
        """Take over what runs already. Called once, after `open` and before the first `act`."""

    def act(self, actions: Sequence[Action]) -> None:
        """Carry out what has been committed."""

    def observe(self, facts_max: int) -> list[Fact]:
        """New facts, oldest first, at most `facts_max`. Never waits."""

    def close(self) -> None:
        """Stop observing. Members go on."""

    # -- people's view of a member ------------------------------------------------------------

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """Log bytes from `offset` on; empty at the end. The log of an ended member stays readable.

        Raises:
            EngineError: no such member here.
        """

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """What the member reported by `madang.report`: whole NDJSON lines from byte `offset` on.

        Raises:
            EngineError: no such member here.
        """

    def exec_command(
        self, allocation: str, rank: int, command: Sequence[str]
    ) -> tuple[list[str], dict[str, str], str]:
        """What to spawn for a command beside a running member: (argv, environment, directory).

        Raises:
            EngineError: the member does not run here.
        """

    def sample(self) -> Sample:
        """What the sensors say now."""

    def readings(self) -> Sequence[Readings]:
        """What the sensors of each node say now, and what happened since the last call.

        For one caller: what is counted is counted since its last call. It may take as long as the
        sensors do, and disturbs no other verb.
        """
