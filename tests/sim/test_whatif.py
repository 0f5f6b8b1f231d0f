"""What-if: a journal replayed is what happened; under another policy it is what would have."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.check import check
from madang.core.controller import Step
from madang.core.policies import POLICIES
from madang.core.usage.report import report
from madang.sim import whatif
from madang.sim.history import history_of
from madang.sim.queueing import PROJECT, Replay, TraceJob
from madang.sim.replay import NEEDS_ESTIMATES
from madang.sim.rerun import Rerun
from tests.sim.test_replay import NODES, PER_NODE, TRACES
from tests.usage.test_books import played

KEEPS_EVERYONE = ("fifo", "fifo-skip", "sjf", "ssf", "easy", "conservative")
END_MS = 1 << 50


class Recorded(Replay):
    """A trace's replay that keeps its journal, as a daemon would."""

    def __init__(self, jobs: list[TraceJob], policy: str) -> None:
        if policy in NEEDS_ESTIMATES:
            jobs = [replace(job, estimate_ms=max(1, job.duration_ms)) for job in jobs]
        super().__init__(jobs, NODES, PER_NODE, POLICIES[policy])
        nodes = self.controller.state.nodes.values()
        first: list[ev.Event] = [ev.PolicySet(POLICIES[policy]), ev.ProjectSet(PROJECT)]
        first += [ev.NodeSeen(live.node) for live in nodes]
        self.journal: list[tuple[int, ev.Event]] = [(0, event) for event in first]

    def turn(self, facts: list[ev.Fact], now_ms: int) -> Step:
        step = super().turn(facts, now_ms)
        self.journal += [(now_ms, event) for event in step.events]
        return step

    def starts(self) -> dict[str, int]:
        return {e.allocation.job: at for at, e in self.journal if isinstance(e, ev.AllocationBound)}


def recorded(jobs: list[TraceJob], policy: str) -> Recorded:
    replay = Recorded(jobs, policy)
    replay.run()
    return replay


class Checked(Rerun):
    def turn(self, facts: list[ev.Fact], now_ms: int) -> Step:
        step = super().turn(facts, now_ms)
        check(self.controller.state)
        return step


@settings(max_examples=60, deadline=None)
@given(TRACES, st.sampled_from(KEEPS_EVERYONE), st.sampled_from((0, 1_000_000, 5_000_000)))
def test_under_the_recorded_policy_every_job_starts_and_ends_when_it_did(jobs, policy, since_ms):
    real = recorded(jobs, policy)
    history = history_of(real.journal, since_ms, END_MS)
    again = Checked(history, None).run()
    starts = {job: ms for job, ms in real.starts().items() if ms >= since_ms}

    assert again.marks.started_ms == starts
    assert again.marks.ended_ms == {j: ms for j, ms in history.ended_ms.items() if ms >= since_ms}
    window = (history.since_ms, history.until_ms)
    assert report(again.books, *window, ("size",)) == report(history.actual, *window, ("size",))


@settings(max_examples=40, deadline=None)
@given(TRACES, st.sampled_from(KEEPS_EVERYONE), st.sampled_from(KEEPS_EVERYONE))
def test_under_another_policy_every_job_starts_when_it_would_have(jobs, policy, other):
    real = recorded(jobs, policy)
    until_ms = real.journal[-1][0] + 10**9
    late = (until_ms, ev.ProjectSet(replace(PROJECT, quota_milli=10**9)))  # so that all may end
    history = history_of([*real.journal, late], 0, END_MS)
    would = Checked(history, POLICIES[other], oracle=other in NEEDS_ESTIMATES).run()

    if other in NEEDS_ESTIMATES or policy not in NEEDS_ESTIMATES:
        assert would.marks.started_ms == recorded(jobs, other).starts()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(POLICIES)), st.floats(0, 0.9))
def test_the_journal_of_a_faulty_yard_can_be_replayed_from_anywhere(seed, policy, part):
    journal = played(seed)
    since_ms = round(journal[-1][0] * part)
    history = history_of(journal, since_ms, END_MS)

    for chosen in (None, POLICIES[policy]):
        done = Checked(history, chosen).run()  # every invariant after every turn
        assert Checked(history, chosen).run().marks == done.marks


class Visited(Recorded):
    """A recorded replay in which users stop jobs."""

    def __init__(self, jobs: list[TraceJob], policy: str, stops: dict[int, str]) -> None:
        self.stops = stops
        super().__init__(jobs, policy)

    def next_ms(self, now_ms: int) -> int | None:
        times = [super().next_ms(now_ms), *self.stops]
        return min((at_ms for at_ms in times if at_ms is not None), default=None)

    def happened(self, now_ms: int) -> list[ev.Fact]:
        due = [at_ms for at_ms in self.stops if at_ms <= now_ms]
        return [*super().happened(now_ms), *(ev.JobStopAsked(self.stops.pop(at)) for at in due)]


def test_a_user_who_gave_up_waiting_gives_up_and_one_who_stopped_a_run_stops_it_as_late():
    jobs = [TraceJob(1, 600_000, 12), TraceJob(1_000, 60_000, 12), TraceJob(2_000, 60_000, 4)]
    real = Visited(jobs, "fifo", {100_000: "j-1", 300_000: "j-0"})
    real.run()
    history = history_of(real.journal, 0, END_MS)
    again = Checked(history, None).run()

    assert history.courses["j-0"].runs[0].by_user
    assert history.courses["j-0"].runs[0].length_ms == 299_999
    assert history.courses["j-1"].guessed
    assert again.marks.ended_ms == history.ended_ms
    assert again.marks.ended_ms["j-1"] == 100_000


def test_what_if_names_the_difference_the_error_and_who_gains():
    jobs = [TraceJob(0, 3_600_000, 12), TraceJob(1_000, 60_000, 12), TraceJob(2_000, 60_000, 1)]
    jobs += [TraceJob(3_000 + n, 60_000, 2) for n in range(5)]
    jobs[0] = replace(jobs[0], gpus=8)
    real = recorded(jobs, "fifo")
    result = whatif.run(real.journal, (0, END_MS), POLICIES["fifo-skip"], plot=True)

    assert result["recorded_policy"] == "fifo"
    assert result["method_error"]["start_p90_s"] == 0.0
    assert result["method_error"]["start_within_a_minute_pct"] == 100.0
    assert result["difference"]["avg_wait_s"] < -1_000
    assert result["gain_jobs"] >= 3
    assert {gain["job"] for gain in result["gains"]} >= {"j-2", "j-3"}
    assert "earlier under fifo-skip" in whatif.lines(result)
    assert "<script" not in result["page"]
