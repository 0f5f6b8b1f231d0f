"""Several owners in a scenario: quotas that come and go, classes, head starts, users who are nice.

A third of the seeds have them. They are drawn from a stream of their own: what else a seed decides
stays as it was.
"""

from dataclasses import dataclass, replace
from random import Random

from madang.core import events as ev
from madang.core.classes import Preemptible, class_of
from madang.core.model import UNLIMITED, Category, Job, Project, Provisioning, Purpose
from madang.core.settings import ANY, Quota, Workspace

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Who owns what from when on: (time, fact) in no order; and a stream for the jobs' classes."""

    facts: tuple[tuple[int, ev.Fact], ...]
    random: Random

    def classed(self, job: Job) -> Job:
        """The job as one of a class, as intake would make it."""
        if not self.facts:
            return job
        random = self.random
        axes = (
            random.choice(list(Provisioning)),
            random.choice(list(Category)),
            random.choice(list(Purpose)),
        )
        found = class_of((), *axes)
        preemptible = found.preemptible is Preemptible.ALWAYS or (
            found.preemptible is Preemptible.CHECKPOINTED and job.checkpoints
        )
        return replace(
            job,
            provisioning=axes[0],
            category=axes[1],
            purpose=axes[2],
            priority=found.priority,
            preemptible=preemptible,
            # Hours become minutes: a scenario lasts for half of one.
            head_start_ms=found.head_start_ms // 60,
            run_ms_min=found.run_ms_min // 60,
            nice=random.choice((0, 0, 0, -5, 3)),
        )


def _cells(random: Random) -> tuple[tuple[str, int], ...]:
    """Cells promised by a quota: what cannot be kept is refused, when it is set or by the nodes."""
    if random.random() < 0.4:
        return ()
    levels = random.sample(("gpu", "2gpu", "node", "leaf"), random.randint(1, 2))
    return tuple([(level, random.randint(1, 2)) for level in levels])


def tenancy(seed: int, projects: tuple[str, ...], length_ms: int) -> Tenancy:
    """The owners of a seed: none for two seeds of three."""
    random = Random(f"madang/tenancy/{seed}")
    if random.random() < 2 / 3:
        return Tenancy((), random)
    facts: list[tuple[int, ev.Fact]] = [(0, ev.WorkspaceSet(Workspace("lab")))]
    for project in projects:
        workspace = random.choice(("lab", "default"))
        facts.append((0, ev.ProjectSet(Project(project, workspace))))
    cells = Random(f"madang/cells/{seed}")
    owners = [f"project:{project}" for project in projects] + ["workspace:lab"]
    for _ in range(random.randint(1, 6)):
        quota = Quota(
            owner=random.choice(owners),
            group=random.choice((ANY, ANY, "default")),
            provisioning=random.choice((ANY, "reserved", "on_demand", "spot")),
            guaranteed_milli=random.choice((0, 1_000, 4_000, 8_000)),
            limit_milli=random.choice((UNLIMITED, UNLIMITED, 2_000, 8_000)),
            weight=random.choice((0, 1, 1, 3)),
        )
        quota = replace(quota, cells=_cells(cells))
        at_ms = random.choice((0, random.randint(0, length_ms)))
        facts.append((at_ms, ev.QuotaSet(quota)))
        if random.random() < 0.3:
            gone_ms = random.randint(at_ms, length_ms)
            facts.append((gone_ms, ev.SettingDropped("quotas", quota.key)))
    for project in projects:
        if random.random() < 0.3:
            measured = ev.ProjectMeasured(project, random.randint(0, HOUR_MS), 30)
            facts.append((random.randint(0, length_ms), measured))
    return Tenancy(tuple(facts), random)
