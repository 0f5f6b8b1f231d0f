"""Which pod says when why it waits: a table with its clock in hand."""

from collections.abc import Sequence

import pytest

from madang.engines.kubernetes.reasons import AGAIN_S, WAITING_MAX, Reason, Reasons
from madang.engines.kubernetes.values import PodFacts


def pod(name="p"):
    return PodFacts(f"ns/{name}", "ns", name, uid=f"uid-{name}")


class Table:
    """Says and takes by the second; `written` is what a pod says in the end."""

    def __init__(self):
        self.reasons = Reasons()
        self.written: dict[str, str] = {}

    def say(self, text, now_s, name="p"):
        self.reasons.say(Reason(pod(name), text), now_s)

    def write(self, now_s, *, fails=False):
        found = self.reasons.take(now_s, WAITING_MAX)
        for one in found:
            if fails:
                self.reasons.failed(one, now_s)
            else:
                self.written[one.pod.name] = one.text
        return [one.text for one in found]


@pytest.mark.parametrize(
    ("steps", "in_the_end"),
    [
        ([(0, "a")], [(0, "a")]),
        ([(0, "a"), (1, "b")], [(0, "a"), (AGAIN_S, "b")]),
        ([(0, "a"), (1, "b"), (2, "c")], [(0, "a"), (AGAIN_S, "c")]),
        ([(0, "a"), (1, "b"), (2, "a")], [(0, "a")]),
        ([(0, "a"), (1, "b"), (2, "a"), (3, "d")], [(0, "a"), (AGAIN_S, "d")]),
        ([(0, "a"), (1, "a"), (40, "a")], [(0, "a")]),
        ([(0, "a"), (40, "b"), (41, "c")], [(0, "a"), (40, "b"), (40 + AGAIN_S, "c")]),
    ],
)
def test_the_last_reason_is_written_when_its_time_is_due(
    steps: Sequence[tuple[int, str]], in_the_end: Sequence[tuple[float, str]]
):
    table, told = Table(), []
    said = dict(steps)
    for now_s in range(120):
        if now_s in said:
            table.say(said[now_s], now_s)
        told += [(now_s, text) for text in table.write(now_s)]

    assert told == list(in_the_end)


def test_the_table_says_when_it_has_something_next():
    table = Table()
    assert table.reasons.next_s() == float("inf")

    table.say("a", 5)
    assert table.reasons.next_s() == 5

    table.write(5)
    table.say("b", 6)
    assert table.reasons.next_s() == 5 + AGAIN_S


def test_what_could_not_be_written_is_tried_again_and_not_at_once():
    table = Table()
    table.say("a", 0)

    assert table.write(0, fails=True) == ["a"]
    assert table.write(AGAIN_S - 1) == []
    assert table.write(AGAIN_S) == ["a"]
    assert table.write(10 * AGAIN_S) == []


def test_a_newer_reason_goes_before_one_that_could_not_be_written():
    table = Table()
    table.say("a", 0)
    (one,) = table.reasons.take(0, 1)
    table.say("b", 1)  # while "a" is on its way
    table.reasons.failed(one, 2)

    assert table.write(100) == ["b"]
    assert table.write(200) == []


def test_a_reason_given_while_another_is_on_its_way_is_not_lost():
    table = Table()
    table.say("a", 0)
    table.reasons.take(0, 1)
    table.say("b", 1)

    assert table.write(100) == ["b"]


def test_after_a_failure_even_the_same_reason_is_written():
    """Its answer was lost: nobody knows what the pod says."""
    table = Table()
    table.say("a", 0)
    table.write(0)
    table.say("b", 40)
    table.write(40, fails=True)
    table.say("a", 41)

    assert table.write(100) == ["a"]


def test_a_pod_that_is_forgotten_says_nothing_more():
    table = Table()
    table.say("a", 0)
    table.write(0)
    table.say("b", 1)
    table.reasons.forget("uid-p")

    assert table.write(100) == []
    assert table.reasons.next_s() == float("inf")


def test_a_pod_that_is_forgotten_while_its_reason_is_on_its_way_stays_forgotten():
    table = Table()
    table.say("a", 0)
    (one,) = table.reasons.take(0, 1)
    table.reasons.forget("uid-p")
    table.reasons.failed(one, 1)

    assert table.write(100) == []
    assert not table.reasons._written


def test_no_more_wait_than_there_is_room_for():
    table = Table()
    for n in range(WAITING_MAX + 10):
        table.say("a", 0, f"p{n}")

    assert len(table.write(0)) == WAITING_MAX


def test_few_are_taken_at_once_and_none_is_left_out():
    reasons = Reasons()
    for n in range(10):
        reasons.say(Reason(pod(f"p{n}"), "a"), 0)
    taken = [len(reasons.take(0, 4)) for _ in range(4)]

    assert taken == [4, 4, 2, 0]
