"""Leading: the lease, renewed by a thread that does nothing else, and the leader's label.

Its own loop and its own connections: whatever load the engine is under, a renewal waits for nobody.
Promises: `held` is cheap and may be asked from any thread; `lost` is called once, if a term that
had begun has ended before `close`; `close` gives the lease up, so that a standby need not wait.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from madang.engines.kubernetes import leader_label
from madang.engines.kubernetes.client import ApiError, Client
from madang.engines.kubernetes.config import Access, ConfigError
from madang.engines.kubernetes.lease import Lease

log = logging.getLogger("madang.kubernetes")

CONNECTIONS = 2
CLOSE_S = 5.0
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who would lead: `holder` names this process and no other one ever, `pod` is the pod that is
    labelled while it leads ("": none)."""

    holder: str
    pod: str = ""
    lease: str = "madang"
    lease_s: float = 15.0


class Leading:
    """`open`, `wait`, ask `held`, `close`."""

    def __init__(self, access: Access, namespace: str, candidate: Candidate) -> None:
        self._access = access
        self._namespace = namespace
        self._candidate = candidate
        self._lease: Lease | None = None
        self._led: Future[None] = Future()
        self._lost: Callable[[], None] | None = None
        self._loop = asyncio.new_event_loop()
        self._leaving = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def open(self) -> None:
        """Try to lead from now on."""
        self._thread.start()

    def wait(self, leaving: threading.Event, lost: Callable[[], None]) -> bool:
        """True as soon as this process leads; False: `leaving` was set before."""
        self._lost = lost
        while not leaving.is_set():
            with suppress(TimeoutError):
                self._led.result(LOOK_S)
                return True
        return False

    def held(self) -> bool:
        """True if this process may write now."""
        return self._lease is not None and self._lease.held()

    def close(self) -> None:
        """Lead no more."""
        self._lost = None
        if self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        except Exception:
            log.critical("nobody renews the lease any more", exc_info=True)
            self._told(False)
        finally:
            self._loop.close()

    async def _live(self) -> None:
        given = self._candidate
        async with Client(self._access, CONNECTIONS) as client:
            lease = self._lease = Lease(
                client,
                self._namespace,
                given.lease,
                given.holder,
                duration_s=given.lease_s,
                told=self._told,
            )
            tasks = [asyncio.create_task(lease.run())]
            if given.pod:
                tasks.append(asyncio.create_task(self._label(client, lease)))
            await self._leaving.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(ApiError):
                if given.pod:
                    await leader_label.step_down(client, self._namespace, given.pod)
            with suppress(ApiError):
                await lease.release()

    async def _label(self, client: Client, lease: Lease) -> None:
        """The Service finds the leader by its label."""
        while True:
            await lease.acquired()
            try:
                await leader_label.lead(client, self._namespace, self._candidate.pod)
            except (ApiError, ConfigError) as failure:
                log.warning("the leader's pod is not labelled: %s", failure)
            await asyncio.sleep(lease.retry_s)

    def _told(self, held: bool) -> None:
        if held:
            if not self._led.done():
                self._led.set_result(None)
        elif self._led.done() and (lost := self._lost) is not None:
            self._lost = None
            log.critical("this process leads no more")
            lost()
