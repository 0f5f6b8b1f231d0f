"""The agent: a frame an interval, from the readers into the buffer, and from there to the daemon.

Frames are made at whole multiples of the interval on the wall clock, so that those of a fleet are
of the same moments; they are sent a little later, at another moment on each node. Whatever happens
to the daemon, the network or a driver, the agent goes on; what it could not keep, it tells.
"""

import logging
import random
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from madang.agent._base import Reader, Reading
from madang.agent.buffer import Buffer, DiskBuffer, MemoryBuffer
from madang.agent.dcgm import Dcgm
from madang.agent.gather import Gather
from madang.agent.http import HttpError, Place
from madang.agent.infiniband import InfiniBand
from madang.agent.kernel import KernelLog
from madang.agent.kernel_source import KMSG
from madang.agent.machine import Machine
from madang.agent.members import Members
from madang.agent.nvml import Nvml
from madang.agent.podresources import PodResources, PodResourcesError
from madang.agent.push import Pusher
from madang.telemetry.frames import SIGNALS_MAX, Frame, FrameError, encode

_log = logging.getLogger(__name__)

INTERVAL_MS = (1_000, 3_600_000)
READ_SHARE = 0.8  # of the interval: later answers are of the next frame
SPREAD_SHARE = 0.2  # of the interval: nodes send at different moments
TOKEN_BYTES_MAX = 4_096
LOOK_MS = 1_000  # between the two looks of `--once`: what counts needs two


class AgentError(Exception):
    """The agent cannot begin; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `madang agent` was told. `buffer`: a directory; None: memory."""

    url: str = ""
    token_file: Path | None = None
    token: str = field(default="", repr=False)  # where no file is named
    node: str = ""
    interval_ms: int = 10_000
    dcgm: str = ""
    kernel_log: Path = KMSG
    pod_resources: Path | None = None  # kubelet's socket
    buffer: Path | None = None
    buffer_bytes_max: int = 256 << 20


def node_readers(
    kernel_log: Path = KMSG,
    cursor: Path | None = None,
    gpu_uuids: tuple[str, ...] | None = None,
) -> list[Reader]:
    """The readers of this machine, without those of members: for a daemon that has engines here.

    `gpu_uuids`: the devices that its engine offers, in its order; None: all there are.
    """
    ports = InfiniBand()
    if gpu_uuids == ():
        return [KernelLog(kernel_log, cursor, port_at=ports.port_at), ports, Machine()]
    nvml = Nvml(gpu_uuids or ())
    return [nvml, KernelLog(kernel_log, cursor, nvml.gpu_at, ports.port_at), ports, Machine()]


def readers_of(settings: Settings) -> list[Reader]:
    """Every reader of an agent on its own.

    Raises:
        AgentError: the page of dcgm-exporter is at no address; a library is missing.
    """
    cursor = settings.buffer / "kernel-log" if settings.buffer else None
    ports = InfiniBand()
    common: list[Reader] = [ports, Machine(), Members()]
    if not settings.dcgm:
        nvml = Nvml()
        log = KernelLog(settings.kernel_log, cursor, nvml.gpu_at, ports.port_at)
        return [nvml, log, *common, *_pods(settings, nvml.gpu_of)]
    log = KernelLog(settings.kernel_log, cursor, port_at=ports.port_at)
    try:
        dcgm = Dcgm(settings.dcgm, settings.node, lambda: not log.is_open)
    except HttpError as error:
        raise AgentError(f"--dcgm: {error}") from None
    log.gpu_at = dcgm.gpu_at
    return [dcgm, log, *common, *_pods(settings, dcgm.gpu_of)]


def _pods(settings: Settings, gpu_of: Callable[[str], int | None]) -> list[Reader]:
    if settings.pod_resources is None:
        return []
    try:
        return [PodResources(settings.pod_resources, gpu_of)]
    except PodResourcesError as error:
        raise AgentError(f"--pod-resources: {error}") from None


class Agent:
    """Reads and keeps; `push` may be None: then frames are only shown."""

    def __init__(
        self,
        settings: Settings,
        gather: Gather,
        buffer: Buffer,
        lock: threading.Lock,
        boot: int | None = None,
    ) -> None:
        self._settings, self._gather, self._buffer, self._lock = settings, gather, buffer, lock
        self._boot = secrets.randbits(63) if boot is None else boot
        self._seq = 0
        self._lost = 0  # that the buffer could not even take

    def read(self, now_ms: int) -> Reading:
        """What the sensors say."""
        wait_s = self._settings.interval_ms / 1000 * READ_SHARE
        return self._gather.read(now_ms, wait_s)

    def keep(self, reading: Reading, now_ms: int) -> Frame | None:
        """Make a frame of it and put it into the buffer; None if that was not possible."""
        self._seq += 1
        frame = self._frame(reading, now_ms, 0)
        try:
            with self._lock:
                frame = self._frame(reading, now_ms, self._room_for(frame))
                self._buffer.append(encode(frame))
        except (OSError, FrameError) as error:
            self._lost += 1
            _log.error("a frame is lost: %s", error)
            return None
        self._lost = 0
        return frame

    def _room_for(self, frame: Frame) -> int:
        """How many frames were lost before this one; afterwards there is room for it."""
        return self._buffer.make_room(len(encode(frame))) + self._lost

    def _frame(self, reading: Reading, now_ms: int, dropped: int) -> Frame:
        settings = self._settings
        return Frame(
            settings.node,
            self._boot,
            self._seq,
            now_ms,
            settings.interval_ms,
            reading.columns,
            reading.signals[:SIGNALS_MAX],
            dropped,
        )

    def run(self, leaving: threading.Event, news: Callable[[], None]) -> None:
        """Until told to leave."""
        spread_s = random.uniform(0, SPREAD_SHARE) * self._settings.interval_ms / 1000
        for now_ms in ticks(self._settings.interval_ms, leaving):
            self.keep(self.read(now_ms), now_ms)
            if leaving.wait(spread_s):
                break
            news()


def ticks(interval_ms: int, leaving: threading.Event) -> Iterator[int]:
    """Waits for whole multiples of the interval on the wall clock, each once, and gives the time.

    Those that pass while the caller is busy are left out; ends when told to leave.
    """
    last = time.time_ns() // 1_000_000 // interval_ms
    while True:
        now_ms = time.time_ns() // 1_000_000
        if now_ms // interval_ms != last:  # also after a clock that was set back
            last = now_ms // interval_ms
            yield now_ms
        elif leaving.wait((interval_ms - now_ms % interval_ms) / 1000):
            return
        if leaving.is_set():
            return


def checked(settings: Settings) -> Settings:
    """With what was left out filled in.

    Raises:
        AgentError: something cannot be.
    """
    low, high = INTERVAL_MS
    if not low <= settings.interval_ms <= high:
        raise AgentError(f"--interval: {settings.interval_ms} ms; from {low} to {high} ms")
    node = settings.node or socket.gethostname()
    if not node.isprintable() or not 0 < len(node) <= 253:
        raise AgentError(f"--node: {node!r} cannot be the name of a node")
    return replace(settings, node=node)


def token_of(path: Path | None) -> str:
    """The token in the file, read anew each time: it may be changed while the agent runs.

    Raises:
        AgentError: there is none.
    """
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            text = file.read(TOKEN_BYTES_MAX + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"--token-file: {path}: {error}") from None
    if not text or len(text) > TOKEN_BYTES_MAX or any(c.isspace() for c in text):
        raise AgentError(f"--token-file: {path} does not hold one token")
    return text


def look_once(settings: Settings) -> tuple[Reading, int]:
    """What the sensors say now; they are looked at twice, so that counters have something to say.

    Raises:
        AgentError: see `checked`, `readers_of`.
    """
    gather = Gather(readers_of(settings))
    try:
        wait_s = settings.interval_ms / 1000 * READ_SHARE
        first = gather.read(time.time_ns() // 1_000_000, wait_s)
        time.sleep(LOOK_MS / 1000)
        now_ms = time.time_ns() // 1_000_000
        second = gather.read(now_ms, wait_s)
        return Reading(second.columns, first.signals + second.signals), now_ms
    finally:
        gather.close()


def look_on(settings: Settings) -> Iterator[tuple[Reading, int]]:
    """What the sensors say at each interval, until SIGTERM or SIGINT."""
    leaving = threading.Event()
    _leave_on_signals(leaving)
    gather = Gather(readers_of(settings))
    try:
        for now_ms in ticks(settings.interval_ms, leaving):
            yield gather.read(now_ms, settings.interval_ms / 1000 * READ_SHARE), now_ms
    finally:
        gather.close()


def run_agent(settings: Settings, *, once: bool = False) -> int:
    """Read and push until SIGTERM or SIGINT, or one frame. Returns an exit code.

    Raises:
        AgentError: it cannot begin.
        BufferError_: the buffer's directory cannot be used.
    """
    place = _place(settings.url)
    token_of(settings.token_file)  # said at once, not at the first push
    readers = readers_of(settings)
    buffer: Buffer = MemoryBuffer()
    if settings.buffer is not None:
        buffer = DiskBuffer(settings.buffer, settings.buffer_bytes_max)
    lock = threading.Lock()
    pusher = Pusher(place, lambda: _token_again(settings), buffer, lock)
    gather = Gather(readers)
    agent = Agent(settings, gather, buffer, lock)
    try:
        if once:
            return _push_once(agent, pusher, settings)
        leaving = threading.Event()
        _leave_on_signals(leaving)
        _log.info("node %s: frames go to %s every %d ms", settings.node, place.url,
                  settings.interval_ms)  # fmt: skip
        pusher.open()
        agent.run(leaving, pusher.wake)
        return 0
    finally:
        gather.close()
        pusher.close()
        buffer.close()


def _push_once(agent: Agent, pusher: Pusher, settings: Settings) -> int:
    reading, now_ms = look_once(settings)
    agent.keep(reading, now_ms)
    while (rest_s := pusher.turn()) is not None:
        if pusher.counts.failed:
            return 5
        time.sleep(rest_s)
    return 0


def _place(url: str) -> Place:
    try:
        return Place(url)
    except HttpError as error:
        raise AgentError(f"--url: {error}") from None


def _token_again(settings: Settings) -> str:
    try:
        return token_of(settings.token_file) or settings.token
    except AgentError as error:
        _log.error("%s", error)
        return ""


def _leave_on_signals(leaving: threading.Event) -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        leaving.set()

    with suppress(ValueError):  # not in the main thread: whoever runs us stops us
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
