"""What a seed adds about being stopped: disruption budgets that come and change, jobs that count
under them, least run times, and checkpoints.

Drawn from a generator of its own: a seed's fleet and jobs stay what they were.
"""

from dataclasses import dataclass, replace
from random import Random

from madang.core import events as ev
from madang.core.model import Job
from madang.core.settings import DisruptionBudget

USES = 0.6  # of seeds


@dataclass(frozen=True, slots=True)
class Disruption:
    """The budgets' facts (when, what), and what becomes of a job and of what its members do."""

    random: Random
    facts: tuple[tuple[int, ev.Fact], ...] = ()
    budgets: tuple[DisruptionBudget, ...] = ()

    def counted(self, job: Job) -> Job:
        """The job, maybe under one of the budgets, maybe with a least run time."""
        if not self.budgets:
            return job
        name = self.random.choice((*(one.id for one in self.budgets), "", ""))
        least_ms = self.random.choice((0, 0, 20_000, 120_000))
        restart_ms = self.random.choice((0, 5_000))
        run_ms_min = max(least_ms, job.run_ms_min)
        return replace(job, budget=name, run_ms_min=run_ms_min, restart_ms=restart_ms)

    def saving(self, job: Job, env: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The environment, of members that save checkpoints and go on from them if the job says so.

        Whoever says so and does not may never end: others are let by while he starts anew.
        """
        if not job.checkpoints:
            return env
        saves = self.random.choice((5, 40))
        added = {"STEPS": "40", "SAVES": str(saves), "RESUME": "1"}
        names = {f"MADANG_VIRTUAL_{name}": value for name, value in added.items()}
        return (*[pair for pair in env if pair[0] not in names], *names.items())


def disruption(seed: int, projects: tuple[str, ...], length_ms: int) -> Disruption:
    """What the seed says of it; nothing in some seeds."""
    random = Random(f"madang/disruption/{seed}")
    if random.random() >= USES:
        return Disruption(random)
    budgets, facts = [], list[tuple[int, ev.Fact]]()
    for number in range(random.randint(1, 3)):
        budget = DisruptionBudget(f"b{number}", random.choice(projects), random.randint(0, 3))
        budgets.append(budget)
        facts.append((0, ev.BudgetSet(budget)))
        if random.random() < 0.4:
            changed = replace(budget, down_max=random.randint(0, 4))
            facts.append((random.randint(0, length_ms), ev.BudgetSet(changed)))
        if random.random() < 0.2:
            dropped = ev.SettingDropped("budgets", budget.id, "sim")
            facts.append((random.randint(0, length_ms), dropped))
    return Disruption(random, tuple(facts), tuple(budgets))
