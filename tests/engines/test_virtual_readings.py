"""What a virtual fleet's sensors say for telemetry: plausible, seeded, or missing."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from madang.core.model import Allocation, AllocationState, Node, Seat, Shape
from madang.engines.base import Launch, Readings
from madang.engines.virtual import Fleet, FleetModel, Sensors, Times, readings_of, sample_of
from madang.engines.virtual.fleet import Faults
from madang.engines.virtual.sensors import COUNTS
from madang.engines.virtual.showing import GPU, MEMBER, NODE, PORT
from madang.engines.virtual.xids import BY_CODE, XIDS, xid_of

TICK_MS = 10_000


def fleet(*models: str, speed: float = 1.0, **faults: int) -> FleetModel:
    nodes = tuple(
        Node(f"n{at}", 4, 32_000, 256_000, model, gpu_memory_mib=80_000)
        for at, model in enumerate(models or ("H100", "H100"))
    )
    times = Times(start_ms=(10, 10), stop_ms=(20, 20))
    made = FleetModel(Fleet(nodes, seed=4, speed=speed, times=times, faults=Faults(**faults)), 0)
    made.advance(0)
    return made


def start(model: FleetModel, job: str, temper: str, *seats: Seat, milli: int = 1_000) -> None:
    shape = Shape(len(seats[0].gpus), cpu_milli=8_000, memory_mib=32_000, gpu_milli=milli)
    allocation = Allocation(f"{job}.1", job, "p", 1, shape, seats, AllocationState.BOUND, 0)
    env = (
        ("MADANG_VIRTUAL_TEMPER", temper),
        ("MADANG_VIRTUAL_SECONDS", "86400"),
        ("MADANG_VIRTUAL_SAVES", "0"),
    )
    model.start(Launch(allocation, job, "ada", ("train",), env))


class Watch:
    """Reads a fleet tick by tick."""

    def __init__(self, model: FleetModel) -> None:
        self.model = model
        self.sensors = Sensors(model)

    def tick(self) -> dict[str, Readings]:
        self.model.advance(self.model.now_ms + TICK_MS)
        return {one.node: one for one in readings_of(self.sensors.look_on(self.model.now_ms))}

    def series(self, node: str, metric: str, key: str, ticks: int) -> list[float]:
        return [value(self.tick()[node], metric, key) for _ in range(ticks)]


def value(readings: Readings, metric: str, key: str) -> float:
    """NaN where it is not told."""
    for column in readings.columns:
        if column.metric == metric and key in column.keys:
            return float(column.values[column.keys.index(key)])
    return float("nan")


def metrics(readings: Readings) -> set[str]:
    return {column.metric for column in readings.columns}


def test_every_family_is_told_once_something_can_have_been_counted():
    model = fleet()
    start(model, "a", "steady", Seat("n0", (0, 1)), Seat("n1", (0, 1)))
    watch = Watch(model)

    first, second = watch.tick()["n0"], watch.tick()["n0"]
    assert metrics(first) == {*GPU, *NODE, *MEMBER, *PORT} - COUNTS
    assert metrics(second) == {*GPU, *NODE, *MEMBER, *PORT}
    assert (first.interval_ms, second.interval_ms) == (0, TICK_MS)
    assert {column.keys for column in second.columns if column.subject == "member"} == {("a.1/0",)}
    assert all(column.values.dtype == np.float32 for column in second.columns)
    assert all(len(column.values) == len(column.keys) for column in second.columns)


def test_the_same_seed_shows_the_same_and_another_seed_another():
    def shown(seed: int) -> list[tuple[str, list[float]]]:
        model = fleet()
        model.fleet = replace(model.fleet, seed=seed)
        start(model, "a", "steady", Seat("n0", (0, 1)))
        watch = Watch(model)
        return [(c.metric, c.values.tolist()) for _ in range(3) for c in watch.tick()["n0"].columns]

    assert shown(1) == shown(1)
    assert shown(1) != shown(2)


def test_tempers_are_told_apart_by_what_the_sensors_show():
    model = fleet("H100", "H100")
    for gpu, temper in enumerate(("steady", "bubbly", "checkpointing", "idle")):
        start(model, temper, temper, Seat("n0", (gpu,)))
    start(model, "faulty", "faulty", Seat("n1", (0, 1, 2, 3)))
    watch = Watch(model)
    shown = [watch.tick() for _ in range(60)]

    def util(gpu: int) -> list[float]:
        return [value(tick["n0"], "gpu_util_percent", str(gpu)) for tick in shown]

    assert min(util(0)) > 85
    assert 30 < min(util(1)) < 70 < max(util(1))
    assert min(util(2)) < 15
    assert np.median(util(2)) > 80
    assert max(util(3)) < 5
    written = [value(tick["n0"], "member_write_bytes", "checkpointing.1/0") for tick in shown[1:]]
    assert max(written) > 1e9
    assert np.median(written) < 1e7
    heat = [value(shown[-1]["n1"], "gpu_temperature_c", str(gpu)) for gpu in range(4)]
    clock = [value(shown[-1]["n1"], "gpu_sm_clock_mhz", str(gpu)) for gpu in range(4)]
    why = [value(shown[-1]["n1"], "gpu_throttle_bits", str(gpu)) for gpu in range(4)]
    slow = int(np.argmax(heat))
    assert slow == int(np.argmin(clock))
    assert [gpu for gpu in range(4) if int(why[gpu]) & 0x40] == [slow]


def test_percents_are_whole_numbers_within_their_range():
    model = fleet()
    start(model, "a", "bubbly", Seat("n0", (0, 1, 2, 3)))
    watch = Watch(model)
    for _ in range(20):
        for column in watch.tick()["n0"].columns:
            if column.metric.endswith("_percent") and column.subject in ("gpu", "node"):
                assert np.all(column.values == np.rint(column.values)), column
                assert np.all((column.values >= 0) & (column.values <= 100)), column


def test_what_counts_counts_the_time_that_passed_in_the_fleet():
    slow, fast = fleet(), fleet(speed=60.0)
    counted = []
    for model in (slow, fast):
        start(model, "a", "steady", Seat("n0", (0, 1, 2, 3)))
        watch = Watch(model)
        watch.tick()
        counted.append(watch.series("n0", "gpu_nvlink_tx_bytes", "0", 1)[0])
    assert counted[1] / counted[0] == pytest.approx(60, rel=0.1)


def test_only_gangs_of_several_nodes_use_the_network():
    model = fleet("H100", "H100", "H100")
    start(model, "wide", "steady", Seat("n0", (0, 1, 2, 3)), Seat("n1", (0, 1, 2, 3)))
    start(model, "near", "steady", Seat("n2", (0, 1, 2, 3)))
    watch = Watch(model)
    watch.tick()
    shown = watch.tick()
    sent = [value(shown[node], "port_tx_bytes", "mlx5_0/1") for node in ("n0", "n1", "n2")]
    assert min(sent[:2]) > 1e9
    assert sent[2] == 0
    assert value(shown["n2"], "gpu_nvlink_tx_bytes", "0") > 1e9


def test_members_that_share_a_device_are_added_up():
    model = fleet()
    for at in range(3):
        start(model, f"part{at}", "steady", Seat("n0", (0,)), milli=250)
    shown = Watch(model).tick()["n0"]
    assert 60 < value(shown, "gpu_util_percent", "0") < 78
    assert value(shown, "gpu_util_percent", "1") == 0


@pytest.mark.parametrize(
    ("model", "lacks"),
    [
        ("H100", set()),
        ("T4", {"gpu_memory_temperature_c"} | {name for name in GPU if "nvlink" in name}),
        ("strange", {"gpu_memory_temperature_c"} | {name for name in GPU if "nvlink" in name}),
    ],
)
def test_a_sensor_that_a_model_does_not_have_is_missing_and_not_zero(model, lacks):
    watch = Watch(fleet(model))
    watch.tick()
    assert set(GPU) - metrics(watch.tick()["n0"]) == lacks


def test_a_node_without_devices_has_no_gpu_columns():
    node = Node("c0", 0, 64_000, 256_000, "")
    model = FleetModel(Fleet((node,), seed=1), 0)
    model.advance(0)
    shown = Watch(model).tick()["c0"]
    assert {column.subject for column in shown.columns} == {"node"}


def test_a_node_that_cannot_be_heard_is_missing_and_tells_why_when_it_is_back():
    model = fleet()
    watch = Watch(model)
    watch.tick()
    model.take_down("n0", 25_000, cut_off=True)
    assert list(watch.tick()) == ["n1"]
    assert list(watch.tick()) == ["n1"]
    back = watch.tick()["n0"]
    assert [(one.kind, one.subject, one.key) for one in back.signals] == [
        ("mlx5", "port", "mlx5_0/1")
    ]
    assert back.signals[0].at_ms == TICK_MS
    assert value(back, "port_link_downed", "mlx5_0/1") == 1
    assert watch.tick()["n0"].signals == ()


def test_a_device_that_falls_ill_is_an_xid_once_and_shows_it_until_it_is_mended():
    seen: set[int] = set()
    for at in range(60):
        model = fleet()
        model.fleet = replace(model.fleet, seed=at)
        watch = Watch(model)
        watch.tick()
        model.set_health("n0", 2, healthy=False)
        struck = watch.tick()["n0"]
        later = watch.tick()["n0"]
        (signal,) = struck.signals
        xid = BY_CODE[signal.code]
        seen.add(xid.code)
        assert (signal.kind, signal.key, signal.at_ms) == ("xid", "2", TICK_MS)
        assert f"Xid (PCI:0000:3a:00): {xid.code}, " in signal.text
        assert later.signals == ()
        if xid.silent:
            assert np.isnan(value(later, "gpu_power_w", "2"))
            assert not np.isnan(value(later, "gpu_power_w", "1"))
        else:
            assert value(later, "gpu_recovery_action", "2") == xid.action
            errors = [value(one, "gpu_ecc_uncorrected", "2") for one in (struck, later)]
            assert errors == [xid.ecc, 0]
        model.set_health("n0", 2, healthy=True)
        assert value(watch.tick()["n0"], "gpu_recovery_action", "2") == 0
    assert len(seen) > 3


def test_the_shares_of_xids_are_of_one_and_every_one_can_strike():
    assert sum(xid.share for xid in XIDS) == pytest.approx(1.0)
    assert {xid_of(1, "n", gpu, 5).code for gpu in range(500)} == set(BY_CODE)


def test_faults_of_a_fleet_become_signals_by_themselves():
    model = fleet(gpu_mtbf_ms=200_000, gpu_mttr_ms=20_000)
    watch = Watch(model)
    told = [signal for _ in range(60) for one in watch.tick().values() for signal in one.signals]
    assert len(told) > 10
    assert all(later.at_ms > 0 for later in told)


def test_top_shows_the_values_that_telemetry_is_given():
    model = fleet()
    start(model, "a", "bubbly", Seat("n0", (0, 1)), Seat("n1", (2,)))
    watch = Watch(model)
    watch.tick()
    readings = watch.tick()
    top = sample_of(watch.sensors.look(model.now_ms))
    for node in top.nodes:
        shown = readings[node.node]
        for gpu in node.gpus:
            assert gpu.util_percent == value(shown, "gpu_util_percent", str(gpu.index))
            assert gpu.power_w == pytest.approx(value(shown, "gpu_power_w", str(gpu.index)))
        assert node.cpu_percent == value(shown, "node_cpu_percent", "")
    for member in top.members:
        key = f"{member.allocation}/{member.rank}"
        cpu = value(readings[f"n{member.rank}"], "member_cpu_percent", key)
        assert member.cpu_percent == pytest.approx(cpu, abs=0.1)


def test_looking_for_top_takes_nothing_from_what_telemetry_counts():
    model = fleet()
    start(model, "a", "steady", Seat("n0", (0, 1)))
    watch = Watch(model)
    watch.tick()
    model.set_health("n0", 3, healthy=False)
    sample_of(watch.sensors.look(model.now_ms))
    shown = watch.tick()["n0"]
    assert shown.interval_ms == TICK_MS
    assert len(shown.signals) == 1


def test_who_ends_is_gone_from_the_next_reading():
    model = fleet()
    start(model, "a", "steady", Seat("n0", (0, 1)))
    watch = Watch(model)
    before = watch.tick()["n0"]
    model.stop("a.1", 0)
    after = watch.tick()["n0"]
    assert value(before, "gpu_util_percent", "0") > 50
    assert value(after, "gpu_util_percent", "0") == 0
    assert not any(column.subject == "member" for column in after.columns)


def test_mishaps_that_nobody_reads_are_bounded():
    model = fleet()
    for _, healthy in pairwise([True, False] * 30_000):
        model.set_health("n0", 1, healthy=healthy)
    assert len(model.mishaps) <= 10_000
