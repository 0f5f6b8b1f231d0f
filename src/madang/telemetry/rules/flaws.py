"""What speaks against a rule that its words alone do not show: does anybody measure that?"""

import difflib

from madang.core.rules import QUANTILES, Rule
from madang.telemetry.frames import Subject
from madang.telemetry.metrics import METRICS, metric_of
from madang.telemetry.ring import TICK_MS, TICKS

WINDOW_MS_MAX = TICKS * TICK_MS


def flaw_of(rule: Rule) -> str:
    """Why the rule can't be, with what is allowed; "" if it can."""
    metric = metric_of(rule.metric)
    if metric is None:
        near = difflib.get_close_matches(rule.metric, METRICS, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        return (
            f"there is no metric {rule.metric!r}{meant}; allowed: the names of "
            "GET /v1/metrics/names, and report_NAME of what jobs report"
        )
    if rule.window_ms > WINDOW_MS_MAX:
        return f"a window of {rule.window_ms // 1000} s; at most an hour, or since the start"
    if rule.window_ms:
        return ""
    if rule.how not in QUANTILES:
        return f'{rule.how} needs a window, as window = "10m"; since the start there are quantiles'
    if metric.subject in (Subject.NODE, Subject.PORT):
        return (
            f"{rule.metric} is not kept since the start: quantiles are kept of GPUs, members and "
            'reports; give the rule a window, as window = "10m"'
        )
    return ""
