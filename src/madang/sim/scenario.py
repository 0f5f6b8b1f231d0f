"""A seed is a scenario: a little fleet, jobs of all shapes, and people who change their minds."""

from dataclasses import dataclass, replace
from random import Random

from madang.core import events as ev
from madang.core.model import UNLIMITED, Allocation, Job, Node, Project, Shape
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import DEFAULT, Policy
from madang.engines.base import Launch
from madang.engines.virtual import Faults, Fleet, Times
from madang.sim.faults import Chaos
from madang.sim.tenancy import Tenancy, tenancy

PROJECTS = ("vision", "speech")
MODELS = ("H100", "L4")
LENGTH_MS = 1_800_000  # of the disturbed part
HASTY = replace(
    MADANG,
    name="hasty",
    level_ms=60_000,
    patience_ms=900_000,
    run_ms_min=20_000,
    level_factor=2,
    fair_half_life_ms=600_000,
    fair_lag_ms=600_000,
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that somebody makes at a time, or a fault of the controller itself."""

    at_ms: int
    fact: ev.Fact | None  # None: the controller restarts, or the fleet is resynced
    restarts: bool = False
    acts: bool = True  # False: it dies after the commit, before it acts


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a seed decides. `env` maps a job to what its members do."""

    seed: int
    fleet: Fleet
    chaos: Chaos
    asks: tuple[Ask, ...]
    env: dict[str, tuple[tuple[str, str], ...]]

    def launch_of(self, allocation: Allocation) -> Launch:
        return Launch(allocation, allocation.job, "sim", ("train",), self.env[allocation.job])


def scenario(seed: int) -> Scenario:
    """The scenario of a seed: the same on every machine."""
    random = Random(f"madang/{seed}")
    fleet = _fleet(random, seed)
    owned = tenancy(seed, PROJECTS, LENGTH_MS)
    asks = [Ask(0, ev.ProjectSet(Project(project))) for project in PROJECTS]
    asks += [Ask(at_ms, fact) for at_ms, fact in owned.facts]
    env: dict[str, tuple[tuple[str, str], ...]] = {}
    for number in range(1, random.randint(10, 40)):
        job = owned.classed(_job(random, number))
        env[job.id] = _behaviour(random)
        asks.append(Ask(job.submitted_ms, ev.JobSubmitted(job)))
        asks += _second_thoughts(random, job)
    asks += _operators(random, fleet)
    chaos, policy = _chaos(random), _policy(random, owned)
    asks.insert(0, Ask(0, ev.PolicySet(policy)))
    asks.sort(key=lambda ask: ask.at_ms)
    return Scenario(seed, fleet, chaos, tuple(asks), env)


def _fleet(random: Random, seed: int) -> Fleet:
    count = random.randint(1, 8)
    nodes = tuple(
        Node(
            id=f"n{index}",
            gpus=random.choice((0, 1, 2, 4, 4, 8)) if index else 4,
            cpu_milli=random.choice((8_000, 32_000)),
            memory_mib=65_536,
            model=MODELS[random.random() < 0.3],
        )
        for index in range(count)
    )
    stops = random.choice(((1, 100), (200, 2_000), (1_000, 60_000)))
    hours = random.choice((0, 0, 1, 3))
    return Fleet(
        nodes,
        seed,
        times=Times(start_ms=(1, random.choice((5, 3_000))), stop_ms=stops, slow_share=0.05),
        faults=Faults(
            node_mtbf_ms=hours * 600_000,
            node_mttr_ms=random.choice((1_000, 60_000, 300_000)),
            partition_share=random.choice((0.0, 0.5, 1.0)),
            detect_ms=random.choice((1, 30_000)),
            gpu_mtbf_ms=random.choice((0, 0, 3_600_000)),
            gpu_mttr_ms=120_000,
            crash_share=random.choice((0.0, 0.1)),
        ),
    )


def _chaos(random: Random) -> Chaos:
    if random.random() < 0.2:
        return Chaos()
    return Chaos(
        late=random.choice((0.0, 0.1, 0.5)),
        late_ms=random.choice((10, 1_000, 60_000)),
        doubled=random.choice((0.0, 0.1, 0.3)),
        missing=random.choice((0.0, 0.02, 0.2)),
        keeps_order=random.random() < 0.7,
    )


def _policy(random: Random, owned: Tenancy) -> Policy:
    """Half of the seeds hold back for the first that does not fit; the others try every policy.

    Where there are several owners it is mostly ours, at a pace that half an hour can show.
    """
    policy = DEFAULT if random.random() < 0.5 else random.choice(list(POLICIES.values()))
    if owned.facts and owned.random.random() < 0.8:
        return HASTY
    return policy


def _job(random: Random, number: int) -> Job:
    kind = random.random()
    models = (random.choice(MODELS),) if random.random() < 0.3 else ()
    if kind < 0.1:
        shape, members = Shape(0, cpu_milli=random.choice((1_000, 8_000))), random.randint(1, 3)
    elif kind < 0.25:
        shape, members = Shape(1, random.choice((100, 250, 500, 700)), 500), random.randint(1, 3)
    else:
        gpus = random.choice((1, 1, 2, 4, 8))
        shape, members = (
            Shape(gpus, cpu_milli=gpus * 1_000, models=models),
            random.choice((1, 1, 2, 4)),
        )
    return Job(
        id=f"j{number}",
        seq=number,
        project=random.choice(PROJECTS),
        shape=shape,
        members=members,
        priority=random.choice((0, 0, 16, 40)),
        submitted_ms=random.randint(1, LENGTH_MS * 2 // 3),
        time_limit_ms=random.choice((0, 0, 60_000, 600_000)),
        grace_ms=random.choice((0, 1_000, 30_000)),
        retries_max=random.choice((0, 0, 1, 3)),
        estimate_ms=random.choice((0, 30_000, 300_000)),
        checkpoints=random.random() < 0.5,
    )


def _behaviour(random: Random) -> tuple[tuple[str, str], ...]:
    seconds = random.choice((0, random.randint(1, 60), random.randint(60, 900)))
    env = {"SECONDS": str(seconds), "STEPS": "0"}
    if random.random() < 0.15:
        env["EXIT"] = random.choice(("1", "3", "-9"))
    if random.random() < 0.1:
        env["DEFY"] = "1"
    return tuple((f"MADANG_VIRTUAL_{name}", value) for name, value in env.items())


def _second_thoughts(random: Random, job: Job) -> list[Ask]:
    asks = []
    if random.random() < 0.1:  # a repeat; ids are never used again later
        asks.append(Ask(job.submitted_ms, ev.JobSubmitted(job)))
    for fact, share in ((ev.JobStopAsked(job.id), 0.15), (ev.JobRequeueAsked(job.id), 0.15)):
        while random.random() < share:
            wait_ms = random.choice((0, 10, random.randint(0, 300_000)))
            asks.append(Ask(job.submitted_ms + wait_ms, fact))
    return asks


def _operators(random: Random, fleet: Fleet) -> list[Ask]:
    asks: list[Ask] = []
    for _ in range(random.choice((0, 2, 6))):
        at_ms, node = random.randint(0, LENGTH_MS), random.choice(fleet.nodes).id
        asks.append(Ask(at_ms, ev.NodeCordoned(node, True)))
        asks.append(Ask(at_ms + random.randint(0, 300_000), ev.NodeCordoned(node, False)))
        asks.append(Ask(at_ms + 200_000, ev.NodeRemoved(node)))
    for _ in range(random.choice((0, 3))):
        quota = random.choice((0, 1_000, 4_000, 16_000, UNLIMITED))
        project = Project(random.choice(PROJECTS), quota_milli=quota)
        asks.append(Ask(random.randint(0, LENGTH_MS), ev.ProjectSet(project)))
    for _ in range(random.choice((0, 1, 5))):
        at_ms, acts = random.randint(0, LENGTH_MS), random.random() < 0.5
        asks.append(Ask(at_ms, None, restarts=True, acts=acts))
    asks += [Ask(at_ms, None) for at_ms in range(60_000, LENGTH_MS, 240_000)]
    return asks
