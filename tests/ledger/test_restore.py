"""A state read from the ledger is the state that wrote it, and decides the same ever after."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.check import check
from madang.core.codec import encode_event
from madang.core.controller import Controller
from madang.core.model import Exit, NodeState, ReleaseReason
from madang.core.policies import MADANG
from madang.core.policies import POLICIES as NAMED
from madang.core.policy import DEFAULT
from madang.core.pool import ARRAYS, Pool
from madang.core.settings import KINDS
from madang.core.state import State
from madang.ledger import Ledger, NewJob, open_ledger, turn_of
from madang.testing.yard import Yard, state_of
from tests.ledger.story import FIRST, FULL, STORIES, Teller

# Ours as it is in a yard where jobs last milliseconds, so that it preempts in these stories.
HASTY = replace(MADANG, name="hasty", level_ms=5, run_ms_min=1, patience_ms=500)
POLICIES = {**NAMED, "default": DEFAULT, "hasty": HASTY, "hasty2": HASTY, "hasty3": HASTY}


def reread(ledger: Ledger) -> State:
    return state_of(ledger.load())


def picture(state: State) -> dict[str, object]:
    """All that the state knows, with names instead of codes and in the order that passes see."""
    rows = range(state.pool.nodes)
    models = {code: name for name, code in state.models.items()}
    groups = {code: name for name, code in state.groups.items()}
    zones = {code: name for name, code in state.zones.items()}
    domains = {code: path for path, code in state.domains.items()}
    return {
        "pool": [_row(state.pool, row) for row in rows],
        "models": [models[int(state.pool.model[row])] for row in rows],
        "groups": [groups[int(state.pool.group[row])] for row in rows],
        "zones": [zones[int(state.pool.zone[row])] for row in rows],
        "domains": [_named(domains, state.pool.domains[row].tolist()) for row in rows],
        "nodes": state.nodes,
        "node_ids": state.node_ids,
        "on_node": {id: list(there) for id, there in state.on_node.items()},
        "projects": state.projects,
        "held": {key: milli for key, milli in state.held_milli.items() if milli},
        "settings": {kind: state.settings.of(kind) for kind in KINDS},
        "usage": {id: milli for id, milli in state.usage_milli.items() if milli},
        "jobs": [(live.job, live.standing, live.allocation) for live in state.jobs.values()],
        "allocations": list(state.allocations.items()),
        "queue": state.queue,
        "waiting": state.waiting,
        "backoffs": state.backoffs,
        "insisting": state.insisting,
        "deadlines": state.deadlines,
        "troubled": state.troubled,
        "unsettled": set(state.unsettled),
        "strays": state.strays,
        "nominations": state.nominations,
    }


def _named(domains: dict[int, tuple[str, ...]], codes: list[int]) -> list[tuple[str, ...]]:
    """A node's domains; a pool that had a deeper tree once is deeper than it need be."""
    return [domains[code] for code in codes if code >= 0]


def _row(pool: Pool, row: int) -> dict[str, object]:
    codes = ("model", "group", "zone", "domains")
    cells = {name: getattr(pool, name)[row] for name in ARRAYS if name not in codes}
    # A pool that had a wider node once is wider than it need be.
    cells["gpu_free"] = np.trim_zeros(cells["gpu_free"], "b").tolist()
    return cells


def step(controller: Controller, facts: Sequence[ev.Fact], now_ms: int) -> list[str]:
    events = controller.step(facts, now_ms).events
    controller.state.take_changed()
    controller.state.forget_ended()
    return [encode_event(event) for event in events]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=STORIES, cut=st.integers(0, 24), policy=st.sampled_from(sorted(POLICIES)))
def test_a_state_read_again_goes_on_as_if_it_had_been_folded(new_file, story, cut, policy):
    controller, teller, twin, now_ms = Controller(), Teller(), None, 1_000
    controller.state.policy = POLICIES[policy]
    start = FULL if POLICIES[policy].preempts else []
    with closing(open_ledger(f"sqlite:///{new_file()}")) as ledger:
        epoch = ledger.take_lead("story")
        for number, (pause_ms, moves) in enumerate([(0, []), *start, *story]):
            now_ms += pause_ms
            facts = teller.facts(controller.state, moves, now_ms) if number else list(FIRST)
            if twin is not None:
                twin_events = step(twin, facts, now_ms)
            events = controller.step(facts, now_ms).events
            new = [NewJob(e.job.id, "ada", "{}") for e in events if isinstance(e, ev.JobSubmitted)]
            turn = turn_of(controller.state, events, epoch=epoch, at_ms=now_ms, new=new)
            ledger.commit(turn)
            controller.state.forget_ended()
            again = reread(ledger)
            again.policy = POLICIES[policy]
            check(again)

            assert picture(again) == picture(controller.state)
            if twin is not None:
                assert twin_events == [encode_event(event) for event in events]
            if number == cut:
                twin = Controller(again)


@pytest.fixture
def yard(new_file):
    with closing(open_ledger(f"sqlite:///{new_file()}")) as ledger:
        yield Yard(ledger).open(nodes=2)


def test_jobs_of_two_lost_nodes_are_settled_in_the_same_order_after_a_restart(yard):
    small = [yard.job(members=4) for _ in range(4)]
    yard.run(*small)
    yard.turn(ev.NodeLost("n1"), ev.NodeLost("n0"))
    again = Controller(reread(yard.ledger))
    assert set(again.state.unsettled) == {job.id for job in small}

    now_ms = yard.now_ms + 10
    after_restart = step(again, [], now_ms)

    assert after_restart == step(yard.controller, [], now_ms)
    assert len(after_restart) == 4


def test_a_crash_between_the_loss_and_its_settling_loses_no_job(yard):
    (allocation,) = yard.run(yard.job(members=8))
    node = yard.controller.state.allocations[allocation].seats[0].node
    yard.turn(ev.NodeLost(node))
    again = Controller(reread(yard.ledger))
    again.step([], yard.now_ms + 10)
    again.step([], yard.now_ms + 20)

    assert again.state.jobs["digits-1"].allocation == "digits-1.2"
    assert again.state.allocations[allocation].release_reason is ReleaseReason.NODE_LOST
    check(again.state)


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (ev.JobStopAsked("digits-1"), ReleaseReason.STOP),
        (ev.NodeLost("n0"), ReleaseReason.NODE_LOST),
        (ev.MemberEnded("digits-1.1", 0, Exit(3), 0), ReleaseReason.MEMBER_FAILED),
    ],
    ids=lambda value: str(value)[:24],
)
def test_facts_written_without_their_decisions_are_decided_after_a_restart(yard, fact, reason):
    """No turn of ours is cut like this; a state that came from one must still go on."""
    yard.run(yard.job(members=2))
    state = yard.controller.state
    state.apply(fact, yard.now_ms)
    yard.ledger.commit(turn_of(state, [fact], epoch=yard.epoch, at_ms=yard.now_ms))
    again = Controller(reread(yard.ledger))

    assert again.state.troubled == {"digits-1.1": reason}
    decided = again.step([], yard.now_ms + 10).decisions
    assert decided == (ev.ReleaseAsked("digits-1.1", reason, 30_000),)


def test_a_device_held_on_a_node_that_no_longer_has_it_stays_held(yard):
    (allocation,) = yard.run(yard.job(members=8))
    node = yard.controller.state.nodes["n0"].node
    yard.turn(ev.NodeSeen(replace(node, gpus=2)))
    again = reread(yard.ledger)
    check(again)

    assert again.pool.gpu_free[0].sum() == 0
    assert len(again.on_node["n0"]) == 1
    assert again.nodes["n0"].state is NodeState.READY
    assert picture(again) == picture(yard.controller.state)
    assert allocation in again.allocations


def test_a_device_that_no_node_has_any_more_is_still_counted_as_held(new_file):
    """All nodes shrank: the held device is wider than any of them."""
    with closing(open_ledger(f"sqlite:///{new_file()}")) as ledger:
        yard = Yard(ledger).open()
        yard.run(yard.job(members=8))
        node = yard.controller.state.nodes["n0"].node
        yard.turn(ev.NodeSeen(replace(node, gpus=2)))
        again = reread(ledger)
        check(again)

        assert picture(again) == picture(yard.controller.state)


def test_a_promise_outlives_a_restart(yard):
    """Who was moved aside must not have been for nothing, nor anybody else after him."""
    yard.controller.state.policy = HASTY
    old = [yard.job("old", members=4, checkpoints=True) for _ in range(4)]
    yard.run(*old)
    yard.now_ms += 1_000
    step_1 = yard.turn(ev.JobSubmitted(yard.job("young", members=8)))
    promised = [e for e in step_1.decisions if isinstance(e, ev.JobNominated)]
    assert [e.job for e in promised] == ["young-5"]

    again = Controller(reread(yard.ledger))
    again.state.policy = HASTY
    victims = [e.allocation for e in step_1.decisions if isinstance(e, ev.ReleaseAsked)]
    assert len(victims) == 2
    now_ms = yard.now_ms
    for victim in victims:
        now_ms += 10
        facts = [ev.MemberEnded(victim, rank, Exit(0, signal=15), now_ms) for rank in range(4)]
        assert step(again, facts, now_ms) == step(yard.controller, facts, now_ms)
    assert step(again, [], now_ms) == step(yard.controller, [], now_ms)
    bound = again.state.allocations["young-5.1"]
    assert bound.seats == promised[0].seats
    check(again.state)


def test_a_promise_made_turns_after_the_submission_is_written(yard):
    yard.controller.state.policy = HASTY
    yard.run(*[yard.job("old", members=4, checkpoints=True) for _ in range(4)])
    yard.controller.state.policy = DEFAULT  # which moves nobody aside
    yard.turn(ev.JobSubmitted(yard.job("young", members=8)))
    assert yard.ledger.load().nominations == ()
    yard.controller.state.policy = HASTY
    yard.now_ms += 1_000
    yard.turn(ev.NodeCordoned("n0", True), ev.NodeCordoned("n0", False))
    assert list(yard.controller.state.nominations) == ["young-5"]

    assert reread(yard.ledger).nominations == yard.controller.state.nominations


def test_a_fleet_is_restored_at_once(new_file):
    with closing(open_ledger(f"sqlite:///{new_file()}")) as ledger:
        yard = Yard(ledger).open(nodes=100)
        yard.run(*[yard.job(members=7) for _ in range(30)])
        again = reread(ledger)
        check(again)

        assert picture(again) == picture(yard.controller.state)


def test_of_ended_jobs_nothing_is_loaded(yard):
    for _ in range(10):
        yard.end(*yard.run(*[yard.job() for _ in range(16)]))
    yard.run(yard.job())
    loaded = yard.ledger.load()

    assert len(loaded.jobs) == 1
    assert len(loaded.allocations) == 1
    assert yard.ledger.phase_counts()[loaded.jobs[0].standing.phase] == 1
