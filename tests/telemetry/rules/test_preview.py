"""A preview tells what the judge would have told, from what is kept of runs that ended."""

import pytest

from madang.core.rules import Rule
from madang.telemetry.rules.judge import Run
from madang.telemetry.rules.preview import Asked, preview
from madang.telemetry.stays import Held
from madang.telemetry.store import Store
from tests.telemetry.making import BEGIN_MS, TICK_MS, frame

MINUTE = 6  # ticks
RUNS = {"idle-1.1": 0, "steady-2.1": 1, "late-3.1": 2}
LOW = Rule(
    "low", "gpu_util_percent", "p25", 0, is_above=False, threshold="20",
    hold_ms=120_000, after_ms=300_000,
)  # fmt: skip


def at(tick):
    return BEGIN_MS + tick * TICK_MS


def run_of(stay):
    held = stay.held
    return Run(held.allocation, held.job, "vision", "training", "", "ada", False)


def asked(rule=LOW, since_ms=BEGIN_MS - 1):
    return Asked(rule, since_ms, at(60 * MINUTE), run_of, lambda allocation: ())


@pytest.fixture
def store(tmp_path):
    """An hour of three runs: one idle, one steady, one that is idle from the 30th minute on."""
    found = Store(tmp_path)
    found.open(BEGIN_MS)
    found.hold(
        [
            Held(id, id[:-2], "vision", "training", "", (("n1", gpu),), BEGIN_MS)
            for id, gpu in RUNS.items()
        ]
    )
    for tick in range(60 * MINUTE):
        late = 90.0 if tick < 30 * MINUTE else 1.0
        found.take([frame(tick, {"gpu_util_percent": [1.0, 90.0, late]})], at(tick))
        found.advance(at(tick) + 7_000)
    return found


def flagged(found, begin_ms=BEGIN_MS):
    return {
        one.stay.held.allocation: (round((one.from_ms - begin_ms) / 60_000), one.is_live)
        for one in found.flagged
    }


# `late` has a quarter of its minutes idle once it has run for 40 of them; two minutes later it is
# told, as one who is told by the judge.
LIVE = {"idle-1.1": (7, True), "late-3.1": (42, True)}


def test_running_and_ended_runs_are_flagged_from_when_the_judge_would(store):
    found = preview(store, asked())
    assert flagged(found) == LIVE
    assert (found.looked_at, found.unknown, found.left_off) == (3, 0, 0)
    assert [one.at_end for one in found.flagged] == [1.0, 1.0]

    store.hold([])
    store.keep(at(60 * MINUTE + 2))
    found = preview(store, asked())
    assert flagged(found) == {id: (minute, False) for id, (minute, _) in LIVE.items()}


def test_a_window_is_previewed_too(store):
    idle = Rule("idle", "gpu_util_percent", "max", 600_000, is_above=False, threshold="5")

    assert flagged(preview(store, asked(idle))) == {"idle-1.1": (10, True), "late-3.1": (40, True)}


def test_a_rule_about_others_looks_at_nobody(store):
    rule = Rule("x", "gpu_util_percent", "p25", 0, False, "20", projects=("audio",))
    found = preview(store, asked(rule))

    assert (found.looked_at, found.flagged) == (0, [])


def test_of_what_was_not_measured_nothing_is_said(store):
    power = Rule("x", "gpu_power_w", "max", 60_000, is_above=True, threshold="1")
    found = preview(store, asked(power))

    assert (found.looked_at, found.unknown, found.flagged) == (0, 3, [])


def test_no_time_is_told(store):
    assert preview(store, asked(), seconds=-1).left_off == 3
