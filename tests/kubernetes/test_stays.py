"""What becomes of members, derived from pods: a table without any I/O."""

from dataclasses import replace
from typing import Any

import pytest

from madang.core.events import MemberEnded, MemberStarted
from madang.core.model import Exit
from madang.engines.base import Launch, Stop
from madang.engines.kubernetes.stays import (
    BEGIN_S,
    ENGINE_FAILED,
    LOST,
    REPLACE_S,
    Stays,
    exit_of,
)
from madang.engines.kubernetes.values import PodFacts
from tests.kubernetes.made_objects import GANG_OF_TWO


class Table:
    def __init__(self, key="gang"):
        self.facts: list[Any] = []
        self.now_s = 100.0
        self.stays = Stays(self.facts.append, lambda: self.now_s, lambda: 7)
        self.key = key

    def started(self):
        stay = self.stays.start(Launch(GANG_OF_TWO, "a", "ada", ("true",), arrival=self.key))
        assert stay is not None
        for rank in (0, 1):
            self.stays.seen(stay, pod(rank))
        return stay

    def told(self):
        said, self.facts[:] = [*self.facts], []
        return [(type(one).__name__[6:], one.rank, getattr(one, "exit", None)) for one in said]


def pod(rank, name="", phase="Pending", node=None, **more):
    name = name or f"p{rank}"
    node = f"n{rank}" if node is None else node
    notes = (("madang.io/allocation", "a-1.1"), ("madang.io/rank", str(rank)))
    fields = {"uid": f"uid-{name}", "node": node, "phase": phase, "annotations": notes}
    return PodFacts(f"ns/{name}", "ns", name, **{**fields, **more})


def ended(rank, code, name="", **more):
    phase = "Succeeded" if code == 0 else "Failed"
    return pod(rank, name, phase, exit_code=code, **more)


def test_a_member_is_told_as_started_once_and_as_ended_once():
    table = Table()
    stay = table.started()
    for one in (pod(0, phase="Running"), pod(0, phase="Running"), ended(0, 0), ended(0, 0)):
        table.stays.seen(stay, one)
    table.stays.gone(stay, ended(0, 0))

    assert table.told() == [("Started", 0, None), ("Ended", 0, Exit(0))]


def test_who_ended_unwatched_has_started_first():
    table = Table()
    table.stays.seen(table.started(), ended(1, 0))

    assert table.told() == [("Started", 1, None), ("Ended", 1, Exit(0))]


@pytest.mark.parametrize("how", ["failed", "gone"])
def test_a_member_of_a_gang_that_is_replaced_in_time_goes_on(how):
    table = Table()
    stay = table.started()
    table.stays.seen(stay, pod(0, phase="Running"))
    if how == "failed":
        table.stays.seen(stay, ended(0, 1))
    else:
        table.stays.gone(stay, pod(0, phase="Running"))
    table.now_s += REPLACE_S - 1
    table.stays.tick(lambda stay: True)
    table.stays.seen(stay, pod(0, "again", phase="Running"))
    table.now_s += 2 * REPLACE_S
    table.stays.tick(lambda stay: True)

    assert table.told() == [("Started", 0, None)]


@pytest.mark.parametrize("how", ["failed", "gone"])
def test_who_is_gone_does_not_come_back_with_the_answer_to_his_binding(how):
    """A gang's bindings are answered together: one pod may have run and gone before the last."""
    table = Table()
    stay = table.started()
    table.stays.seen(stay, pod(0, phase="Running"))
    if how == "failed":
        table.stays.seen(stay, ended(0, 1))
    else:
        table.stays.gone(stay, ended(0, 1))
    table.stays.seen(stay, pod(0, phase="Running"))  # what was known when the binding was asked
    table.now_s += REPLACE_S
    table.stays.tick(lambda stay: True)

    assert table.told() == [("Started", 0, None), ("Ended", 0, Exit(1))]


@pytest.mark.parametrize(("replaceable", "waits_s"), [(True, REPLACE_S), (False, 0)])
def test_one_that_is_not_replaced_has_ended(replaceable, waits_s):
    table = Table()
    stay = table.started()
    table.stays.seen(stay, ended(0, 3))
    before = table.told()
    table.now_s += waits_s
    table.stays.tick(lambda stay: replaceable)

    assert before == [("Started", 0, None)]
    assert table.told() == [("Ended", 0, Exit(3))]


def test_a_member_of_our_own_job_ends_at_once():
    table = Table(key="")
    table.stays.seen(table.started(), ended(0, 3))

    assert table.told() == [("Started", 0, None), ("Ended", 0, Exit(3))]


def test_a_second_pod_for_a_taken_seat_is_left_alone():
    table = Table()
    stay = table.started()
    table.stays.seen(stay, pod(0, phase="Running"))
    table.stays.seen(stay, ended(0, 1, "second"))

    assert table.told() == [("Started", 0, None)]
    assert stay.members[0].pod.name == "p0"


def test_news_from_before_the_binding_do_not_undo_it():
    table = Table()
    stay = table.started()
    table.stays.seen(stay, pod(0, node=""))

    assert stay.members[0].pod.node == "n0"


def test_what_was_asked_to_go_and_is_gone_was_ended_by_the_signal():
    table = Table()
    stay = table.started()
    table.stays.stop(Stop("a-1.1", 5_000))
    table.stays.gone(stay, pod(0, phase="Running"))
    table.now_s += 6
    table.stays.gone(stay, pod(1, phase="Running"))

    assert table.told() == [("Ended", 0, Exit(0, signal=15)), ("Ended", 1, Exit(0, signal=9))]
    assert not table.stays.live


def test_a_start_after_its_stop_ends_and_another_start_is_nothing():
    table = Table()
    launch = Launch(GANG_OF_TWO, "a", "ada", ("true",), arrival="gang")
    table.stays.stop(Stop("a-1.1", 0))

    assert table.stays.start(launch) is None
    assert table.told() == [("Ended", 0, LOST), ("Ended", 1, LOST)]
    assert table.stays.start(launch) is None
    assert table.told() == []


def test_adopted_without_a_trace_it_is_lost_unless_it_never_ran():
    table = Table(key="")
    table.stays.adopt(replace(GANG_OF_TWO, started=0b01), "", [])

    assert table.told() == [("Ended", 0, LOST)]


def test_what_it_holds_on_a_node_is_known_until_it_ends():
    table = Table(key="")
    stay = table.started()
    before = table.stays.holds_on("n1"), table.stays.held_on("n1")
    table.stays.seen(stay, ended(1, 0))

    assert before == ((("a-1.1", 1),), 0b1000)
    assert (table.stays.holds_on("n1"), table.stays.held_on("n1")) == ((), 0)


@pytest.mark.parametrize(
    ("phase", "code", "reason", "exit"),
    [
        ("Succeeded", 0, "", Exit(0)),
        ("Failed", 3, "Error", Exit(3)),
        ("Failed", 137, "OOMKilled", Exit(0, signal=9)),
        ("Failed", 143, "Error", Exit(0, signal=15)),
        ("Failed", None, "Evicted", LOST),
        ("Failed", None, "OutOfnvidia.com/gpu", LOST),
        ("Failed", 137, "NodeShutdown", LOST),
        ("Failed", None, "", ENGINE_FAILED),
        ("Failed", 0, "DeadlineExceeded", ENGINE_FAILED),
        ("Running", None, "", LOST),
    ],
)
def test_how_a_pod_ended(phase, code, reason, exit):
    assert exit_of(pod(0, phase=phase, exit_code=code, reason=reason)) == exit


def test_what_is_given_up_holds_its_devices_until_its_pods_are_gone():
    """And is told as lost, so that the job waits again and none of its retries are used up."""
    table = Table()
    stay = table.stays.start(Launch(GANG_OF_TWO, "a", "ada", ("true",), arrival="gang"))
    assert stay is not None
    table.stays.seen(stay, pod(0))
    table.stays.give_up(stay, LOST, "not bound whole")
    first, held = table.told(), table.stays.held_on("n0")
    table.stays.gone(stay, pod(0, phase="Running"))

    assert first == [("Ended", 1, LOST)]
    assert held == 0b1
    assert table.told() == [("Ended", 0, LOST)]
    assert table.stays.problems == {"a-1.1": "not bound whole"}


def test_an_image_that_cannot_be_pulled_holds_no_devices_for_ever():
    table = Table(key="")
    stay = table.started()
    table.stays.seen(stay, pod(0, reason="ImagePullBackOff"))
    table.now_s += BEGIN_S - 1
    table.stays.seen(stay, pod(0, reason="ErrImagePull"))
    before = table.stays.stuck()
    table.now_s += 1
    after = table.stays.stuck()
    table.stays.seen(stay, pod(0, phase="Running"))

    assert before == []
    assert after == [(stay, "p0 cannot begin: ErrImagePull")]
    assert table.stays.stuck() == []


def test_facts_are_of_the_members_allocation():
    table = Table()
    table.stays.seen(table.started(), ended(0, 0))

    assert table.facts == [MemberStarted("a-1.1", 0, 7), MemberEnded("a-1.1", 0, Exit(0), 7)]
