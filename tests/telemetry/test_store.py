"""Frames that are as they should be, and all that are not: what is taken, refused, marked; told."""

from typing import Any

import numpy as np
import pytest

from madang.telemetry import intake, reporters
from madang.telemetry.frames import Subject
from madang.telemetry.queries import BadQuery, Query
from madang.telemetry.ring import TICKS
from madang.telemetry.stays import Held
from madang.telemetry.store import Settings, Store
from tests.telemetry.making import BEGIN_MS, TICK_MS, column, frame, xid

MINUTE_MS = 60_000


def at(tick):
    return BEGIN_MS + tick * TICK_MS


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "telemetry")


def asked(store, metric="gpu_util_percent", ticks=6, keys=(("n1", "0"),), **more):
    whole = {"subject": Subject.GPU, "step_ms": TICK_MS, **more}
    found = store.query(Query(metric, keys=keys, from_ms=at(0), to_ms=at(ticks), **whole))
    columns = [[None if np.isnan(v) else float(v) for v in row] for row in found.values.T]
    return columns[0] if len(columns) == 1 else columns


def health(store, node="n1"):
    return next(one for one in store.health() if one.node == node)


def marks(store, node="n1"):
    return {one.kind: one for one in health(store, node).marks}


def held(id="train-1.1", devices=(("n1", 0),), since_ms=BEGIN_MS):
    return Held(id, id.rpartition(".")[0], "vision", "batch", "default", devices, since_ms)


# -- values ----------------------------------------------------------------------------------------

VALUES = [
    ("gpu_util_percent", 50.0, 50.0, ""),
    ("gpu_util_percent", 49.6, 50.0, ""),  # percents are integers
    ("gpu_util_percent", 0.0, 0.0, ""),
    ("gpu_util_percent", 100.0, 100.0, ""),
    ("gpu_util_percent", float("nan"), None, ""),  # no sensor: missing, and nobody's fault
    ("gpu_util_percent", 101.0, None, "gpu_util_percent of gpu '0' is 101"),
    ("gpu_util_percent", -1.0, None, "is -1"),
    ("gpu_util_percent", float("inf"), None, "is inf"),
    ("gpu_power_w", float("-inf"), None, "is -inf"),
    ("gpu_power_w", 123.456, pytest.approx(123.456), ""),
    ("gpu_power_w", 20_000.0, None, "is 20000"),
    ("gpu_sm_clock_mhz", 1980.0, 1980.0, ""),
    ("gpu_throttle_bits", 65_534.0, 65_534.0, ""),
    ("gpu_temperature_c", 0.0, 0.0, ""),
    ("gpu_pcie_rx_bytes", 1e12, pytest.approx(1e12), ""),
    ("report_loss", -3.5, -3.5, ""),
]


@pytest.mark.parametrize(("metric", "given", "kept", "said"), VALUES)
def test_a_value_is_kept_as_it_is_or_dropped_and_told(store, metric, given, kept, said):
    is_report = metric.startswith("report")
    subject = Subject.MEMBER if is_report else Subject.GPU
    key = "train-1.1/0" if is_report else "0"
    verdict = store.take([frame(0, columns=(column(metric, [given], subject, [key]),))], at(0))[0]

    assert verdict.taken
    assert asked(store, metric, 1, (("n1", key),), subject=subject) == [kept]
    assert said in "".join(verdict.marks)
    assert bool(said) == ("out_of_range" in marks(store))


SHAPES = [
    (column("gpu_utl", [1.0]), "unknown_metric", "gpu_utl"),
    (
        column("gpu_util_percent", [1.0], Subject.NODE, [""]),
        "wrong_subject",
        "of a node, not a gpu",
    ),
    (column("gpu_util_percent", [1.0], Subject.GPU, ["zero"]), "wrong_key", "gpu 'zero'"),
    (column("gpu_util_percent", [1.0], Subject.GPU, ["١"]), "wrong_key", "gpu"),
    (column("node_load", [1.0], Subject.NODE, ["n1"]), "wrong_key", "node 'n1'"),
    (column("member_cpu_percent", [1.0], Subject.MEMBER, ["job"]), "wrong_key", "member 'job'"),
    (column("port_rx_bytes", [1.0], Subject.PORT, [""]), "wrong_key", "port ''"),
    (column("report_loss", [1.0], Subject.GPU, ["0"]), "wrong_subject", "not a member"),
]


@pytest.mark.parametrize(("wrong", "kind", "said"), SHAPES)
def test_what_has_no_place_is_told_and_the_rest_is_taken(store, wrong, kind, said):
    right = column("gpu_power_w", [99.0])
    verdict = store.take([frame(0, columns=(wrong, right))], at(0))[0]

    assert verdict.taken
    assert verdict.marks[0].startswith(kind)
    assert said in marks(store)[kind].text
    assert asked(store, "gpu_power_w", 1) == [99.0]


# -- frames ----------------------------------------------------------------------------------------


def test_a_frame_that_comes_twice_is_taken_once_and_quietly(store):
    counted = {"gpu_nvlink_errors": [5.0]}
    verdicts = store.take([frame(0, counted), frame(0, counted)], at(0))
    verdicts += store.take([frame(0, counted)], at(1))

    assert [one.taken for one in verdicts] == [True, False, False]
    assert [one.quiet for one in verdicts] == [False, True, True]
    assert health(store).refused == 0
    assert asked(store, "gpu_nvlink_errors", 1) == [5.0]


def test_frames_out_of_order_fill_their_own_ticks(store):
    for seq in (0, 3, 1, 5, 2, 4):
        assert store.take([frame(seq, {"gpu_util_percent": [seq]})], at(5))[0].taken

    assert asked(store) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_frame_too_old_to_tell_is_refused_with_the_reason(store):
    store.take([frame(reporters.SEQS_KEPT + 10, at_ms=at(9))], at(9))
    verdict = store.take([frame(3, at_ms=at(0))], at(9))[0]

    assert not verdict.taken
    assert "too old to tell if it came" in verdict.reason


def test_two_agents_of_one_name_are_told_and_the_newer_is_heard(store):
    store.take([frame(0, {"gpu_util_percent": [10]}, boot=1)], at(0))
    store.take([frame(0, {"gpu_util_percent": [20]}, boot=2, at_ms=at(1))], at(1))
    old = store.take([frame(3, {"gpu_util_percent": [10]}, boot=1)], at(3))[0]
    new = store.take([frame(2, {"gpu_util_percent": [20]}, boot=2, at_ms=at(3))], at(3))[0]

    assert not old.taken
    assert "another agent, started later, reports as n1" in old.reason
    assert new.taken
    assert "two_agents" in marks(store)
    assert asked(store, ticks=4) == [10.0, 20.0, None, 20.0]


def test_what_an_agent_left_before_its_restart_is_still_taken(store):
    store.take([frame(0, boot=1)], at(0))
    store.take([frame(0, boot=2, at_ms=at(5))], at(5))
    verdict = store.take([frame(3, {"gpu_util_percent": [33]}, boot=1)], at(6))[0]

    assert verdict.taken
    assert asked(store, ticks=6)[3] == 33.0
    assert marks(store) == {}


# -- clocks ----------------------------------------------------------------------------------------

FIVE_MINUTES = 300_000


def test_a_clock_five_minutes_ahead_is_told_and_its_frames_stamped_with_ours(store):
    for seq in range(6):
        made = frame(seq, {"gpu_util_percent": [seq]}, at_ms=at(seq) + FIVE_MINUTES)
        assert store.take([made], at(seq))[0].taken

    assert asked(store) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert "its clock is 300 s ahead: stamped with ours" in marks(store)["clock"].text
    assert health(store).clock_offset_ms == -FIVE_MINUTES


def test_a_clock_behind_is_told_once_its_frames_come_in_real_time(store):
    for seq in range(9):
        made = frame(seq, {"gpu_util_percent": [seq]}, at_ms=at(seq) - FIVE_MINUTES)
        assert store.take([made], at(seq))[0].taken

    # The first might have been of a buffer, with pauses of ours between them.
    assert asked(store, ticks=9) == [None] * 4 + [4.0, 5.0, 6.0, 7.0, 8.0]
    assert "300 s behind" in marks(store)["clock"].text


def test_a_sender_that_tells_its_clock_is_put_right_at_once(store):
    for seq in range(6):
        there_ms = at(seq) - FIVE_MINUTES
        made = frame(seq, {"gpu_util_percent": [seq]}, at_ms=there_ms)
        store.take([made], at(seq), sent_ms=there_ms)

    assert asked(store) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_late_frames_are_no_wrong_clock(store):
    """An hour's buffer, oldest first, in bodies of ten and then one by one."""
    for begin in range(0, 300, 10):
        store.take([frame(seq) for seq in range(begin, begin + 10)], at(360))
    for seq in range(300, 360):
        store.take([frame(seq)], at(360) + seq)

    assert marks(store) == {}
    assert asked(store, ticks=360) == [50.0] * 360


def test_a_buffer_sent_frame_by_frame_after_a_pause_is_no_wrong_clock(store):
    store.take([frame(0)], at(0))
    for seq in range(1, 60):
        store.take([frame(seq)], at(60) + seq * 100)

    assert marks(store) == {}
    assert asked(store, ticks=60) == [50.0] * 60


def test_a_clock_that_is_put_right_is_believed_again(store):
    store.take([frame(0, at_ms=at(0) + FIVE_MINUTES)], at(0))
    store.take([frame(1, {"gpu_util_percent": [7]})], at(1))

    assert health(store).clock_offset_ms == 0
    assert asked(store, ticks=2) == [50.0, 7.0]


def test_a_time_of_another_age_is_refused(store):
    store.take([frame(0)], at(0))
    verdict = store.take([frame(1, at_ms=at(0) - 30 * 86_400_000)], at(0) + 5)[0]

    assert not verdict.taken
    assert "hours ago" in verdict.reason


def test_jitter_at_a_ticks_edge_leaves_no_hole(store):
    """Read at half a tick, a little early and a little late by turns."""
    for seq in range(40):
        jitter_ms = 5_000 + (-80 if seq % 2 else 80)
        store.take([frame(seq, at_ms=at(seq) + jitter_ms)], at(seq + 1))

    assert [value is None for value in asked(store, ticks=41)].count(True) == 1


# -- bounds ----------------------------------------------------------------------------------------


def test_more_nodes_than_there_may_be_are_refused(store, monkeypatch):
    monkeypatch.setattr(intake, "NODES_MAX", 2)
    verdicts = store.take([frame(0, node=f"n{at}") for at in range(3)], at(0))

    assert [one.taken for one in verdicts] == [True, True, False]
    assert "2 nodes report already" in verdicts[2].reason


def test_a_full_ring_takes_no_new_subjects_and_says_so(store):
    store.ring.bytes_max = 1
    verdict = store.take([frame(0)], at(0))[0]

    assert verdict.taken
    assert "ring_full" in verdict.marks[0]
    assert asked(store, ticks=1) == [None]


def test_a_flood_of_signals_is_cut_and_told(store):
    many = tuple(xid(at(0), code) for code in range(300))
    verdict = store.take([frame(0, signals=many)], at(0))[0]

    assert len(store.signals(0, at(9))) == intake.SIGNALS_PER_NODE_MAX
    assert "100 signals beyond 200 a minute" in verdict.marks[0]


def test_what_an_agent_dropped_is_added_up(store):
    store.take([frame(0, dropped=3), frame(1, dropped=4)], at(1))

    assert health(store).dropped == 7


# -- ticks, units, columns -------------------------------------------------------------------------


def test_units_have_one_order_whoever_comes_first(store):
    for node in ("n10", "n2", "n1"):
        store.take([frame(0, {"gpu_util_percent": [1, 2]}, node=node)], at(0))
    units = store.ring.units

    assert units.nodes == ("n1", "n10", "n2")
    assert units.node_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert units.index.tolist() == [0, 1, 0, 1, 0, 1]
    assert store.ring.units is units  # the same until somebody comes or goes
    store.take([frame(0, {"gpu_util_percent": [1]}, node="n11")], at(0))
    assert store.ring.units.version == units.version + 1


def test_a_node_that_is_silent_for_the_whole_ring_leaves_it(store):
    store.take([frame(0, node="gone"), frame(0)], at(0))
    for tick in range(TICKS + 40):
        store.take([frame(tick + 1)], at(tick + 1))
        store.advance(at(tick + 1) + 6_000)

    assert store.ring.units.nodes == ("n1",)
    assert store.ring.column("gpu_util_percent").tolist() == [50.0]
    store.take([frame(500, node="new")], at(500))
    assert store.ring.units.nodes == ("n1", "new")


def test_watchers_hear_each_tick_once_when_it_is_complete(store):
    heard: list[Any] = []
    store.watchers.append(lambda tick: heard.append((tick, store.ring.column("gpu_util_percent"))))
    for tick in range(4):
        store.take([frame(tick, {"gpu_util_percent": [tick]})], at(tick) + 50)
        store.advance(at(tick) + 60)  # everyone has told: nobody is waited for

    first = at(0) // TICK_MS
    assert [tick for tick, _ in heard][-4:] == [first, first + 1, first + 2, first + 3]
    assert [values.tolist() for _, values in heard][-4:] == [[0.0], [1.0], [2.0], [3.0]]


def test_a_tick_waits_for_a_node_that_is_late_but_not_for_long(store):
    store.take([frame(0), frame(0, node="slow")], at(0))
    store.take([frame(1)], at(1) + 50)
    store.advance(at(1) + 60)
    before = store.ring.tick
    store.advance(at(1) + 6_100)

    assert before == at(0) // TICK_MS
    assert store.ring.tick == at(1) // TICK_MS


def test_a_watcher_that_fails_stops_no_other(store):
    heard: list[int] = []
    store.watchers += [lambda tick: 1 / 0, heard.append]
    store.take([frame(0)], at(0))
    store.advance(at(0) + 6_100)

    assert heard[-1] == at(0) // TICK_MS


def test_slices_ports_and_nodes_are_series_too(store):
    columns = (
        column("gpu_util_percent", [7.0, 8.0], Subject.GPU, ["0/1", "0/2"]),
        column("port_rx_bytes", [5.0], Subject.PORT, ["mlx5_0/1"]),
        column("node_load", [1.5], Subject.NODE, [""]),
    )
    store.take([frame(0, columns=columns)], at(0))

    assert asked(store, ticks=1, keys=(("n1", "0/2"),)) == [8.0]
    port = {"keys": (("n1", "mlx5_0/1"),), "subject": Subject.PORT}
    assert asked(store, "port_rx_bytes", 1, **port) == [5.0]
    assert asked(store, "node_load", 1, (("n1", ""),), subject=Subject.NODE) == [1.5]
    assert store.ring.keys_of("gpu_util_percent", ["n1"]) == [("n1", "0/1"), ("n1", "0/2")]
    assert store.ring.units.nodes == ()
    assert store.ring.latest("node_load", store.ring.newest)[0] == [("n1", "")]


def test_ticks_of_a_second_are_those_of_a_fast_fleet(tmp_path):
    store = Store(tmp_path, Settings(tick_ms=1000))
    for seq in range(10):
        made = frame(seq, {"gpu_util_percent": [seq]}, at_ms=at(0) + seq * 1000, interval_ms=1000)
        store.take([made], at(0) + seq * 1000)

    assert asked(store, ticks=1, step_ms=1000) == [float(second) for second in range(10)]


# -- queries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [2.5, 8.0]), ("min", [0.0, 6.0]), ("max", [5.0, 10.0]), ("sum", [15.0, 40.0])],
)
def test_a_step_is_the_mean_least_greatest_or_sum_of_what_is_known(store, how, expected):
    for tick in range(12):
        value = float("nan") if tick == 11 else tick
        store.take([frame(tick, {"gpu_util_percent": [value]})], at(tick))

    assert asked(store, ticks=12, step_ms=MINUTE_MS, how=how) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"to_ms": BEGIN_MS}, "not after the begin"),
        ({"step_ms": 0}, "a step of 0 ms"),
        ({"step_ms": 1}, "ask for a longer step"),
        ({"keys": (("n1", "0"),) * 20_001}, "20001 subjects"),
        ({"keys": (("n1", "0"),) * 20_000, "step_ms": 1000}, "fewer subjects"),
    ],
)
def test_a_query_for_nothing_or_too_much_is_refused(store, changes, said):
    whole = {
        "metric": "gpu_util_percent",
        "subject": Subject.GPU,
        "keys": (("n1", "0"),),
        "from_ms": BEGIN_MS,
        "to_ms": BEGIN_MS + 300_000,
        "step_ms": TICK_MS,
    }
    with pytest.raises(BadQuery, match=said):
        store.query(Query(**(whole | changes)))


# -- quantiles -------------------------------------------------------------------------------------


def test_quantiles_of_an_allocation_are_over_its_devices_since_its_start(store):
    store.hold([held(devices=(("n1", 0), ("n1", 1)), since_ms=at(2))])
    for tick in range(10):
        store.take([frame(tick, {"gpu_util_percent": [tick, 100, 1]})], at(tick))
    store.advance(at(9) + 6_000)
    found = store.quantiles("train-1.1", "gpu_util_percent")
    per_device = store.device_quantiles("train-1.1", "gpu_util_percent")

    assert found is not None
    assert (found.count, found.is_exact) == (16, True)
    assert found.at(0.5) == 9
    assert [(device, one.count, one.at(0.5)) for device, one in per_device] == [
        (("n1", 0), 8, 5.0),
        (("n1", 1), 8, 100.0),
    ]
    assert store.quantiles("train-1.1", "gpu_power_w") is None


def test_a_shared_device_counts_for_each_of_its_holders(store):
    store.hold([held("a-1.1"), held("b-2.1")])
    store.take([frame(0)], at(0))
    store.advance(at(0) + 6_000)

    for id in ("a-1.1", "b-2.1"):
        found = store.quantiles(id, "gpu_util_percent")
        assert found is not None
        assert found.count == 1


@pytest.mark.parametrize("folds_between", [True, False])
def test_what_comes_late_is_in_the_quantiles_once(store, folds_between):
    store.hold([held(devices=(("n1", 0), ("n2", 0)))])
    said = {"gpu_util_percent": [10], "gpu_power_w": [300]}
    late = {"gpu_util_percent": [90], "gpu_power_w": [700]}
    for tick in range(20):
        store.take([frame(tick, said)], at(tick))
        store.advance(at(tick) + 6_000)
    if folds_between:
        store.quantiles("train-1.1", "gpu_util_percent")
    store.take([frame(tick, late, node="n2") for tick in range(20)], at(20))
    store.take([frame(tick, late, node="n2") for tick in range(20)], at(20))
    percents = store.quantiles("train-1.1", "gpu_util_percent")
    watts = store.quantiles("train-1.1", "gpu_power_w")

    assert percents is not None
    assert watts is not None
    assert (percents.count, percents.at(0.5), percents.at(0.51)) == (40, 10, 90)
    assert (watts.count, watts.at(0.5), watts.at(0.51)) == (40, 300, 700)


def test_members_and_reports_have_quantiles(store):
    store.hold([held()])
    for tick in range(5):
        keys = ("train-1.1/0", "other-2.1/0")
        loss = column("report_loss", [tick, 99], Subject.MEMBER, keys)
        cpu = column("member_cpu_percent", [100 + tick, 99], Subject.MEMBER, keys)
        store.take([frame(tick, columns=(loss, cpu))], at(tick))
    store.advance(at(4) + 6_000)
    loss_found = store.quantiles("train-1.1", "report_loss")

    assert loss_found is not None
    assert (loss_found.count, loss_found.at(0), loss_found.at(0.5), loss_found.at(1)) == (
        5,
        0,
        2,
        4,
    )
    assert store.known_metrics("train-1.1") == ["member_cpu_percent", "report_loss"]
    assert store.quantiles("other-2.1", "report_loss") is None


def test_a_gang_that_grows_and_shrinks_keeps_what_was_counted(store):
    two, one, other = (("n1", 0), ("n1", 1)), (("n1", 1),), (("n1", 1), ("n1", 2))
    for tick, devices in enumerate((two, two, one, one, other, other)):
        store.hold([held(devices=devices)])
        store.take([frame(tick, {"gpu_util_percent": [1, 2, 3]})], at(tick))
        store.advance(at(tick) + 6_000)
    per_device = store.device_quantiles("train-1.1", "gpu_util_percent")

    assert [(device, found.count) for device, found in per_device] == [
        (("n1", 0), 2),
        (("n1", 1), 6),
        (("n1", 2), 2),
    ]


def test_a_long_run_is_counted_whole_though_the_ring_holds_an_hour(store):
    store.hold([held()])
    ticks = TICKS * 2 + 7
    for tick in range(ticks):
        store.take([frame(tick, {"gpu_util_percent": [tick % 100]})], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    found = store.quantiles("train-1.1", "gpu_util_percent")

    assert found is not None
    assert found.count == ticks
