"""What the API may ask of the daemon: the other side of `api.yard.Yard`."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from madang import __version__
from madang.api.yard import (
    Accepted,
    GpuTop,
    MemberTop,
    NodeTop,
    NoSuchMember,
    Refused,
    Spawn,
    Submission,
    Top,
)
from madang.core.admission import judge
from madang.core.events import Fact
from madang.core.explain import Trial, try_job
from madang.core.model import Shape
from madang.core.snapshot import Snapshot
from madang.daemon.inbox import Ask, Note, Request, Submit
from madang.daemon.loop import TurnLoop
from madang.daemon.telemetry_out import Out
from madang.engines.base import EngineError
from madang.engines.code_store import CodeStore
from madang.telemetry.out.settings import OutSettings
from madang.telemetry.store import Store
from madang.wire.jobs import JobRequest


@contextmanager
def _no_such_member() -> Iterator[None]:
    try:
        yield
    except EngineError as failure:
        raise NoSuchMember(str(failure)) from failure


class DaemonYard:
    """Awaits the turn loop from the event loop. Answers come after the commit.

    `keep_policy` writes a policy that was set to where the next start finds it; without it a policy
    lasts as long as the ledger.
    """

    def __init__(
        self,
        loop: TurnLoop,
        code: CodeStore,
        url: str,
        telemetry: Store,
        keep_policy: Callable[[str], None] | None = None,
        out: Out | None = None,
    ) -> None:
        self.telemetry = telemetry
        self.out = out or Out(loop, telemetry, telemetry.path / "out", OutSettings())
        self._keep_policy = keep_policy
        self.loop = loop
        self.ledger = loop.ledger
        self.engine = loop.engine
        self.code = code
        self.url = url
        self.version = __version__
        self.role = "leader"
        self._waiting: list[asyncio.Future[int]] = []
        self._asyncio: asyncio.AbstractEventLoop | None = None
        loop.watch(self._committed)

    @property
    def failure(self) -> str:
        """Why the turn loop stopped; "" while it turns."""
        return self.loop.failure

    @property
    def last_seq(self) -> int:
        """The last committed sequence of the journal."""
        return self.loop.last_seq

    async def submit(self, submissions: Sequence[Submission]) -> list[Accepted | Refused]:
        """Accepted or Refused for each submission, in order, in one commit if they fit in one.

        Raises:
            Busy: nothing was accepted; the same submissions may be sent again.
        """
        return await self._ask([Submit(s.request, s.owner, s.idempotency_key) for s in submissions])

    async def ask(self, fact: Fact) -> None:
        """Returns once the fact is committed.

        Raises:
            Busy: it was not.
        """
        await self._ask([Ask(fact)])

    def keep_policy(self, toml: str) -> None:
        """See api.yard.Yard."""
        if self._keep_policy is not None:
            self._keep_policy(toml)

    async def set_memo(self, job_id: str, memo: str) -> None:
        """Returns once the memo is committed."""
        await self._ask([Note(job_id, memo)])

    async def _ask(self, requests: list[Request]) -> list[Any]:
        self.loop.inbox.put(requests)
        answers: list[Future[Any]] = [request.answer for request in requests]
        return list(await asyncio.gather(*map(asyncio.wrap_future, answers)))

    def snapshot(self) -> Snapshot:
        """The yard after the last committed turn."""
        return self.loop.snapshot()

    def shape_of(self, request: JobRequest) -> Shape:
        """What one member of such a job would need of a node: the first of its shapes."""
        return self.loop.trial_job(request).shape

    def trial(self, request: JobRequest, owner: str) -> Trial:
        """What would happen to the request if it were submitted now."""
        job = self.loop.trial_job(request, owner)
        snapshot = self.loop.snapshot()
        rejected = judge(snapshot, job)
        return try_job(snapshot, job, rejected)

    async def wait_for_events(self, after: int) -> int:
        """The last committed journal sequence, as soon as it is above `after`."""
        self._asyncio = asyncio.get_running_loop()
        while self.loop.last_seq <= after:
            waiting: asyncio.Future[int] = self._asyncio.create_future()
            self._waiting.append(waiting)
            try:
                if self.loop.last_seq > after:  # a commit slipped in between
                    break
                await waiting
            finally:
                if waiting in self._waiting:  # nobody waits for it any more
                    self._waiting.remove(waiting)
        return self.loop.last_seq

    # -- members --------------------------------------------------------------------------------

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """See Engine.read_log."""
        with _no_such_member():
            return self.engine.read_log(allocation, rank, offset, bytes_max)

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        """See Engine.read_reports."""
        with _no_such_member():
            return self.engine.read_reports(allocation, rank, offset, bytes_max)

    def exec_command(self, allocation: str, rank: int, command: Sequence[str]) -> Spawn:
        """See Engine.exec_command."""
        with _no_such_member():
            argv, env, directory = self.engine.exec_command(allocation, rank, command)
        return Spawn(tuple(argv), env, directory)

    def scrape(self, *, open_metrics: bool) -> bytes:
        """See api.yard.Yard."""
        return self.out.scrape(open_metrics=open_metrics)

    def top(self) -> Top:
        """What the sensors say now."""
        sample = self.engine.sample()
        return Top(
            nodes=tuple(
                NodeTop(
                    node.node,
                    node.cpu_percent,
                    node.memory_used_mib,
                    tuple(
                        GpuTop(
                            gpu.index,
                            gpu.util_percent,
                            gpu.memory_used_mib,
                            gpu.power_w,
                            gpu.temperature_c,
                        )
                        for gpu in node.gpus
                    ),
                )
                for node in sample.nodes
            ),
            members=tuple(
                MemberTop(
                    one.allocation.rpartition(".")[0],
                    one.allocation,
                    one.rank,
                    one.cpu_percent,
                    one.memory_mib,
                )
                for one in sample.members
            ),
        )

    def _committed(self, last_seq: int) -> None:
        """Called by the turn loop's thread after each turn."""
        if self._waiting and self._asyncio is not None and not self._asyncio.is_closed():
            self._asyncio.call_soon_threadsafe(self._announce, last_seq)

    def _announce(self, last_seq: int) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(last_seq)
