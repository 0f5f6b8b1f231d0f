"""`KubernetesEngine`: one thread with an event loop of its own does everything that has an order.

The daemon's turn hands actions over and takes facts; watches, decoding and all requests are on the
engine's loop. Nothing is kept that could not be read again: what runs where is in the pods (their
annotations were written with the binding), what it is for in the ledger. Before the first write of
a term everything is listed anew; each write asks the lease first.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from madang.core.events import Fact
from madang.core.model import Allocation
from madang.engines.base import (
    Action,
    Arrival,
    EngineError,
    Past,
    Readings,
    Sample,
)
from madang.engines.kubernetes import attach, foreign
from madang.engines.kubernetes.binder import Binder
from madang.engines.kubernetes.cache import Cache
from madang.engines.kubernetes.claiming import Claimer
from madang.engines.kubernetes.client import ApiError, Client, Object
from madang.engines.kubernetes.config import Access, ConfigError
from madang.engines.kubernetes.devices import READERS, Devices
from madang.engines.kubernetes.discovery import discover
from madang.engines.kubernetes.dra import GPU_DRIVER
from madang.engines.kubernetes.evicting import Evictor
from madang.engines.kubernetes.hands import Hands, Made
from madang.engines.kubernetes.leading import Candidate, Leading
from madang.engines.kubernetes.logs import part
from madang.engines.kubernetes.notes import Notes
from madang.engines.kubernetes.settling import TICK_S, Heap, Ours, Settler
from madang.engines.kubernetes.topology import hypernode
from madang.engines.kubernetes.values import SCHEDULER
from madang.engines.kubernetes.viewing import Viewer

log = logging.getLogger("madang.kubernetes")

REACH_S = 30.0  # for the API server to answer at all
SYNC_S = 120.0  # for everything to be listed once
GATHER_S = 0.005  # news that come together are looked at together
GATHER_S_MAX = 0.1
CALL_S = 90.0  # a reader of logs waits no longer
LEAD_S = 1.0  # a list that begins while we lead need not be made again when we take over
LOOK_S = 0.02
CLOSE_S = 10.0
REPORT_LINE_BYTES_MAX = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespace`: where the lease is. `jobs`: where pods of our own are made ("": there as well).
    `made`: the objects of a job of our own. `has_tree`: operators declare the network tree.
    `words`: how a helper process finds the same API server. `candidate` None: no lease is taken,
    and this engine alone writes. `driver`: whose DRA devices are GPUs."""

    access: Access
    folder: Path
    made: Made
    namespace: str = "default"
    jobs: str = ""
    scheduler: str = SCHEDULER
    words: tuple[str, ...] = ()
    candidate: Candidate | None = None
    has_tree: bool = False
    driver: str = GPU_DRIVER


@dataclass(slots=True)
class _Parts:
    """What lives on the engine's loop, while it does."""

    cache: Cache
    settler: Settler
    viewer: Viewer
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)


class KubernetesEngine:
    """An `Engine` that has arrivals; see `madang.engines.base`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._heap = Heap()
        self._wake: Callable[[], None] = _nobody
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._bell: asyncio.Event | None = None
        self._leaving: asyncio.Event | None = None
        self._up: Future[None] = Future()
        self._parts: _Parts | None = None
        given = settings.candidate
        self._leading = (
            None if given is None else Leading(settings.access, settings.namespace, given)
        )
        self._lost: Callable[[], None] = _nobody
        self._led_from_the_start = False

    # -- life ----------------------------------------------------------------------------------

    def warm(self) -> None:
        """Begin to mirror the cluster, as a standby does too.

        Raises:
            EngineError: the API server does not answer, or not to this account.
        """
        self._thread = threading.Thread(target=self._run, name="kubernetes", daemon=True)
        self._thread.start()
        if self._leading is not None:
            self._leading.open()
        try:
            self._up.result(REACH_S)
        except (ApiError, ConfigError, TimeoutError) as failure:
            server = self.settings.access.server
            raise EngineError(f"the API server {server} cannot be used: {failure}") from failure

    def lead(self, leaving: threading.Event, lost: Callable[[], None]) -> bool:
        """Wait until this process leads; False: `leaving` was set before. `lost` is called if it
        leads no more: then it must end, and stand by anew."""
        self._lost = lost
        return self._leading is None or self._leading.wait(leaving, lost)

    def nodes_known(self) -> int:
        """How many nodes the mirror has. Any thread."""
        return len(self._parts.cache.nodes.objects) if self._parts is not None else 0

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        if self._thread is None:
            self.warm()
        try:
            self._call(self._here.cache.synced(), SYNC_S)
        except TimeoutError:
            raise EngineError(
                f"nodes and pods could not be listed in {SYNC_S:g} s: may this account list them?"
            ) from None

    def adopt(self, allocations: Sequence[Allocation]) -> None:
        try:
            self._call(self._adopt(allocations), SYNC_S)
        except (ApiError, TimeoutError) as failure:
            raise EngineError(f"pods cannot be listed anew: {failure}") from failure

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self._ask(_acting(action))

    def observe(self, facts_max: int) -> list[Fact]:
        facts = self._heap.facts
        return [facts.popleft() for _ in range(min(facts_max, len(facts)))]

    def close(self) -> None:
        self._lost = _nobody
        if self._loop is not None and self._leaving is not None:
            with suppress(RuntimeError):  # its loop has ended by itself
                self._loop.call_soon_threadsafe(self._leaving.set)
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        if self._leading is not None:
            self._leading.close()

    # -- arrivals ------------------------------------------------------------------------------

    def arrivals(self, arrivals_max: int) -> list[Arrival]:
        offers = self._heap.offers
        return [offers.popleft() for _ in range(min(arrivals_max, len(offers)))]

    def recall(self, past: Past) -> None:
        self._ask(lambda settler: settler.recall(past))

    def known(self, key: str, job: str) -> None:
        self._ask(lambda settler: settler.gangs.answer(key, job))

    def refused(self, key: str, why: str) -> None:
        self._ask(lambda settler: settler.gangs.refuse(key, why))

    def parted(self, key: str) -> None:
        self._ask(lambda settler: settler.gangs.part(key))

    def explain(self, key: str, why: str) -> None:
        self._ask(lambda settler: settler.explain(key, why))

    # -- people's view of a member ---------------------------------------------------------------

    def may_fetch(self, code: str, pass_digest: str) -> bool:
        """Whether a live pod of ours may have this snapshot, by the SHA-256 of its pass."""
        return self._parts is not None and self._parts.viewer.may_fetch(code, pass_digest)

    def members_of_pods(self) -> dict[str, tuple[str, int]]:
        """Bound pod ("NAMESPACE.NAME") → its allocation and rank."""
        return self._parts.viewer.members() if self._parts is not None else {}

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        return self._read(allocation, rank, "log", offset, bytes_max)

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        text = self._read(allocation, rank, "reports", offset, bytes_max)
        if text and b"\n" not in text:
            # A first line longer than was asked for: it is given whole, or there is no way past it.
            text = self._read(allocation, rank, "reports", offset, REPORT_LINE_BYTES_MAX)
            text = text[: text.find(b"\n") + 1]
        return text[: text.rfind(b"\n") + 1]

    def exec_command(
        self, allocation: str, rank: int, command: Sequence[str]
    ) -> tuple[list[str], dict[str, str], str]:
        pod, container = self._call(self._here.viewer.running(allocation, rank), CALL_S)
        where = (pod.namespace, pod.name, container)
        argv = attach.argv_for(self.settings.words, where, command)
        return argv, attach.environment(), "/"

    def sample(self) -> Sample:
        """Nothing: the agents on the nodes push what sensors say."""
        return Sample()

    def readings(self) -> Sequence[Readings]:
        """Nothing: see `sample`."""
        return ()

    # -- the engine's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as failure:
            if not self._up.done():
                self._up.set_exception(failure)
                return
            log.critical("the engine's thread broke", exc_info=True)
            self._lost()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bell, self._leaving = asyncio.Event(), asyncio.Event()
        async with AsyncExitStack() as undo:
            client = await undo.enter_async_context(Client(self.settings.access))
            self._parts = await self._made_parts(client)
            undo.push_async_callback(self._end_parts)
            self._up.set_result(None)
            await self._leaving.wait()

    async def _made_parts(self, client: Client) -> _Parts:
        support = await discover(client)
        for line in support.lacks:
            log.info("%s", line)
        tops: dict[str, Callable[[Object], Any]] = {"HyperNode": hypernode}
        tops |= {name: kind.trim for name, kind in foreign.KINDS.items()}
        tops |= {name: kind.trim for name, kind in foreign.GROUPS.items()}
        tops |= READERS if support.claims else {}
        cache = Cache(client, support, tops, self._changed)
        given, binder = self.settings, Binder(client, self._held)
        evictor = Evictor(client, self._held)
        notes = Notes(binder, cache.is_unbound, time.monotonic)
        claimer = Claimer(client, self._held, Devices(cache, given.driver))
        jobs = given.jobs or given.namespace
        hands = Hands(client, binder, evictor, notes, self._held, given.made, claimer, jobs)
        ours = Ours(given.scheduler, jobs, given.has_tree)
        settler = Settler(ours, cache, hands, self._heap)
        settler.carrier.done = self._changed
        logs = given.folder / "logs"
        viewer = settler.viewer = Viewer(client, logs, cache, settler.stays, ours.is_own)
        here = _Parts(cache, settler, viewer)
        here.tasks.append(asyncio.create_task(notes.run()))
        here.tasks.append(asyncio.create_task(self._settle_always(settler)))
        here.tasks.append(asyncio.create_task(self._begin(cache)))
        return here

    async def _begin(self, cache: Cache) -> None:
        """Whoever takes a free lease has it at once: all is then listed once, not twice."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAD_S):
                while not self._held():  # noqa: ASYNC110 - another thread's lease sets no event
                    await asyncio.sleep(LOOK_S)
        self._led_from_the_start = self._held()
        cache.begin()

    async def _end_parts(self) -> None:
        here = self._here
        for task in here.tasks:
            task.cancel()
        await asyncio.gather(*here.tasks, return_exceptions=True)
        await here.settler.carrier.end()
        await here.viewer.logs.end()
        await here.cache.end()

    def _held(self) -> bool:
        return self._leading is None or self._leading.held()

    def _changed(self) -> None:
        assert self._bell is not None, "nothing changes before there is a loop"
        self._bell.set()

    def _ask(self, work: Callable[[Settler], None]) -> None:
        """Have it done on the engine's loop, in order."""
        self._heap.asked.append(lambda: work(self._here.settler))
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed)

    def _call(self, work: Coroutine[Any, Any, T], most_s: float) -> T:
        if self._loop is None or self._parts is None:
            work.close()
            raise EngineError("the engine is not open")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(most_s)
        except TimeoutError:
            future.cancel()
            raise

    @property
    def _here(self) -> _Parts:
        assert self._parts is not None, "the engine is not open"
        return self._parts

    async def _adopt(self, allocations: Sequence[Allocation]) -> None:
        if self._leading is None or not self._led_from_the_start:
            await self._here.cache.relist()
        self._here.settler.adopt(allocations)
        self._changed()

    async def _settle_always(self, settler: Settler) -> None:
        assert self._bell is not None, "made before this task"
        took_s = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._bell.wait()
            # A gang is looked at whole for each of its pods: what takes long is not done at once
            # again, so that requests and watches have half of the time.
            await asyncio.sleep(min(max(GATHER_S, took_s), GATHER_S_MAX))
            self._bell.clear()
            began_s = time.monotonic()
            try:
                settler.settle()
            except Exception:
                # What one object breaks must not keep the others from being seen.
                log.exception("the engine goes on after an error")
            took_s = time.monotonic() - began_s
            if self._heap.facts or self._heap.offers:
                self._wake()

    def _read(self, allocation: str, rank: int, name: str, offset: int, bytes_max: int) -> bytes:
        try:
            folder = self._call(self._here.viewer.spooled(allocation, rank), CALL_S)
        except TimeoutError:
            raise EngineError("the API server does not give the log in time") from None
        if folder is None:
            problem = self._here.settler.stays.problems.get(allocation, "") if name == "log" else ""
            text = f"madang: {problem}\n".encode() if problem else b""
            return text[max(0, offset) :][: max(0, bytes_max)]
        return part(folder / name, offset, bytes_max)


def _acting(action: Action) -> Callable[[Settler], None]:
    return lambda settler: settler.act(action)


def _nobody() -> None:
    """Nobody listens yet."""
