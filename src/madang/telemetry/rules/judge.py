"""When a rule is broken and when it is kept: hysteresis over all rules and allocations at once.

A rule is broken once its number has been on the wrong side at each look for the rule's time, and
kept once it has been on the right side for as long. An unknown number begins that time anew in both
directions, and so does a pause of more than a minute in which nobody looked: from what is missing
nothing follows. What is broken already is the caller's to know (it outlives a restart here).

Times that go on outlive a restart, too: the caller keeps `times` and gives them to the next judge.
Nothing falls due by them for two minutes; agents have sent by then what they kept while there was
nobody to take it. Then the ring is looked at from the last look before the restart, up to thirty
times: who was right at one of these, or is not known there, begins anew after it. A pause that has
left the ring, or nearly, begins all anew.

Letters: R rules, A running allocations.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.rules import SEVERITIES, Rule
from madang.telemetry.ring import TICKS
from madang.telemetry.rules.measures import Measure, Measurer, measure_of, ticks_of
from madang.telemetry.rules.times import Time, Times, mark_of
from madang.telemetry.store import Store

GAP_TICKS_MAX = 6
LATE_TICKS = 12  # what agents kept during a pause is here by then
LOOKS_BACK_MAX = 30
TURNED_MAX = 1_000  # at once
NEVER = -1

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Run:
    """A running allocation, as far as a rule's scope asks."""

    allocation: str
    job: str
    project: str
    category: str
    group: str
    owner: str
    idle_ok: bool

    @property
    def name(self) -> str:
        """`digits` of `digits-42`."""
        return self.job.rpartition("-")[0] or self.job


@dataclass(frozen=True, slots=True)
class Turned:
    """A rule that an allocation breaks from now on, or keeps again."""

    rule: Rule
    allocation: str
    is_broken: bool
    value: float


def is_for(rule: Rule, run: Run) -> bool:
    """True iff the rule is about such a run."""
    return (
        (not rule.categories or run.category in rule.categories)
        and (not rule.projects or run.project in rule.projects)
        and (not rule.jobs or run.job in rule.jobs or run.name in rule.jobs)
        and (not rule.groups or run.group in rule.groups)
        and (not rule.owner or run.owner == rule.owner)
        and not (rule.spares_idle_ok and run.idle_ok)
    )


class Judge:
    """Looks at all running allocations, once a tick. One thread. `kept` are the times of a judge
    before it.
    """

    def __init__(self, store: Store, kept: Times | None = None) -> None:
        self._store = store
        self._kept = kept
        self._tick = NEVER
        self._rules: tuple[Rule, ...] = ()
        self._runs: tuple[Run, ...] = ()
        self._scope: Flags = np.zeros((0, 0), np.bool_)
        self._since = np.zeros((0, 0), np.int64)  # (R, A) since when it is not as it was told
        self._was_told: Flags = np.zeros((0, 0), np.bool_)
        self._unsure: Flags = np.zeros((0, 0), np.bool_)  # (R, A) to be looked back at
        self._pause = (0, 0)  # ticks: the last look before a restart, and the first after it

    def look(
        self,
        rules: Sequence[Rule],
        runs: Sequence[Run],
        broken: Collection[tuple[str, str]],
    ) -> list[Turned]:
        """What has turned by the newest tick, gravest first, TURNED_MAX at most: the rest turns
        with the next. `broken`: (rule, allocation).
        """
        measurer = Measurer(self._store, [one.allocation for one in runs])
        if measurer.tick <= self._tick and self._tick != NEVER:
            return []
        self._take_in(tuple(one for one in rules if one.is_on), tuple(runs))
        if measurer.tick - self._tick > GAP_TICKS_MAX:
            self._since[:] = NEVER
        self._tick = measurer.tick
        if not self._rules or not self._runs or self._tick < 0:
            return []
        told = self._told(broken)
        if self._kept is not None:
            self._take_up(self._kept)
            self._kept = None
        turned = told != self._was_told
        self._since[turned] = NEVER  # another time begins, in the other direction
        self._unsure &= ~turned & (self._since != NEVER)
        self._was_told = told
        if self._unsure.any() and self._tick >= self._pause[1] + LATE_TICKS:
            self._look_back()
        values = self._values(measurer, self._scope)
        is_wrong = self._is_wrong(values)
        differs = self._timed(values, is_wrong, ~self._unsure, self._tick)
        hold = np.array([ticks_of(one.hold_ms) for one in self._rules])[:, None]
        due = differs & (self._tick - self._since >= hold) & ~self._unsure
        return self._turned(due, is_wrong, values)

    def _turned(self, due: Flags, is_wrong: Flags, values: NDArray[np.float64]) -> list[Turned]:
        rows, columns = np.nonzero(due)
        severity = np.array([SEVERITIES.index(one.severity) for one in self._rules])
        order = np.argsort(-severity[rows], kind="stable")[:TURNED_MAX]
        return [
            Turned(
                self._rules[rule],
                self._runs[run].allocation,
                bool(is_wrong[rule, run]),
                float(values[rule, run]),
            )
            for rule, run in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
        ]

    def _timed(
        self, values: NDArray[np.float64], is_wrong: Flags, where: Flags, tick: int
    ) -> Flags:
        """(R, A) what is not as it was told at this tick; `where` times begin, go on and end."""
        differs = ~np.isnan(values) & (is_wrong != self._was_told)
        going = np.where(differs, np.where(self._since == NEVER, tick, self._since), NEVER)
        self._since = np.where(where, going, self._since)
        return np.asarray(differs, np.bool_)

    def _is_wrong(self, values: NDArray[np.float64]) -> Flags:
        limit = np.array([float(one.threshold) for one in self._rules])[:, None]
        is_above = np.array([one.is_above for one in self._rules])[:, None]
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(is_above, values > limit, values < limit), np.bool_)

    # -- over a restart ----------------------------------------------------------------------------

    @property
    def times(self) -> Times:
        """What goes on: to be kept, and given to the judge after a restart."""
        if self._kept is not None:  # it has not looked yet
            return self._kept
        if self._tick < 0 or not self._rules:
            return Times(self._store.ring.tick_ms, self._tick, ())
        last = self._pause[0] if self._unsure.any() else self._tick
        marks = [mark_of(one) for one in self._rules]
        going = np.argwhere(self._since != NEVER).tolist()
        return Times(
            self._store.ring.tick_ms,
            last,
            tuple(
                Time(
                    marks[rule],
                    self._runs[run].allocation,
                    int(self._since[rule, run]),
                    bool(self._was_told[rule, run]),
                )
                for rule, run in going
            ),
        )

    def _take_up(self, kept: Times) -> None:
        """Times of the judge before, as far as rules and runs are the same."""
        pause = self._tick - kept.tick
        if kept.tick_ms != self._store.ring.tick_ms or not 0 <= pause <= TICKS - LATE_TICKS:
            return
        row = {mark_of(one): at for at, one in enumerate(self._rules)}
        column = {one.allocation: at for at, one in enumerate(self._runs)}
        for one in kept.going:
            if one.rule in row and one.allocation in column and one.since <= self._tick:
                at = row[one.rule], column[one.allocation]
                self._since[at] = one.since
                self._was_told[at] = one.is_broken
                self._unsure[at] = True
        self._pause = kept.tick, self._tick

    def _look_back(self) -> None:
        """What is unsure, from the last look before the restart to now."""
        before = self._pause[0]
        step = -(-(self._tick - before) // LOOKS_BACK_MAX)
        for tick in range(before + 1, self._tick, step):
            measurer = Measurer(self._store, [one.allocation for one in self._runs], tick)
            values = self._values(measurer, self._unsure)
            self._timed(values, self._is_wrong(values), self._unsure, tick)
        self._unsure = np.zeros_like(self._unsure)

    # -- what is looked at -------------------------------------------------------------------------

    def _take_in(self, rules: tuple[Rule, ...], runs: tuple[Run, ...]) -> None:
        """Scopes anew if rules or runs are others; what goes on of both keeps its time."""
        if rules == self._rules and runs == self._runs:
            return
        old_rule = {one: at for at, one in enumerate(self._rules)}
        old_run = {one.allocation: at for at, one in enumerate(self._runs)}
        since = np.full((len(rules), len(runs)), NEVER, np.int64)
        told = np.zeros((len(rules), len(runs)), np.bool_)
        unsure = np.zeros((len(rules), len(runs)), np.bool_)
        kept_rules = [(at, old_rule[one]) for at, one in enumerate(rules) if one in old_rule]
        kept_runs = [
            (at, old_run[one.allocation])
            for at, one in enumerate(runs)
            if one.allocation in old_run
        ]
        if kept_rules and kept_runs:
            to = np.ix_([one for one, _ in kept_rules], [one for one, _ in kept_runs])
            of = np.ix_([one for _, one in kept_rules], [one for _, one in kept_runs])
            since[to], told[to] = self._since[of], self._was_told[of]
            unsure[to] = self._unsure[of]
        self._rules, self._runs, self._since, self._was_told = rules, runs, since, told
        self._unsure = unsure
        self._scope = scopes(rules, runs)

    def _told(self, broken: Collection[tuple[str, str]]) -> Flags:
        row = {one.id: at for at, one in enumerate(self._rules)}
        column = {one.allocation: at for at, one in enumerate(self._runs)}
        told = np.zeros((len(self._rules), len(self._runs)), np.bool_)
        for rule, allocation in broken:
            if rule in row and allocation in column:
                told[row[rule], column[allocation]] = True
        return told

    def _values(self, measurer: Measurer, asked: Flags) -> NDArray[np.float64]:
        """(R, A): NaN also where nobody asked, or for those that are too young for a rule."""
        wanted: dict[tuple[Measure, bool], Flags] = {}
        keys = []
        after = np.array([ticks_of(one.after_ms) for one in self._rules])
        scope = asked & (measurer.age >= after[:, None])
        for at, rule in enumerate(self._rules):
            key = (measure_of(rule), rule.is_above)
            keys.append(key)
            known = wanted.get(key)
            wanted[key] = scope[at] if known is None else known | scope[at]
        found = measurer.values(wanted)
        values = np.stack([found[key] for key in keys])
        values[~scope] = np.nan
        return values


def scopes(rules: Sequence[Rule], runs: Sequence[Run]) -> Flags:
    """(R, A): which rule is about which run. What `is_for` says, in one pass a rule."""
    made = np.ones((len(rules), len(runs)), np.bool_)
    if not runs:
        return made
    category, project, group, owner, job, name = (
        _Coded([getattr(run, field) for run in runs])
        for field in ("category", "project", "group", "owner", "job", "name")
    )
    idle_ok = np.array([run.idle_ok for run in runs])
    for at, rule in enumerate(rules):
        if rule.categories:
            made[at] &= category.among(rule.categories)
        if rule.projects:
            made[at] &= project.among(rule.projects)
        if rule.groups:
            made[at] &= group.among(rule.groups)
        if rule.owner:
            made[at] &= owner.among((rule.owner,))
        if rule.jobs:
            made[at] &= job.among(rule.jobs) | name.among(rule.jobs)
        if rule.spares_idle_ok:
            made[at] &= ~idle_ok
    return made


class _Coded:
    """Words as numbers, so that they are compared all at once."""

    def __init__(self, words: Sequence[str]) -> None:
        self._codes = {word: at for at, word in enumerate(dict.fromkeys(words))}
        self._array = np.array([self._codes[word] for word in words])

    def among(self, words: Sequence[str]) -> Flags:
        codes = [self._codes[word] for word in words if word in self._codes]
        return np.isin(self._array, codes) if len(codes) > 1 else self._array == (codes or [-1])[0]
