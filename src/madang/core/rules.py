"""Violation rules, and who breaks which: rows of the settings. What they mean is done by telemetry.

A rule compares one number of a running allocation with a threshold. It is broken once that has held
for `hold_ms`, and kept again once it has not for as long; what is not measured changes neither.
Thresholds and values are decimal text: the journal holds no floats, and nothing here reckons.
"""

from collections.abc import Mapping
from dataclasses import dataclass

QUANTILES = ("p5", "p25", "p50", "p95", "p99")
OVER_WINDOW = ("mean", "min", "max", "sum")
SEVERITIES = ("info", "warning", "critical")  # from the least
RULES_MAX = 1_000
RULES_OWN_MAX = 20  # of one member
BROKEN_MAX = 64  # rules that one allocation is told to break
VIOLATORS_MAX = 10_000  # allocations that are told to break something
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS


@dataclass(frozen=True, slots=True)
class Rule:
    """`how` (a quantile, or mean, min, max, sum) of `metric` over the last `window_ms`, or since
    the start (0: quantiles only), is below or above `threshold` for `hold_ms`.

    It is for allocations that have run for `after_ms`, whose job has one of the categories,
    projects, ids or names, and machine groups (empty: any), and is of `owner` ("": anybody's). With
    `spares_idle_ok` jobs that may be idle are left alone. `by` is who set it ("": it is shipped).
    """

    id: str
    metric: str
    how: str
    window_ms: int
    is_above: bool
    threshold: str
    hold_ms: int = 0
    after_ms: int = 0
    severity: str = "warning"
    text: str = ""
    categories: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    owner: str = ""
    spares_idle_ok: bool = False
    is_on: bool = True
    by: str = ""

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that an allocation breaks: since when, and by which value then."""

    rule: str
    since_ms: int
    value: str
    severity: str
    text: str


@dataclass(frozen=True, slots=True)
class Violations:
    """All rules that a live allocation breaks, oldest first. Told by sensors, kept as a setting."""

    allocation: str
    job: str
    broken: tuple[Broken, ...]

    @property
    def key(self) -> str:
        return self.allocation


_WORKS = ("training", "data")
# NSML's two (quantiles of the utilisation since the start: DEVIEW 2023), and devices that are held
# and not used. The numbers are ours; docs/rules.md says why they are these.
SHIPPED: Mapping[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule(
            "idle-held",
            "gpu_util_percent",
            "max",
            30 * _MINUTE_MS,
            is_above=False,
            threshold="5",
            hold_ms=30 * _MINUTE_MS,
            severity="critical",
            text="It holds GPUs and none of them works: stop it, or mark it idle_ok.",
            categories=("training", "data", "interactive"),
            spares_idle_ok=True,
        ),
        Rule(
            "low-use-p25",
            "gpu_util_percent",
            "p25",
            0,
            is_above=False,
            threshold="20",
            hold_ms=10 * _MINUTE_MS,
            after_ms=_HOUR_MS,
            text="A quarter of the time its GPUs hardly work: look at its input and checkpoints.",
            categories=_WORKS,
            spares_idle_ok=True,
        ),
        Rule(
            "low-use-p95",
            "gpu_util_percent",
            "p95",
            0,
            is_above=False,
            threshold="50",
            hold_ms=10 * _MINUTE_MS,
            after_ms=_HOUR_MS,
            text="Its GPUs are never busy: it would do with fewer, or with a share of one.",
            categories=_WORKS,
            spares_idle_ok=True,
        ),
    )
}


def rules_of(kept: Mapping[str, Rule]) -> dict[str, Rule]:
    """Those that are shipped and those that were set, by name; what was set goes first."""
    return {**SHIPPED, **kept}


def span_words(ms: int) -> str:
    """`30m`, `90s`."""
    for unit, of_ms in (("d", 86_400_000), ("h", _HOUR_MS), ("m", _MINUTE_MS), ("s", 1_000)):
        if ms and ms % of_ms == 0:
            return f"{ms // of_ms}{unit}"
    return f"{ms}ms"


def measured_words(rule: Rule, value: str) -> str:
    """`p25 of gpu_util_percent since the start is 3, below 20`."""
    over = f"over {span_words(rule.window_ms)}" if rule.window_ms else "since the start"
    side = "above" if rule.is_above else "below"
    return f"{rule.how} of {rule.metric} {over} is {value}, {side} {rule.threshold}"


def severest(broken: tuple[Broken, ...]) -> str:
    """The gravest severity among them; "" of none."""
    return max((one.severity for one in broken), key=SEVERITIES.index, default="")
