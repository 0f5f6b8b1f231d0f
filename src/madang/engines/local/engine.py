"""`LocalEngine`: the daemon's side. One thread does everything that has an order; others only read.

The thread waits for four things: actions that were asked for, lines from shims, the end of the
keeper, and the time to look at the files again. Its table is `crew.Crew`; slow things (unpacking
code, burying an orphan) run beside it and come back as work for it. NVML has a thread of its own,
because a sick driver hangs.
"""

import errno
import fcntl
import json
import logging
import os
import queue
import selectors
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from madang.core.events import CheckpointSaved, Fact, MemberEnded, NodeSeen
from madang.core.model import Allocation, Exit, Node
from madang.engines.base import Action, EngineError, Launch, Readings, Sample, Start, Stop, Tell
from madang.engines.code_store import CodeStore
from madang.engines.local import devices as machine
from madang.engines.local import environment, images, proc, records, retention, traces
from madang.engines.local.checkpoints import Checkpoints
from madang.engines.local.crew import Crew, Seen, Stay
from madang.engines.local.devices import Devices
from madang.engines.local.keeping import KeeperLink
from madang.engines.local.places import Places
from madang.engines.local.prepare import Ports, prepare, sdk_directory
from madang.engines.local.records import ExitRecord
from madang.engines.local.sensors import MemberReader, Sensors

SCAN_S = 2.0  # the files are looked at this often; lines of shims come at once
HEALTH_S = 5.0
CHECKPOINTS_S = 10.0  # checkpoint directories are looked at this often
PRUNE_S = 3_600.0
BURY_AGAIN_S = 5.0
REMOVE_S = 60.0  # for removing the container of a killed shim
REPORT_LINE_BYTES_MAX = 1 << 20
PREPARERS = 2
NOTIFY_BYTES = 1 << 20  # the most that an unprivileged pipe may hold: 15,000 lines
WORK_AT_ONCE = 64  # then lines are read, so that shims do not find the pipe full

_log = logging.getLogger(__name__)


class LocalEngine:
    """An `Engine`; see there. `sample` is for `madang top`."""

    def __init__(
        self,
        state: Path,
        code: CodeStore,
        *,
        devices: int | Devices | None = None,
        node: str = "",
        rules: retention.Rules = retention.DEFAULT,
    ) -> None:
        """`devices`: how many to offer, or what they are; None: what the machine has.

        `node` "" is the host's name. `url` may be set until `open`: members find the daemon there.

        Raises:
            ValueError: fewer than one device.
        """
        self.url = ""
        self._rules = rules
        self._places = Places(state.absolute())
        self._code = code
        self.node = node or socket.gethostname()
        if devices is None or isinstance(devices, int):
            devices = machine.found(devices)
        self._devices: Devices = devices
        self._sensors = Sensors(self.node, self._devices)
        self._member_reader = MemberReader(self.node)
        self._boot_id = proc.boot_id()
        self._keeper = KeeperLink(self._places)
        self._crew = Crew(self.node, self._places, self._boot_id, self)
        self._ports = Ports()
        self._lock = threading.RLock()  # over the crew
        self._facts: deque[Fact] = deque()
        self._wake: Callable[[], None] = _nobody
        self._work: deque[Callable[[], None]] = deque()
        self._coming: dict[str, int] = {}  # members of a Start that waits for the thread
        self._work_fd = -1
        self._fifo_fd = -1
        self._rest = b""
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        # Bounded by what the scheduler may bind: one entry per allocation that has code.
        self._slow: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._base_env: dict[str, str] = {}
        self._sdk = ""

    # -- Engine -------------------------------------------------------------------------------

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._places.make()
        self._base_env = environment.cleaned(os.environ)
        self._sdk = str(sdk_directory(self._places))
        self._fifo_fd = _opened_fifo(self._places.fifo)
        self._work_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._keeper.start()
        with self._lock:
            self._crew.find_living()
            healthy = self._devices.healthy()
            self.tell(self._seen(healthy))
        self._spawn("engine", self._loop)
        self._spawn("health", partial(self._watch_health, healthy))
        self._spawn("checkpoints", self._watch_checkpoints)
        for _ in range(PREPARERS):
            self._spawn("prepare", self._do_slow_work)

    def adopt(self, allocations: Sequence[Allocation]) -> None:
        mark = self._places.boot_mark
        last = mark.read_text() if mark.exists() else self._boot_id
        with self._lock:
            self._crew.adopt(allocations, rebooted=last != self._boot_id)
        if last != self._boot_id or not mark.exists():
            _write_durably(mark, self._boot_id)

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start(launch):
                    self._coming[launch.allocation.id] = len(launch.allocation.seats)
                    self._work.append(partial(self._start, launch))
                case Stop():
                    self._work.append(partial(self._stop, action))
                case Tell():
                    self._work.append(partial(self._tell, action))
        self._nudge()

    def observe(self, facts_max: int) -> list[Fact]:
        facts = self._facts
        return [facts.popleft() for _ in range(min(facts_max, len(facts)))]

    def close(self) -> None:
        self._closing.set()
        if self._work_fd < 0:
            return
        self._nudge()
        for _ in range(PREPARERS):
            self._slow.put(None)
        for thread in self._threads:
            # Some may hang: in a sick driver, in a large archive. They are daemon threads, and what
            # they leave half done is done anew by the next engine.
            thread.join(SCAN_S)
        self._keeper.close()
        for fd in (self._work_fd, self._fifo_fd):
            os.close(fd)
        self._work_fd = self._fifo_fd = -1

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        return self._read(allocation, rank, records.LOG, offset, bytes_max)

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        text = self._read(allocation, rank, records.REPORTS, offset, bytes_max)
        if text and b"\n" not in text:
            # A first line longer than was asked for: it is given whole, or there is no way past it.
            text = self._read(allocation, rank, records.REPORTS, offset, REPORT_LINE_BYTES_MAX)
            text = text[: text.find(b"\n") + 1]
        return text[: text.rfind(b"\n") + 1]

    def exec_command(
        self, allocation: str, rank: int, command: Sequence[str]
    ) -> tuple[list[str], dict[str, str], str]:
        with self._lock:
            stay = self._crew.stays.get(allocation)
            member = stay.members.get(rank) if stay is not None else None
            running = member is not None and member.seen is Seen.RUNNING
        if not running:
            raise EngineError(f"member {rank} of {allocation} does not run on {self.node}")
        launch = _read_launch(self._places.launch(allocation))
        own = launch["ranks"][str(rank)]
        env = {**launch["env"], **own["env"]}
        argv = list(command)
        if own["container"]:
            runtime, name = own["container"]
            argv = images.exec_command(runtime, name, command)
        return argv, env, launch["directory"]

    # -- beyond Engine ------------------------------------------------------------------------

    def sample(self) -> Sample:
        """What is used right now. May hang with a sick driver: not for the turn's thread."""
        return self._sensors.sample(self._shims())

    def readings(self) -> Sequence[Readings]:
        """Of the members only: the daemon runs the agent's readers for the machine itself."""
        return [self._member_reader.read(self._shims(), _now_ms())]

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """What NVML calls the devices, in our order; empty for CPU slots."""
        return self._devices.uuids

    def _shims(self) -> dict[tuple[str, int], int]:
        with self._lock:
            return {
                (stay.id, rank): member.shim_pid
                for stay in self._crew.stays.values()
                for rank, member in stay.members.items()
                if member.seen is Seen.RUNNING and member.shim_pid
            }

    @property
    def keeper_pid(self) -> int:
        """0 while there is none."""
        return self._keeper.pid

    # -- crew.Helpers, called with the lock held ----------------------------------------------

    def tell(self, fact: Fact) -> None:
        self._facts.append(fact)
        self._wake()

    def ask(self, allocation: str, rank: int) -> bool:
        return self._keeper.ask(self._places.allocation(allocation), rank)

    def prepare(self, stay: Stay, launch: Launch) -> None:
        if launch.code:
            self._slow.put(partial(self._prepare_later, stay.id, launch))
        else:
            self._crew.prepared(stay.id, self._prepare_now(launch))

    def bury(self, allocation: str, rank: int) -> None:
        # A thread of its own: it may wait for as long as a process takes to die.
        self._spawn("bury", partial(self._bury, allocation, rank))

    # -- the engine's thread ------------------------------------------------------------------

    def _loop(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._work_fd, selectors.EVENT_READ)
        selector.register(self._fifo_fd, selectors.EVENT_READ)
        watched: socket.socket | None = None
        scan_at_s = time.monotonic() + SCAN_S
        prune_at_s = time.monotonic() + 60.0  # not in the first minute: starting is busy enough
        while not self._closing.is_set():
            try:
                watched = self._watch_keeper(selector, watched)
                wait_s = 0.0 if self._work else max(0.0, scan_at_s - time.monotonic())
                for key, _ in selector.select(wait_s):
                    self._on_readable(key.fd)
                self._do_work()
                if time.monotonic() >= scan_at_s:
                    with self._lock:
                        self._crew.scan()
                    scan_at_s = time.monotonic() + SCAN_S
                if time.monotonic() >= prune_at_s:
                    prune_at_s = time.monotonic() + PRUNE_S
                    self._slow.put(self._prune)
            except Exception:
                # What one allocation breaks must not keep the others from being seen.
                _log.exception("the engine's thread goes on after an error")
                time.sleep(0.1)
        selector.close()

    def _watch_keeper(
        self, selector: selectors.BaseSelector, watched: socket.socket | None
    ) -> socket.socket | None:
        """Keep the selector on the keeper of today; start one where there is none."""
        now = self._keeper.socket
        if now is None and self._keeper.start():
            now = self._keeper.socket
            with self._lock:
                self._crew.keeper_came()
        if now is not watched:
            if watched is not None:
                _unregister(selector, watched)
            if now is not None:
                selector.register(now, selectors.EVENT_READ)
        return now

    def _on_readable(self, fd: int) -> None:
        if fd == self._work_fd:
            os.eventfd_read(fd)
        elif fd == self._fifo_fd:
            *lines, self._rest = (self._rest + os.read(fd, NOTIFY_BYTES)).split(b"\n")
            with self._lock:
                for line in lines:
                    self._crew.heard(line.decode("ascii", "replace"))
        else:
            _log.warning("the keeper is gone; starting another one")
            self._keeper.gone()

    def _do_work(self) -> None:
        for _ in range(min(WORK_AT_ONCE, len(self._work))):
            work = self._work.popleft()
            with self._lock:
                work()

    def _start(self, launch: Launch) -> None:
        try:
            self._crew.start(launch)
        except (EngineError, OSError) as error:
            _log.error("cannot start %s: %s", launch.allocation.id, error)
            self._crew.stays.pop(launch.allocation.id, None)
            for rank, seat in enumerate(launch.allocation.seats):
                if seat.node == self.node:
                    end = Exit(records.ENGINE_FAILED)
                    self.tell(MemberEnded(launch.allocation.id, rank, end, _now_ms()))
        finally:
            self._coming.pop(launch.allocation.id, None)

    def _stop(self, stop: Stop) -> None:
        try:
            self._crew.stop(stop)
        except EngineError as error:
            _log.error("cannot stop %s: %s", stop.allocation, error)

    def _tell(self, word: Tell) -> None:
        """`madang.warning()` reads it; one that cannot be written is only lost."""
        path = self._places.allocation(word.allocation) / records.WARNING
        try:
            fresh = path.with_name(f"{records.WARNING}.new")
            fresh.write_text(word.text)
            fresh.rename(path)
        except OSError as error:
            _log.warning("cannot tell %s: %s", word.allocation, error)

    def _nudge(self) -> None:
        try:
            os.eventfd_write(self._work_fd, 1)
        except BlockingIOError:
            pass  # it is full: the thread will wake anyway

    def _later(self, work: Callable[[], None]) -> None:
        """Back from another thread."""
        self._work.append(work)
        if not self._closing.is_set():
            self._nudge()

    def _spawn(self, name: str, loop: Callable[[], None]) -> None:
        thread = threading.Thread(target=loop, name=f"madang-{name}", daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()

    # -- slow things --------------------------------------------------------------------------

    def _do_slow_work(self) -> None:
        while (work := self._slow.get()) is not None and not self._closing.is_set():
            work()

    def _prepare_now(self, launch: Launch) -> str:
        allocation = launch.allocation
        try:
            around = environment.Surroundings(
                base=self._base_env,
                sdk=self._sdk,
                url=self.url,
                directory=str(self._places.allocation(allocation.id)),
                checkpoints=str(self._places.checkpoint(launch.checkpoint_key or allocation.job)),
                master_port=self._ports.free(),
                visible=tuple(",".join(self._devices.names(s.gpus)) for s in allocation.seats),
            )
        except EngineError as error:
            return str(error)
        return prepare(launch, self._places, around, self._code)

    def _prepare_later(self, id: str, launch: Launch) -> None:
        try:
            problem = self._prepare_now(launch)
        except Exception as error:
            _log.exception("preparing %s", id)
            problem = f"cannot prepare {id}: {error!r}"
        self._later(lambda: self._crew.prepared(id, problem))

    def _bury(self, allocation: str, rank: int) -> None:
        exit: ExitRecord | None = None
        try:
            self._remove_container(allocation, rank)
            exit = traces.bury(self._places.state(allocation, rank), self._boot_id)
        except OSError as error:
            _log.error("cannot record that %s/%d was lost: %s", allocation, rank, error)
            if error.errno == errno.ENOSPC:
                # Nothing of it runs any more; the fact does not have to wait for room on the disk.
                exit = ExitRecord(0, 0, True, _now_ms())
            elif self._closing.wait(BURY_AGAIN_S):
                return
        self._later(lambda: self._crew.buried(allocation, rank, exit))

    def _remove_container(self, allocation: str, rank: int) -> None:
        try:
            own = _read_launch(self._places.launch(allocation))["ranks"][str(rank)]
        except (EngineError, KeyError):
            return
        if own["cleanup"]:
            try:
                subprocess.run(
                    own["cleanup"],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=REMOVE_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                _log.error("cannot remove the container of %s/%d", allocation, rank)

    def _prune(self) -> None:
        with self._lock:
            live = set(self._crew.stays)
        try:
            removed = retention.prune(self._places, live, self._rules)
        except OSError as error:
            _log.warning("cannot prune: %s", error)
            return
        if removed:
            _log.info("removed %d old directories", removed)

    # -- the node -----------------------------------------------------------------------------

    def _seen(self, healthy: int) -> NodeSeen:
        node = Node(
            id=self.node,
            gpus=self._devices.count,
            cpu_milli=machine.cpu_milli(),
            memory_mib=machine.memory_mib(),
            model=self._devices.model,
            healthy=healthy,
            gpu_memory_mib=self._devices.memory_mib,
            mig=self._devices.mig,
        )
        return NodeSeen(node, tuple(self._crew.holds()))

    def _watch_health(self, healthy: int) -> None:
        while not self._closing.wait(HEALTH_S):
            now = self._devices.healthy()
            if now != healthy:
                healthy = now
                with self._lock:
                    self.tell(self._seen(healthy))

    def _watch_checkpoints(self) -> None:
        """A thread of its own: the directories may be on a file system that hangs."""
        seen = Checkpoints()
        while not self._closing.wait(CHECKPOINTS_S):
            try:
                for job, at_ms in seen.news(self._checkpoint_directories(), _now_ms()):
                    with self._lock:
                        self.tell(CheckpointSaved(job, at_ms))
            except Exception:
                _log.exception("looking at checkpoints goes on after an error")

    def _checkpoint_directories(self) -> dict[str, str]:
        """By job, of those that run here."""
        with self._lock:
            running = [
                stay.id
                for stay in self._crew.stays.values()
                if any(member.seen is Seen.RUNNING for member in stay.members.values())
            ]
        found = {}
        for id in running:
            try:
                env = _read_launch(self._places.launch(id))["env"]
                found[env["MADANG_JOB"]] = env["MADANG_CHECKPOINT_DIR"]
            except (EngineError, KeyError):
                continue  # it has just ended, or was started by an older version
        return found

    # -- files --------------------------------------------------------------------------------

    def _read(self, allocation: str, rank: int, name: str, offset: int, bytes_max: int) -> bytes:
        directory = self._places.member(allocation, rank)
        try:
            with (directory / name).open("rb") as file:
                return os.pread(file.fileno(), max(0, bytes_max), max(0, offset))
        except FileNotFoundError:
            if directory.is_dir() or self._is_starting(allocation, rank):
                return b""  # it has not written anything
            raise EngineError(f"no member {rank} of {allocation} on {self.node}") from None
        except OSError as error:
            raise EngineError(f"cannot read {directory / name}: {error.strerror}") from error

    def _is_starting(self, allocation: str, rank: int) -> bool:
        with self._lock:
            stay = self._crew.stays.get(allocation)
            here = stay is not None and rank in stay.members
            return here or 0 <= rank < self._coming.get(allocation, 0)


def _opened_fifo(path: Path) -> int:
    """Shims of an earlier daemon hold it open: it is kept, never made anew."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
    # Also for writing: without a writer it would be readable for ever.
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, NOTIFY_BYTES)
    except OSError:
        pass  # it stays smaller; what does not fit is found by the scan
    return fd


def _write_durably(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_launch(path: Path) -> dict[str, Any]:
    try:
        launch: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot read {path}: {error}") from error
    return launch


def _unregister(selector: selectors.BaseSelector, watched: socket.socket) -> None:
    """Also when it has been closed, and has no number any more."""
    for fd, key in list(selector.get_map().items()):
        if key.fileobj is watched:
            selector.unregister(watched) if watched.fileno() >= 0 else selector.unregister(fd)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _nobody() -> None:
    """Not opened yet."""
