"""A writer to be killed: `python -m tests.ledger.writer URL LOG SEED`.

It commits turns of random size for ever. Each turn's events, jobs and allocations belong together;
what was acknowledged is appended to LOG before the next turn begins.
"""

import os
import random
import sys

from madang.core import events as ev
from madang.core.model import Allocation
from madang.ledger import open_ledger
from madang.testing.yard import Yard

NODES = 4


def main(url: str, log: str, seed: str) -> None:
    dice = random.Random(int(seed))
    yard = Yard(open_ledger(url), holder=seed)
    acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    if not yard.controller.state.nodes:
        yard.open(NODES)
    os.write(acknowledged, b"open\n")
    while True:
        live = list(yard.controller.state.allocations.values())
        facts: list[ev.Fact] = []
        for allocation in dice.sample(live, dice.randint(0, len(live))):
            facts += _endings(allocation, yard.now_ms)
        submitted = [yard.job() for _ in range(dice.choice((1, 3, 30, 300)))]
        yard.turn(*facts, *[ev.JobSubmitted(job) for job in submitted])
        _, last = yard.spans[-1]
        os.write(acknowledged, f"{last} {submitted[-1].seq}\n".encode())


def _endings(allocation: Allocation, now_ms: int) -> list[ev.Fact]:
    from madang.core.model import Exit

    return [
        ev.MemberEnded(allocation.id, rank, Exit(0), now_ms)
        for rank in range(len(allocation.seats))
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
