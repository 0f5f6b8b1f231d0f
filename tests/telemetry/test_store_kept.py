"""What a restart finds again, whatever ended the run before."""

import numpy as np
import pytest

from madang.telemetry.frames import Subject, pack
from madang.telemetry.queries import Query
from madang.telemetry.stays import Held
from madang.telemetry.store import Settings, Store
from tests.telemetry.making import BEGIN_MS, TICK_MS, column, frame, xid

HOUR_MS = 3_600_000


def at(tick):
    return BEGIN_MS + tick * TICK_MS


def asked(store, from_tick, to_tick, step_ticks=1, **more):
    query = {"metric": "gpu_util_percent", "subject": Subject.GPU, "keys": (("n1", "0"),), **more}
    found = store.query(
        Query(from_ms=at(from_tick), to_ms=at(to_tick), step_ms=step_ticks * TICK_MS, **query)
    )
    return [None if np.isnan(row[0]) else float(row[0]) for row in found.values]


def received(store, frames, now_ms):
    frames = list(frames)
    return store.receive(pack(frames), frames, now_ms, None)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "telemetry"


def held(id="train-1.1", devices=(("n1", 0),), since_ms=BEGIN_MS):
    return Held(id, id.rpartition(".")[0], "vision", "batch", "default", devices, since_ms)


def test_a_killed_store_loses_nothing_that_was_acknowledged(place):
    store = Store(place)
    store.open(at(0))
    for tick in range(30):
        received(store, [frame(tick, {"gpu_util_percent": [tick]})], at(tick))
        store.advance(at(tick))
        if tick in (9, 19):
            store.keep(at(tick + 1))  # a state is written, and more comes after it
    again = Store(place)  # the one before was never closed
    again.open(at(31))

    assert asked(again, 0, 30) == [float(tick) for tick in range(30)]


def test_what_comes_again_after_a_restart_is_known(place):
    frames = [frame(tick) for tick in range(6)]
    store = Store(place)
    store.open(at(0))
    received(store, frames[:3], at(3))
    store.keep(at(0) + 20_000)
    received(store, frames[3:5], at(5))
    again = Store(place)
    again.open(at(6))
    verdicts = received(again, frames, at(6))

    assert [one.taken for one in verdicts] == [False] * 5 + [True]
    assert [one.quiet for one in verdicts] == [True] * 5 + [False]


def test_counts_are_counted_once_whatever_is_replayed(place):
    store = Store(place)
    store.open(at(0))
    received(store, [frame(0, {"gpu_nvlink_errors": [3]})], at(0))
    received(store, [frame(1, {"gpu_nvlink_errors": [4]}, at_ms=at(0) + 100)], at(1))
    again = Store(place)
    again.open(at(2))

    assert asked(again, 0, 3, metric="gpu_nvlink_errors", how="sum") == [7.0, None, None]


def test_quantiles_go_on_after_a_restart(place):
    store = Store(place)
    store.open(at(0))
    store.hold([held()])
    for tick in range(100):
        received(
            store, [frame(tick, {"gpu_util_percent": [tick], "gpu_power_w": [tick]})], at(tick)
        )
        store.advance(at(tick) + TICK_MS)
        store.keep(at(tick))
    again = Store(place)
    again.open(at(101))
    again.hold([held()])
    for tick in range(100, 200):
        received(again, [frame(tick, {"gpu_util_percent": [100], "gpu_power_w": [1e3]})], at(tick))
        again.advance(at(tick) + TICK_MS)
    percents = again.quantiles("train-1.1", "gpu_util_percent")
    watts = again.quantiles("train-1.1", "gpu_power_w")

    assert percents is not None
    assert watts is not None
    assert (percents.count, percents.at(0.25), percents.at(0.75)) == (200, 49, 100)
    assert (watts.count, watts.at(0.25), watts.at(0.75)) == (200, 49, 1000)


def test_quantiles_of_what_ended_stay(place):
    store = Store(place)
    store.open(at(0))
    store.hold([held()])
    for tick in range(10):
        store.take([frame(tick, {"gpu_util_percent": [tick]})], at(tick))
    store.advance(at(11))
    store.hold([])
    store.keep(at(11))
    store.close()
    again = Store(place)
    again.open(at(12))
    found = again.quantiles("train-1.1", "gpu_util_percent")

    assert found is not None
    assert found.at(0.5) == 4
    assert again.quantiles("train-1.2", "gpu_util_percent") is None


def test_older_than_an_hour_is_history_at_a_minutes_resolution(place):
    store = Store(place)
    store.open(at(0))
    ticks = 6 * 90  # an hour and a half
    for tick in range(ticks):
        store.take([frame(tick, {"gpu_util_percent": [tick % 6]})], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    minutes = asked(store, 0, ticks, 6)
    greatest = asked(store, 0, ticks, 6, how="max")
    hours = asked(store, 0, 360, 360)

    assert minutes == [2.5] * 90
    assert greatest == [5.0] * 90
    assert hours == [2.5]
    assert store.history_bytes > 0


def test_history_outlives_a_kill_and_is_not_counted_twice(place):
    ticks = 6 * 100
    store = Store(place)
    for tick in range(ticks):
        if tick in (217, 433):  # killed: another takes its place
            store = Store(place)
            store.open(at(tick))
        received(store, [frame(tick, {"gpu_nvlink_errors": [1]})], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    sums = asked(store, 0, ticks, 6, metric="gpu_nvlink_errors", how="sum")

    assert sums == [6.0] * 100


def test_an_hour_that_is_over_is_one_file(place):
    store = Store(place)
    store.open(at(0))
    for tick in range(360 * 3):
        store.take([frame(tick, {"gpu_util_percent": [tick // 6 % 100]})], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    hours = [path.name.split(".")[1] for path in place.glob("history/1m/*/gpu.*.parquet")]
    firsts = [int(name.split("-")[0]) // 3600 for name in hours]

    assert len(firsts) >= 3
    assert [firsts.count(hour) for hour in sorted(set(firsts))[:-1]] == [1] * (len(set(firsts)) - 1)
    assert asked(store, 0, 360 * 3, 6) == [float(minute % 100) for minute in range(180)]


def test_what_comes_late_fills_its_minute_in_history_too(place):
    store = Store(place)
    store.open(at(0))
    ticks = 6 * 120
    for tick in range(ticks):
        store.take([frame(tick, {"gpu_util_percent": [10]}, node="n2")], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    late = [frame(tick, {"gpu_util_percent": [40]}) for tick in range(ticks)]
    verdicts = store.take(late, at(ticks))
    store.keep(at(ticks) + 20_000)

    assert all(one.taken for one in verdicts)
    assert asked(store, 0, ticks, 6) == [40.0] * 120
    assert asked(store, 0, ticks, 6, keys=(("n2", "0"),)) == [10.0] * 120


def test_a_ring_of_other_ticks_goes_to_history(place):
    store = Store(place)
    store.open(at(0))
    for tick in range(60):
        store.take([frame(tick, {"gpu_util_percent": [tick // 6]})], at(tick))
    store.advance(at(60))
    store.close()
    again = Store(place, Settings(tick_ms=1000))
    again.open(at(61))

    assert asked(again, 0, 60, 6) == [float(minute) for minute in range(10)]


def test_signals_are_kept_by_day_and_once(place):
    store = Store(place)
    store.open(at(0))
    store.hold([held()])
    received(store, [frame(0, signals=(xid(at(0)),))], at(0))
    store.keep(at(0) + 20_000)
    received(store, [frame(1, signals=(xid(at(1), 48),))], at(1))
    again = Store(place)
    again.open(at(2))
    found = again.signals(0, at(10))

    assert (found[0].code, found[0].node, found[0].job) == (79, "n1", "train-1")
    assert [one.code for one in found] == [79, 48]
    assert again.signals(at(1), at(10))[0].code == 48
    assert again.signals(0, at(10), node="n2") == []
    assert [one.code for one in again.signals(0, at(10), job="train-1")] == [79]


def test_a_damaged_tick_loses_itself_only(place):
    store = Store(place)
    store.open(at(0))
    for tick in range(3):
        store.take([frame(tick)], at(tick))
    store.keep(at(5))
    file = next((place / "ring").glob(f"{at(1) // TICK_MS}.*.tick"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    again = Store(place)
    again.open(at(5))

    assert asked(again, 0, 3) == [50.0, None, 50.0]


def test_where_nothing_can_be_kept_the_ring_goes_on(place):
    place.write_text("a file, where a directory should be")
    store = Store(place)
    store.open(at(0))
    verdicts = received(store, [frame(0)], at(0))

    assert verdicts[0].taken
    assert asked(store, 0, 1) == [50.0]
    assert "nothing can be kept" in store.trouble


def test_where_nothing_can_be_kept_quantiles_are_counted_all_the_same(place):
    place.write_text("a file, where a directory should be")
    store = Store(place)
    store.open(at(0))
    store.hold([held()])
    for tick in range(800):
        store.take([frame(tick)], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    found = store.quantiles("train-1.1", "gpu_util_percent")

    assert found is not None
    assert found.count == 800


def test_reports_and_members_have_a_history(place):
    store = Store(place)
    store.open(at(0))
    ticks = 6 * 100
    keys = ("train-1.1/0", "train-1.1/1")
    for tick in range(ticks):
        loss = column("report_loss", [tick / 7, 1.0], Subject.MEMBER, keys)
        cpu = column("member_cpu_percent", [250.0, 99.0], Subject.MEMBER, keys)
        store.take([frame(tick, columns=(loss, cpu))], at(tick))
        store.advance(at(tick) + 6_000)
        store.keep(at(tick))
    of_members = {"subject": Subject.MEMBER, "keys": (("n1", keys[0]),)}
    loss = asked(store, 0, 12, 6, metric="report_loss", **of_members)
    cpu = asked(store, 0, 12, 6, metric="member_cpu_percent", **of_members)

    assert loss == [pytest.approx(2.5 / 7), pytest.approx(8.5 / 7)]
    assert cpu == [250.0, 250.0]
