"""Every event goes to JSON and back; lines are the same on every machine."""

import json
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.codec import KINDS, decode_event, encode_event, from_json, to_json
from madang.core.model import (
    Allocation,
    AllocationState,
    Exit,
    Job,
    Node,
    Phase,
    Project,
    ReleaseReason,
    Seat,
    Shape,
    Standing,
)

SAFE = st.integers(-(2**53) + 1, 2**53 - 1)
BITS = st.integers(0, 2**200)
TEXT = st.text(max_size=20)
SHAPES = st.one_of(
    st.builds(Shape, gpus=st.integers(0, 64), cpu_milli=SAFE, models=st.lists(TEXT).map(tuple)),
    st.builds(Shape, gpus=st.just(1), gpu_milli=st.integers(1, 1000)),
)
OF: dict[object, st.SearchStrategy[typing.Any]] = {
    int: BITS | SAFE,
    str: TEXT,
    bool: st.booleans(),
    int | str: SAFE | TEXT,
    int | None: SAFE | st.none(),
    str | None: TEXT | st.none(),
    Shape: SHAPES,
}


def strategy(kind: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Values of a type of ours, from its annotations."""
    if kind in OF:
        return OF[kind]
    if typing.get_origin(kind) is tuple:
        args = typing.get_args(kind)
        if args[-1] is Ellipsis:
            return st.lists(strategy(args[0]), max_size=4).map(tuple)
        return st.tuples(*map(strategy, args))
    if hasattr(kind, "__members__"):
        return st.sampled_from(list(kind))
    return st.builds(kind, **{n: strategy(t) for n, t in typing.get_type_hints(kind).items()})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_event_goes_round(kind):
    @settings(suppress_health_check=[HealthCheck.too_slow])  # some events hold a whole policy
    @given(strategy(kind))
    def goes_round(event):
        line = encode_event(event)
        assert decode_event(line) == event
        assert encode_event(decode_event(line)) == line
        assert "\n" not in line

    goes_round()


@pytest.mark.parametrize("kind", [Allocation, Job, Node, Project, Standing])
def test_every_row_goes_round(kind):
    @given(strategy(kind))
    def goes_round(row):
        text = json.dumps(to_json(row))
        assert from_json(kind, json.loads(text)) == row

    goes_round()


def test_enums_come_back_as_themselves():
    event = ev.ReleaseAsked("a.1", ReleaseReason.STOP, 5)
    again = decode_event(encode_event(event))
    assert isinstance(again, ev.ReleaseAsked)
    assert again.reason is ReleaseReason.STOP

    ended = decode_event(encode_event(ev.JobEnded("a", Phase.FAILED, "x")))
    assert isinstance(ended, ev.JobEnded)
    assert ended.phase is Phase.FAILED


def test_lines_do_not_change_from_version_to_version():
    allocation = Allocation(
        "a.1", "a", "p", 1, Shape(2), (Seat("n1", (0, 3)),), AllocationState.BOUND, 7
    )

    assert encode_event(ev.AllocationBound(allocation)) == (
        '["AllocationBound",[["a.1","a","p",1,[2,1000,0,0,[],false],[["n1",[0,3]]],'
        '"bound",7,0,0,0,"",0,0,[],[],"",0]]]'
    )
    before_exclusive_shapes = (
        '["AllocationBound",[["a.1","a","p",1,[2,1000,0,0,[]],[["n1",[0,3]]],'
        '"bound",7,0,0,0,"",0,0,[]]]]'
    )
    assert decode_event(before_exclusive_shapes) == ev.AllocationBound(allocation)
    assert encode_event(ev.MemberEnded("a.1", 0, Exit(1), 9)) == (
        '["MemberEnded",["a.1",0,[1,0,false],9]]'
    )


def test_a_journal_of_a_version_with_fewer_fields_is_read():
    assert decode_event('["NodeSeen",[["n1",8,1000,64]]]') == ev.NodeSeen(Node("n1", 8, 1000, 64))


def test_what_is_not_ours_is_refused():
    with pytest.raises(KeyError):
        decode_event('["NodeExploded",[]]')
    with pytest.raises(TypeError):
        from_json(Exit, [])
    with pytest.raises(ValueError, match="nowhere"):
        from_json(AllocationState, "nowhere")
    with pytest.raises(TypeError, match="no JSON form"):
        from_json(float, 1.5)
