"""Violation rules and who breaks them, as the API shows them. Pure functions."""

from collections import Counter
from collections.abc import Mapping

from madang.core.model import WHOLE_GPU_MILLI
from madang.core.rules import SEVERITIES, SHIPPED, Rule, Violations, rules_of
from madang.core.snapshot import Snapshot
from madang.wire import rules as wire

SHOWN_MAX = 2_000


def file_of(rule: Rule) -> wire.RuleFile:
    """A rule as one writes it."""
    scope = {
        "category": list(rule.categories),
        "project": list(rule.projects),
        "job": list(rule.jobs),
        "group": list(rule.groups),
        "owner": rule.owner,
        "spares_idle_ok": rule.spares_idle_ok,
    }
    stated = {
        "metric": rule.metric,
        "quantile" if rule.how.startswith("p") else "value": rule.how,
        "above" if rule.is_above else "below": float(rule.threshold),
        "for": f"{rule.hold_ms}ms",
        "after": f"{rule.after_ms}ms",
        "severity": rule.severity,
        "text": rule.text,
        "scope": {key: value for key, value in scope.items() if value},
        "enabled": rule.is_on,
    }
    if rule.window_ms:
        stated["window"] = f"{rule.window_ms}ms"
    return wire.RuleFile.model_validate(stated)


def rule_views(snapshot: Snapshot) -> list[wire.RuleView]:
    """All rules by name, and how many break each."""
    counts = Counter(
        one.rule for row in snapshot.settings.violations.values() for one in row.broken
    )
    return [
        rule_view(rule, counts[name])
        for name, rule in sorted(rules_of(snapshot.settings.rules).items())
    ]


def rule_view(rule: Rule, broken: int) -> wire.RuleView:
    file = file_of(rule)
    more = {
        "name": rule.id,
        "by": rule.by,
        "is_shipped": rule.id in SHIPPED,
        "broken": broken,
        "toml": wire.toml_of(rule.id, file),
    }
    # As JSON, where times have their unit: a bare number is read as seconds.
    return wire.RuleView.model_validate({**file.model_dump(mode="json", by_alias=True), **more})


def violation_list(snapshot: Snapshot) -> wire.ViolationListView:
    """See the view."""
    rules = rules_of(snapshot.settings.rules)
    found = [
        _violation(snapshot, rules[one.rule], row, at)
        for row in snapshot.settings.violations.values()
        for at, one in enumerate(row.broken)
        if one.rule in rules
    ]
    found.sort(
        key=lambda one: (-SEVERITIES.index(one.severity), -one.gpus, one.since_ms, one.allocation)
    )
    return wire.ViolationListView(violations=found[:SHOWN_MAX], count=len(found))


def _violation(snapshot: Snapshot, rule: Rule, row: Violations, at: int) -> wire.ViolationView:
    broken = row.broken[at]
    live = snapshot.jobs.get(row.job)
    held = snapshot.allocations.get(row.allocation)
    milli = held.shape.milli * len(held.seats) if held is not None else 0
    return wire.ViolationView(
        rule=rule.id,
        severity=broken.severity,
        job=row.job,
        allocation=row.allocation,
        project=live.job.project if live else "",
        owner=live.job.owner if live else "",
        gpus=-(-milli // WHOLE_GPU_MILLI),
        since_ms=broken.since_ms,
        metric=rule.metric,
        how=rule.how,
        window_ms=rule.window_ms,
        is_above=rule.is_above,
        threshold=float(rule.threshold),
        value=float(broken.value),
        text=broken.text,
        advice=rule.text,
    )


def broken_views(violations: Mapping[str, Violations], allocation: str) -> list[wire.BrokenView]:
    """What an allocation breaks, gravest first."""
    row = violations.get(allocation)
    if row is None:
        return []
    return [
        wire.BrokenView(
            rule=one.rule,
            severity=one.severity,
            since_ms=one.since_ms,
            text=one.text,
        )
        for one in sorted(row.broken, key=lambda one: -SEVERITIES.index(one.severity))
    ]
