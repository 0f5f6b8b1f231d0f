"""The part of the fold that is about violation rules. See state.py.

Nothing here lets a waiting job start or moves a running one: what is planned stays as it is.
"""

from dataclasses import replace

from madang.core import events as ev
from madang.core.lifecycle import LIVELY
from madang.core.rules import (
    BROKEN_MAX,
    RULES_MAX,
    VIOLATORS_MAX,
    Broken,
    Rule,
    Violations,
    rules_of,
)
from madang.core.settings import KIND_OF
from madang.core.state_rows import StateRows


class RulesFold(StateRows):
    """See the module's docstring."""

    def _rule_set(self, event: ev.RuleSet, now_ms: int) -> bool:
        """Another rule of that name: whoever broke the one before is judged anew."""
        known = self.settings.rules
        if known.get(event.rule.id) == event.rule:
            return False
        if event.rule.id not in known and len(known) >= RULES_MAX:
            return False
        self.settings.put(event.rule)
        self.changed.settings[KIND_OF[Rule], event.rule.id] = None
        self.forget_rule(event.rule.id)
        return True

    def _rule_broken(self, event: ev.RuleBroken, now_ms: int) -> bool:
        rule = rules_of(self.settings.rules).get(event.rule)
        allocation = self.allocations.get(event.allocation)
        if rule is None or not rule.is_on or allocation is None or allocation.state not in LIVELY:
            return False
        before = self.settings.violations.get(event.allocation)
        if before is None:
            if len(self.settings.violations) >= VIOLATORS_MAX:
                return False
            before = Violations(allocation.id, allocation.job, ())
        if len(before.broken) >= BROKEN_MAX or any(one.rule == event.rule for one in before.broken):
            return False
        at_ms = min(event.at_ms, now_ms)
        broken = Broken(event.rule, at_ms, event.value, event.severity, event.text)
        self._put_violations(replace(before, broken=(*before.broken, broken)))
        return True

    def _rule_kept(self, event: ev.RuleKept, now_ms: int) -> bool:
        return self._drop_broken(event.allocation, event.rule)

    def _drop_broken(self, allocation: str, rule: str) -> bool:
        before = self.settings.violations.get(allocation)
        if before is None:
            return False
        left = tuple(one for one in before.broken if one.rule != rule)
        if len(left) == len(before.broken):
            return False
        self._put_violations(replace(before, broken=left))
        return True

    def _put_violations(self, violations: Violations) -> None:
        if violations.broken:
            self.settings.put(violations)
        else:
            self.settings.drop(KIND_OF[Violations], violations.allocation)
        self.changed.settings[KIND_OF[Violations], violations.allocation] = None

    def forget_rule(self, rule: str) -> None:
        """There is no such rule any more: nobody breaks it."""
        for allocation in list(self.settings.violations):
            self._drop_broken(allocation, rule)

    def end_violations(self, allocation: str) -> None:
        """The allocation is about to end, and what it broke with it."""
        if self.settings.drop(KIND_OF[Violations], allocation):
            self.changed.settings[KIND_OF[Violations], allocation] = None
