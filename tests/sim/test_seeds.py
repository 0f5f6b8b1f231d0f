"""Scenarios by seed: every fault, every invariant after every turn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from madang.sim.run import run

TOP = Path(__file__).parents[2]
QUICK = 40
MANY = 1_000


# Not mended yet: a window of the calendar is placed anew each turn, one after the other, and a
# start elsewhere may change where an older one goes. docs/benchmarks/scenarios.md.
KNOWN = (464, 571, 697, 755, 892)


@pytest.mark.parametrize("seed", range(QUICK))
def test_a_scenario_breaks_nothing(seed):
    run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, QUICK + MANY, 50))
def test_many_scenarios_break_nothing(first):
    broken = {}
    for seed in range(first, first + 50):
        try:
            run(seed)
        except AssertionError as failure:
            broken[seed] = f"{type(failure).__name__}: {failure}"

    known = {seed for seed in KNOWN if first <= seed < first + 50}
    said = "replay with: python -m madang.sim.run --verbose --seed SEED"
    assert broken.keys() == known, f"{said}; {broken}"
    assert all("window" in broken[seed] for seed in known)


def test_the_scenarios_together_meet_every_kind_of_fault_and_end():
    outcomes = [run(seed) for seed in range(QUICK)]

    assert sum(outcome.lost for outcome in outcomes) > 500
    assert sum(outcome.ended for outcome in outcomes) > 300
    assert sum(outcome.restarts for outcome in outcomes) > 50
    assert sum(outcome.nodes_lost for outcome in outcomes) > 50
    assert sum(outcome.strays for outcome in outcomes) > 20
    assert sum(outcome.promises for outcome in outcomes) > 5
    assert sum(outcome.moves for outcome in outcomes) > 10
    assert sum(outcome.holes for outcome in outcomes) > 20
    assert sum(outcome.warnings for outcome in outcomes) > 20
    assert sum(outcome.reclaims for outcome in outcomes) > 10
    assert {phase for outcome in outcomes for phase in outcome.phases} == {
        "succeeded",
        "failed",
        "stopped",
    }


def test_the_same_seed_writes_the_same_journal_in_any_python():
    program = (
        "from madang.sim.run import run\n"
        "print(*[run(seed).digest for seed in range(8)], sep='\\n')\n"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TOP / "src")},
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        ).stdout.split()
        for seed in ("0", "1", "2")
    ]

    assert len(set(digests[0])) == 8
    assert digests[0] == digests[1] == digests[2]
