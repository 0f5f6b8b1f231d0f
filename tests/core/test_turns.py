"""Turns: a total order, shares that no burst breaks, and a bound on every wait."""

import heapq
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.check import check
from madang.core.controller import Controller
from madang.core.fair import HELD_HALF_LIVES, Shares, used_at
from madang.core.keys import arrival_ms, queue_key
from madang.core.model import Exit, Job, Node, Project, Shape
from madang.core.ordering import Turns, has_lost_patience
from madang.core.policies import MADANG, POLICIES
from madang.core.settings import Quota, Used
from madang.core.state import State

SECOND_MS = 1_000
HASTY = replace(
    MADANG,
    name="hasty",
    level_ms=30 * SECOND_MS,
    level_factor=2,
    patience_ms=100 * SECOND_MS,
    run_ms_min=5 * SECOND_MS,
    fair_half_life_ms=200 * SECOND_MS,
    fair_lag_ms=150 * SECOND_MS,
)
PROJECTS = ("a", "b", "c")
JOBS = st.lists(
    st.builds(
        Job,
        id=st.just(""),
        seq=st.just(0),
        project=st.sampled_from(PROJECTS),
        shape=st.sampled_from((1, 1, 2, 4)).map(Shape),
        members=st.sampled_from((1, 1, 2)),
        priority=st.sampled_from((10, 20, 20, 40)),
        submitted_ms=st.integers(0, 60).map(lambda s: s * 2 * SECOND_MS),
        head_start_ms=st.sampled_from((0, 0, 20, 60)).map(lambda s: s * SECOND_MS),
        checkpoints=st.booleans(),
        preemptible=st.booleans(),
        grace_ms=st.just(0),
        nice=st.sampled_from((0, 0, 0, -3, 5)),
    ),
    min_size=1,
    max_size=25,
).map(lambda jobs: [replace(job, id=f"j{at}", seq=at) for at, job in enumerate(jobs)])


def waiting(jobs: list[Job], policy=HASTY) -> State:
    """A state in which these jobs wait and nothing is there to run on."""
    state = State()
    state.apply(ev.PolicySet(policy), 0)
    for project in PROJECTS:
        state.apply(ev.ProjectSet(Project(project)), 0)
    for job in jobs:
        state.apply(ev.JobSubmitted(job), job.submitted_ms)
    return state


# -- the order -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(JOBS, st.integers(0, 300))
def test_among_one_projects_jobs_turns_are_the_keys_patience_first(jobs, now_s):
    alone = [replace(job, project="a", nice=0) for job in jobs]
    state = waiting(alone)
    view = state.view(now_s * SECOND_MS)

    def key(job: Job) -> tuple[int, ...]:
        live = state.jobs[job.id]
        if has_lost_patience(view, live):
            return (0, arrival_ms(job), job.seq)
        return (1, *queue_key(HASTY, live))

    assert list(Turns(view)) == [job.id for job in sorted(alone, key=key)]


@settings(max_examples=60, deadline=None)
@given(JOBS, st.integers(0, 300), st.permutations(range(25)))
def test_the_order_is_total_whatever_the_order_of_the_facts(jobs, now_s, shuffled):
    other = [jobs[at] for at in shuffled if at < len(jobs)]
    one, two = waiting(jobs), waiting(other)
    turns = list(Turns(one.view(now_s * SECOND_MS)))

    assert sorted(turns) == sorted(job.id for job in jobs)
    assert turns == list(Turns(two.view(now_s * SECOND_MS)))


@settings(max_examples=60, deadline=None)
@given(JOBS)
def test_nice_moves_only_the_own_jobs_in_the_own_places(jobs):
    plain = waiting([replace(job, nice=0) for job in jobs])
    nice = waiting(jobs)
    project_of = {job.id: job.project for job in jobs}

    before = [project_of[id] for id in Turns(plain.view(0))]
    assert [project_of[id] for id in Turns(nice.view(0))] == before


def test_the_nicer_job_goes_later_among_equals():
    jobs = [Job(f"j{n}", n, "a", Shape(1), nice=nice) for n, nice in enumerate((5, 0, -5, 0))]

    assert list(Turns(waiting(jobs).view(0))) == ["j2", "j1", "j3", "j0"]


@settings(max_examples=40, deadline=None)
@given(JOBS, st.sampled_from(sorted(POLICIES)), st.integers(0, 300))
def test_another_policy_puts_the_same_jobs_in_its_own_order(jobs, name, now_s):
    moved, fresh = waiting(jobs), waiting(jobs, POLICIES[name])
    moved.apply(ev.PolicySet(POLICIES[name]), now_s * SECOND_MS)
    check(moved)

    assert moved.queue == fresh.queue
    assert moved.line.patience == fresh.line.patience


# -- shares ----------------------------------------------------------------------------------------


def won(
    free: int, *, weights: dict[str, int], used: dict[str, int], jobs: int = 64
) -> dict[str, int]:
    """How many of the free GPUs each project gets when all have submitted as many jobs at once."""
    controller = Controller()
    half_life_ms = HASTY.fair_half_life_ms
    facts: list[ev.Fact] = [ev.PolicySet(HASTY)]
    facts += [ev.ProjectSet(Project(name)) for name in weights]
    facts += [ev.QuotaSet(Quota(f"project:{name}", weight=w)) for name, w in weights.items()]
    facts += [ev.NodeSeen(Node(f"n{at}", 8, 64_000, 1 << 20)) for at in range(free // 8)]
    controller.step(facts, 0)
    for name, gpus in used.items():
        # As if it had held so many GPUs for ever: the longest past there can be.
        past = Used(name, gpus * 1000 * half_life_ms * 14427 // 10000, 0)
        controller.state.settings.put(past)
    asked = [
        ev.JobSubmitted(Job(f"{name}{n}", at * jobs + n, name, Shape(1)))
        for at, name in enumerate(weights)
        for n in range(jobs)
    ]
    step = controller.step(asked, 0)
    got = dict.fromkeys(weights, 0)
    for decision in step.decisions:
        if isinstance(decision, ev.AllocationBound):
            got[decision.allocation.project] += 1
    return got


@pytest.mark.parametrize(
    ("weights", "used", "expected"),
    [
        ({"a": 1, "b": 1}, {}, {"a": 16, "b": 16}),
        ({"a": 1, "b": 3}, {}, {"a": 8, "b": 24}),
        ({"a": 1, "b": 1, "c": 2}, {}, {"a": 8, "b": 8, "c": 16}),
        ({"a": 1, "b": 1}, {"a": 16, "b": 16}, {"a": 16, "b": 16}),
        ({"a": 0, "b": 1}, {}, {"a": 0, "b": 32}),
    ],
)
def test_what_is_free_is_shared_by_weight_however_many_ask_at_once(weights, used, expected):
    got = won(32, weights=weights, used=used)

    assert sum(got.values()) == 32
    assert all(abs(got[name] - expected[name]) <= 1 for name in weights), got


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 32), st.integers(1, 2))
def test_a_burst_never_wins_all_whatever_the_pasts(past, nodes):
    free = 8 * nodes * 2
    got = won(free, weights={"a": 1, "b": 1}, used={"a": past * free // 32}, jobs=free)

    assert got["a"] + got["b"] == free
    assert got["a"] >= free // 8
    assert got["b"] >= free // 2 - 1


def test_a_start_weighs_more_than_the_longest_past():
    half_life_ms = 3_200_000
    longest = used_at(Used("a", 0, 0), 1000, 100 * half_life_ms, half_life_ms)

    assert longest < HELD_HALF_LIVES * half_life_ms * 1000
    assert abs(longest / (half_life_ms * 1000) - 1.4427) < 0.02  # 1 / ln 2


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**15),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 10**8), min_size=1, max_size=6),
    st.integers(1, 10**9),
)
def test_use_is_the_same_however_often_it_is_settled(before, held_milli, pauses, half_life_ms):
    now_ms, used = 12_345, Used("a", before, 12_345)
    at_once = used_at(used, held_milli, now_ms + sum(pauses), half_life_ms)
    for pause in pauses:
        now_ms += pause
        used = Used("a", used_at(used, held_milli, now_ms, half_life_ms), now_ms)

    rounding = 4 * (len(pauses) + 1)  # the floors of each settlement
    assert abs(used.milli_ms - at_once) <= rounding


def test_use_counts_half_after_a_half_life():
    used = Used("a", 10**12, 0)

    assert used_at(used, 0, 3_200_000, 3_200_000) == 10**12 // 2
    assert used_at(used, 0, 32_000_000, 3_200_000) == 10**12 // 1024


def test_idle_gpus_and_a_heavy_month_put_a_project_back():
    state = waiting([Job("j0", 0, "a", Shape(1)), Job("j1", 1, "b", Shape(1))])
    state.apply(ev.NodeSeen(Node("n", 8, 64_000, 1 << 20)), 0)
    state.apply(ev.ProjectMeasured("a", 3_600_000, 20), 0)
    shares = Shares(state.view(0))

    assert shares.lag_ms("a", 1000) > shares.lag_ms("b", 1000)
    assert list(Turns(state.view(0))) == ["j1", "j0"]


def test_what_a_guarantee_covers_is_not_charged():
    state = waiting([Job("j0", 0, "a", Shape(1)), Job("j1", 1, "b", Shape(1))])
    state.apply(ev.QuotaSet(Quota("project:a", guaranteed_milli=4000)), 0)
    state.apply(ev.NodeSeen(Node("n", 8, 64_000, 1 << 20)), 0)
    state.held_milli["a", "default", "on_demand"] = 4000
    state.usage_milli["a"] = 4000
    shares = Shares(state.view(0))

    assert shares.lag_ms("a", 4000) == 0
    assert shares.lag_ms("a", 5000) > 0


# -- nobody starves --------------------------------------------------------------------------------

LONGEST_MS = 60 * SECOND_MS


@dataclass
class Little:
    """A yard of two nodes of four GPUs; each job runs for its length in all, moved aside or not."""

    lengths_ms: dict[str, int]

    def __post_init__(self) -> None:
        self.controller = Controller()
        self.ends: list[tuple[int, str]] = []
        self.left = dict(self.lengths_ms)
        self.began: dict[str, tuple[str, int]] = {}
        self.spells: list[tuple[str, int, int]] = []  # job, since, until

    def run(self, jobs: list[Job]) -> None:
        facts: list[ev.Fact] = [ev.PolicySet(HASTY)]
        facts += [ev.ProjectSet(Project(name)) for name in PROJECTS]
        facts += [ev.NodeSeen(Node(f"n{at}", 4, 64_000, 1 << 20)) for at in range(2)]
        self.turns(0, facts)
        todo = sorted(jobs, key=lambda job: (job.submitted_ms, job.seq))
        now_ms = 0
        while todo or self.ends or self.controller.state.jobs:
            times = [todo[0].submitted_ms] if todo else []
            times += [self.ends[0][0]] if self.ends else []
            due_ms = self.controller.due_ms(now_ms)
            times += [due_ms] if due_ms is not None else []
            now_ms = max(now_ms, min(times))
            facts = []
            while todo and todo[0].submitted_ms <= now_ms:
                facts.append(ev.JobSubmitted(todo.pop(0)))
            while self.ends and self.ends[0][0] <= now_ms:
                _, allocation = heapq.heappop(self.ends)
                if self.began.get(allocation.partition(".")[0], ("", 0))[0] == allocation:
                    facts += self._leave(allocation, now_ms, Exit(0))
            self.turns(now_ms, facts)

    def turns(self, now_ms: int, facts: list[ev.Fact]) -> None:
        while True:
            step = self.controller.step(facts, now_ms)
            self.controller.state.forget_ended()
            facts = []
            for decision in step.decisions:
                if isinstance(decision, ev.AllocationBound):
                    facts += self._begin(decision.allocation.id, now_ms)
                elif isinstance(decision, ev.ReleaseAsked):
                    facts += self._leave(decision.allocation, now_ms, Exit(0, signal=15))
            if not facts and self.controller.due_ms(now_ms) != now_ms:
                return

    def _begin(self, allocation: str, now_ms: int) -> list[ev.Fact]:
        job = allocation.partition(".")[0]
        live = self.controller.state.jobs[job]
        since_ms = live.standing.waiting_ms or live.job.submitted_ms
        self.spells.append((job, since_ms, now_ms))
        self.began[job] = (allocation, now_ms)
        heapq.heappush(self.ends, (now_ms + self.left[job], allocation))
        ranks = range(len(self.controller.state.allocations[allocation].seats))
        return [ev.MemberStarted(allocation, rank, now_ms) for rank in ranks]

    def _leave(self, allocation: str, now_ms: int, how: Exit) -> list[ev.Fact]:
        job = allocation.partition(".")[0]
        _, began_ms = self.began.pop(job)
        if how.signal and self.controller.state.jobs[job].job.checkpoints:
            self.left[job] = max(1, self.left[job] - (now_ms - began_ms))
        ranks = range(len(self.controller.state.allocations[allocation].seats))
        return [ev.MemberEnded(allocation, rank, how, now_ms) for rank in ranks]


@settings(max_examples=40, deadline=None)
@given(JOBS, st.lists(st.integers(1, 60), min_size=25, max_size=25))
def test_nobody_waits_longer_than_the_stated_bound(jobs, lengths_s):
    lengths_ms = {job.id: s * SECOND_MS for job, s in zip(jobs, lengths_s, strict=False)}
    yard = Little(lengths_ms)
    yard.run(jobs)

    by_id = {job.id: job for job in jobs}
    assert {id for id, _, _ in yard.spells} == set(by_id)
    for id, since_ms, until_ms in yard.spells:
        job = by_id[id]
        lost_ms = since_ms + HASTY.patience_ms - job.head_start_ms
        before = {
            other
            for other, _, began_ms in yard.spells
            if other != id
            and lost_ms <= began_ms <= until_ms
            and (arrival_ms(by_id[other]), by_id[other].seq) < (arrival_ms(job), job.seq)
        }
        assert until_ms <= lost_ms + (len(before) + 1) * LONGEST_MS


def test_a_large_gang_that_nothing_can_be_moved_for_starts_all_the_same():
    """Small jobs that never checkpoint come for ever; two nodes are never empty by themselves."""
    small = [
        Job(f"j{n}", n, "a", Shape(1), submitted_ms=n * 4 * SECOND_MS, preemptible=False)
        for n in range(120)
    ]
    gang = Job("j120", 120, "b", Shape(4), members=2, submitted_ms=10 * SECOND_MS)
    yard = Little({job.id: LONGEST_MS for job in (*small, gang)})
    yard.run([*small, gang])

    (waited_ms,) = [until - since for id, since, until in yard.spells if id == "j120"]
    assert HASTY.patience_ms < waited_ms <= HASTY.patience_ms + 2 * LONGEST_MS
