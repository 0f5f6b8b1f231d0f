"""What the daemon gives the API. Everything the API knows about the yard, it asks for here.

- Coroutines are called on the event loop; all other methods on the API's reader threads, several at
  once, and may take milliseconds (a lock, a query, a file).
- What is returned is never written to again.
- `Busy`, `NotCommitted` and any `madang.ledger.LedgerError` become a 503 that says when to try
  again. `NoSuchMember` becomes a 404. Anything else that is raised is a bug and becomes a 500.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from madang.core.events import Fact
from madang.core.explain import Guide, Trial
from madang.core.model import Allocation, Job, Shape, Standing
from madang.core.snapshot import Snapshot
from madang.ledger import Ledger
from madang.telemetry.store import Store
from madang.wire.jobs import JobRequest


class Busy(Exception):
    """The daemon's queue is full: nothing was taken. `retry_after_s` is when to come again."""

    def __init__(self, text: str = "the daemon is busy", retry_after_s: int = 1) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class NotCommitted(Exception):
    """The commit failed (disk full, database away): nothing was acknowledged, nothing happened."""


class NoSuchMember(Exception):
    """No such member, or not where its log or its processes can be reached; the text says which."""


# -- submitting ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid request and its sender. The same (owner, idempotency_key) makes one job; "": none."""

    request: JobRequest
    owner: str
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """A job as the turn that committed it left it; `newest` if it got GPUs in that same turn."""

    job: Job
    standing: Standing
    newest: Allocation | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job is committed. `new` is False when the idempotency key had made it before.

    With `made` the answer to the client needs no read; without it, the ledger is asked.
    """

    job_id: str
    new: bool = True
    made: Made | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The job can never run here."""

    guide: Guide


class CodeWriter(Protocol):
    """An upload under way."""

    def write(self, piece: bytes) -> object:
        """Take some more.

        Raises:
            ValueError: too much; says what is allowed.
        """

    def put(self, digest: str) -> object:
        """Keep what was written, durably; the last thing to do with a writer.

        Raises:
            ValueError: not the bytes of that digest, or not a packed tar.
            OSError: the disk.
        """


class CodeStore(Protocol):
    """Code snapshots by the sha256 of their bytes: tars packed by zstandard."""

    def has(self, digest: str) -> bool: ...
    def path(self, digest: str) -> Path: ...
    def writer(self) -> AbstractContextManager[CodeWriter]:
        """An upload; left without `put`, nothing remains of it."""


# -- what sensors say; None is "no sensor" ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GpuTop:
    index: int
    util_percent: float | None = None
    memory_used_mib: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class NodeTop:
    id: str
    cpu_percent: float | None = None
    memory_used_mib: int | None = None
    gpus: tuple[GpuTop, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberTop:
    job: str
    allocation: str
    rank: int
    cpu_percent: float | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Top:
    nodes: tuple[NodeTop, ...] = ()
    members: tuple[MemberTop, ...] = ()


@dataclass(frozen=True, slots=True)
class Spawn:
    """What to spawn for a command beside a running member."""

    argv: tuple[str, ...]
    env: dict[str, str]
    directory: str


class Yard(Protocol):
    """See the module's docstring."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def code(self) -> CodeStore: ...
    @property
    def telemetry(self) -> Store:
        """What sensors say and said."""

    @property
    def version(self) -> str: ...
    @property
    def url(self) -> str:
        """Where people reach the daemon: `http://127.0.0.1:7070`."""

    @property
    def last_seq(self) -> int:
        """The last committed sequence of the journal."""

    @property
    def role(self) -> str:
        """`leader` or `standby`."""

    async def submit(self, submissions: Sequence[Submission]) -> list[Accepted | Refused]:
        """One answer for each, in order, after one commit."""

    async def ask(self, fact: Fact) -> None:
        """A user's fact; returns after the commit of its turn."""

    def keep_policy(self, toml: str) -> None:
        """Write the policy that was set to where the next start finds it."""

    async def set_memo(self, job_id: str, memo: str) -> None:
        """Returns after the commit."""

    async def wait_for_events(self, after: int) -> int:
        """The last committed sequence of the journal, as soon as it is greater than `after`.

        With -1 it returns at once. Cancelled when the client leaves; called by many at once.
        """

    def snapshot(self) -> Snapshot:
        """Of the last committed turn; its mappings too do not change any more."""

    def shape_of(self, request: JobRequest) -> Shape:
        """What one member of such a job would need of a node: the first of its shapes."""

    def trial(self, request: JobRequest, owner: str) -> Trial:
        """What would happen to the request if it were submitted now."""

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """See Engine.read_log; NoSuchMember instead of EngineError."""

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """See Engine.read_reports; NoSuchMember instead of EngineError."""

    def exec_command(self, allocation: str, rank: int, command: Sequence[str]) -> Spawn:
        """See Engine.exec_command; NoSuchMember instead of EngineError."""

    def scrape(self, *, open_metrics: bool) -> bytes:
        """The text of /metrics, in OpenMetrics or in the classic form. May take a second."""

    def top(self) -> Top:
        """What the sensors say now."""
