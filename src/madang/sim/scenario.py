"""A seed is a scenario: a little fleet, jobs of all shapes, and people who change their minds."""

from dataclasses import dataclass, replace
from random import Random

from madang.core import events as ev
from madang.core.idle_rule import IdleRule
from madang.core.model import UNLIMITED, Allocation, Category, Job, Node, Project, Shape
from madang.core.night import DAY_MS
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import DEFAULT, Policy
from madang.core.settings import Hole, Reservation
from madang.engines.base import Launch
from madang.engines.virtual import Faults, Fleet, Times
from madang.sim.disruption import disruption
from madang.sim.faults import Chaos
from madang.sim.networks import network
from madang.sim.places import places
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
    fact: ev.Fact | None  # None: the controller restarts, looks, or the fleet is resynced
    restarts: bool = False
    acts: bool = True  # False: it dies after the commit, before it acts
    measures_ms: int = 0  # look at the sensors; windows are as long


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
    wired = network(seed, len(fleet.nodes), LENGTH_MS)
    fleet = replace(fleet, nodes=wired.placed(fleet.nodes))
    where = places(seed, PROJECTS, fleet.nodes, LENGTH_MS)
    fleet = replace(fleet, nodes=where.placed(fleet.nodes))
    owned = tenancy(seed, PROJECTS, LENGTH_MS)
    stops = disruption(seed, PROJECTS, LENGTH_MS)
    asks = [Ask(0, ev.ProjectSet(Project(project))) for project in PROJECTS]
    asks += [
        Ask(at_ms, fact) for at_ms, fact in (*owned.facts, *wired.facts, *stops.facts, *where.facts)
    ]
    env: dict[str, tuple[tuple[str, str], ...]] = {}
    for number in range(1, random.randint(10, 40)):
        job = stops.counted(wired.near(owned.classed(_job(random, number))))
        job = where.wishing(job, MODELS)
        env[job.id] = stops.saving(job, _behaviour(random))
        asks.append(Ask(job.submitted_ms, ev.JobSubmitted(job)))
        asks += _second_thoughts(random, job)
    asks += _operators(random, fleet)
    chaos, policy = _chaos(random), _policy(random, owned)
    upkeep = Random(f"madang/upkeep/{seed}")
    if upkeep.random() < 0.5:
        policy = _tidied(upkeep, policy)
        asks = [_changed(upkeep, ask, env) for ask in asks] + _upkeep(upkeep)
    booked = Random(f"madang/calendar/{seed}")
    if booked.random() < 0.4:
        asks = _calendar(booked, asks)
    asks.insert(0, Ask(0, ev.PolicySet(where.policy(policy))))
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


# -- the calendar ----------------------------------------------------------------------------------


def _calendar(random: Random, asks: list[Ask]) -> list[Ask]:
    """Some windows, changed and taken away again; some jobs run inside them."""
    more: list[Ask] = []
    for number in range(random.choice((1, 2, 4))):
        at_ms = random.randint(0, LENGTH_MS // 2)
        begin_ms = at_ms + random.choice((0, 60_000, 600_000))
        reservation = Reservation(
            f"window-{number}",
            random.choice(PROJECTS),
            Shape(random.choice((1, 2, 4)), models=random.choice(((), (MODELS[0],)))),
            random.choice((1, 1, 2, 3)),
            begin_ms,
            begin_ms + random.choice((30_000, 300_000, 900_000)),
        )
        more.append(Ask(at_ms, ev.ReservationSet(reservation)))
        if random.random() < 0.3:
            longer = replace(reservation, end_ms=reservation.end_ms + 120_000)
            more.append(Ask(at_ms + 30_000, ev.ReservationSet(longer)))
        if random.random() < 0.2:
            gone = ev.SettingDropped("reservations", reservation.id, "sim")
            more.append(Ask(at_ms + random.randint(0, 600_000), gone))
    return [_inside(random, ask) for ask in asks] + more


def _inside(random: Random, ask: Ask) -> Ask:
    if not isinstance(ask.fact, ev.JobSubmitted) or random.random() > 0.15:
        return ask
    job = replace(ask.fact.job, reservation=f"window-{random.randint(0, 3)}")
    return replace(ask, fact=ev.JobSubmitted(job))


# -- upkeep: nights, idle jobs and holes -----------------------------------------------------------


def _tidied(random: Random, policy: Policy) -> Policy:
    """The policy with a night somewhere in the scenario, and idleness that counts in minutes."""
    begin_ms = random.randint(0, LENGTH_MS // 2)
    offset_ms = random.choice((0, 9 * 3_600_000, -5 * 3_600_000))
    rules = (
        IdleRule("interactive", util_pct=5, idle_ms=120_000, grace_ms=60_000, takes=True),
        IdleRule(
            idle_ms=random.choice((60_000, 240_000)),
            grace_ms=random.choice((0, 60_000)),
            takes=random.random() < 0.7,
        ),
    )
    return replace(
        policy,
        utc_offset_ms=offset_ms,
        night_begin_ms=(begin_ms + offset_ms) % DAY_MS,
        night_end_ms=(begin_ms + LENGTH_MS // 2 + offset_ms) % DAY_MS,
        night_every_ms=random.choice((1_000, 30_000)),
        night_gpu_ms=random.choice((2_000_000, 50_000_000)),
        moves_at_once=random.choice((1, 4)),
        move_rest_ms=random.choice((60_000, 600_000)),
        move_gain_pct=random.choice((100, 200)),
        idle_rules=rules,
        idle_young_ms=random.choice((0, 60_000)),
    )


def _changed(random: Random, ask: Ask, env: dict[str, tuple[tuple[str, str], ...]]) -> Ask:
    """Some of the jobs do nothing with their GPUs (and some of those may), others can be moved."""
    if not isinstance(ask.fact, ev.JobSubmitted):
        return ask
    job = ask.fact.job
    if random.random() < 0.3:
        env[job.id] = (*env[job.id], ("MADANG_VIRTUAL_TEMPER", "idle"))
        category = random.choice((Category.INTERACTIVE, Category.TRAINING))
        job = replace(job, category=category, idle_ok=random.random() < 0.2)
    elif random.random() < 0.8:
        env[job.id] = (*env[job.id], ("MADANG_VIRTUAL_SECONDS", str(random.randint(300, 1_500))))
        job = replace(job, checkpoints=True, estimate_ms=0, time_limit_ms=0)
        if random.random() < 0.5:
            shape = replace(job.shape, models=())
            job = replace(job, shape=shape, members=1, members_min=0, segments=(), spread_nodes=0)
    return replace(ask, fact=ev.JobSubmitted(job))


def _upkeep(random: Random) -> list[Ask]:
    window_ms = random.choice((20_000, 60_000))
    asks = [
        Ask(at_ms, None, measures_ms=window_ms) for at_ms in range(1, LENGTH_MS, window_ms // 4)
    ]
    for number in range(random.choice((0, 3, 8))):
        at_ms = random.randint(0, LENGTH_MS)
        shape = Shape(random.choice((1, 2, 4)), models=random.choice(((), (MODELS[0],))))
        hole = Hole(
            f"room-{number}",
            shape,
            random.choice((1, 1, 2)),
            at_ms + random.choice((1_000, 120_000)),
            project=random.choice(("", PROJECTS[0])),
        )
        asks.append(Ask(at_ms, ev.HoleAsked(hole)))
        if random.random() < 0.2:
            asks.append(Ask(at_ms + 500, ev.SettingDropped("holes", hole.id, "sim")))
    return asks
