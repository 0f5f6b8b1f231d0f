"""Whose devices are whose where kubelet chose them: what agents say goes before nominal numbers."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from madang.core.model import Seat
from madang.core.snapshot import Snapshot
from madang.daemon.telemetry import MASK, Before, Given, given_of, held_of
from madang.telemetry.frames import Column, Frame, Subject
from madang.telemetry.metrics import METRICS
from madang.telemetry.store import Store


def snapshot(*seats: Seat) -> Snapshot:
    """One allocation; what `held_of` looks at and nothing else."""
    one = SimpleNamespace(
        id="a.1", job="a", project="p", seats=seats, running_ms=1, bound_ms=1,
        holds=lambda rank: True,
    )  # fmt: skip
    return cast(Snapshot, SimpleNamespace(allocations={"a.1": one}, jobs={}, nodes={}))


def devices(given: Given, *seats: Seat) -> Any:
    [held] = held_of(snapshot(*seats), given)
    return held.devices


MEMBERS = {"team.train-0": ("a.1", 0), "team.train-1": ("a.1", 1)}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([("n", "team.train-0/0", 0b1010)], {("a.1", 0): ("n", (1, 3))}),
        ([("n", "team.train-0/0", 1), ("n", "team.train-0/1", 4)], {("a.1", 0): ("n", (0, 2))}),
        ([("n", "team.train-1/0", 128)], {("a.1", 1): ("n", (7,))}),
        ([("n", "other.train-0/0", 1)], {}),
        ([("n", "a.1/0", 1)], {}),
        ([], {}),
    ],
)
def test_pods_become_members_with_the_devices_they_were_given(said, found):
    keys = [(node, key) for node, key, _ in said]

    assert given_of(keys, [mask for *_, mask in said], MEMBERS) == found


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({}, [("n", 0), ("n", 1)]),
        ({("a.1", 0): ("n", (5, 6))}, [("n", 5), ("n", 6)]),
        ({("a.1", 0): ("elsewhere", (5, 6))}, [("n", 0), ("n", 1)]),
        ({("a.1", 0): ("n", (5,))}, [("n", 0), ("n", 1)]),
        ({("a.1", 1): ("n", (5, 6))}, [("n", 0), ("n", 1)]),
        ({("b.1", 0): ("n", (5, 6))}, [("n", 0), ("n", 1)]),
    ],
)
def test_what_was_given_counts_where_it_is_of_the_seats_node_and_size(given, held):
    assert devices(given, Seat("n", (0, 1))) == tuple(held)


def test_a_frames_mask_comes_out_of_the_ring_as_it_went_in(tmp_path):
    now_ms = 1_000_000_000_000
    store = Store(tmp_path)
    store.open(now_ms)
    mask = int(METRICS[MASK].range[1])
    column = Column(MASK, Subject.MEMBER, ("team.train-0/0",), np.array([mask], np.float32))
    store.take([Frame("n", 1, 1, now_ms, 10_000, (column,))], now_ms)
    store.advance(now_ms + 60_000)

    with store.looking():
        keys, values = store.ring.latest(MASK, store.ring.tick_of(now_ms))
    store.close()

    assert given_of(keys, values.tolist(), MEMBERS) == {("a.1", 0): ("n", tuple(range(24)))}


def test_what_is_kept_from_call_to_call_is_made_anew_where_something_changed():
    kept: Before = {}
    seen = snapshot(Seat("n", (0,)))
    [first] = held_of(seen, {}, kept)
    assert held_of(seen, {}, kept)[0] is first
    given: Given = {("a.1", 0): ("n", (5,))}
    assert held_of(seen, given, kept)[0].devices == (("n", 5),)
    assert held_of(seen, {}, kept)[0].devices == (("n", 0),)
    assert held_of(snapshot(Seat("m", (1,))), {}, kept)[0].devices == (("m", 1),)
