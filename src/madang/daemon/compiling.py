"""Kernels are compiled beside the turns: no decision waits for a compiler.

The first daemon of a machine, or of a container, has no compiled kernels yet, and making them takes
ten seconds. Until they are there the NumPy twins decide, which decide the same. The thread begins
when a yard is first seen that is worth it; a standby's has ended by the time that it leads.
"""

import logging
import threading
import time

from madang.core import events as ev
from madang.core.controller import Controller
from madang.core.model import Job, Node, Project, Shape
from madang.core.policies import MADANG
from madang.core.scoring import HAVE_NUMBA, defer

log = logging.getLogger("madang.daemon")

NODES, GPUS = 64, 8  # never full: prices are made of what is left
SHAPES = ((1, 1000, 1), (1, 1000, 2), (2, 1000, 1), (8, 1000, 1), (1, 250, 1))
JOBS = 80  # after 64 requests prices are made of their mix: that kernel as well


class Compiling:
    """`begin` it before the first turn."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._begins = threading.Lock()

    def begin(self) -> None:
        """From now on nobody who asks for a kernel waits for it."""
        if HAVE_NUMBA:
            defer(self._may)

    def _may(self) -> bool:
        if self._ready.is_set():
            return True
        with self._begins:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="compiling", daemon=True)
                self._thread.start()
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        began_s = time.monotonic()
        try:
            import numba  # noqa: F401 - loaded, it is used for a small yard too

            rehearse()
        except Exception:
            log.exception("kernels cannot be compiled: decisions are the same, but slower")
            return
        self._ready.set()
        log.info("kernels are compiled, in %.1f s", time.monotonic() - began_s)


def rehearse() -> None:
    """Turns of a little yard in which every kernel of our own policy is called as in any."""
    controller = Controller()
    nodes = [Node(f"n-{n}", GPUS, 128_000, 1_048_576, "any") for n in range(NODES)]
    facts: list[ev.Fact] = [ev.PolicySet(MADANG), ev.ProjectSet(Project("p"))]
    facts += [ev.NodeSeen(node) for node in nodes]
    controller.step(facts, 1)
    for n in range(1, JOBS + 1):
        gpus, milli, members = SHAPES[n % len(SHAPES)]
        shape = Shape(gpus, milli, 1_000, 1_024)
        job = Job(id=f"j-{n}", seq=n, project="p", shape=shape, members=members, submitted_ms=n)
        controller.step([ev.JobSubmitted(job)], n)
