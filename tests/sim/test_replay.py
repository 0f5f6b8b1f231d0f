"""Replays of random little traces: what every policy must keep, whatever the jobs."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core.check import check
from madang.core.controller import Step
from madang.core.draft import Draft
from madang.core.estimates import NEVER_MS
from madang.core.events import AllocationBound, Fact, JobNominated, NominationDropped, ReleaseAsked
from madang.core.model import Seat
from madang.core.ordering import has_lost_patience, key_of
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import Misfit, Policy
from madang.core.timeline import Timeline
from madang.sim.queueing import Outcome, Replay, TraceJob
from madang.sim.replay import NEEDS_ESTIMATES, cluster_of, eta_of, read_trace, run
from madang.sim.traces import TraceError
from tests.sim.test_pack import write

Promises = dict[str, tuple[Seat, ...]]
NODES, PER_NODE = 3, 4
ITP = Path(os.environ.get("MADANG_DATA", "")) / "itp"

JOBS = st.builds(
    TraceJob,
    submit_ms=st.integers(0, 40).map(lambda minutes: minutes * 60_000),
    duration_ms=st.sampled_from((0, 1, 999, 30_000, 90_000, 600_000, 7_200_000, 90_000_000)),
    gpus=st.sampled_from((1, 1, 1, 2, 3, 4, 5, 8, 12)),
)
TRACES = st.lists(JOBS, min_size=1, max_size=25).map(
    lambda jobs: sorted(jobs, key=lambda job: job.submit_ms)
)
# Small numbers, so that little traces meet every rule; a stay is longer than a restart costs.
HASTY = replace(
    MADANG, name="hasty", level_ms=60_000, patience_ms=900_000, run_ms_min=90_000, level_factor=2
)
TRIED = {**POLICIES, "hasty": HASTY}


class Checked(Replay):
    """A replay that checks the yard, and the promises of the passes, after every turn."""

    def __init__(self, jobs: list[TraceJob], policy: Policy) -> None:
        if policy.name in NEEDS_ESTIMATES:
            jobs = [replace(job, estimate_ms=max(1, job.duration_ms)) for job in jobs]
        super().__init__(jobs, NODES, PER_NODE, policy)
        self.promised_ms: dict[str, int] = {}

    def turn(self, facts: list[Fact], now_ms: int) -> Step:
        state = self.controller.state
        before = dict(state.nominations)
        step = super().turn(facts, now_ms)
        check(state)
        self.holes_are_for_those_they_were_promised_to(step, before)
        self.nobody_is_stopped_in_vain(step)
        self.nobody_passes_one_who_lost_patience(step, before, now_ms)
        if state.policy.misfit is Misfit.RESERVE:
            self.the_head_starts_when_it_was_told(step, now_ms)
        return step

    def holes_are_for_those_they_were_promised_to(self, step: Step, before: Promises) -> None:
        kept = dict(before)
        for decision in step.decisions:
            match decision:
                case NominationDropped(job=id):
                    del kept[id]
                case AllocationBound(allocation=allocation):
                    if allocation.job in kept:
                        assert kept.pop(allocation.job) == allocation.seats
                    taken = {(seat.node, gpu) for seat in allocation.seats for gpu in seat.gpus}
                    for seats in kept.values():
                        assert not taken & {(s.node, gpu) for s in seats for gpu in s.gpus}

    def nobody_is_stopped_in_vain(self, step: Step) -> None:
        promised = {
            (seat.node, gpu)
            for decision in step.decisions
            if isinstance(decision, JobNominated)
            for seat in decision.seats
            for gpu in seat.gpus
        }
        for decision in step.decisions:
            if isinstance(decision, ReleaseAsked):
                seats = self.controller.state.allocations[decision.allocation].seats
                assert promised & {(seat.node, gpu) for seat in seats for gpu in seat.gpus}

    def nobody_passes_one_who_lost_patience(
        self, step: Step, before: Promises, now_ms: int
    ) -> None:
        state = self.controller.state
        view = state.view(now_ms)
        lost = [
            state.jobs[id]
            for _, id in state.queue
            if has_lost_patience(view, state.jobs[id]) and id not in before
        ]
        for decision in step.decisions:
            if not isinstance(decision, AllocationBound) or decision.allocation.job in before:
                continue
            live = state.jobs[decision.allocation.job]
            assert not live.standing.running_ms, "its start is told after this turn"
            assert all(key_of(view, live) < key_of(view, one) for one in lost)

    def the_head_starts_when_it_was_told(self, step: Step, now_ms: int) -> None:
        """The first reservation never moves back, and is kept."""
        state = self.controller.state
        for decision in step.decisions:
            if isinstance(decision, AllocationBound):
                job = decision.allocation.job
                assert now_ms <= self.promised_ms.get(job, now_ms), decision
        if not state.queue:
            return
        head = state.jobs[state.queue[0][1]].job
        timeline = Timeline(Draft(state.snapshot(now_ms)))
        assert timeline.reserve(head)
        begin_ms = timeline.reservations[0].begin_ms
        assert begin_ms <= self.promised_ms.get(head.id, begin_ms)
        self.promised_ms[head.id] = begin_ms


@pytest.mark.parametrize("name", TRIED)
def test_whatever_the_trace_every_job_ends_and_nothing_is_held_twice(name):
    policy = TRIED[name]

    @settings(max_examples=60)
    @given(TRACES)
    def holds(jobs):
        replay = Checked(jobs, policy)
        outcome = replay.run()

        waits = [
            ended_ms - job.submit_ms - job.duration_ms
            for job, ended_ms in zip(jobs, outcome.ended_ms, strict=True)
        ]
        assert min(waits) >= 0
        work = sum(job.duration_ms * job.gpus for job in jobs)
        assert used_ms(outcome.held) == work + outcome.wasted_gpu_ms
        assert levels(outcome.held)[-1] == 0
        assert max(levels(outcome.held)) <= NODES * PER_NODE
        if not policy.preempts:
            assert outcome.preemptions == 0
            starts = [outcome.first_start_ms[n] - job.submit_ms for n, job in enumerate(jobs)]
            assert waits == starts
        assert replay.controller.state.nominations == {}

    holds()


def levels(held: list[tuple[int, int]]) -> list[int]:
    total, out = 0, []
    for _, more in held:
        total += more
        out.append(total)
    return out


def used_ms(held: list[tuple[int, int]]) -> int:
    """GPU·ms that were held."""
    return -sum(at_ms * more for at_ms, more in held)


def test_equal_traces_give_equal_outcomes():
    jobs = [TraceJob(n * 7_000, (n * 7919) % 900_000, 1 + n % 6) for n in range(60)]

    for policy in TRIED.values():
        assert Checked(jobs, policy).run() == Checked(jobs, policy).run()


# -- fixed traces ----------------------------------------------------------------------------------


def seeded(count: int) -> list[TraceJob]:
    """A busy day by a linear congruence: the same on every machine and in every Python."""
    state, at_ms, jobs = 12345, 0, []
    for _ in range(count):
        draws = []
        for _ in range(3):
            state = (state * 1_103_515_245 + 12_345) % 2**31
            draws.append(state >> 8)
        at_ms += draws[0] % 3_000_000
        length_ms = (1_000, 60_000, 1_800_000, 18_000_000)[draws[1] % 4] + draws[1] % 500
        jobs.append(TraceJob(at_ms, length_ms, (1, 1, 2, 3, 4, 8)[draws[2] % 6]))
    return jobs


# policy → (seconds that all jobs waited, preemptions)
GOLDEN: dict[str, tuple[int, int]] = {
    "fifo": (25374673, 0),
    "fifo-skip": (4166961, 0),
    "sjf": (2297134, 0),
    "ssf": (2596340, 0),
    "srtf": (1564142, 168),
    "tiresias": (1714683, 255),
    "easy": (4643636, 0),
    "conservative": (5784588, 0),
    "madang": (1800173, 449),
    "hasty": (2528479, 2868),
}


@pytest.mark.parametrize("name", TRIED)
def test_a_seeded_trace_takes_as_long_as_ever(name):
    jobs = seeded(300)
    replay = Checked(jobs, TRIED[name])
    outcome = replay.run()

    waited = sum(
        ended_ms - job.submit_ms - job.duration_ms
        for job, ended_ms in zip(jobs, outcome.ended_ms, strict=True)
    )
    assert (waited // 1000, outcome.preemptions) == GOLDEN[name]


def test_the_policies_rank_as_the_literature_says():
    waited = {name: golden[0] for name, golden in GOLDEN.items()}

    assert waited["srtf"] < waited["ssf"] < waited["fifo-skip"] < waited["fifo"]
    assert waited["easy"] < waited["fifo"]
    assert waited["madang"] < waited["fifo-skip"]


# policy → (avg JCT s, p99 wait s, preemptions)
ITP_GOLDEN: dict[str, tuple[float, float, int]] = {
    "fifo": (36735.2, 42586.0, 0),
    "fifo-skip": (36207.8, 42654.9, 0),
    "sjf": (35910.6, 50903.1, 0),
    "ssf": (35910.6, 50903.1, 0),
    "srtf": (31012.6, 47707.8, 216),
    "tiresias": (37972.2, 52997.7, 1111),
    "easy": (36593.4, 42586.0, 0),
    "madang": (32657.2, 55021.2, 1573),
}


@pytest.mark.data
@pytest.mark.parametrize(("policy", "golden"), ITP_GOLDEN.items())
def test_the_first_thousand_jobs_of_a_public_trace(tmp_path, policy, golden):
    jobs = read_trace(ITP / "itp08.csv.gz")[:1000]
    lines = [f"{j.submit_ms / 1000},{j.duration_ms / 1000},{j.gpus}" for j in jobs]
    trace = write(tmp_path / "t.csv.gz", "\n".join(["submit,duration,gpus", *lines]))
    result = run(trace, "11x8", policy)

    assert (result["avg_jct_s"], result["p99_wait_s"], result["preemptions"]) == golden


# -- the file and the cluster ----------------------------------------------------------------------

HEAD = "submit,duration,gpus\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "holds no jobs"),
        ("submit,gpus\n1,1\n", "lacks the columns .'duration'"),
        (HEAD + "1,2,x\n", "line 2: numbers expected"),
        (HEAD + "1,2,1\n1,nan,1\n", "line 3: a time that is no number"),
        (HEAD + "inf,2,1\n", "a time that is no number"),
        (HEAD + "-1,2,1\n", "seconds from 0"),
        (HEAD + "1,1e11,1\n", "seconds from 0"),
        (HEAD + "1,2,0\n", "at least 1 GPU"),
        (HEAD + "1,2\n", "numbers expected"),
    ],
)
def test_a_trace_that_cannot_be_replayed_says_why(tmp_path, text, said):
    with pytest.raises(TraceError, match=said):
        read_trace(write(tmp_path / "t.csv.gz", text))


def test_what_is_no_gzip_is_said(tmp_path):
    (tmp_path / "t.csv").write_text(HEAD)

    with pytest.raises(TraceError, match="cannot be read as gzip CSV"):
        read_trace(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "text", ["", "78", "x8", "78x", "0x8", "4x0", "4x65", "-1x8", "4x8x2", "²x8"]
)
def test_a_cluster_of_another_form_is_said(text):
    with pytest.raises(TraceError, match="NODESxGPUS"):
        cluster_of(text)


def test_jobs_are_in_order_of_submission_and_equal_times_in_that_of_the_file(tmp_path):
    text = HEAD + "5,1,1\n0,2,2\n5,3,3\n"

    jobs = read_trace(write(tmp_path / "t.csv.gz", text))
    assert [(job.submit_ms, job.gpus) for job in jobs] == [(0, 2), (5000, 1), (5000, 3)]


def test_the_metrics_are_those_of_a_replay_by_hand(tmp_path):
    """Two GPUs: one job holds both for 100 s; the other waits 90 s for one and runs 50 s."""
    trace = write(tmp_path / "t.csv.gz", HEAD + "0,100,2\n10,50,1\n")
    result = run(trace, "1x2", "fifo")

    assert result == {
        "policy": "fifo",
        "jobs": 2,
        "avg_jct_s": 120.0,
        "p99_jct_s": 139.6,
        "avg_wait_s": 45.0,
        "p99_wait_s": 89.1,
        "avg_wait_large_s": None,
        "makespan_s": 150.0,
        "preemptions": 0,
        "wasted_gpu_s": 0.0,
        "utilisation": 0.8333,
        "wall_s": result["wall_s"],
    }


def test_the_error_of_what_was_told_is_measured_beside_what_a_queue_page_would_have_said():
    earlier_s, told_s, real_s = [0, 0, 0, 40], [100, 300, None, 0], [200, 200, 400, 0]
    jobs = [TraceJob((900 - wait) * 1000, 1000, 1) for wait in earlier_s]
    jobs += [TraceJob(1_000_000, 1000, 1) for _ in told_s]
    outcome = Outcome([0] * 8)
    outcome.first_start_ms = dict.fromkeys(range(4), 900000)
    for number, (told, real) in enumerate(zip(told_s, real_s, strict=True), start=4):
        outcome.first_start_ms[number] = (1000 + real) * 1000
        outcome.expected_ms[number] = NEVER_MS if told is None else (1000 + told) * 1000

    eta = eta_of(jobs, outcome)
    assert eta.keys() == {"all", "1 GPU"}
    assert eta["all"] == {
        "right_away": 1,
        "asked": 3,
        "unknown": 1,
        "median_wait_s": 200.0,
        "median_told_s": 300.0,
        "median_error_s": 100.0,
        "error_pct_p25": 50.0,
        "error_pct_p50": 50.0,
        "error_pct_p75": None,  # who was told nothing was told as wrong as can be
        "error_pct_p90": None,
        "too_late_pct": 50.0,
        "median_told_by_real": 0.5,
        "mean_of_started_error_pct": 95.0,  # 10 s for 200
        "median_of_waited_error_pct": 80.0,  # 40 s for 200
    }


def test_a_queue_page_knows_nobody_who_starts_later_or_is_of_another_size():
    jobs = [TraceJob(0, 1000, 8), TraceJob(0, 1000, 1), TraceJob(5_000, 1000, 1)]
    outcome = Outcome([0] * 3)
    outcome.first_start_ms = {0: 4_000, 1: 5_000, 2: 9_000}
    outcome.expected_ms = {2: 9_000}

    row = eta_of(jobs, outcome)["1 GPU"]
    assert row["error_pct_p50"] == 0.0
    assert row["mean_of_started_error_pct"] is None


def test_a_job_that_never_fits_is_said_before_anything_is_replayed(tmp_path):
    trace = write(tmp_path / "t.csv.gz", HEAD + "0,100,17\n")

    with pytest.raises(TraceError, match="17 GPUs, which 2x8 can never hold"):
        run(trace, "2x8")


def test_a_preemption_costs_a_restart():
    """One GPU. A long job runs; a short one comes and is let by; the long one pays 7 s."""
    jobs = [TraceJob(0, 1_000_000, 1), TraceJob(100_000, 10_000, 1)]
    outcome = Replay([replace(j, estimate_ms=j.duration_ms) for j in jobs], 1, 1, POLICIES["srtf"])
    ended = outcome.run()

    assert ended.ended_ms == [1_017_000, 110_000]
    assert ended.wasted_gpu_ms == 7_000
    assert ended.preemptions == 1
