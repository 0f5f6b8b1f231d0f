"""Values come back from their rows as they were, also from rows that an older version wrote."""

import dataclasses
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.codec import KINDS, decode_event, dumps, encode_event
from madang.core.hypernodes import Domain, Members, Topology
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
from madang.core.policy import DEFAULT, Policy
from madang.core.rules import Rule
from madang.core.settings import KINDS as SETTING_KINDS
from madang.core.settings import (
    DisruptionBudget,
    Hole,
    Quota,
    Reservation,
    Shield,
    Workspace,
    Zone,
)
from madang.ledger.coding import (
    allocation_of,
    body,
    fixed_body,
    job_of_allocation,
    line_of,
    moving_body,
    number_of,
    subject_of,
    text_of,
)

ROWS = (Allocation, Job, Node, Project, Standing, *SETTING_KINDS.values(), Policy)
RANKS = 200  # bit sets beyond what a JSON number holds

GANG = Allocation(
    id="big-7.2",
    job="big-7",
    project="vision",
    attempt=2,
    shape=Shape(8, models=("A100", "H100")),
    seats=tuple(Seat(f"n{rank}", tuple(range(8))) for rank in range(RANKS)),
    state=AllocationState.RELEASING,
    bound_ms=5,
    running_ms=6,
    releasing_ms=7,
    release_reason=ReleaseReason.PREEMPTED,
    started=(1 << RANKS) - 1,
    ended=(1 << 190) | 1,
    exits=((0, Exit(0)), (190, Exit(0, signal=9))),
)


def test_an_allocation_comes_back_from_its_two_parts():
    assert allocation_of(fixed_body(GANG), moving_body(GANG)) == GANG


def test_what_changes_often_does_not_carry_the_seats():
    assert len(moving_body(GANG)) < len(fixed_body(GANG)) / 10


def test_a_row_of_an_older_version_has_defaults_for_what_it_did_not_know():
    moving = json.loads(moving_body(GANG))
    older = json.dumps(moving[:7])  # up to `ended`

    assert allocation_of(fixed_body(GANG), older).exits == ()
    assert allocation_of(fixed_body(GANG), older).cells == ()
    assert allocation_of(fixed_body(GANG), older).ended == GANG.ended


LEAF = Domain("l0", 1, (Members("node", "regex", "n[0-3]"),))
RULE = Rule("low", "gpu_util_percent", "p25", 0, is_above=False, threshold="20", jobs=("a", "b"))
JOB = Job("digits-42", 42, "vision", Shape(1))
EVENTS = [
    (ev.JobSubmitted(JOB), "digits-42", None),
    (ev.JobStopAsked("digits-42", "ada"), "digits-42", None),
    (ev.JobRequeueAsked("digits-42"), "digits-42", None),
    (ev.ProjectSet(Project("vision")), None, None),
    (ev.NodeSeen(Node("n1", 8, 1, 1), (("digits-42.1", 0),)), None, "n1"),
    (ev.NodeLost("n1"), None, "n1"),
    (ev.NodeCordoned("n1", True), None, "n1"),
    (ev.MemberStarted("digits-42.1", 0, 5), "digits-42", None),
    (ev.MemberEnded("digits-42.1", 0, Exit(1), 5), "digits-42", None),
    (ev.WorkspaceSet(Workspace("lab")), None, None),
    (ev.QuotaSet(Quota("project:vision", cells=(("node", 2),))), None, None),
    (ev.ZoneSet(Zone("night", ("project:vision",))), None, None),
    (ev.ReservationSet(Reservation("r1", "vision", Shape(8), 4, 5, 9)), None, None),
    (ev.BudgetSet(DisruptionBudget("search", "vision", 1)), None, None),
    (ev.TopologySet(Topology(("block", "leaf"), domains=(LEAF,))), None, None),
    (ev.PolicySet(DEFAULT), None, None),
    (ev.SettingDropped("zones", "night", "ada"), None, None),
    (ev.NodeFlagged("n1", 3, "ada"), None, "n1"),
    (ev.NodeRemoved("n1"), None, "n1"),
    (ev.CheckpointSaved("digits-42", 5), "digits-42", None),
    (ev.JobMeasured("digits-42", 97, 60_000, 5), "digits-42", None),
    (ev.ProjectMeasured("vision", 1 << 60, 40), None, None),
    (ev.JobWarned("digits-42", "idle", 9), "digits-42", None),
    (ev.HoleAsked(Hole("room-1", Shape(8), 8, 9, "block")), None, None),
    (ev.HoleMade("room-1", (Seat("n1", (0, 1)),)), None, None),
    (ev.HoleDropped("room-1", "expired"), None, None),
    (ev.HoleDropped("room-1", "taken", "digits-42"), "digits-42", None),
    (ev.RuleSet(RULE), None, None),
    (ev.RuleBroken("low", "digits-42.1", 5, "3.5", "info", "p25 is 3.5"), "digits-42", None),
    (ev.RuleKept("low", "digits-42.1", 6, "40"), "digits-42", None),
    (ev.ShieldSet(Shield("web/front", 1)), None, None),
    (ev.JobShielded("digits-42", (("web/front", 4),)), "digits-42", None),
    (ev.ReleaseHeld("digits-42.1", "budget web/front holds"), "digits-42", None),
    (ev.JobRejected("digits-42", "vision", "too_large", (("gpus", 9),)), "digits-42", None),
    (ev.AllocationBound(GANG), "big-7", None),
    (ev.JobNominated("digits-42", (Seat("n1", (1,)),)), "digits-42", None),
    (ev.NominationDropped("digits-42"), "digits-42", None),
    (ev.ReleaseAsked("big-7.2", ReleaseReason.STRAY, 0), "big-7", None),
    (ev.JobRequeued("digits-42", "node_lost", 0, 0), "digits-42", None),
    (ev.JobEnded("digits-42", Phase.FAILED, "exit 1"), "digits-42", None),
]


@pytest.mark.parametrize(("event", "job", "node"), EVENTS, ids=lambda v: type(v).__name__)
def test_every_event_is_filed_under_what_it_is_about(event, job, node):
    assert subject_of(event) == (job, node)
    assert decode_event(encode_event(event)) == event


def test_no_event_is_left_out():
    assert {type(event) for event, _, _ in EVENTS} == {*ev.FACTS, *ev.DECISIONS}


@pytest.mark.parametrize(
    ("id", "n"),
    [("digits-42", 42), ("a-b-7", 7), ("42", 42), ("digits", 0), ("digits-", 0), ("d-٣", 0)],
)
def test_the_number_of_an_id(id, n):
    assert number_of(id) == n


def test_the_job_of_an_allocation():
    assert job_of_allocation("digits-42.1") == "digits-42"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["n1.2", "\x7f", "\u2028", "</", "\ud800", "\x00", '\\"']),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_a_text_is_byte_for_byte_the_same_with_and_without_the_faster_writer(value):
    assert text_of(value) == dumps(value)


@pytest.mark.parametrize("phase", Phase)
def test_words_of_enums_are_written_as_words(phase):
    assert text_of([phase, 1 << 52]) == dumps([phase, 1 << 52])


def test_a_line_is_what_the_journal_has_always_had():
    for event in (ev.AllocationBound(GANG), ev.MemberStarted("big-7.2", 3, 99)):
        assert line_of(event) == encode_event(event)


def kinds_in(hint, seen):
    """Every class that a value of this kind may hold."""
    for inner in typing.get_args(hint):
        kinds_in(inner, seen)
    if isinstance(hint, type) and hint not in seen:
        seen.add(hint)
        if dataclasses.is_dataclass(hint):
            for of_field in typing.get_type_hints(hint).values():
                kinds_in(of_field, seen)
    return seen


@pytest.mark.parametrize("kind", [*ROWS, *KINDS.values()], ids=lambda kind: kind.__name__)
def test_no_value_of_a_row_is_a_float(kind):
    """Two writers of JSON write some of them in two ways."""
    found = kinds_in(kind, set())
    assert not {one for one in found if issubclass(one, float) or one is object}


def test_a_submission_is_written_with_the_text_that_its_row_has():
    event = ev.JobSubmitted(Job("big-7", 7, "vision", Shape(8), members=200))
    assert line_of(event, {"big-7": body(event.job)}) == encode_event(event)
