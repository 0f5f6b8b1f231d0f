"""Calendar reservations: their devices are free in time, and nobody is stopped beyond that."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.draft import Draft
from madang.core.model import Project, Shape
from madang.core.passes.calendar import calendar, windows_ms
from madang.core.policies import MADANG, POLICIES
from madang.core.policy import DEFAULT
from madang.core.reserving import refusal
from madang.core.settings import DisruptionBudget, Quota, Reservation
from madang.sim.world import restored_from_rows
from tests.core.yard import START_MS, Yard, text

HOUR_MS = 3_600_000


def window(begin_s: int, length_s: int, size: str = "1x4", **changes: object) -> Reservation:
    """A reservation so many seconds after the yard's start, of `members x GPUs`."""
    members, gpus = map(int, size.split("x"))
    begin_ms = START_MS + begin_s * 1000
    made = Reservation("r", "default", Shape(gpus), members, begin_ms, begin_ms + length_s * 1000)
    return replace(made, **changes)  # type: ignore[arg-type]


def reserved(picture: str, reservation: Reservation, policy=DEFAULT, **under) -> Yard:
    yard = Yard(picture).under(policy, **under)
    return yard.fact(ev.ReservationSet(reservation)).turn()


# (the yard, seconds that those who run are expected to, the window, jobs, the yard after)
AHEAD = {
    "who has ended by then starts on its devices": (
        "n1: ....",
        {},
        window(1000, 60),
        ["b: 4 estimate_s=900"],
        "n1: BBBB",
    ),
    "who has not does not": (
        "n1: ....",
        {},
        window(1000, 60),
        ["b: 4 estimate_s=1100"],
        "n1: ....\nwaiting: b",
    ),
    "who fits beside it starts however long": (
        "n1: ....\nn2: ....",
        {},
        window(1000, 60),
        ["b: 4 estimate_s=9999"],
        "n1: ....\nn2: BBBB",
    ),
    "what is expected to end by then is counted on": (
        "n1: AAAA\nn2: ....",
        {"a": 500},
        window(1000, 60),
        ["b: 4 estimate_s=9999"],
        "n1: AAAA\nn2: BBBB",
    ),
    "what is not is not": (
        "n1: AAAA\nn2: ....",
        {"a": 5000},
        window(1000, 60),
        ["b: 4 estimate_s=9999"],
        "n1: AAAA\nn2: ....\nwaiting: b",
    ),
    "single devices beside it are free for all": (
        "n1: ........",
        {},
        window(1000, 60, "1x6"),
        ["b: 2 estimate_s=9999", "d: 1 estimate_s=10", "c: 1 estimate_s=9999"],
        "n1: D.....BB\nwaiting: c",
    ),
    "who can be moved aside starts long before, however long": (
        "n1: ....",
        {},
        window(1000, 60),
        ["b: 4 moves=1"],
        "n1: BBBB",
    ),
    "but not just before": (
        "n1: ....",
        {},
        window(500, 60),
        ["b: 4 moves=1"],
        "n1: ....\nwaiting: b",
    ),
}


@pytest.mark.parametrize(
    "policy", [DEFAULT, POLICIES["fifo-skip"], POLICIES["easy"]], ids=lambda policy: policy.name
)
@pytest.mark.parametrize("case", AHEAD)
def test_before_a_window_opens(case, policy):
    picture, estimates_s, reservation, jobs, expected = AHEAD[case]
    yard = reserved(picture, reservation, policy, estimates_s=estimates_s)

    assert yard.submit(*jobs).turn().picture() == text(expected)


def test_while_it_is_open_its_devices_are_for_its_own_jobs():
    yard = reserved("n1: ....\nn2: ..", window(0, 600, "1x4"))
    yard.submit("b: 2", "c: 2", "d: 3 reservation=r").turn()

    assert yard.picture() == "n1: DDD.\nn2: BB\nwaiting: c"
    yard.submit("e: 1 reservation=r").turn()
    assert yard.picture() == "n1: DDDE\nn2: BB\nwaiting: c"


def test_a_job_inside_waits_for_its_window_and_starts_as_it_opens():
    yard = reserved("n1: ....", window(100, 600))
    yard.submit("b: 4 reservation=r").turn()
    assert yard.decisions() == []
    due_ms = yard.controller.due_ms(yard.now_ms)
    assert due_ms == START_MS + 100_000
    yard.turn(wait_ms=due_ms - yard.now_ms)

    assert yard.decisions() == ["bind b.1"]


def test_who_may_be_stopped_is_asked_as_the_window_opens_and_nobody_else():
    yard = Yard("n1: AA\nn2: BB\nn3: CC")
    for id in "abc":
        live = yard.state.jobs[id]
        live.job = replace(live.job, preemptible=id == "b", checkpoints=True)
    yard.fact(ev.ReservationSet(window(100, 600, "1x2"))).turn()
    assert yard.decisions() == []
    yard.turn(wait_ms=100_000)

    assert yard.decisions() == ["release b.1 preempted 30000"]
    (asked,) = yard.last.decisions
    assert isinstance(asked, ev.ReleaseAsked)
    assert asked.by == "reservation r"
    yard.submit("d: 2").turn()
    assert yard.decisions() == []
    yard.ended("b.1").turn()
    assert "bind d.1" not in yard.decisions()
    yard.submit("e: 2 reservation=r").turn()
    assert "bind e.1" in yard.decisions()


def test_nobody_is_asked_where_enough_is_free_or_leaves_anyway():
    yard = Yard("n1: AA\nn2: ..").under(DEFAULT, "a")
    yard.fact(ev.ReservationSet(window(0, 600, "1x2"))).turn()
    assert yard.decisions() == []
    yard = Yard("n1: AA\nn2: BB").under(DEFAULT, "ab").stop("a").turn()
    yard.fact(ev.ReservationSet(window(0, 600, "1x2"))).turn()

    assert yard.decisions() == []


def test_when_the_window_closes_its_devices_are_for_all():
    yard = reserved("n1: ....", window(0, 600))
    yard.submit("b: 4").turn()
    assert yard.decisions() == []
    due_ms = yard.controller.due_ms(yard.now_ms)
    assert due_ms is not None
    assert due_ms <= START_MS + 600_000
    yard.turn(wait_ms=600_000)

    assert yard.decisions() == ["bind b.1"]


def test_a_reservation_that_is_dropped_lets_go():
    yard = reserved("n1: ....", window(0, 600)).submit("b: 4", "c: 1 reservation=r").turn()
    assert yard.decisions() == ["bind c.1"]
    yard.fact(ev.SettingDropped("reservations", "r")).ended("c.1").turn()

    assert yard.decisions() == ["end c succeeded", "bind b.1"]


def test_a_node_that_dies_is_made_up_for():
    yard = reserved("n1: ....\nn2: ....", window(0, 600, "1x4")).submit("b: 4").turn()
    held = next(iter(yard.state.allocations.values())).seats[0].node
    other = {"n1": "n2", "n2": "n1"}[held]
    yard.lost(other).ended("b.1").submit("c: 4").turn()

    assert "bind c.1" not in yard.decisions()


def test_a_restart_keeps_the_calendar():
    yard = reserved("n1: ....", window(0, 600))
    yard.controller = type(yard.controller)(restored_from_rows(yard.state))

    assert yard.submit("b: 4").turn().decisions() == []


# (the yard, what is reserved, what is asked, the code, the most members)
REFUSED = {
    "more than the yard holds": ("n1: ....", None, window(0, 9, "2x4"), "reservation_clash", 1),
    "more than is left beside another": (
        "n1: ....\nn2: ....",
        window(50, 100, "1x4", id="x"),
        window(100, 100, "2x4"),
        "reservation_clash",
        1,
    ),
    "what stays": ("n1: AAAA\nn2: ....", None, window(9, 9, "2x4"), "reservation_blocked", 1),
    "an end before now": ("n1: ....", None, window(-100, 50), "reservation_window", None),
    "an end years ahead": ("n1: ....", None, window(10**9, 50), "reservation_window", None),
    "nobody's": ("n1: ....", None, window(0, 50, project="x"), "unknown_project", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_coexist_is_refused(case):
    picture, other, asked, code, members_max = REFUSED[case]
    yard = Yard(picture)
    for live in yard.state.jobs.values():
        live.job = replace(live.job, preemptible=False)
    if other is not None:
        yard.fact(ev.ReservationSet(other)).turn()
    refused = refusal(yard.state.view(yard.now_ms), asked)

    assert refused is not None
    assert refused.code == code
    assert dict(refused.numbers).get("members_max") == members_max
    yard.fact(ev.ReservationSet(asked)).turn()
    assert asked.id not in yard.state.settings.reservations


def test_a_refusal_says_when_it_would_fit():
    yard = Yard("n1: ....").fact(ev.ReservationSet(window(50, 100, id="x"))).turn()
    refused = refusal(yard.state.view(yard.now_ms), window(100, 100))

    assert refused is not None
    assert dict(refused.numbers)["begin_ms"] == START_MS + 150_000
    later = window(150, 100)
    assert refusal(yard.state.view(yard.now_ms), later) is None


def test_who_may_be_stopped_is_no_hindrance():
    yard = Yard("n1: AAAA").under(DEFAULT, "a")

    assert refusal(yard.state.view(yard.now_ms), window(0, 60)) is None


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ("b: 4 reservation=z", "unknown_reservation"),
        ("b: 8 reservation=r", "reservation_too_small"),
        ("b: 4 reservation=r project=vision", "reservation_of_other"),
    ],
)
def test_a_job_that_can_never_run_inside_is_rejected(job, code):
    yard = reserved("n1: ........", window(0, 600)).fact(ev.ProjectSet(Project("vision")))

    assert yard.turn().submit(job).turn().decisions() == [f"reject b {code}"]


def test_a_plan_is_due_when_a_window_opens_while_it_may_be_short_and_as_it_closes():
    one = window(0, 1000)

    assert windows_ms([one], START_MS - 5) == [START_MS]
    assert windows_ms([one], START_MS) == [START_MS + 60_000]
    assert windows_ms([one], START_MS + 60_000) == [START_MS + 180_000]
    assert windows_ms([one], START_MS + 500_000) == [START_MS + 900_000]
    assert windows_ms([one], START_MS + 950_000) == [START_MS + 1_000_000]
    assert windows_ms([one], START_MS + 1_000_000) == []


def test_who_is_moved_aside_for_its_turn_does_not_sit_where_a_window_opens():
    policy = replace(MADANG, level_ms=5, run_ms_min=1, end_permille=0, stay_permille=0)
    yard = Yard("n1: AAAA").under(policy, "a")
    yard.fact(ev.ReservationSet(window(100, 600))).turn(wait_ms=1_000)
    yard.submit("young: 4").turn()

    assert "nominate young" not in yard.decisions()


@pytest.mark.parametrize(
    ("changes", "picture"),
    [
        ({}, "n1: BBBB"),
        ({"run_ms_min": 2_000_000}, "n1: ....\nwaiting: b"),
        ({"budget": "chat"}, "n1: ....\nwaiting: b"),
        ({"checkpoints": False}, "n1: ....\nwaiting: b"),
    ],
    ids=str,
)
def test_only_who_can_be_asked_to_leave_by_then_starts_before_a_window(changes, picture):
    yard = reserved("n1: ....", window(1_000, 60))
    yard.fact(ev.BudgetSet(DisruptionBudget("chat", "default", 0))).turn()
    job = replace(yard.job("b: 4"), preemptible=True, **{"checkpoints": True, **changes})
    yard.fact(ev.JobSubmitted(job)).turn()

    assert yard.picture() == text(picture)


def test_who_began_last_is_not_asked_where_another_has_to_leave_anyway():
    """A window of 3: one device is free, `b` began last and has one, `a` has two."""
    yard = Yard("n1: AAB.").under(DEFAULT, "ab")
    for id, ran_ms in (("a.1", 900_000), ("b.1", 90_000)):
        held = yard.state.allocations[id]
        yard.state.allocations[id] = replace(held, running_ms=yard.now_ms - ran_ms)
    yard.fact(ev.ReservationSet(window(0, 600, "3x1"))).turn()

    assert yard.decisions() == ["release a.1 preempted 30000"]


def test_what_an_open_window_lacks_is_kept_as_it_comes_free():
    """`a` cannot be asked and ends in 200 s; who would stay beyond that does not start beside."""
    yard = Yard("n1: AA..").under(POLICIES["fifo-skip"], "", {"a": 200})
    yard.state.jobs["a"].job = replace(yard.state.jobs["a"].job, preemptible=False)
    yard.state.apply(ev.ReservationSet(window(0, 900)), yard.now_ms)
    for line in ("b: 2 estimate_s=600", "c: 2 estimate_s=100"):
        yard.fact(ev.JobSubmitted(replace(yard.job(line), preemptible=False)))

    assert yard.turn().picture() == text("n1: AACC\nwaiting: b")


# -- several windows -------------------------------------------------------------------------------


def booked(picture: str, *windows: Reservation, movable: str = "", policy=DEFAULT) -> Yard:
    """A yard with these windows; `movable` save their work, other capitals may be asked, too."""
    yard = Yard(picture).under(policy, movable)
    for one in windows:
        yard.fact(ev.ReservationSet(one))
    return yard.turn()


def kept_at(yard: Yard) -> dict[str, set[str]]:
    """The devices that a plan made now would keep for each open window: `n1/0`."""
    draft = Draft(yard.state.snapshot(yard.now_ms))
    calendar(draft)
    ids = draft.snapshot.node_ids
    return {
        id: {f"{ids[row]}/{gpu}" for (row, gpus), _ in kept for gpu in gpus}
        for id, kept in draft.kept.items()
    }


def test_a_start_elsewhere_moves_no_window():
    """`b` makes n1 the fullest node for the older window, of which the younger needs a half."""
    older = window(1000, 600, "1x1", id="older")
    younger = window(1001, 600, "1x2", id="younger")
    younger = replace(younger, shape=Shape(2, models=("H100",)))
    yard = booked("n1: .... model=H100\nn2: A... model=L4", older, younger)
    yard.state.jobs["a"].job = replace(yard.state.jobs["a"].job, preemptible=False)

    for line in ("b: 2", "c: 1", "d: 1"):
        yard.fact(ev.JobSubmitted(replace(yard.job(line), preemptible=False))).turn()
    yard.turn(wait_ms=1_002_000)

    assert {id: len(devices) for id, devices in kept_at(yard).items()} == {
        "older": 1,
        "younger": 2,
    }


def test_who_steps_aside_is_counted_on_when_he_starts_and_moves_no_window():
    """`b` starts where the older window will be. The younger, which needs n2, has that to itself:
    who would stay does not start there."""
    older = window(3600, 600, "1x4", id="older")
    younger = replace(window(3601, 600, id="younger"), shape=Shape(4, models=("L4",)))
    yard = booked("n1: .... model=H100\nn2: .... model=L4", older, younger)
    yard.submit("b: 4 moves=1 model=H100").turn().started("b.1")
    yard.fact(ev.JobSubmitted(replace(yard.job("c: 1"), preemptible=False))).turn()
    assert yard.picture() == text("n1: BBBB\nn2: ....\nwaiting: c")
    yard.turn(wait_ms=3_602_000)

    assert yard.decisions() == ["release b.1 preempted 30000"]
    assert kept_at(yard) == {"older": set(), "younger": {f"n2/{gpu}" for gpu in range(4)}}


def test_who_would_lose_his_work_is_not_counted_on_where_others_can_be():
    """`b` saves, `a` does not: the window will be on n2, where `b` is, and `c` starts on n1."""
    yard = booked("n1: AA..\nn2: BB..", window(3600, 600), movable="b")
    yard.fact(ev.JobSubmitted(replace(yard.job("c: 2"), preemptible=False))).turn()

    assert yard.picture() == text("n1: AACC\nn2: BB..")


def test_an_older_window_does_not_take_the_last_place_of_a_younger_one_to_spare_somebody():
    """Alone it would spare `a`; the younger can only be on n2."""
    older = window(0, 600, id="older")
    younger = replace(window(0, 600, id="younger"), shape=Shape(4, models=("L4",)))
    picture = "n1: AA.. model=H100\nn2: .... model=L4"
    alone = booked(picture, older, movable="a")
    both = booked(picture, older, younger, movable="a")

    assert alone.decisions() == []
    assert kept_at(alone)["older"] == {f"n2/{gpu}" for gpu in range(4)}
    assert both.decisions() == ["release a.1 preempted 30000"]
    (asked,) = both.last.decisions
    assert isinstance(asked, ev.ReleaseAsked)
    assert asked.by == "reservation older"
    assert kept_at(both)["younger"] == {f"n2/{gpu}" for gpu in range(4)}


def test_two_windows_ask_nobody_more_than_both_need():
    """Two of 2 GPUs where three are free: one has to leave, he who began last."""
    yard = Yard("n1: AAB...").under(DEFAULT, "ab")
    for id, ran_ms in (("a.1", 900_000), ("b.1", 90_000)):
        held = yard.state.allocations[id]
        yard.state.allocations[id] = replace(held, running_ms=yard.now_ms - ran_ms)
    for id in ("w1", "w2"):
        yard.fact(ev.ReservationSet(window(0, 600, "1x2", id=id)))

    assert yard.turn().decisions() == ["release b.1 preempted 30000"]


def test_the_rest_of_a_broken_member_stays_where_its_jobs_sit():
    yard = booked("n1: AAA.\nn2: ....", window(0, 600))
    yard.submit("d: 3 reservation=r").turn()

    assert yard.picture() == text("n1: AAA.\nn2: DDD.")
    assert kept_at(yard) == {"r": {"n2/3"}}


def test_a_guarantee_does_not_go_before_a_window():
    policy = replace(MADANG, end_permille=0, stay_permille=0)
    yard = booked("n1: ....", window(1000, 600), policy=policy)
    yard.fact(ev.QuotaSet(Quota("project:default", guaranteed_milli=4_000)))
    yard.fact(ev.JobSubmitted(replace(yard.job("b: 4"), preemptible=False))).turn()

    assert yard.picture() == text("n1: ....\nwaiting: b")


def test_what_a_window_gets_from_who_leaves_is_promised_to_nobody_else():
    """`b` is of a higher class and could move `c` aside; what `a` leaves is the window's."""
    policy = replace(MADANG, run_ms_min=0, end_permille=0, stay_permille=0)
    yard = booked("n1: AA..", window(0, 600), movable="a", policy=policy)
    assert yard.decisions() == ["release a.1 preempted 30000"]
    yard.submit("b: 2 priority=40").turn()

    assert yard.decisions() == []


JOBS = st.lists(
    st.tuples(
        st.integers(0, 900),  # submitted, s
        st.integers(1, 1500),  # runs, s
        st.sampled_from(("1", "2", "3", "4", "2x2", "2x4")),
        st.booleans(),  # nobody knows how long
    ),
    min_size=1,
    max_size=14,
)


@given(JOBS, st.sampled_from(("1x4", "2x3", "3x1", "2x4")), st.sampled_from(range(3)))
@settings(max_examples=120)
def test_a_window_has_its_devices_as_it_opens_if_estimates_hold(jobs, size, number):
    """Nobody may be stopped, everybody runs as long as was said: nothing is late."""
    policy = (DEFAULT, POLICIES["fifo-skip"], POLICIES["conservative"])[number]
    yard = reserved("n1: ....\nn2: ....\nn3: ....", window(1000, 500, size), policy)
    ends: list[tuple[int, str]] = []
    arrivals = sorted(
        (START_MS + at * 1000, n, ran, size, dark) for n, (at, ran, size, dark) in enumerate(jobs)
    )
    opens_ms = START_MS + 1_000_000
    runs_ms: dict[str, int] = {}
    while True:
        now_ms = min([opens_ms, *[at for at, *_ in arrivals], *[at for at, _ in ends]])
        for _, n, ran, asked, dark in [one for one in arrivals if one[0] <= now_ms]:
            said = "" if dark else f" estimate_s={ran}"
            job = yard.job(f"j{n}: {asked}{said}")
            yard.fact(ev.JobSubmitted(replace(job, preemptible=False)))
            runs_ms[f"j{n}"] = ran * 1000
        arrivals = [one for one in arrivals if one[0] > now_ms]
        for _, id in [one for one in ends if one[0] <= now_ms]:
            yard.ended(id)
        ends = [one for one in ends if one[0] > now_ms]
        yard.turn(wait_ms=max(0, now_ms - yard.now_ms))
        for one in yard.last.decisions:
            if isinstance(one, ev.AllocationBound):
                yard.started(one.allocation.id)
                ends.append((now_ms + runs_ms[one.allocation.job], one.allocation.id))
        yard.turn(wait_ms=0)
        if now_ms >= opens_ms:
            break
    draft = Draft(yard.state.snapshot(yard.now_ms))
    calendar(draft)

    kept = [gpu for (row, gpus), _ in draft.kept["r"] for gpu in gpus]
    members, gpus = map(int, size.split("x"))
    assert len(kept) == members * gpus
    assert not draft.releasing
