"""Logs and reports of members, by way of a file of ours for each that somebody reads.

The API server gives a log from its beginning and can only be followed; people want it from any
byte. So who is read is followed into a spool, on demand, and read from there: lines that begin with
RS (RFC 7464) are reports and go to a file of their own. Promises: bytes of a spool never change
while it is read; a spool that nobody reads for `IDLE_S` is dropped, and made anew from the API
server when somebody comes back; one member's spool is at most `SPOOL_BYTES_MAX`.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from madang.engines.base import EngineError
from madang.engines.kubernetes.client import ApiError, Client, Missing, Refused
from madang.engines.kubernetes.values import PodFacts

SPOOL_BYTES_MAX = 256 << 20
FOLLOWED_MAX = 256
IDLE_S = 120.0
FIRST_S = 2.0  # a reader of a member that runs waits so long for the first bytes
WHOLE_S = 60.0
RS = b"\x1e"
LINE_BYTES_MAX = 1 << 20
BAD_REQUEST = 400  # its container has not started, or there is no such container


@dataclass(slots=True)
class Spool:
    """One pod's; `whole` is set when everything that will ever come has come."""

    folder: Path
    read_s: float
    came: asyncio.Event = field(default_factory=asyncio.Event)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    failure: str = ""


class Logs:
    """On the engine's loop. `folder` is ours; what was in it before is dropped."""

    def __init__(self, client: Client, folder: Path, now_s: Callable[[], float]) -> None:
        self._client = client
        self._folder = folder
        self._now_s = now_s
        self._spools: dict[str, Spool] = {}
        shutil.rmtree(folder, ignore_errors=True)

    async def spool(self, pod: PodFacts) -> Path:
        """The folder with `log` and `reports` of this pod: whole if it has ended.

        Raises:
            EngineError: the API server gives none.
        """
        spool = self._spools.get(pod.uid)
        if spool is None or (spool.failure and spool.whole.is_set()):
            spool = self._begin(pod)
        spool.read_s = self._now_s()
        waits_for, most_s = (spool.whole, WHOLE_S) if pod.ended else (spool.came, FIRST_S)
        try:
            async with asyncio.timeout(most_s):
                await waits_for.wait()
        except TimeoutError:
            pass  # what has come so far is true
        if spool.failure:
            raise EngineError(f"the log of {pod.key} cannot be read: {spool.failure}")
        return spool.folder

    def follow(self, pod: PodFacts) -> None:
        """Begin to keep what it writes: it is about to be taken away."""
        if pod.uid not in self._spools and len(self._spools) < FOLLOWED_MAX:
            self._begin(pod)

    def kept(self, uid: str) -> Path | None:
        """The spool of a pod that is no more, if there is one."""
        spool = self._spools.get(uid)
        return spool.folder if spool is not None and not spool.failure else None

    def tick(self) -> None:
        """Drop what nobody reads."""
        late_s = self._now_s() - IDLE_S
        for uid, spool in list(self._spools.items()):
            if spool.read_s < late_s and len(self._spools) > FOLLOWED_MAX // 4:
                self._drop(uid)

    async def end(self) -> None:
        """Follow nobody any more."""
        tasks = [one.task for one in self._spools.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, pod: PodFacts) -> Spool:
        if pod.uid not in self._spools and len(self._spools) >= FOLLOWED_MAX:
            oldest = min(self._spools, key=lambda uid: self._spools[uid].read_s)
            if self._now_s() - self._spools[oldest].read_s < IDLE_S / 4:
                raise EngineError(f"{FOLLOWED_MAX} logs are followed already; try again later")
            self._drop(oldest)
        spool = self._spools[pod.uid] = Spool(self._folder / pod.uid, self._now_s())
        spool.folder.mkdir(parents=True, exist_ok=True)
        spool.task = asyncio.create_task(self._fill(pod, spool))
        return spool

    def _drop(self, uid: str) -> None:
        spool = self._spools.pop(uid)
        if spool.task is not None:
            spool.task.cancel()
        shutil.rmtree(spool.folder, ignore_errors=True)

    async def _fill(self, pod: PodFacts, spool: Spool) -> None:
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        try:
            container = await self._container(path)
            query = {"container": container, "follow": "true"}
            with (
                (spool.folder / "log").open("wb", buffering=0) as log,
                (spool.folder / "reports").open("wb", buffering=0) as reports,
            ):
                parted = Parted(log.write, reports.write)
                async for piece in self._client.stream(f"{path}/log", **query):
                    parted.take(piece)
                    spool.came.set()
                    if parted.bytes_taken > SPOOL_BYTES_MAX:
                        break
                parted.end()
        except Missing:
            spool.failure = "the pod is gone, and its log with it"
        except Refused as failure:
            spool.failure = (
                f"Madang's account may not read logs in the namespace {pod.namespace}; "
                f"install its chart with rbac.logsEverywhere=true to allow it ({failure})"
            )
        except ApiError as failure:
            if failure.status != BAD_REQUEST:
                spool.failure = str(failure)
            else:
                self._spools.pop(pod.uid, None)  # not started: the next reader asks again
        except OSError as failure:
            spool.failure = f"no room for it here: {failure.strerror}"
        finally:
            spool.came.set()
            spool.whole.set()

    async def _container(self, path: str) -> str:
        found = await self._client.get(path)
        return str(found["spec"]["containers"][0]["name"])


class Parted:
    """A stream of bytes, parted by line into a log and reports."""

    def __init__(self, log: Callable[[bytes], object], reports: Callable[[bytes], object]) -> None:
        self._log = log
        self._reports = reports
        self._rest = b""
        self.bytes_taken = 0

    def take(self, piece: bytes) -> None:
        """The next bytes; what may still become a report waits for the end of its line."""
        self.bytes_taken += len(piece)
        whole = self._rest + piece
        lines = whole.split(b"\n")
        self._rest = lines.pop()
        log = bytearray()
        for line in lines:
            before, mark, report = line.partition(RS)
            if not mark:
                log += line + b"\n"
                continue
            self._reports(report + b"\n")
            log += before
        if (self._rest and RS not in self._rest) or len(self._rest) > LINE_BYTES_MAX:
            log += self._rest
            self._rest = b""
        if log:
            self._log(bytes(log))

    def end(self) -> None:
        """Nothing comes any more; half a report is none."""
        if self._rest:
            self._log(self._rest.partition(RS)[0])
            self._rest = b""


def part(path: Path, offset: int, bytes_max: int) -> bytes:
    """Bytes of a spool file; empty at its end."""
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), max(0, bytes_max), max(0, offset))
    except FileNotFoundError:
        return b""
    except OSError as failure:
        raise EngineError(f"{path.name} cannot be read: {failure.strerror}") from failure
