"""Idle GPUs: who is warned, who loses them, and who never does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.idle_rule import IdleRule
from madang.core.model import Category
from madang.core.policy import DEFAULT, Policy
from tests.core.yard import Yard

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
RULE = IdleRule(util_pct=5, idle_ms=30 * MINUTE_MS, grace_ms=20 * MINUTE_MS, takes=True)
POLICY = Policy("takes", idle_rules=(RULE,), idle_young_ms=0)


class Idlers(Yard):
    """A yard in which `a` runs on two GPUs, and a sensor."""

    def __init__(self, policy: Policy = POLICY, **job: object) -> None:
        super().__init__("n1: AA..")
        self.state.policy = policy
        live = self.state.jobs["a"]
        live.job = replace(live.job, **job)  # type: ignore[arg-type]

    def measured(self, *util_pct: int | None, window_ms: int = 10 * MINUTE_MS) -> list[str]:
        """Windows of ten minutes, one after the other (None: nothing was heard); all decisions."""
        decisions: list[str] = []
        for percent in util_pct:
            at_ms = self.now_ms + window_ms
            if percent is not None:
                self.fact(ev.JobMeasured("a", percent, window_ms, at_ms, percent))
            self.turn(wait_ms=window_ms)
            decisions += self.decisions()
        return decisions


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([0, 0], []),
        ([0, 0, 0], ["warn"]),
        ([0, 0, 0, 0], ["warn"]),
        ([0, 0, 0, 0, 0], ["warn", "release"]),
        ([4, 4, 4, 4, 4], ["warn", "release"]),
        # a busy window ends the streak, and with it the warning
        ([0, 0, 50, 0, 0], []),
        ([0, 0, 5, 0, 0], []),
        ([0, 0, 0, 50, 0, 0, 0], ["warn", "warn"]),
        ([0, 0, 0, 0, 50, 0, 0, 0, 0, 0], ["warn", "warn", "release"]),
        # what was not measured is not idle
        ([0, 0, None, 0, 0], []),
        ([0, 0, 0, None, 0, 0], ["warn"]),
        ([0, 0, 0, None, None, None, None], ["warn"]),
        ([None] * 12, []),
    ],
)
def test_who_stays_idle_is_warned_and_then_loses_the_gpus(windows, expected):
    found = [word.split()[0] for word in Idlers().measured(*windows)]

    assert found == expected


@pytest.mark.parametrize(
    ("job", "policy", "expected"),
    [
        ({"idle_ok": True}, POLICY, []),
        ({}, replace(POLICY, idle_rules=()), []),
        ({}, replace(POLICY, idle_rules=(replace(RULE, takes=False),)), ["warn a idle 0"]),
        ({}, replace(POLICY, idle_young_ms=HOUR_MS), ["warn a idle 0"]),
        ({"category": Category.SERVING}, DEFAULT, []),
        ({"category": Category.TRAINING}, DEFAULT, ["warn a idle 0"]),
        ({"category": Category.INTERACTIVE}, DEFAULT, ["warn a idle 0"]),
        (
            {},  # on demand
            replace(POLICY, idle_rules=(replace(RULE, provisioning="spot"),)),
            [],
        ),
        (
            {"category": Category.DATA},
            # the first that matches decides
            replace(POLICY, idle_rules=(replace(RULE, category="data", takes=False), RULE)),
            ["warn a idle 0"],
        ),
    ],
)
def test_the_rule_of_its_kind_decides(job, policy, expected):
    idlers = Idlers(policy, **job)
    found = idlers.measured(*[0] * 15)
    if policy.idle_young_ms == HOUR_MS:
        expected = [f"warn a idle {1_000_000 + 110 * MINUTE_MS}", "release a.1 reclaimed 30000"]

    assert found == expected


def test_the_warning_says_until_when_and_its_grace_is_kept():
    idlers = Idlers()
    idlers.measured(0, 0, 0)
    warned = idlers.last.decisions[0]

    assert isinstance(warned, ev.JobWarned)
    assert (warned.code, warned.until_ms) == ("idle", idlers.now_ms + 20 * MINUTE_MS)
    assert idlers.state.jobs["a"].standing.warned_ms == idlers.now_ms


@pytest.mark.parametrize(
    ("job", "phase"),
    [
        ({"category": Category.INTERACTIVE, "checkpoints": True}, "stopped: reclaimed"),
        ({"category": Category.TRAINING}, "stopped: reclaimed"),
        ({"category": Category.TRAINING, "checkpoints": True}, "starting"),
    ],
)
def test_what_becomes_of_a_job_whose_gpus_were_taken(job, phase):
    idlers = Idlers(**job)
    idlers.measured(*[0] * 5)
    idlers.ended("a.1", code=143).settled()

    assert idlers.phase("a") == phase


def test_a_new_attempt_begins_a_new_streak():
    idlers = Idlers(checkpoints=True)
    assert len(idlers.measured(*[0] * 5)) == 2
    idlers.ended("a.1", code=143).settled()
    idlers.started("a.2").turn()

    assert idlers.state.jobs["a"].standing.idle_since_ms == 0
    assert idlers.measured(0, 0) == []
    assert [word.split()[0] for word in idlers.measured(0, 0)] == ["warn"]


def test_a_measurement_of_an_attempt_that_is_over_is_no_news():
    idlers = Idlers(checkpoints=True)
    idlers.requeue("a").turn().ended("a.1", code=143).settled()
    idlers.started("a.2").turn(wait_ms=1_000)
    late = ev.JobMeasured("a", 0, HOUR_MS, idlers.now_ms - 1_000, 0)
    idlers.fact(late).turn()

    assert idlers.last.events == ()


def test_a_job_that_is_stopped_in_the_turn_of_its_measurement_is_only_stopped():
    idlers = Idlers()
    idlers.measured(*[0] * 4)
    at_ms = idlers.now_ms + 10 * MINUTE_MS
    idlers.fact(ev.JobMeasured("a", 0, 10 * MINUTE_MS, at_ms, 0)).stop("a")
    idlers.turn(wait_ms=10 * MINUTE_MS)

    assert idlers.decisions() == ["release a.1 stop 30000"]
    assert idlers.controller.due_ms(idlers.now_ms) != idlers.now_ms


def test_the_busiest_device_counts_not_the_mean():
    idlers = Idlers()
    for _ in range(6):
        at_ms = idlers.now_ms + 10 * MINUTE_MS
        idlers.fact(ev.JobMeasured("a", 2, 10 * MINUTE_MS, at_ms, busiest_pct=16))
        idlers.turn(wait_ms=10 * MINUTE_MS)

        assert idlers.decisions() == []


def test_the_bill_of_what_is_taken_is_said():
    idlers = Idlers()
    idlers.measured(*[0] * 5)
    taken = idlers.last.decisions[0]

    assert isinstance(taken, ev.ReleaseAsked)
    ran_ms = idlers.now_ms - idlers.state.allocations["a.1"].running_ms
    assert (taken.by, taken.bill_gpu_ms) == ("idleness", 2 * (ran_ms + 30_000))


Window = st.tuples(
    st.sampled_from([0, 0, 0, 3, 60, None]), st.sampled_from([0, 0, 500, 90_000]), st.booleans()
)


@given(st.lists(Window, max_size=40), st.booleans())
def test_nobody_is_taken_from_unwarned_or_while_something_is_unknown(windows, takes):
    """Windows follow each other after gaps; any may be unheard, or told twice."""
    rule = replace(RULE, idle_ms=2 * MINUTE_MS, grace_ms=MINUTE_MS, takes=takes)
    idlers = Idlers(replace(POLICY, idle_rules=(rule,)))
    idle_since_ms, warned_ms = 0, 0
    for percent, gap_ms, twice in windows:
        idlers.turn(wait_ms=gap_ms) if gap_ms else None
        begin_ms, at_ms = idlers.now_ms, idlers.now_ms + MINUTE_MS
        if percent is None or percent >= rule.util_pct:
            idle_since_ms, warned_ms = 0, 0
        elif gap_ms > 1_000 or not idle_since_ms:
            idle_since_ms, warned_ms = begin_ms, 0
        for _ in range(0 if percent is None else 1 + twice):
            idlers.fact(ev.JobMeasured("a", percent, MINUTE_MS, at_ms, percent))
        idlers.turn(wait_ms=MINUTE_MS)
        for decision in idlers.last.decisions:
            match decision:
                case ev.JobWarned():
                    assert idle_since_ms, "warned while something is unknown"
                    assert at_ms - idle_since_ms >= rule.idle_ms
                    warned_ms = idlers.now_ms
                case ev.ReleaseAsked():
                    assert takes
                    assert warned_ms, "taken without a warning"
                    assert at_ms - warned_ms >= rule.grace_ms
                    return
                case _:
                    raise AssertionError(decision)
