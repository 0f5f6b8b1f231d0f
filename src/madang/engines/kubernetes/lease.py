"""Who may write: one holder of a `coordination.k8s.io/v1` Lease, the others stand by.

Promises: `held()` is true only for `renew_s` after the *start* of the last write of the Lease that
the API server confirmed, by a clock that goes on while this process, or the machine under it, is
stopped. So a leader that was stopped (SIGSTOP, a frozen virtual machine), cut off or starved finds
itself deposed before its next write, and before a standby may take over: that one waits until it
has seen the record unchanged for `duration_s`, by its own clock; nobody's wall clock is believed.
Every write path asks `held()` right before the request. A write that was on its way already is not
recalled: the pod's uid, the API server's own refusal of a second node, and the ledger's epoch stand
behind it.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from madang.engines.kubernetes.client import ApiError, Client, Conflict, Missing, Object

log = logging.getLogger("madang.kubernetes")

DURATION_S = 15.0
RENEW_SHARE = 2 / 3  # of the duration: as client-go's 10 s of 15 s
RETRY_SHARE = 1 / 8  # of the duration: as client-go's 2 s of 15 s
SPREAD = 0.2  # standbys do not all ask at once

# CLOCK_BOOTTIME goes on while the machine sleeps; the monotonic clock of Linux does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Deposed(Exception):
    """This process is not the leader any more: nothing was written."""


def _now_s() -> float:
    return time.clock_gettime(_CLOCK)


class Lease:
    """Run `run` as a task; ask `held()` from any thread.

    `holder` names this process and no other one ever: a machine's name and something random.
    `epoch` counts the holders; it is 0 before the first term. `told` hears of each beginning
    (True) and each end (False) of a term, on the loop that runs it.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        holder: str,
        *,
        duration_s: float = DURATION_S,
        told: Callable[[bool], None] = lambda held: None,
    ) -> None:
        self.holder = holder
        self.epoch = 0
        self.leader = ""  # who holds it, as last seen
        self.duration_s = float(math.ceil(duration_s))  # the API keeps whole seconds
        self.renew_s = self.duration_s * RENEW_SHARE
        self.retry_s = self.duration_s * RETRY_SHARE
        self._client = client
        self._namespace = namespace
        self._name = name
        self._told = told
        self._until_s = -math.inf
        self._leads = False  # what was told
        self._record: Object | None = None
        self._seen_s = -math.inf  # since when the record is as it is
        self._changed = asyncio.Event()

    def held(self) -> bool:
        """True if this process may write now. Cheap; from any thread."""
        return _now_s() < self._until_s

    async def acquired(self) -> None:
        """Wait until it is held."""
        while not self.held():
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Get it and keep it until cancelled. Never raises for what a server can do."""
        while True:
            began_s = _now_s()
            patience_s = self._patience_s(began_s)
            try:
                async with asyncio.timeout(patience_s):
                    await self._turn()
            except TimeoutError:
                log.warning("the lease %s: no answer in %.1f s", self._name, patience_s)
            except ApiError as failure:
                log.warning("the lease %s: %s", self._name, failure)
            self._tell()
            spread = random.uniform(1 - SPREAD, 1)
            pause_s = self._pause_s(max(0.0, self.retry_s * spread - (_now_s() - began_s)))
            before_s = _now_s()
            await asyncio.sleep(pause_s)
            self._note_late(_now_s() - before_s - pause_s)
            self._tell()

    async def release(self) -> None:
        """Give it up, so that a standby need not wait. For a clean end, after `run` was cancelled.

        Raises:
            ApiError: it could not be said; it runs out by itself.
        """
        held, self._until_s = self.held(), -math.inf
        self._tell()
        record = self._record
        if held and record is not None:
            spec = {**record["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            await self._client.put(self._path(), {**record, "spec": spec})

    # -- one try -------------------------------------------------------------------------------

    async def _turn(self) -> None:
        if self._record is None or self.leader != self.holder:
            await self._look()
        spec = self._record["spec"] if self._record is not None else {}
        mine = self.leader == self.holder
        if mine or not self.leader or _now_s() - self._seen_s >= self.duration_s:
            await self._write(spec, first=not mine)

    async def _look(self) -> None:
        """The record as it is, and since when it has been so by our own clock."""
        try:
            found = await self._client.get(self._path())
        except Missing:
            self._record, self.leader = None, ""
            return
        before = self._record
        if before is None or _version(before) != _version(found):
            self._seen_s = _now_s()
        self._take(found)

    def _take(self, record: Object) -> None:
        self._record = record
        self.leader = str((record.get("spec") or {}).get("holderIdentity") or "")

    async def _write(self, spec: Object, *, first: bool) -> None:
        began_s = _now_s()
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        epoch = int(spec.get("leaseTransitions") or 0) + (1 if first else 0)
        wanted: dict[str, Any] = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": int(self.duration_s),
            "acquireTime": stamp if first else spec.get("acquireTime", stamp),
            "renewTime": stamp,
            "leaseTransitions": epoch,
        }
        metadata = {"name": self._name, "namespace": self._namespace}
        body = {
            **(self._record or {"apiVersion": _VERSION, "kind": "Lease", "metadata": metadata}),
            "spec": wanted,
        }
        try:
            if self._record is None:
                self._take(await self._client.post(self._path(whole=True), body))
            else:
                self._take(await self._client.put(self._path(), body))
        except (Conflict, Missing):
            # Somebody was faster; or an earlier write of ours got through, and its answer did not.
            self._record, self.leader = None, ""
            await self._look()
            return
        self._seen_s = _now_s()
        self.epoch = epoch
        self._until_s = began_s + self.renew_s

    def _note_late(self, late_s: float) -> None:
        """Whoever asks why a lease was lost is told that no server is to blame."""
        if late_s > self.retry_s:
            log.warning(
                "the lease %s: this process stood still for %.1f s "
                "(stopped, starved of CPU, or its machine was)",
                self._name,
                late_s,
            )

    def _patience_s(self, now_s: float) -> float:
        """A call that hangs must leave time for another one before the term ends."""
        left_s = self._until_s - now_s
        return min(max(left_s / 2, self.retry_s), self.renew_s)

    def _pause_s(self, pause_s: float) -> float:
        """Not past the end of the term, so that its end is told when it comes."""
        left_s = self._until_s - _now_s()
        return min(pause_s, left_s + 0.001) if left_s > 0 else pause_s

    def _tell(self) -> None:
        if (now := self.held()) != self._leads:
            self._leads = now
            log.info("the lease %s is %s", self._name, "held" if now else "lost")
            self._told(now)
            if now:
                self._changed.set()

    def _path(self, *, whole: bool = False) -> str:
        leases = f"/apis/{_VERSION}/namespaces/{self._namespace}/leases"
        return leases if whole else f"{leases}/{self._name}"


_VERSION = "coordination.k8s.io/v1"


def _version(record: Object) -> str:
    return str(record["metadata"]["resourceVersion"])
