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
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from madang.core.events import Fact, MemberStarted
from madang.core.model import Allocation
from madang.engines.base import (
    Action,
    Arrival,
    EngineError,
    Launch,
    Promise,
    Readings,
    Sample,
    Start,
    Stop,
    Tell,
)
from madang.engines.kubernetes import attach, foreign
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.binder import Binder
from madang.engines.kubernetes.cache import ALLOCATION, JOB, RANK, Cache, PodNews
from madang.engines.kubernetes.carrying import Carrier, Hands, Made
from madang.engines.kubernetes.client import ApiError, Client, Object
from madang.engines.kubernetes.config import Access, ConfigError
from madang.engines.kubernetes.discovery import Support, discover
from madang.engines.kubernetes.evicting import Evictor
from madang.engines.kubernetes.leading import Candidate, Leading
from madang.engines.kubernetes.logs import Logs, part
from madang.engines.kubernetes.nodefacts import NodeTeller
from madang.engines.kubernetes.notes import Notes
from madang.engines.kubernetes.stays import Stay, Stays
from madang.engines.kubernetes.topology import hypernode
from madang.engines.kubernetes.values import SCHEDULER, PodFacts

log = logging.getLogger("madang.kubernetes")

REACH_S = 30.0  # for the API server to answer at all
SYNC_S = 120.0  # for everything to be listed once
TICK_S = 1.0
GATHER_S = 0.005  # news that come together are looked at together
CALL_S = 90.0  # a reader of logs waits no longer
CLOSE_S = 10.0
KEEP_ENDED_S = 6 * 3600.0  # our own ended pods, for their logs
CLEAN_S = 60.0
REPORT_LINE_BYTES_MAX = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """`namespace`: where the lease is. `jobs`: where pods of our own are made ("": there as well).
    `made`: the objects of a job of our own. `has_tree`: operators declare the network tree.
    `words`: how a helper process finds the same API server. `candidate` None: no lease is taken,
    and this engine alone writes."""

    access: Access
    folder: Path
    made: Made
    namespace: str = "default"
    jobs: str = ""
    scheduler: str = SCHEDULER
    words: tuple[str, ...] = ()
    candidate: Candidate | None = None
    has_tree: bool = False


@dataclass(slots=True)
class _Parts:
    """What lives on the engine's loop, while it does."""

    client: Client
    support: Support
    cache: Cache
    notes: Notes
    stays: Stays
    gangs: Gangs
    carrier: Carrier
    nodes: NodeTeller
    logs: Logs
    evictor: Evictor
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)


class KubernetesEngine:
    """An `Engine` that has arrivals; see `madang.engines.base`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._facts: deque[Fact] = deque()
        self._offers: deque[Arrival] = deque()
        self._asked: deque[Callable[[], None]] = deque()  # bounded by what the scheduler may bind
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
        self._adopted = False
        self._ticked_s = self._cleaned_s = 0.0

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
            match action:
                case Start(launch):
                    self._ask(partial(self._start, launch))
                case Stop():
                    self._ask(partial(self._stop, action))
                case Promise():
                    self._ask(partial(self._promise, action))
                case Tell():
                    self._ask(partial(self._tell, action))

    def observe(self, facts_max: int) -> list[Fact]:
        facts = self._facts
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
        offers = self._offers
        return [offers.popleft() for _ in range(min(arrivals_max, len(offers)))]

    def recall(self, nodes: Sequence[str]) -> None:
        self._ask(lambda: self._here.nodes.recall(nodes))

    def known(self, key: str, job: str) -> None:
        self._ask(lambda: self._here.gangs.answer(key, job))

    def refused(self, key: str, why: str) -> None:
        self._ask(lambda: self._here.gangs.refuse(key, why))

    def parted(self, key: str) -> None:
        self._ask(lambda: self._here.gangs.part(key))

    def explain(self, key: str, why: str) -> None:
        def noted() -> None:
            pods = self._here.gangs.seats(key).values()
            self._here.notes.waits(pods, why)

        self._ask(noted)

    # -- people's view of a member ---------------------------------------------------------------

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
        pod, container = self._call(self._running(allocation, rank), CALL_S)
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
            here = self._parts
            here.cache.begin()
            here.tasks += [asyncio.create_task(one) for one in self._endless(here)]
            self._up.set_result(None)
            await self._leaving.wait()

    async def _made_parts(self, client: Client) -> _Parts:
        support = await discover(client)
        for line in support.lacks:
            log.info("%s", line)
        tops: dict[str, Callable[[Object], Any]] = {"HyperNode": hypernode}
        tops |= {name: kind.trim for name, kind in foreign.KINDS.items()}
        tops |= {name: kind.trim for name, kind in foreign.GROUPS.items()}
        cache = Cache(client, support, tops, self._changed)
        binder = Binder(client, self._held)
        evictor = Evictor(client, self._held)
        notes = Notes(binder)
        stays = Stays(self._facts.append, time.monotonic, _now_ms)
        stays.over = self._over
        nodes = NodeTeller(cache, stays, self.is_ours, self._facts.append, time.monotonic)
        nodes.declared = self.settings.has_tree
        gangs = Gangs(
            cache, self.settings.scheduler, self.is_own, time.monotonic, self._facts.append,
            notes.waits, lambda: nodes.layout, nodes.asked_for,
        )  # fmt: skip
        hands = Hands(client, binder, evictor, notes, self._held, self.settings.made)
        carrier = Carrier(hands, cache, stays, gangs)
        carrier.done = self._changed
        logs = Logs(client, self.settings.folder / "logs", time.monotonic)
        return _Parts(client, support, cache, notes, stays, gangs, carrier, nodes, logs, evictor)

    def _endless(self, here: _Parts) -> Iterable[Coroutine[Any, Any, Any]]:
        yield here.notes.run()
        yield self._settle_always()

    async def _end_parts(self) -> None:
        here = self._here
        for task in here.tasks:
            task.cancel()
        await asyncio.gather(*here.tasks, return_exceptions=True)
        await here.carrier.end()
        await here.logs.end()
        await here.cache.end()

    def _held(self) -> bool:
        return self._leading is None or self._leading.held()

    def _changed(self) -> None:
        assert self._bell is not None, "nothing changes before there is a loop"
        self._bell.set()

    def _ask(self, work: Callable[[], None]) -> None:
        """Have it done on the engine's loop, in order."""
        self._asked.append(work)
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

    # -- settling: what changed becomes facts and work --------------------------------------------

    async def _settle_always(self) -> None:
        assert self._bell is not None, "made before this task"
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._bell.wait()
            await asyncio.sleep(GATHER_S)
            self._bell.clear()
            if not self._adopted:
                continue
            try:
                self._settle()
            except Exception:
                # What one object breaks must not keep the others from being seen.
                log.exception("the engine goes on after an error")

    def _settle(self) -> None:
        here = self._here
        for _ in range(len(self._asked)):
            self._asked.popleft()()
        pods = here.cache.take_pods()
        here.gangs.look(pods, here.cache.take_tops())
        for news in pods:
            self._look_at(news)
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._tick()
        here.nodes.look(here.cache.take_nodes())
        here.carrier.look()
        self._offers.extend(here.gangs.offers())
        if self._facts or self._offers:
            self._wake()

    def _tick(self) -> None:
        here = self._here
        self._ticked_s = time.monotonic()
        here.stays.tick(self._may_replace)
        here.gangs.tick({stay.key: None for stay in here.stays.live.values() if stay.key})
        here.nodes.tick()
        here.logs.tick()
        if self._ticked_s - self._cleaned_s >= CLEAN_S and self._held():
            self._cleaned_s = self._ticked_s
            self._clean()

    def _look_at(self, news: PodNews) -> None:
        here, pod = self._here, news.pod
        id = pod.annotation(ALLOCATION)
        stay = here.stays.live.get(id) if id else None
        if news.gone:
            here.notes.forget(pod)
            if stay is not None:
                here.stays.gone(stay, pod)
        elif stay is not None and self._belongs(stay, pod):
            here.stays.seen(stay, pod)
        elif id and not pod.ended and not pod.deleting and self.is_own(pod):
            self._stray(pod, id)
        if stay is None and (key := here.gangs.gang_of(pod)):
            stay = here.stays.of_key.get(key)
        if stay is not None:
            here.carrier.mark(stay)

    def _stray(self, pod: PodFacts, id: str) -> None:
        """A pod of ours whose allocation has ended, or is not in the ledger."""
        if self._here.stays.live.get(id) is not None:
            return
        if self._here.stays.knows(id):
            self._here.carrier.remove(pod, "its allocation has ended")
        else:
            rank = pod.annotation(RANK)
            if rank.isascii() and rank.isdigit():
                self._facts.append(MemberStarted(id, int(rank), _now_ms()))

    def is_own(self, pod: PodFacts) -> bool:
        """It is of a job of our own."""
        here = self.settings.jobs or self.settings.namespace
        return bool(pod.label(JOB)) and pod.namespace == here

    def is_ours(self, pod: PodFacts) -> bool:
        """The core counts it already, by its allocation."""
        stay = self._here.stays.live.get(pod.annotation(ALLOCATION))
        return stay is not None and self._belongs(stay, pod)

    def _belongs(self, stay: Stay, pod: PodFacts) -> bool:
        """Annotations can be written by whoever makes a pod: its gang must be the one placed."""
        if not stay.key:
            return self.is_own(pod)
        return self._here.gangs.gang_of(pod) == stay.key

    def _may_replace(self, stay: Stay) -> bool:
        return bool(stay.key) and self._here.gangs.may_replace(stay.key)

    def _over(self, stay: Stay) -> None:
        for seat in stay.seats:
            self._here.cache.mark_node(seat.node)
        self._here.carrier.clear(stay)

    def _clean(self) -> None:
        """Our own pods that ended long ago, and their logs, go."""
        here, old_ms = self._here, _now_ms() - int(KEEP_ENDED_S * 1000)
        for pod in list(here.cache.pods.objects.values()):
            ours = pod.ended and self.is_own(pod) and not pod.deleting
            if ours and pod.created_ms < old_ms and not self.is_ours(pod):
                here.carrier.remove(pod, "it ended long ago")

    # -- what the daemon asked, on the engine's loop ----------------------------------------------

    async def _adopt(self, allocations: Sequence[Allocation]) -> None:
        here = self._here
        await here.cache.relist()
        for _ in range(len(self._asked)):  # which jobs are whose gang
            self._asked.popleft()()
        here.gangs.look(here.cache.take_pods(), here.cache.take_tops())
        for allocation in allocations:
            key = here.gangs.key_of(allocation.job)
            pods = here.cache.of_allocation.get(allocation.id, {}).values()
            mine = [
                pod for pod in pods
                if (here.gangs.gang_of(pod) == key if key else self.is_own(pod))
            ]  # fmt: skip
            stay = here.stays.adopt(allocation, key, mine)
            here.carrier.mark(stay)
        for pod in list(here.cache.pods.objects.values()):
            id = pod.annotation(ALLOCATION)
            if id and id not in here.stays.live and self.is_own(pod) and not pod.ended:
                self._stray(pod, id)
        here.nodes.look_at_all()
        self._adopted = True
        self._changed()

    def _start(self, launch: Launch) -> None:
        stay = self._here.stays.start(launch)
        if stay is not None:
            self._here.carrier.mark(stay)

    def _stop(self, stop: Stop) -> None:
        here = self._here
        stay = here.stays.stop(stop)
        if stay is not None:
            for member in stay.members.values():
                if not stay.key and member.pod is not None and member.pod.node:
                    here.logs.follow(member.pod)
            here.carrier.mark(stay)
            return
        for pod in here.cache.of_allocation.get(stop.allocation, {}).values():
            if self.is_own(pod) and not pod.ended:
                here.carrier.remove(pod, "nobody knows its allocation")

    def _tell(self, word: Tell) -> None:
        if (stay := self._here.stays.live.get(word.allocation)) is not None:
            self._here.carrier.warn(stay, word.text)

    def _promise(self, promise: Promise) -> None:
        here = self._here
        pods = here.gangs.seats(here.gangs.key_of(promise.job))
        for rank, pod in pods.items():
            node = promise.seats[rank].node if rank < len(promise.seats) else ""
            if not pod.node:
                here.notes.nominate(pod, node)

    # -- logs and commands ------------------------------------------------------------------------

    def _read(self, allocation: str, rank: int, name: str, offset: int, bytes_max: int) -> bytes:
        try:
            folder = self._call(self._spooled(allocation, rank), CALL_S)
        except TimeoutError:
            raise EngineError("the API server does not give the log in time") from None
        if folder is None:
            problem = self._here.stays.problems.get(allocation, "") if name == "log" else ""
            text = f"madang: {problem}\n".encode() if problem else b""
            return text[max(0, offset) :][: max(0, bytes_max)]
        return part(folder / name, offset, bytes_max)

    async def _spooled(self, allocation: str, rank: int) -> Path | None:
        pod = self._pod_of(allocation, rank)
        if pod is not None:
            return await self._here.logs.spool(pod) if pod.node else None
        stay = self._here.stays.live.get(allocation)
        if stay is not None and rank in stay.members:
            last = stay.members[rank].pod
            return self._here.logs.kept(last.uid) if last is not None else None
        uid = self._here.stays.past_pods.get((allocation, rank), "")
        kept = self._here.logs.kept(uid)
        if kept is None and allocation not in self._here.stays.problems:
            raise EngineError(f"member {rank} of {allocation} has no pod, and so no log any more")
        return kept

    async def _running(self, allocation: str, rank: int) -> tuple[PodFacts, str]:
        pod = self._pod_of(allocation, rank)
        if pod is None or pod.phase != "Running":
            raise EngineError(f"member {rank} of {allocation} does not run")
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        try:
            found = await self._here.client.get(path)
        except ApiError as failure:
            raise EngineError(f"{pod.key}: {failure}") from failure
        return pod, str(found["spec"]["containers"][0]["name"])

    def _pod_of(self, allocation: str, rank: int) -> PodFacts | None:
        pods = self._here.cache.of_allocation.get(allocation, {}).values()
        found = [pod for pod in pods if pod.annotation(RANK) == str(rank)]
        return min(found, key=lambda pod: (pod.ended, -pod.created_ms, pod.key), default=None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _nobody() -> None:
    """Nobody listens yet."""
