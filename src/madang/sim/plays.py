"""Plays: many small scenarios of the pure core, each turn held against what no turn may do.

    python -m madang.sim.plays --plays 4000          all; prints each that fails, and a count
    python -m madang.sim.plays --play 17 --verbose   one, every event told

A controller and machines that do as they are told: what the faults of `sim.run` would excuse is
excused by nothing here. Of four kinds, by number: *tenants* (guarantees, cells, disruption budgets,
everybody may be moved aside), *windows* (a calendar among jobs whose estimates hold), *heads*
(backfill: the first of the queue starts no later than it would with nobody behind it) and *streams*
(a large gang before an endless stream of small jobs starts within a stated time).
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random

from madang.core import events as ev
from madang.core.budgets import BY_CHOICE
from madang.core.cells.room import is_firm
from madang.core.check import check, check_quota, require
from madang.core.check_turns import PROPERTIES, QUEUE, STARVATION, Watch, earliest_ms
from madang.core.codec import encode_event
from madang.core.controller import Controller
from madang.core.estimates import NEVER_MS
from madang.core.model import (
    Allocation,
    Category,
    Exit,
    Job,
    Node,
    Project,
    Provisioning,
    Purpose,
    ReleaseReason,
    Shape,
)
from madang.core.ordering import ordered
from madang.core.placement import Unplaced
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import DEFAULT
from madang.core.seating import seat
from madang.core.settings import DisruptionBudget, Quota, Reservation, Shield, Workspace
from madang.core.state import State

KINDS = ("tenants", "windows", "tenants", "heads", "tenants", "streams")
PROJECTS = ("vision", "speech", "web")
TURNS_MAX = 4_000  # a play that takes more does not come to rest
CHECK_EVERY = 8  # turns: the state is looked at whole then, and at the end
HELD, HELD_MS = "held", 30_000  # who was not let end is not asked again for so long
LEAVE_MS_MAX = 2_000  # how long members take to leave
RUN_MS_MAX = 120_000  # of a job of a stream
HASTY = replace(
    MADANG,
    name="hasty",
    level_ms=60_000,
    patience_ms=300_000,
    run_ms_min=10_000,
    level_factor=2,
    fair_half_life_ms=600_000,
    fair_lag_ms=120_000,
)


class NotLive(AssertionError):
    """Somebody waits longer than the stated time."""


@dataclass(frozen=True, slots=True)
class Script:
    """Everything a number decides: facts by time, how long each job really runs, and when the play
    is cut off although jobs are left (0: when all have ended)."""

    kind: str
    facts: tuple[tuple[int, ev.Fact], ...]
    runs_ms: dict[str, int]
    leave_ms: int
    holds: int = 0  # each so manieth release by choice is held, and taken back; 0: none


def script(number: int) -> Script:
    """The play of a number: the same on every machine."""
    random = Random(f"madang/play/{number}")
    kind = KINDS[number % len(KINDS)]
    facts: list[tuple[int, ev.Fact]] = [(0, ev.ProjectSet(Project(id))) for id in PROJECTS]
    nodes = _nodes(random)
    facts += [(0, ev.NodeSeen(node)) for node in nodes]
    make = {"tenants": _tenants, "windows": _windows, "heads": _heads, "streams": _stream}[kind]
    added, runs_ms = make(random, nodes)
    leave_ms = random.choice((0, 500, LEAVE_MS_MAX))
    others = Random(f"madang/play/{number}/others")  # the rest of a play stays what it was
    shields = _shields(others, added) if kind == "tenants" and others.random() < 0.5 else []
    holds = others.choice((2, 3, 5)) if shields else 0
    if shields:
        added = [(at_ms, _meek(others, fact)) for at_ms, fact in added]
    told = tuple(sorted([*facts, *added, *shields], key=_at))
    return Script(kind, told, runs_ms, leave_ms, holds)


def _meek(random: Random, fact: ev.Fact) -> ev.Fact:
    """Some of the jobs make nobody leave."""
    if isinstance(fact, ev.JobSubmitted):
        return ev.JobSubmitted(replace(fact.job, preempts=random.random() < 0.8))
    return fact


def _shields(random: Random, added: Iterable[tuple[int, ev.Fact]]) -> list[tuple[int, ev.Fact]]:
    """Budgets that others keep: what they allow changes, some cover members of several jobs, and
    one is dropped."""
    found: list[tuple[int, ev.Fact]] = []
    names = [f"web/s{at}" for at in range(random.randint(1, 3))]
    for name in names:
        found.append((0, ev.ShieldSet(Shield(name, random.randint(0, 2)))))
        for _ in range(random.randint(0, 4)):
            shield = Shield(name, random.randint(0, 3))
            found.append((random.randint(1, 300_000), ev.ShieldSet(shield)))
    for at_ms, fact in added:
        if isinstance(fact, ev.JobSubmitted) and random.random() < 0.5:
            over = random.sample(names, random.randint(1, len(names)))
            by = tuple((name, random.randint(1, fact.job.members)) for name in sorted(over))
            found.append((at_ms, ev.JobShielded(fact.job.id, by)))
            if random.random() < 0.3:
                found.append((at_ms + 60_000, ev.JobShielded(fact.job.id, ())))
    if random.random() < 0.3:
        found.append((200_000, ev.SettingDropped("shields", names[0], "kubernetes")))
    return found


def _at(one: tuple[int, ev.Fact]) -> int:
    return one[0]


Added = tuple[list[tuple[int, ev.Fact]], dict[str, int]]


def _nodes(random: Random) -> list[Node]:
    gpus, wired = random.choice((2, 4, 4, 8)), random.random() < 0.3
    return [
        Node(
            f"n{at}",
            gpus,
            gpus * 8_000,
            gpus * 16_000,
            random.choice(("H100", "H100", "L4")) if at else "H100",
            domains=("b0", f"l{at // 2}") if wired else (),
        )
        for at in range(random.randint(1, 5))
    ]


def _job(random: Random, number: int, nodes: list[Node]) -> Job:
    """A job that fits when all is empty, as far as sizes tell."""
    most = nodes[0].gpus
    gpus = random.choice([size for size in (1, 1, 1, 2, 4, 8) if size <= most])
    members = random.choice((1, 1, 1, 2, 3)) if len(nodes) > 1 else 1
    share = gpus == 1 and members == 1 and random.random() < 0.15
    return Job(
        f"j{number}",
        number,
        random.choice(PROJECTS),
        Shape(gpus, 500 if share else 1000, cpu_milli=gpus * random.choice((0, 4_000, 8_000))),
        min(members, len(nodes) * most // gpus),
        submitted_ms=random.randint(1, 300_000),
        grace_ms=LEAVE_MS_MAX,
        checkpoints=random.random() < 0.6,
        preemptible=random.random() < 0.8,
    )


def _submitted(jobs: Iterable[Job]) -> list[tuple[int, ev.Fact]]:
    return [(job.submitted_ms, ev.JobSubmitted(job)) for job in jobs]


def _tenants(random: Random, nodes: list[Node]) -> Added:
    """Owners with guarantees, limits, cells and budgets; jobs of every class.

    In half of them the owner without a guarantee has borrowed the yard when the others come.
    """
    total = sum(node.gpus for node in nodes) * 1_000
    policy = random.choice((HASTY, HASTY, HASTY, POLICIES["srtf"], POLICIES["tiresias"], DEFAULT))
    facts: list[tuple[int, ev.Fact]] = [(0, ev.PolicySet(policy))]
    facts.append((0, ev.WorkspaceSet(Workspace("lab"))))
    facts.append((0, ev.ProjectSet(Project("web", "lab"))))
    facts += [(0, ev.QuotaSet(quota)) for quota in _quotas(random, total)]
    budgets = [
        DisruptionBudget(f"b{at}", random.choice(PROJECTS), random.randint(0, 2))
        for at in range(random.choice((0, 1, 2, 3)))
    ]
    facts += [(0, ev.BudgetSet(budget)) for budget in budgets]
    jobs, runs_ms, lent = [], {}, random.random() < 0.5
    for number in range(1, random.randint(10, 22)):
        job = _classed(random, _job(random, number, nodes))
        if job.milli > total // 2:  # nobody's limit is lower than what he asks for
            job = replace(job, shape=Shape(1), members=1)
        if lent:
            borrows = number < 8
            project = "web" if borrows else random.choice(PROJECTS[:2])
            at_ms = random.randint(1, 10_000) if borrows else random.randint(30_000, 120_000)
            job = replace(job, project=project, submitted_ms=at_ms)
        mine = [budget.id for budget in budgets if budget.project == job.project]
        if mine and random.random() < 0.6:
            job = replace(job, budget=random.choice(mine))
        jobs.append(job)
        runs_ms[job.id] = random.randint(60_000 if lent else 5_000, 240_000)
    stretched = Random(f"{jobs[-1]} {total}")  # of its own: the rest of a play stays what it was
    if stretched.random() < 0.5:
        jobs = [_stretched(stretched, job, total) for job in jobs]
    return [*facts, *_submitted(jobs)], runs_ms


def _stretched(random: Random, job: Job, total_milli: int) -> Job:
    """Some of the jobs as elastic gangs that may want more than any quota gives."""
    if random.random() < 0.6 or job.shape.gpus > 2:
        return job
    room = max(1, total_milli // 2 // job.shape.milli)
    members = random.randint(2, 2 * room + 1)
    least = random.randint(1, min(members - 1, room))
    shape = replace(job.shape, cpu_milli=0)
    restart_ms = random.choice((0, 1_000, 5_000))
    return replace(job, shape=shape, members=members, members_min=least, restart_ms=restart_ms)


def _quotas(random: Random, total_milli: int) -> list[Quota]:
    quotas, in_cells = [], random.random() < 0.4
    for owner in ("project:vision", "project:speech", "workspace:lab"):
        if random.random() < 0.8:
            guaranteed = random.choice((0, total_milli // 4, total_milli // 2))
            limit = random.choice((-1, -1, total_milli // 2))
            cells = ((random.choice(("gpu", "gpu", "2gpu", "node")), random.randint(1, 2)),)
            quota = Quota(owner, "*", "*", guaranteed, limit, random.choice((1, 1, 3)))
            quotas.append(replace(quota, cells=cells if in_cells else ()))
    return quotas


def _classed(random: Random, job: Job) -> Job:
    serves = random.random() < 0.15
    return replace(
        job,
        provisioning=random.choice(list(Provisioning)),
        category=Category.SERVING if serves else Category.TRAINING,
        purpose=Purpose.SERVICE if serves else Purpose.PRODUCE,
        priority=random.choice((0, 0, 0, 16, 40)),
        run_ms_min=random.choice((0, 0, 20_000)),
    )


def _windows(random: Random, nodes: list[Node]) -> Added:
    """Reservations in the calendar, some asked for late; every job has an estimate that holds."""
    policies = (HASTY, HASTY, DEFAULT, POLICIES["easy"], POLICIES["conservative"])
    facts: list[tuple[int, ev.Fact]] = [(0, ev.PolicySet(random.choice(policies)))]
    if random.random() < 0.3:
        facts.append((0, ev.BudgetSet(DisruptionBudget("b0", PROJECTS[0], random.randint(0, 1)))))
    windows = []
    for at in range(random.choice((1, 2, 3))):
        asked_ms = random.randint(0, 200_000)
        begin_ms = asked_ms + random.choice((30_000, 120_000, 900_000))
        window = Reservation(
            f"w{at}",
            random.choice(PROJECTS),
            Shape(random.choice((1, 2, nodes[0].gpus))),
            random.choice((1, 1, 2)),
            begin_ms,
            begin_ms + random.choice((60_000, 240_000)),
        )
        windows.append(window)
        facts.append((asked_ms, ev.ReservationSet(window)))
    jobs, runs_ms = [], {}
    for number in range(1, random.randint(10, 24)):
        job = _job(random, number, nodes)
        runs_ms[job.id] = random.randint(5_000, 300_000)
        estimate_ms = runs_ms[job.id] * random.choice((1, 1, 2))
        job = replace(job, estimate_ms=estimate_ms, run_ms_min=random.choice((0, 0, 30_000)))
        if windows[0].begin_ms > 600_000:
            job = replace(job, submitted_ms=job.submitted_ms * 3)
        mine = [w.id for w in windows if w.project == job.project and w.begin_ms > job.submitted_ms]
        if mine and random.random() < 0.3:
            job = replace(job, reservation=random.choice(mine), shape=Shape(1), members=1)
        elif job.project == PROJECTS[0] and random.random() < 0.5:
            job = replace(job, budget="b0" if any(_is_budget(one) for one in facts) else "")
        jobs.append(job)
    return [*facts, *_submitted(jobs)], runs_ms


def _is_budget(one: tuple[int, ev.Fact]) -> bool:
    return isinstance(one[1], ev.BudgetSet)


def _heads(random: Random, nodes: list[Node]) -> Added:
    """First come first served with backfill; every job has an estimate that holds."""
    policy = POLICIES[random.choice(("easy", "easy", "conservative"))]
    if random.random() < 0.3:
        policy = replace(policy, placement="madang")
    facts: list[tuple[int, ev.Fact]] = [(0, ev.PolicySet(policy))]
    jobs, runs_ms = [], {}
    for number in range(1, random.randint(14, 32)):
        job = _job(random, number, nodes)
        runs_ms[job.id] = random.randint(5_000, 200_000)
        estimate_ms = runs_ms[job.id] * random.choice((1, 1, 1, 3))
        wide = random.random() < 0.25
        members = len(nodes) if wide else job.members
        shape = replace(job.shape, gpus=nodes[0].gpus, gpu_milli=1000) if wide else job.shape
        jobs.append(replace(job, estimate_ms=estimate_ms, shape=shape, members=members))
    return [*facts, *_submitted(jobs)], runs_ms


def _stream(random: Random, nodes: list[Node]) -> Added:
    """A gang of half of the yard or more, before small jobs that come faster than they can end."""
    policy = random.choice((HASTY, HASTY, replace(HASTY, preempts=False), DEFAULT))
    facts: list[tuple[int, ev.Fact]] = [(0, ev.PolicySet(policy))]
    gpus = sum(node.gpus for node in nodes)
    jobs, runs_ms = [], {}
    gang_ms = random.randint(20_000, 60_000)
    step_ms = max(500, 60_000 // gpus)
    at_ms, number = 1, 1
    while at_ms < gang_ms + policy.patience_ms + 2 * RUN_MS_MAX:
        id = f"j{number}"
        jobs.append(
            Job(
                id,
                number,
                random.choice(PROJECTS),
                Shape(1, cpu_milli=1_000),
                submitted_ms=at_ms,
                checkpoints=random.random() < 0.5,
                preemptible=random.random() < 0.7,
                grace_ms=LEAVE_MS_MAX,
            )
        )
        runs_ms[id] = random.randint(RUN_MS_MAX // 2, RUN_MS_MAX)
        at_ms, number = at_ms + random.randint(step_ms // 2, step_ms), number + 1
    size = nodes[0].gpus
    gang = Job("gang", number, "web", Shape(size), members=-(-len(nodes) // 2), within="any")
    gang = replace(gang, submitted_ms=gang_ms, checkpoints=True, grace_ms=LEAVE_MS_MAX)
    runs_ms["gang"] = 10_000
    return [*facts, *_submitted([*jobs, gang])], runs_ms


# -- playing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a play that broke nothing. `seen`: turns that tested each property."""

    kind: str
    turns: int
    started: int
    moved_aside: int
    seen: tuple[tuple[str, int], ...]


def play(number: int, tell: Callable[[int, ev.Event], None] | None = None) -> Outcome:
    """Play to the end.

    Raises:
        AssertionError: an invariant is broken, or somebody waits longer than the stated time.
    """
    stage = _Stage(script(number), tell)
    stage.run()
    return stage.outcome()


class _Stage:
    def __init__(self, script: Script, tell: Callable[[int, ev.Event], None] | None) -> None:
        self.script, self.tell = script, tell
        self.controller, self.watch = Controller(), Watch()
        self.now_ms = self.turns = self.started = self.moved_aside = 0
        self.coming: list[tuple[int, int, ev.Fact]] = []
        self.left_ms = dict(script.runs_ms)
        self._order = 0
        self._promised_ms: dict[str, int] = {}  # heads: when each would have started at the latest
        self._gang_by_ms = self._by_choice = 0
        for at_ms, fact in script.facts:
            self._later(at_ms, fact)

    def _later(self, at_ms: int, fact: ev.Fact) -> None:
        self._order += 1
        heappush(self.coming, (at_ms, self._order, fact))

    def run(self) -> None:
        """Until all jobs have ended; a stream, until its gang has started."""
        state = self.controller.state
        while self.coming or state.jobs:
            due_ms = self.controller.due_ms(self.now_ms)
            times = [due_ms] if due_ms is not None else []
            times += [self.coming[0][0]] if self.coming else []
            if not times:
                self._look_at_rest()
                break
            self.now_ms = max(self.now_ms, min(times))
            self._turn()
            if self.turns > TURNS_MAX:
                raise NotLive(f"{self.turns} turns: it does not come to rest")
            if self.script.kind == "streams" and self._gang_is_done():
                break
        check(state)

    def _look_at_rest(self) -> None:
        """Nothing will ever happen again: who is left is firm, and waits for promised cells."""
        state = self.controller.state
        snapshot = state.snapshot(self.now_ms)
        for _, id in state.queue:
            job = state.jobs[id].job
            if not is_firm(job) or not isinstance(seat(snapshot, snapshot.pool, job), Unplaced):
                raise NotLive(f"will never start: {job}")
        require(not state.allocations, "somebody runs for ever", state.allocations)

    def _turn(self) -> None:
        facts: list[ev.Fact] = []
        while self.coming and self.coming[0][0] <= self.now_ms:
            fact = heappop(self.coming)[2]
            if not isinstance(fact, ev.MemberEnded) or self._still_holds(fact):
                facts.append(fact)
        state = self.controller.state
        step = self.controller.step(facts, self.now_ms)
        self.turns += 1
        for event in step.events if self.tell is not None else ():
            assert self.tell is not None, "as was asked"
            self.tell(self.now_ms, event)
        self.watch.look(state, step.decisions, self.now_ms)
        check_quota(state)  # in a play none is lowered
        if self.turns % CHECK_EVERY == 0:
            check(state)
        for decision in step.decisions:
            match decision:
                case ev.AllocationBound(allocation=allocation):
                    self.started += 1
                    for rank in range(len(allocation.seats)):
                        self._later(self.now_ms, ev.MemberStarted(allocation.id, rank, self.now_ms))
                        self._later(
                            self.now_ms + self.left_ms[allocation.job],
                            ev.MemberEnded(allocation.id, rank, Exit(0), self.now_ms),
                        )
                case ev.ReleaseAsked():
                    self._leave(decision)
        if self.script.kind == "heads":
            self._look_at_head()
        state.take_changed()
        state.forget_ended()

    def _still_holds(self, fact: ev.MemberEnded) -> bool:
        allocation = self.controller.state.allocations.get(fact.allocation)
        return allocation is not None and allocation.holds(fact.rank)

    def _is_held(self, asked: ev.ReleaseAsked) -> bool:
        """True iff nobody lets it end."""
        if not self.script.holds or asked.reason not in BY_CHOICE:
            return False
        self._by_choice += 1
        return self._by_choice % self.script.holds == 0

    def _hold(self, allocation: Allocation) -> None:
        """As an engine does: it goes on, and for a while nobody may ask it again."""
        held_ms = self.now_ms + self.script.leave_ms
        before = self.controller.state.jobs[allocation.job].standing.shields
        by = (*before, (HELD, len(allocation.seats)))
        self._later(held_ms, ev.ShieldSet(Shield(HELD, 0)))
        self._later(held_ms, ev.JobShielded(allocation.job, by))
        self._later(held_ms, ev.ReleaseHeld(allocation.id, "as the play says"))
        self._later(held_ms + HELD_MS, ev.JobShielded(allocation.job, before))

    def _leave(self, asked: ev.ReleaseAsked) -> None:
        """It ends soon, and goes on from its checkpoint, if it saves any; or is held."""
        state = self.controller.state
        if self._is_held(asked):
            self._hold(state.allocations[asked.allocation])
            return
        allocation = state.allocations[asked.allocation]
        self.moved_aside += asked.reason is ReleaseReason.PREEMPTED
        if state.jobs[allocation.job].job.checkpoints and allocation.running_ms:
            ran_ms = self.now_ms - allocation.running_ms
            self.left_ms[allocation.job] = max(1, self.left_ms[allocation.job] - ran_ms)
        end_ms = self.now_ms + self.script.leave_ms
        for rank in range(len(allocation.seats)):
            self._later(end_ms, ev.MemberEnded(allocation.id, rank, Exit(143), end_ms))

    def _look_at_head(self) -> None:
        """The first in the queue starts when it would have if nobody else were ever started."""
        state = self.controller.state
        for id in [id for id in self._promised_ms if id not in state.jobs or not _waits(state, id)]:
            by_ms = self._promised_ms.pop(id)
            require(self.now_ms <= by_ms, "the head was delayed", id, self.now_ms, by_ms)
        for id, by_ms in self._promised_ms.items():
            require(self.now_ms <= by_ms, "the head is delayed", id, self.now_ms, by_ms)
        snapshot = state.snapshot(self.now_ms)
        head = next((id for _, id in ordered(snapshot)), "")
        if head and head not in self._promised_ms:
            by_ms = earliest_ms(state, head, self.now_ms)
            require(by_ms != NEVER_MS, "nobody knows when the head starts", head)
            self._promised_ms[head] = by_ms
            self.watch.seen[QUEUE] += 1

    def _gang_is_done(self) -> bool:
        """The gang of a stream has started. It does so once it has lost patience and those have
        ended who were there before: who runs then, and each who waited before it did, one after
        the other at worst. Under HOLD nobody passes it from the beginning."""
        state = self.controller.state
        live = state.jobs.get("gang")
        if live is None or live.allocation is not None:
            return bool(self._gang_by_ms)
        if not self._gang_by_ms:
            before = sum(not one.allocation for one in state.jobs.values()) - 1
            longest_ms = RUN_MS_MAX + self.script.leave_ms
            gpus = int(state.pool.gpu_count.sum())
            rounds = 2 + -(-before // gpus)
            self._gang_by_ms = self.now_ms + state.policy.patience_ms + rounds * longest_ms
            self.watch.seen[STARVATION] += 1
        if self.now_ms > self._gang_by_ms:
            raise NotLive(f"the gang waits beyond {self._gang_by_ms}: {live}")
        return False

    def outcome(self) -> Outcome:
        seen = tuple(self.watch.seen.items())
        return Outcome(self.script.kind, self.turns, self.started, self.moved_aside, seen)


def _waits(state: State, id: str) -> bool:
    return state.jobs[id].allocation is None


# -- the command line ------------------------------------------------------------------------------


def main() -> int:
    """The command line; exit status 1 if any play fails."""
    parser = argparse.ArgumentParser(prog="python -m madang.sim.plays", description=__doc__)
    parser.add_argument("--play", type=int, help="play this one")
    parser.add_argument("--plays", type=int, default=400, help="play so many")
    parser.add_argument("--first", type=int, default=0, help="beginning with this one")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    parser.add_argument("--verbose", action="store_true", help="tell every event")
    options = parser.parse_args()
    if options.play is not None:
        print(play(options.play, _print_event if options.verbose else None))
        return 0
    begin_s, failed, turns = time.process_time(), 0, 0
    scenarios = Counter(dict.fromkeys(PROPERTIES, 0))
    for number in range(options.first, options.first + options.plays):
        try:
            outcome = play(number)
        except (AssertionError, KeyError) as broken:
            failed += 1
            print(f"play {number}: {type(broken).__name__}: {broken}", file=sys.stderr)
            if options.stop:
                break
            continue
        turns += outcome.turns
        scenarios.update(name for name, count in outcome.seen if count)
    took_s = time.process_time() - begin_s
    print(f"{options.plays} plays, {failed} failed, {turns} turns in {took_s:.1f} s of CPU")
    for name in PROPERTIES:
        print(f"{scenarios[name]:>7}  {name}")
    return 1 if failed else 0


def _print_event(now_ms: int, event: ev.Event) -> None:
    print(f"{now_ms:>9} {encode_event(event)}")


if __name__ == "__main__":
    sys.exit(main())
