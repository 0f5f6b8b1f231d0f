"""Run scenarios: one seed, every fault, every invariant after every turn.

    python -m madang.sim.run --seed 17 --verbose     one scenario, every event told
    python -m madang.sim.run --seeds 1000            many; prints each seed that fails

When the disturbed part is over, faults end, nodes are opened and quotas lifted: then everything
that can run must end, nothing may be held, and the journal alone must make the same state.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from madang.core import events as ev
from madang.core.check import (
    InvariantBroken,
    check,
    check_binding,
    check_quota,
)
from madang.core.check_turns import Watch
from madang.core.codec import encode_event
from madang.core.controller import Controller
from madang.core.keys import MOVES_FREE
from madang.core.model import NodeState, Project, ReleaseReason
from madang.core.needs import demands_of
from madang.core.zones import allowed_on
from madang.engines.virtual import FleetModel
from madang.sim.faults import QUIET, Channel
from madang.sim.scenario import HASTY, LENGTH_MS, PROJECTS, Scenario, scenario
from madang.sim.truth import Truth
from madang.sim.upkeep import Upkeep
from madang.sim.world import World, picture, replayed, restored_from_rows

TURNS_MAX = 20_000  # a scenario that takes more does not come to rest
RESYNC_MS = 60_000
SCORES_EVERY = 4  # turns: looking at all that placement keeps costs as much as all other checks
# A job that saves nothing loses what it did each time that another, having lost patience, moves it
# aside. MOVES_FREE times nobody minds; from then on its least stay doubles, and after 7 more times
# outlasts the 25 minutes of the longest job. So much for one after the other; jobs run side by side
# while they wait, and the rest is for those that end in between.
STAYS_UNTIL_SAFE = 7
CALM_MS_MAX = (MOVES_FREE + STAYS_UNTIL_SAFE + 1) * HASTY.patience_ms + 2 * 3_600_000  # 12 h


class NotLive(AssertionError):
    """Something that could go on does not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a scenario that broke nothing."""

    seed: int
    digest: str
    turns: int
    events: int
    ended: int
    lost: int  # facts that never arrived
    restarts: int
    nodes_lost: int
    strays: int
    promises: int
    moves: int
    holes: int
    warnings: int
    reclaims: int
    phases: frozenset[str]
    end_ms: int
    seen: tuple[tuple[str, int], ...]  # turns that put each property to the test


def run(seed: int, tell: Callable[[int, ev.Event], None] | None = None) -> Outcome:
    """Run the scenario of a seed to its end.

    Raises:
        AssertionError: an invariant is broken, a record is untrue, or something hangs.
    """
    play = _Play(scenario(seed), tell)
    play.disturbed()
    play.calm()
    return play.outcome()


class _Play:
    def __init__(
        self, script: Scenario, tell: Callable[[int, ev.Event], None] | None = None
    ) -> None:
        self.script = script
        self.tell = tell
        model = FleetModel(script.fleet, 0)
        channel = Channel(Random(f"madang/channel/{script.seed}"), script.chaos)
        self.world = World(Controller(), model, channel, script.launch_of)
        self.truth = Truth(model, keeps_order=script.chaos.keeps_order)
        self.upkeep = Upkeep(model)
        self.watch = Watch()
        self.lowered = False

    def disturbed(self) -> None:
        """All that the scenario asks for, with every fault."""
        for ask in self.script.asks:
            self._until(ask.at_ms)
            if ask.fact is not None:
                self._turn(ask.at_ms, [ask.fact])
            elif ask.measures_ms:
                self.world.now_ms = max(self.world.now_ms, ask.at_ms)
                self.world.measure(ask.measures_ms)
            elif ask.restarts:
                self._turn(ask.at_ms, [], acts=ask.acts)
                self._restart()
            else:
                self.world.resync()
        self._until(LENGTH_MS)

    def calm(self) -> None:
        """Faults end and everything is allowed: what can end must end."""
        world = self.world
        world.channel.chaos = QUIET
        world.model.calm()
        now_ms = max(world.now_ms, LENGTH_MS)
        asks: list[ev.Fact] = [ev.NodeCordoned(id, False) for id in world.state.nodes]
        asks += [ev.ProjectSet(Project(project)) for project in PROJECTS]
        asks += [ev.SettingDropped("quotas", key) for key in sorted(world.state.settings.quotas)]
        windows = sorted(world.state.settings.reservations)
        asks += [ev.SettingDropped("reservations", key) for key in windows]
        self._turn(now_ms, asks)
        until_ms = now_ms + CALM_MS_MAX
        while world.state.jobs or world.state.allocations or self._lost_nodes():
            if world.now_ms >= until_ms:
                raise NotLive(
                    f"never ends: {world.state.jobs} {world.state.allocations} {self._lost_nodes()}"
                )
            world.resync()
            # What was admitted while nodes were unknown may turn out never to fit.
            hopeless = [live.job.id for _, live in sorted(world.state.jobs.items())]
            hopeless = [id for id in hopeless if world.controller.judge(world.state.jobs[id].job)]
            self._turn(world.now_ms, [ev.JobStopAsked(id, "sim") for id in hopeless])
            self._until(world.now_ms + RESYNC_MS)
        self._check_end()

    def outcome(self) -> Outcome:
        world = self.world
        return Outcome(
            self.script.seed,
            world.digest(),
            world.turns,
            len(world.journal),
            len(self.truth.ended),
            world.channel.lost,
            world.restarts,
            sum(isinstance(event, ev.NodeLost) for _, event in world.journal),
            sum(
                isinstance(event, ev.ReleaseAsked) and event.reason is ReleaseReason.STRAY
                for _, event in world.journal
            ),
            sum(isinstance(event, ev.JobNominated) for _, event in world.journal),
            self.upkeep.moves,
            self.upkeep.holes,
            self.upkeep.warnings,
            self.upkeep.reclaims,
            frozenset(ended.phase.value for ended in self.truth.ended.values()),
            world.now_ms,
            tuple(self.watch.seen.items()),
        )

    def _until(self, at_ms: int) -> None:
        """Let everything happen that happens before a time."""
        while True:
            next_ms = self.world.next_ms()
            if next_ms is None or next_ms >= at_ms:
                self.world.now_ms = max(self.world.now_ms, at_ms)
                return
            self._turn(next_ms, [])

    def _turn(self, now_ms: int, asked: list[ev.Fact], *, acts: bool = True) -> None:
        world = self.world
        if world.turns > TURNS_MAX:
            raise NotLive(f"{world.turns} turns: it does not come to rest")
        step = world.turn(now_ms, asked, acts=acts)
        for event in step.events:
            if self.tell is not None:
                self.tell(world.now_ms, event)
        check(world.state, scores=world.turns % SCORES_EVERY == 0)
        for event in step.events:
            if isinstance(event, ev.AllocationBound):
                check_binding(world.state, event.allocation)
        self.watch.look(world.state, step.decisions, world.now_ms)
        self._check_quota(step.events)
        self._check_zones(step.events)
        self.truth.look(step.events, world.state)
        self.upkeep.look(world.now_ms, step.events, world.state)

    def _check_zones(self, events: tuple[ev.Event, ...]) -> None:
        """Nobody is given a node whose zone is shut to the job, or that is not what it needs."""
        snapshot = self.world.state.view(self.world.now_ms)
        for event in events:
            if (
                not isinstance(event, ev.AllocationBound)
                or event.allocation.job not in snapshot.jobs
            ):
                continue
            job, nodes = snapshot.jobs[event.allocation.job].job, event.allocation.seats
            assert allowed_on(snapshot, job, [seat.node for seat in nodes]), (
                f"in a zone that is shut to it: {event}"
            )
            meets = snapshot.ground.mask(demands_of(job))
            rows = [snapshot.nodes[seat.node].row for seat in nodes]
            assert meets is None or meets[rows].all(), f"on nodes it may not use: {event}"

    def _check_quota(self, events: tuple[ev.Event, ...]) -> None:
        """Never above quota, unless the quota was lowered below what was held."""
        state = self.world.state
        self.lowered |= any(isinstance(event, ev.ProjectSet | ev.QuotaSet) for event in events)
        try:
            check_quota(state)
            self.lowered = False
        except InvariantBroken:
            if not self.lowered:
                raise

    def _restart(self) -> None:
        """What is read from rows is what was there, and goes on."""
        before = picture(self.world.state)
        assert picture(restored_from_rows(self.world.state)) == before, "rows lose something"
        self.world.restart()
        self.watch.forget()
        check(self.world.state)

    def _lost_nodes(self) -> list[str]:
        nodes = self.world.state.nodes.items()
        return [id for id, live in nodes if live.state is NodeState.LOST]

    def _check_end(self) -> None:
        """Nothing is lost or held, and the journal alone makes the same state."""
        world = self.world
        submitted = set(self.script.env)
        rejected = {e.job for _, e in world.journal if isinstance(e, ev.JobRejected)}
        missing = submitted - rejected - set(self.truth.ended)
        if missing:
            raise NotLive(f"jobs were lost: {sorted(missing)}")
        check(world.state)
        again = replayed(world.journal)
        assert picture(again) == picture(world.state), "the journal makes another state"


def main() -> int:
    """The command line; exit status 1 if any seed fails."""
    parser = argparse.ArgumentParser(prog="python -m madang.sim.run", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", type=int, default=100, help="run so many")
    parser.add_argument("--first", type=int, default=0, help="beginning with this one")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    parser.add_argument("--verbose", action="store_true", help="tell every event")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = run(options.seed, _print_event if options.verbose else None)
        print(outcome)
        return 0
    begin_s, failed, turns = time.monotonic(), 0, 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            turns += run(seed).turns
        except AssertionError as broken:
            failed += 1
            print(f"seed {seed}: {type(broken).__name__}: {broken}", file=sys.stderr)
            if options.stop:
                break
    took_s = time.monotonic() - begin_s
    print(f"{options.seeds} seeds, {failed} failed, {turns} turns in {took_s:.1f} s")
    return 1 if failed else 0


def _print_event(now_ms: int, event: ev.Event) -> None:
    print(f"{now_ms:>9} {encode_event(event)}")


if __name__ == "__main__":
    sys.exit(main())
