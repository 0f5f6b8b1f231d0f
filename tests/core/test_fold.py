"""Stories of one job or two: what the fold makes of facts that come early, late, twice or never."""

import pytest

from madang.core import events as ev
from madang.core.check import check_quota
from madang.core.explain import why
from madang.core.model import Exit, Node, NodeState, Project
from tests.core.yard import START_MS, Yard, text


def running(picture: str = "n1: ....", job: str = "b: 2x1") -> Yard:
    """A yard where the job runs as `b.1`."""
    yard = Yard(picture).submit(job).turn().started("b.1").turn()
    assert yard.phase("b") == "running"
    return yard


# -- the straight way ------------------------------------------------------------------------------


def test_a_job_lives_from_submission_to_success():
    yard = Yard("n1: ....").submit("b: 2x1").turn()
    assert yard.phase("b") == "starting"
    assert yard.decisions() == ["bind b.1"]

    assert yard.started("b.1", 0).turn().phase("b") == "starting"
    assert yard.started("b.1", 1).turn().phase("b") == "running"
    assert yard.ended("b.1", 0).turn().picture() == text("n1: .B..")
    assert yard.ended("b.1", 1).turn().decisions() == ["end b succeeded"]
    assert yard.phase("b") == "succeeded"
    assert yard.picture() == text("n1: ....")


def test_an_end_without_a_start_is_an_end():
    yard = Yard("n1: ....").submit("b: 2x1").turn().ended("b.1", 0).turn()
    assert yard.phase("b") == "starting"

    assert yard.started("b.1", 1).turn().phase("b") == "running"
    assert yard.ended("b.1", 1).turn().phase("b") == "succeeded"


def test_a_gang_that_never_said_it_started_may_end():
    yard = Yard("n1: ....").submit("b: 2x1").turn().ended("b.1").turn()

    assert yard.phase("b") == "succeeded"


def test_running_time_counts_from_the_last_start_and_never_from_the_future():
    yard = Yard("n1: ....").submit("b: 2x1").turn()
    yard.fact(ev.MemberStarted("b.1", 0, yard.now_ms + 5))
    yard.fact(ev.MemberStarted("b.1", 1, yard.now_ms + 10**9)).turn()

    assert yard.state.allocations["b.1"].running_ms == yard.now_ms
    assert yard.state.jobs["b"].standing.running_ms == yard.now_ms


def test_what_an_ended_member_leaves_goes_to_the_next_at_once():
    yard = running("n1: ..").submit("c: 1").turn()
    assert yard.picture() == text("n1: BB\nwaiting: c")

    assert yard.ended("b.1", 0).turn().picture() == text("n1: CB")


# -- repeats, late facts, nonsense -----------------------------------------------------------------


@pytest.mark.parametrize(
    "fact",
    [
        ev.MemberStarted("b.1", 0, START_MS),
        ev.MemberStarted("b.1", 2, START_MS),
        ev.MemberStarted("b.1", -1, START_MS),
        ev.MemberEnded("b.1", 2, Exit(0), START_MS),
        ev.MemberEnded("b.1", -1, Exit(0), START_MS),
        ev.MemberEnded("nobody.1", 0, Exit(0), START_MS),
        ev.JobStopAsked("nobody"),
        ev.JobRequeueAsked("nobody"),
        ev.NodeLost("nowhere"),
        ev.NodeCordoned("nowhere", True),
        ev.NodeCordoned("n1", False),
        ev.ProjectSet(Project("default")),
    ],
    ids=str,
)
def test_what_is_not_news_changes_nothing(fact):
    yard = running()
    before = yard.picture()

    yard.fact(fact).turn()

    assert yard.last.events == ()
    assert yard.picture() == before
    assert yard.phase("b") == "running"


def test_a_repeated_submission_is_one_job():
    yard = Yard("n1: ....")
    job = yard.job("b: 1")

    yard.fact(ev.JobSubmitted(job)).fact(ev.JobSubmitted(job)).turn()
    assert yard.picture() == text("n1: B...")

    # Not judged again either: the quota that it would fail now is younger than the job.
    yard.quota("default", 0).turn()
    assert yard.fact(ev.JobSubmitted(job)).turn().last.events == ()

    yard.ended("b.1").turn()
    assert yard.fact(ev.JobSubmitted(job)).turn().last.events == ()


def test_a_late_end_is_counted_once():
    yard = running().ended("b.1", 0).turn().ended("b.1", 0, code=3).turn()
    assert yard.last.events == ()

    assert yard.ended("b.1", 1).turn().phase("b") == "succeeded"
    assert yard.ended("b.1", 1, code=3).turn().phase("b") == "succeeded"


def test_what_starts_after_it_was_given_up_is_ended_as_a_stray():
    yard = running().fact(ev.MemberStarted("gone.3", 0, START_MS)).turn()

    assert yard.decisions() == ["release gone.3 stray 0"]
    assert not yard.state.strays


def test_a_late_start_of_what_has_just_ended_is_no_stray():
    yard = running().ended("b.1").turn()

    yard.fact(ev.MemberStarted("b.1", 0, START_MS)).turn()

    assert yard.decisions() == []


# -- failures and retries --------------------------------------------------------------------------


def test_a_member_that_fails_ends_the_gang_with_its_grace():
    yard = running().ended("b.1", 1, code=3).turn()
    assert yard.decisions() == ["release b.1 member_failed 30000"]
    assert yard.phase("b") == "stopping"
    assert yard.picture() == text("n1: B...")

    yard.ended("b.1", 0, code=143).turn()
    assert yard.phase("b") == "failed: member 1 exited with 3"


def test_a_signal_is_told_as_one():
    yard = running(job="b: 1").fact(ev.MemberEnded("b.1", 0, Exit(0, signal=9), START_MS)).turn()

    assert yard.phase("b") == "failed: member 0 was ended by signal 9"


def test_retries_back_off_twice_as_long_each_time_and_are_bounded():
    yard = Yard("n1: .").submit("b: 1 retries=3").turn()
    waits_ms = []
    for attempt in (1, 2, 3):
        yard.ended(f"b.{attempt}", code=1).turn()
        standing = yard.state.jobs["b"].standing
        waits_ms.append(standing.not_before_ms - yard.now_ms)
        assert standing.failures == attempt
        assert yard.controller.due_ms(yard.now_ms) == yard.now_ms
        yard.turn(wait_ms=0)  # what the requeue may have made possible
        assert yard.controller.due_ms(yard.now_ms) == standing.not_before_ms
        yard.turn(wait_ms=waits_ms[-1] - 1)
        assert yard.decisions() == []
        assert yard.turn(wait_ms=1).decisions() == [f"bind b.{attempt + 1}"]
    yard.ended("b.4", code=1).turn()

    assert waits_ms == [1_000, 2_000, 4_000]
    assert yard.phase("b") == "failed: member 0 exited with 1"


def test_the_back_off_has_a_longest():
    yard = Yard("n1: .").submit("b: 1 retries=99").turn()
    for attempt in range(1, 40):
        yard.ended(f"b.{attempt}", code=1).turn()
        wait_ms = yard.state.jobs["b"].standing.not_before_ms - yard.now_ms
        yard.turn(wait_ms=wait_ms)

    assert wait_ms == 300_000


def test_losses_cost_no_retries_but_are_bounded(monkeypatch):
    monkeypatch.setattr("madang.core.passes.settle.ATTEMPTS_MAX", 2)
    yard = Yard("n1: .").submit("b: 1").turn()

    yard.ended("b.1", lost=True).settled()
    assert yard.state.jobs["b"].standing.failures == 0
    assert yard.picture() == text("n1: B")

    assert yard.ended("b.2", lost=True).settled().phase("b") == "failed: attempts"


# -- time limits -----------------------------------------------------------------------------------


def test_a_time_limit_counts_from_the_run_and_ends_it():
    yard = Yard("n1: .").submit("b: 1 limit_s=60").turn().turn(wait_ms=90_000)
    assert yard.phase("b") == "starting"

    yard.started("b.1").turn()
    due_ms = yard.controller.due_ms(yard.now_ms)
    assert due_ms is not None
    assert due_ms == yard.state.jobs["b"].standing.running_ms + 60_000

    assert yard.turn(wait_ms=due_ms - yard.now_ms - 1).decisions() == []
    assert yard.turn(wait_ms=1).decisions() == ["release b.1 time_limit 30000"]
    assert yard.ended("b.1", code=143).turn().phase("b") == "failed: time_limit"


def test_an_end_in_time_is_an_end_even_if_seen_with_the_limit():
    yard = Yard("n1: .").submit("b: 1 limit_s=60").turn().started("b.1").turn()

    yard.ended("b.1").turn(wait_ms=60_000)

    assert yard.phase("b") == "succeeded"
    assert not yard.state.deadlines


def test_several_limits_end_in_their_order():
    yard = Yard("n1: ...").submit("b: 1 limit_s=60", "c: 1 limit_s=30", "d: 1 limit_s=90").turn()
    for job in "bcd":
        yard.started(f"{job}.1")
    yard.turn()

    yard.turn(wait_ms=60_000)

    assert yard.decisions() == ["release c.1 time_limit 30000", "release b.1 time_limit 30000"]


# -- stop and requeue ------------------------------------------------------------------------------


def test_a_waiting_job_that_is_stopped_ends_at_once():
    yard = Yard("n1: A").submit("b: 1").turn().stop("b").turn()

    assert yard.phase("b") == "stopped: stop"
    assert yard.picture() == text("n1: A")


def test_a_job_is_stopped_before_its_first_turn():
    yard = Yard("n1: .").submit("b: 1").stop("b").turn()

    assert yard.phase("b") == "stopped: stop"
    assert yard.decisions() == ["end b stopped"]


def test_a_running_job_that_is_stopped_holds_its_devices_until_the_end_is_seen():
    yard = running().stop("b").turn()
    assert yard.decisions() == ["release b.1 stop 30000"]
    assert yard.picture() == text("n1: BB..")
    assert yard.phase("b") == "stopping"

    assert yard.stop("b").turn().last.events == ()
    assert yard.ended("b.1", 0, code=143).turn().phase("b") == "stopping"
    assert yard.ended("b.1", 1, code=0).turn().phase("b") == "stopped: stop"


def test_a_stop_that_comes_with_the_last_exit_does_not_undo_a_success():
    yard = running().stop("b").ended("b.1").turn()

    assert yard.phase("b") == "succeeded"


def test_a_stop_that_comes_with_a_failure_ends_a_job_that_had_retries():
    yard = running(job="b: 1 retries=5").stop("b").ended("b.1", code=1).turn()

    assert yard.phase("b") == "stopped: stop"


def test_a_stopped_job_in_its_back_off_ends():
    yard = Yard("n1: .").submit("b: 1 retries=5").turn().ended("b.1", code=1).turn()

    assert yard.stop("b").turn().phase("b") == "stopped: stop"
    assert yard.controller.due_ms(yard.now_ms) in (None, yard.now_ms)


def test_a_requeue_gives_a_new_attempt_and_costs_no_retry():
    yard = running().requeue("b").turn()
    assert yard.decisions() == ["release b.1 requeue 30000"]
    assert yard.requeue("b").turn().last.events == ()

    yard.ended("b.1", code=143).settled()

    assert yard.decisions() == ["bind b.2"]
    assert yard.state.jobs["b"].standing.failures == 0


def test_a_requeue_of_a_waiting_job_is_no_news():
    yard = Yard("n1: A").submit("b: 1").turn()

    assert yard.requeue("b").turn().last.events == ()


def test_a_stop_wins_over_a_requeue_in_either_order():
    for asks in ("sr", "rs"):
        yard = running(job="b: 1")
        for ask in asks:
            (yard.stop if ask == "s" else yard.requeue)("b").turn()
        yard.ended("b.1", code=143).settled()

        assert yard.phase("b") == "stopped: stop", asks


# -- nodes: loss and return ------------------------------------------------------------------------


def test_a_lost_nodes_devices_are_held_and_its_job_starts_elsewhere():
    yard = running("n1: ..\nn2: ..").lost("n1").turn()
    assert yard.decisions() == ["release b.1 node_lost 30000"]

    yard.settled()

    assert yard.picture() == text("n1: BB lost\nn2: BB")
    assert yard.state.jobs["b"].allocation == "b.2"


def test_what_a_dead_node_holds_does_not_eat_the_quota():
    yard = Yard("n1: ..\nn2: ..").quota("default", 2).turn()
    yard.submit("b: 2x1").turn().lost("n1").turn().settled()

    assert yard.picture() == text("n1: BB lost\nn2: BB")
    check_quota(yard.state)


def test_a_node_that_returns_without_what_it_held_is_free():
    yard = running("n1: ..\nn2: ..").lost("n1").turn().settled()

    assert yard.seen("n1").turn().picture() == text("n1: ..\nn2: BB")


def test_a_node_that_returns_with_what_it_held_is_told_to_end_it():
    yard = running("n1: ..\nn2: ..").lost("n1").turn().settled()

    yard.seen("n1", ("b.1", 0), ("b.1", 1)).turn()
    assert yard.decisions() == ["release b.1 stray 0"]
    assert yard.picture() == text("n1: BB\nn2: BB")

    assert yard.ended("b.1", code=137).turn().picture() == text("n1: ..\nn2: BB")
    assert yard.phase("b") == "starting"


def test_a_node_that_returns_before_the_job_was_settled_is_waited_for():
    yard = running("n1: ..\nn2: ..").lost("n1").turn()
    assert yard.state.unsettled

    yard.seen("n1", ("b.1", 0), ("b.1", 1)).turn()

    # Ends are in sight again: a second attempt must not run beside the first.
    assert yard.decisions() == ["release b.1 stray 30000"]
    assert yard.picture() == text("n1: BB\nn2: ..")
    assert yard.ended("b.1", code=143).settled().picture() == text("n1: BB\nn2: ..")
    assert yard.state.jobs["b"].allocation == "b.2"


def test_a_gang_half_on_a_lost_node_waits_for_the_half_in_sight():
    yard = running("n1: .\nn2: .").lost("n1").settled()
    assert yard.phase("b") == "stopping"
    assert yard.picture() == text("n1: B lost\nn2: B")

    yard.ended("b.1", 1, code=143).settled()

    assert yard.picture() == text("n1: B lost\nn2: .\nwaiting: b")
    assert yard.state.jobs["b"].standing.reason == "node_lost"


def test_a_return_gives_back_only_what_is_gone():
    yard = Yard("n1: ..").submit("b: 2x1").turn().started("b.1").turn().lost("n1").settled()

    yard.seen("n1", ("b.1", 1)).turn()

    assert yard.picture() == text("n1: .B\nwaiting: b")


def test_an_end_seen_on_a_lost_node_is_an_end():
    yard = running("n1: ..").lost("n1").ended("b.1").turn()

    assert yard.phase("b") == "succeeded"
    assert yard.picture() == text("n1: .. lost")


def test_a_stopped_job_does_not_wait_for_a_dead_node():
    yard = running("n1: ..").stop("b").turn().lost("n1").settled()

    assert yard.phase("b") == "stopped: stop"
    assert yard.picture() == text("n1: BB lost")
    assert yard.seen("n1").turn().picture() == text("n1: ..")


def test_a_node_in_sight_may_not_have_heard_of_its_newest_member():
    yard = Yard("n1: ....").submit("b: 2x1").turn()

    yard.seen("n1", cpu_milli=1000 * 1000).turn()

    assert yard.picture() == text("n1: BB..")


def test_a_node_in_sight_that_runs_what_nobody_knows_is_told_to_end_it():
    yard = running().seen("n1", ("b.1", 0), ("ghost.9", 0)).turn()

    assert yard.decisions() == ["release ghost.9 stray 0"]


def test_a_cordon_keeps_what_runs_and_outlives_a_loss():
    yard = running("n1: ....").cordon("n1").submit("c: 1").turn()
    assert yard.picture() == text("n1: BB.. cordoned\nwaiting: c")

    yard.lost("n1").settled().seen("n1").turn()
    assert yard.picture() == text("n1: .... cordoned\nwaiting: b c")

    assert yard.cordon("n1", False).turn().picture() == text("n1: BBC.")


def test_a_lost_node_can_be_cordoned():
    yard = Yard("n1: .").lost("n1").turn().cordon("n1").turn()
    assert yard.state.nodes["n1"].state is NodeState.LOST

    assert yard.seen("n1").turn().picture() == text("n1: . cordoned")


def test_a_second_loss_is_no_news():
    yard = Yard("n1: .").lost("n1").turn()

    assert yard.lost("n1").turn().last.events == ()


# -- nodes that change -----------------------------------------------------------------------------


def test_a_device_that_falls_ill_stays_with_its_job_and_is_not_given_again():
    yard = running("n1: ..").seen("n1", healthy=0b10).turn()
    assert yard.picture() == text("n1: BB")

    yard.ended("b.1").submit("c: 1", "d: 1").turn()
    assert yard.picture() == text("n1: xC\nwaiting: d")

    assert yard.seen("n1", healthy=0b11).turn().picture() == text("n1: DC")


def test_a_node_that_grows_offers_more():
    yard = Yard("n1: A\nn2: ..").submit("b: 3").turn()
    assert yard.decisions() == ["reject b member_too_large"]

    yard.seen("n1", gpus=4).submit("c: 3").turn()

    assert yard.picture() == text("n1: ACCC\nn2: ..")


def test_a_node_that_shrinks_keeps_what_runs():
    yard = running("n1: ....").seen("n1", gpus=1).turn()
    assert yard.picture() == text("n1: B")

    assert yard.ended("b.1").turn().picture() == text("n1: .")


def test_a_node_that_changes_its_model_serves_that_model():
    yard = Yard("n1: . model=L4\nn2: A model=H100").submit("b: 1 model=H100").turn()

    assert yard.seen("n1", model="H100").turn().picture() == text("n1: B\nn2: A")


def test_a_fleet_may_come_node_by_node_and_grow_wider():
    yard = Yard()
    for index in range(40):
        yard.fact(ev.NodeSeen(Node(f"n{index:02}", gpus=1 + index % 9, cpu_milli=0, memory_mib=0)))
        yard.turn()

    assert yard.state.pool.nodes == 40
    assert yard.state.pool.gpu_free.shape == (40, 9)
    assert int(yard.state.pool.whole_free.sum()) == sum(1 + index % 9 for index in range(40))


# -- turns -----------------------------------------------------------------------------------------


def test_nothing_is_due_in_a_quiet_yard():
    yard = running()

    assert yard.controller.due_ms(yard.now_ms) is None


def test_the_ledger_hears_of_each_change_once_in_order():
    yard = Yard("n1: ..").submit("b: 1", "c: 2").turn()
    changed = yard.state.take_changed()
    assert list(changed.jobs) == ["b", "c"]
    assert list(changed.allocations) == ["b.1"]
    assert list(changed.nodes) == ["n1"]
    assert list(changed.projects) == ["default"]

    assert not any(getattr(yard.state.take_changed(), kind) for kind in type(changed).__slots__)


def test_what_has_ended_is_forgotten_when_the_ledger_has_it():
    yard = running().ended("b.1").turn()
    assert list(yard.state.ended_jobs) == ["b"]
    assert list(yard.state.ended_allocations) == ["b.1"]

    yard.state.forget_ended()

    assert not yard.state.knows_job("b")
    assert not yard.state.ended_allocations


# -- reports that are older than what they are held against ----------------------------------------


def test_a_loss_and_a_return_seen_in_one_turn_deny_nothing():
    yard = running("n1: ..", "b: 2x1").lost("n1").seen("n1").turn()

    # The report may be older than the members: only their own ends free the devices.
    assert yard.decisions() == ["release b.1 node_lost 30000"]
    assert yard.picture() == text("n1: BB")
    assert yard.ended("b.1", lost=True).settled().state.jobs["b"].allocation == "b.2"


def test_a_report_made_before_the_release_was_asked_denies_nothing():
    yard = running("n1: ..\nn2: ..").lost("n1").turn()
    stale_ms = yard.now_ms - 1
    node = yard.state.nodes["n1"].node

    yard.fact(ev.NodeSeen(node, (), stale_ms)).turn()
    assert yard.picture() == text("n1: BB\nn2: ..")

    yard.lost("n1").settled()
    assert yard.fact(ev.NodeSeen(node, (), yard.now_ms)).turn().picture() == text("n1: ..\nn2: BB")


def test_a_job_does_not_start_beside_its_older_attempt_that_was_found_running():
    yard = running("n1: ..", "b: 2x1").submit("c: 2").lost("n1").settled()
    yard.fact(ev.NodeSeen(Node("n2", 4, 64_000, 1024, "H100"))).cordon("n2").turn()
    yard.stop("c").turn().seen("n1", ("b.1", 0), ("b.1", 1)).turn()

    yard.cordon("n2", False).turn()
    assert yard.picture() == text("n1: BB\nn2: ....\nwaiting: b")
    answer = why(yard.state.snapshot(yard.now_ms), "b")
    assert answer.code == "lingering"
    assert answer.text.startswith("its earlier attempt b.1 was found running on n1")

    yard.ended("b.1", 0, code=137).turn()
    assert yard.state.jobs["b"].allocation is None
    assert yard.ended("b.1", 1, code=137).turn().state.jobs["b"].allocation == "b.2"
    assert not yard.state.lingering


def test_two_older_attempts_may_linger_at_once():
    yard = running("n1: .\nn2: .", "b: 1").lost("n1").settled()
    yard.started("b.2").turn().lost("n2").settled()
    assert list(yard.state.lingering["b"]) == ["b.1", "b.2"]

    yard.ended("b.1", code=137).turn()
    assert list(yard.state.lingering["b"]) == ["b.2"]
    assert yard.ended("b.2", code=137).turn().state.lingering == {}
