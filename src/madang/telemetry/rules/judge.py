"""When a rule is broken and when it is kept: hysteresis over all rules and allocations at once.

A rule is broken once its number has been on the wrong side at each look for the rule's time, and
kept once it has been on the right side for as long. An unknown number begins that time anew in both
directions, and so does a pause of more than a minute in which nobody looked: from what is missing
nothing follows. What is broken already is the caller's to know (it outlives a restart here).

Letters: R rules, A running allocations.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.rules import SEVERITIES, Rule
from madang.telemetry.rules.measures import Measure, Measurer, measure_of, ticks_of
from madang.telemetry.store import Store

GAP_TICKS_MAX = 6
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
    """Looks at all running allocations, once a tick. One thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tick = NEVER
        self._rules: tuple[Rule, ...] = ()
        self._runs: tuple[Run, ...] = ()
        self._scope: Flags = np.zeros((0, 0), np.bool_)
        self._since = np.zeros((0, 0), np.int64)  # (R, A) since when it is not as it was told
        self._was_told: Flags = np.zeros((0, 0), np.bool_)

    def look(
        self,
        rules: Sequence[Rule],
        runs: Sequence[Run],
        broken: Collection[tuple[str, str]],
    ) -> list[Turned]:
        """What has turned by the newest tick, gravest first. `broken`: (rule, allocation)."""
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
        self._since[told != self._was_told] = NEVER  # another time begins, in the other direction
        self._was_told = told
        values = self._values(measurer)
        limit = np.array([float(one.threshold) for one in self._rules])[:, None]
        is_above = np.array([one.is_above for one in self._rules])[:, None]
        with np.errstate(invalid="ignore"):
            is_wrong = np.where(is_above, values > limit, values < limit)
        differs = ~np.isnan(values) & (is_wrong != told)
        self._since = np.where(
            differs, np.where(self._since == NEVER, self._tick, self._since), NEVER
        )
        hold = np.array([ticks_of(one.hold_ms) for one in self._rules])[:, None]
        due = differs & (self._tick - self._since >= hold)
        found = [
            Turned(
                self._rules[rule],
                self._runs[run].allocation,
                bool(is_wrong[rule, run]),
                float(values[rule, run]),
            )
            for rule, run in np.argwhere(due).tolist()
        ]
        return sorted(found, key=lambda one: -SEVERITIES.index(one.rule.severity))

    def _take_in(self, rules: tuple[Rule, ...], runs: tuple[Run, ...]) -> None:
        """Scopes anew if rules or runs are others; what goes on of both keeps its time."""
        if rules == self._rules and runs == self._runs:
            return
        old_rule = {one: at for at, one in enumerate(self._rules)}
        old_run = {one.allocation: at for at, one in enumerate(self._runs)}
        since = np.full((len(rules), len(runs)), NEVER, np.int64)
        told = np.zeros((len(rules), len(runs)), np.bool_)
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
        self._rules, self._runs, self._since, self._was_told = rules, runs, since, told
        self._scope = scopes(rules, runs)

    def _told(self, broken: Collection[tuple[str, str]]) -> Flags:
        row = {one.id: at for at, one in enumerate(self._rules)}
        column = {one.allocation: at for at, one in enumerate(self._runs)}
        told = np.zeros((len(self._rules), len(self._runs)), np.bool_)
        for rule, allocation in broken:
            if rule in row and allocation in column:
                told[row[rule], column[allocation]] = True
        return told

    def _values(self, measurer: Measurer) -> NDArray[np.float64]:
        """(R, A): NaN also for those that a rule is not about, or that are too young for it."""
        wanted: dict[tuple[Measure, bool], Flags] = {}
        keys = []
        after = np.array([ticks_of(one.after_ms) for one in self._rules])
        scope = self._scope & (measurer.age >= after[:, None])
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
