"""A small journal, and all that a report says of it: by hand, as JSON and as CSV."""

import json

import pytest

from madang.api.report_views import usage_view
from madang.core import events as ev
from madang.core.model import (
    Allocation,
    AllocationState,
    Exit,
    Job,
    Node,
    Phase,
    Project,
    Provisioning,
    ReleaseReason,
    Seat,
    Shape,
)
from madang.core.usage.books import Books
from madang.core.usage.report import day_of, report, waits_of
from madang.core.usage.rows import Rows
from madang.wire.reports import csv_of, moment_ms

S, H = 1_000, 3_600_000
DAY = 24 * H


def books_of(*journal: tuple[int, ev.Event]) -> Books:
    books = Books()
    for at_ms, event in journal:
        books.apply(event, at_ms)
    return books


def job(id: str, gpus: int, at_ms: int, **more) -> Job:
    return Job(id, int(id[1:]), "vision", Shape(gpus), submitted_ms=at_ms, **more)


def bound(of: Job, at_ms: int, *nodes: str, attempt: int = 1) -> ev.AllocationBound:
    seats = tuple(Seat(node, tuple(range(of.shape.gpus))) for node in nodes)
    id = f"{of.id}.{attempt}"
    state = AllocationState.BOUND
    shape = of.shape
    return ev.AllocationBound(
        Allocation(id, of.id, of.project, attempt, shape, seats, state, at_ms)
    )


def ended(of: Job, at_ms: int, attempt: int = 1) -> ev.MemberEnded:
    return ev.MemberEnded(f"{of.id}.{attempt}", 0, Exit(0), at_ms)


def the_yard() -> tuple[tuple[int, ev.Event], ...]:
    """Two nodes, three jobs: one waits, one is preempted, one ends well and was measured."""
    one = job("j1", 4, 1 * H, owner="kim", provisioning=Provisioning.SPOT)
    two = job("j2", 8, 2 * H, owner="lee")
    three = job("j3", 8, 3 * H, owner="lee", members=2)
    return (
        (0, ev.ProjectSet(Project("vision", "research"))),
        (0, ev.NodeSeen(Node("n1", 8, 0, 0, model="H100"))),
        (1 * H, ev.NodeSeen(Node("n2", 8, 0, 0, model="A100", zone="lab"))),
        (1 * H, ev.JobSubmitted(one)),
        (1 * H, bound(one, 1 * H, "n1")),
        (2 * H, ev.JobSubmitted(two)),
        (3 * H, ev.JobSubmitted(three)),
        (3 * H, ev.ReleaseAsked("j1.1", ReleaseReason.PREEMPTED, 30_000, "j2")),
        (3 * H + 10 * S, ended(one, 3 * H)),
        (3 * H + 10 * S, ev.JobRequeued("j1", ReleaseReason.PREEMPTED, 0, 0)),
        (3 * H + 10 * S, bound(two, 3 * H, "n1")),
        (3 * H + 10 * S, bound(one, 3 * H, "n2", attempt=2)),
        (4 * H, ev.JobMeasured("j2", 50, H, 4 * H)),
        (5 * H, ended(two, 5 * H)),
        (5 * H, ev.JobEnded("j2", Phase.SUCCEEDED, "")),
    )


def test_a_small_yard_is_reported_to_the_second():
    found = report(books_of(*the_yard()), 0, 6 * H, ("owner", "model"))
    view = usage_view(found)

    assert [line.group for line in view.lines] == [
        {"owner": "kim", "model": "A100"},
        {"owner": "kim", "model": "H100"},
        {"owner": "lee", "model": "(any)"},
        {"owner": "lee", "model": "H100"},
    ]
    again, first, waiting, whole = view.lines
    assert first.held_gpu_h == pytest.approx(4 * (2 + 10 / 3600), abs=1e-6)
    assert (first.preemptions, first.wasted_gpu_h) == (1, first.held_gpu_h)
    assert again.held_gpu_h == pytest.approx(4 * (3 - 10 / 3600), abs=1e-6)
    assert (waiting.waited_gpu_h, waiting.waiting, waiting.held_gpu_h) == (48, 1, 0)
    assert whole.held_gpu_h == pytest.approx(8 * (2 - 10 / 3600), abs=1e-6)
    assert whole.waits.p50_ms == whole.waits.max_ms == H + 10 * S
    assert whole.util_pct == 50
    assert whole.measured_gpu_h == pytest.approx(8 * (1 - 10 / 3600), abs=1e-6)
    assert view.total.capacity_gpu_h == 8 * 6 + 8 * 5
    assert (view.total.submitted, view.total.ended, view.total.jct_mean_ms) == (3, 1, 3 * H)


CSV = """\
day,size,asked_gpu_h,held_gpu_h,waited_gpu_h,measured_gpu_h,used_gpu_h,util_pct,wasted_gpu_h,\
failed_gpu_h,stranded_gpu_h,capacity_gpu_h,held_pct,submitted,ended,waiting,jct_mean_ms,\
preemptions,moves,reclaims,requeues,node_losses,failures,wait_count,wait_mean_ms,wait_p50_ms,\
wait_p90_ms,wait_p99_ms,wait_max_ms
1970-01-01,8,4.0,0.0,4.0,0.0,0.0,,0.0,0.0,0.0,,,1,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0
1970-01-02,8,36.0,32.0,4.0,0.0,0.0,,0.0,0.0,0.0,,,0,1,0,18000000,0,0,0,0,0,0,1,3600000,3600000,\
3600000,3600000,3600000
(total),(total),40.0,32.0,8.0,0.0,0.0,,0.0,0.0,0.0,72.0,44.44,1,1,0,18000000,0,0,0,0,0,0,1,\
3600000,3600000,3600000,3600000,3600000
"""


def test_csv_is_one_line_a_group_and_days_are_cut_at_midnight():
    came_ms = DAY - H // 2
    two = job("j2", 8, came_ms)
    journal = (
        (DAY - H, ev.NodeSeen(Node("n1", 8, 0, 0))),
        (came_ms, ev.JobSubmitted(two)),
        (DAY + H // 2, bound(two, DAY, "n1")),
        (DAY + 4 * H + H // 2, ended(two, DAY)),
        (DAY + 4 * H + H // 2, ev.JobEnded("j2", Phase.SUCCEEDED, "")),
    )
    found = report(books_of(*journal), 0, DAY + 8 * H, ("day", "size"))
    document = json.loads(usage_view(found).model_dump_json())

    assert "".join(csv_of(document)) == CSV


def test_a_spreadsheet_gets_no_formula():
    document = json.loads(
        usage_view(report(books_of(*the_yard()), 0, 6 * H, ("owner",))).model_dump_json()
    )
    document["lines"][0]["group"]["owner"] = "=HYPERLINK(1)"

    assert "\n'=HYPERLINK(1)," in "".join(csv_of(document))


def test_what_a_lost_node_keeps_is_stranded_and_charged_to_nobody():
    one = job("j1", 8, 0)
    journal = (
        (0, ev.NodeSeen(Node("n1", 8, 0, 0))),
        (0, ev.JobSubmitted(one)),
        (0, bound(one, 0, "n1")),
        (1 * H, ev.NodeLost("n1")),
        (1 * H, ev.ReleaseAsked("j1.1", ReleaseReason.NODE_LOST, 0)),
        (1 * H, ev.JobRequeued("j1", ReleaseReason.NODE_LOST, 0, 0)),
        (3 * H, ev.NodeSeen(Node("n1", 8, 0, 0))),
    )
    amounts = usage_view(report(books_of(*journal), 0, 5 * H)).total

    assert (amounts.held_gpu_h, amounts.stranded_gpu_h, amounts.waited_gpu_h) == (8, 16, 32)
    assert (amounts.node_losses, amounts.wasted_gpu_h) == (1, 8)
    assert amounts.capacity_gpu_h == 8 * (1 + 2)


@pytest.mark.parametrize(
    ("checkpoints", "saved_ms", "bill_ms", "wasted_gpu_s"),
    [
        (False, 0, 0, 8 * 600),  # all of the attempt
        (True, 0, 0, 8 * 30),  # a restart of eight GPUs
        (True, 500 * S, 0, 8 * (100 + 30)),  # since the checkpoint, and a restart
        (True, 500 * S, 123 * S, 123),  # as the scheduler billed it
    ],
)
def test_waste_is_what_is_thrown_away(checkpoints, saved_ms, bill_ms, wasted_gpu_s):
    one = job("j1", 8, 0, checkpoints=checkpoints)
    journal: list[tuple[int, ev.Event]] = [
        (0, ev.NodeSeen(Node("n1", 8, 0, 0))),
        (0, ev.JobSubmitted(one)),
        (0, bound(one, 0, "n1")),
    ]
    if saved_ms:
        journal.append((saved_ms, ev.CheckpointSaved("j1", saved_ms)))
    asked = ev.ReleaseAsked("j1.1", ReleaseReason.PREEMPTED, 0, "j2", bill_ms)
    journal += [
        (600 * S, asked),
        (600 * S, ended(one, 600 * S)),
        (600 * S, ev.JobRequeued("j1", ReleaseReason.PREEMPTED, 0, 0)),
    ]
    found = report(books_of(*journal), 0, H).total.amounts

    assert found.wasted_gpu_us == wasted_gpu_s * 10**6


@pytest.mark.parametrize(
    ("held", "asked", "stuck_gpus"),
    [
        ({}, [(8, 1)], 0),
        ({"n1": 1}, [(8, 1)], 7),  # seven of eight cannot be used by eights
        ({"n1": 1}, [(8, 1), (1, 1)], 3.5),  # half of those who come can
        ({"n1": 8}, [(8, 1)], 0),
        ({"n1": 4, "n2": 4}, [(4, 1)], 0),
        ({"n1": 5, "n2": 6}, [(4, 1)], 5),
    ],
)
def test_fragmentation_is_what_those_who_come_cannot_use(held, asked, stuck_gpus):
    names = ("n1", "n2") if "n2" in held else ("n1",)
    journal: list[tuple[int, ev.Event]] = [(0, ev.NodeSeen(Node(name, 8, 0, 0))) for name in names]
    for number, (gpus, members) in enumerate(asked):
        one = job(f"j{number + 10}", gpus, 0, members=members)
        journal.append((0, ev.JobSubmitted(one)))
    books = books_of(*journal)
    for node, gpus in held.items():
        books.floor.take(node, tuple(range(gpus)), 1_000)
    _, _, stuck = books.floor.picture()

    assert stuck == stuck_gpus * 1_000


def test_quantiles_are_waits_that_there_were():
    rows = Rows(1)
    for wait_ms in range(1, 101):
        rows.add(wait_ms)
    waits = waits_of(rows.table()[:, 0])

    assert (waits.p50_ms, waits.p90_ms, waits.p99_ms, waits.max_ms) == (50, 90, 99, 100)
    assert (waits.count, waits.mean_ms) == (100, 50)


def test_days_have_the_names_of_the_calendar():
    for at_ms, name in (
        (0, "1970-01-01"),
        (951_782_400_000, "2000-02-29"),
        (1_795_219_200_000, "2026-11-21"),
        (4_107_542_399_999, "2100-02-28"),
        (4_107_542_400_000, "2100-03-01"),
    ):
        assert day_of(at_ms) == name


NOW = 1_795_262_400_000


@pytest.mark.parametrize(
    ("words", "ms"),
    [
        ("", NOW),
        ("now", NOW),
        ("30d", NOW - 30 * DAY),
        ("90m", NOW - 5_400_000),
        ("2026-11-21", 1_795_219_200_000),
        ("2026-11-21T08:00", 1_795_219_200_000 + 8 * H),
        ("2026-11-21T09:00+09:00", 1_795_219_200_000),
        ("1795219200000", 1_795_219_200_000),
    ],
)
def test_a_moment_is_a_span_a_date_or_a_number(words, ms):
    assert moment_ms(words, NOW) == ms


@pytest.mark.parametrize("words", ["yesterday", "2026-13-01", "-5d", "١٢", "30 days ago"])
def test_what_is_no_moment_is_told_with_what_is(words):
    with pytest.raises(ValueError, match="write 30d"):
        moment_ms(words, NOW)
