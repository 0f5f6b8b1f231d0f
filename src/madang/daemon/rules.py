"""Judges running jobs by the violation rules at the end of each tick, and tells the turn loop.

In a thread of its own: no tick waits for it. It takes at most a twentieth of the time; ticks that
end meanwhile are looked at with the next. What it tells is news or nothing: what is broken already
is in the rows, so that a restart neither forgets nor repeats.
"""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from madang.core.events import Fact, RuleBroken, RuleKept
from madang.core.model import AllocationState
from madang.core.rules import Rule, measured_words, rules_of
from madang.core.snapshot import Snapshot
from madang.daemon.loop import TurnLoop
from madang.telemetry.rules.judge import Judge, Run, Turned
from madang.telemetry.store import Store

log = logging.getLogger("madang.daemon")

SHARE = 20  # a look that takes a second is followed by a pause of as many
FACTS_AT_ONCE_MAX = 1_000  # the rest with the next tick


class Wardens:
    """`open` and `close` it with the loop."""

    def __init__(self, loop: TurnLoop, store: Store) -> None:
        self._loop = loop
        self._store = store
        self._judge = Judge(store)
        self._ticked = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)

    def open(self) -> None:
        """Begin to look."""
        self._store.watchers.append(self._tick)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._leaving.set()
        self._ticked.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _tick(self, tick: int) -> None:
        self._ticked.set()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._leaving.wait(pause_s):
            self._ticked.wait()
            self._ticked.clear()
            if self._leaving.is_set():
                return
            began_s = time.monotonic()
            try:
                facts = self.look()
                if facts:
                    self._loop.tell(facts)
            except Exception:
                log.exception("rules could not be judged; they are with the next tick")
            pause_s = (time.monotonic() - began_s) * SHARE

    def look(self) -> list[Fact]:
        """What has turned by the newest tick."""
        snapshot = self._loop.snapshot()
        rules = list(rules_of(snapshot.settings.rules).values())
        broken = {
            (one.rule, row.allocation)
            for row in snapshot.settings.violations.values()
            for one in row.broken
        }
        turned = self._judge.look(rules, runs_of(snapshot), broken)
        return [_fact(one, self._loop.clock()) for one in turned[:FACTS_AT_ONCE_MAX]]


def _fact(one: Turned, now_ms: int) -> Fact:
    rule, value = one.rule, number(one.value)
    if not one.is_broken:
        return RuleKept(rule.id, one.allocation, now_ms, value)
    text = measured_words(rule, value)
    return RuleBroken(rule.id, one.allocation, now_ms, value, rule.severity, text)


def number(value: float) -> str:
    """Six digits of it, as people write numbers."""
    return f"{value:.6g}"


def runs_of(snapshot: Snapshot) -> list[Run]:
    """Who runs whole, in the order of binding."""
    runs = []
    for allocation in snapshot.allocations.values():
        live = snapshot.jobs.get(allocation.job)
        is_current = live is not None and live.allocation == allocation.id
        if live is None or not is_current or allocation.state is not AllocationState.RUNNING:
            continue
        job = live.job
        node = snapshot.nodes.get(allocation.seats[0].node) if allocation.seats else None
        group = node.node.group if node else ""
        runs.append(
            Run(
                allocation.id,
                job.id,
                job.project,
                job.category.value,
                group,
                job.owner,
                job.idle_ok,
            )
        )
    return runs


def flaws(rules: Sequence[dict[str, Any]]) -> list[str]:
    """What speaks against each of these (arguments of a Rule), a line each; asks no daemon."""
    from madang.telemetry.rules.flaws import flaw_of

    made = [Rule(**stated) for stated in rules]
    return [f"{rule.id}: {flaw}" for rule in made if (flaw := flaw_of(rule))]
