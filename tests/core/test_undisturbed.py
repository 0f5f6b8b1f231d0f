"""Nobody is moved aside for ever: each time, the next stay is safe for twice as long."""

from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.controller import Controller
from madang.core.keys import DOUBLINGS_MAX, undisturbed_ms
from madang.core.live import LiveJob
from madang.core.model import Exit, Job, Node, Project, Shape, Standing
from madang.core.policies import MADANG

JOB = Job("a-1", 1, "default", Shape(1), checkpoints=True)


@pytest.mark.parametrize(
    ("policy_ms", "job_ms", "preemptions", "safe_ms"),
    [
        (120_000, 0, 0, 120_000),
        (120_000, 0, 1, 240_000),
        (120_000, 300_000, 2, 1_200_000),
        (120_000, 0, DOUBLINGS_MAX + 5, 120_000 << DOUBLINGS_MAX),
        (0, 0, 9, 0),
    ],
)
def test_the_least_run_time_doubles_with_each_time_moved(policy_ms, job_ms, preemptions, safe_ms):
    policy = replace(MADANG, run_ms_min=policy_ms)
    live = LiveJob(replace(JOB, run_ms_min=job_ms), Standing(preemptions=preemptions))

    assert undisturbed_ms(policy, live) == safe_ms


def test_two_that_lose_all_their_work_whenever_they_move_both_end():
    """Each needs the one GPU for 100 s; after 10 s of waiting its turn is first again."""
    policy = replace(
        MADANG, level_ms=1_000, patience_ms=10_000, run_ms_min=5_000, fair_half_life_ms=0
    )
    controller = Controller()
    controller.step(
        [
            ev.PolicySet(policy),
            ev.ProjectSet(Project("default")),
            ev.NodeSeen(Node("n", 1, 1_000, 1_000)),
            ev.JobSubmitted(replace(JOB, submitted_ms=1)),
            ev.JobSubmitted(replace(JOB, id="b-2", seq=2, submitted_ms=1)),
        ],
        1,
    )
    ended: set[str] = set()
    state, now_ms = controller.state, 1
    while len(ended) < 2 and now_ms < 10_000_000:
        facts: list[ev.Fact] = []
        for one in list(state.allocations.values()):
            if not one.running_ms:
                facts.append(ev.MemberStarted(one.id, 0, now_ms))
            elif one.releasing_ms:
                facts.append(ev.MemberEnded(one.id, 0, Exit(143), now_ms))
            elif now_ms - one.running_ms >= 100_000:
                facts.append(ev.MemberEnded(one.id, 0, Exit(0), now_ms))
        step = controller.step(facts, now_ms)
        ended |= {event.job for event in step.events if isinstance(event, ev.JobEnded)}
        now_ms += 1_000

    assert ended == {"a-1", "b-2"}
