"""The text of /metrics: what strict readers take, what is left out of a large fleet, who asks."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import parser as classic_parser
from prometheus_client.openmetrics import parser

from madang.telemetry.histogram import Histogram
from madang.telemetry.metrics import METRICS
from madang.telemetry.out.exposition import Sensors, Text, known_names, number, wants_open_metrics
from madang.telemetry.out.figures import counter, gauge, histogram
from madang.telemetry.out.names import family_of
from madang.telemetry.out.totals import Totals
from madang.telemetry.store import Store
from madang.telemetry.taps import Taken
from tests.telemetry.out.making import BEGIN_MS, frame

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def of_open_metrics(text: bytes) -> Samples:
    """By the reference parser, which is strict."""
    families = parser.text_string_to_metric_families(text.decode())
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def of_classic(text: bytes) -> Samples:
    families = classic_parser.text_string_to_metric_families(text.decode())
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def scraped(store: Store, totals: Totals, subjects_max: int, *, open_metrics: bool = True) -> bytes:
    text = Text(open_metrics=open_metrics)
    Sensors(store.ring, totals, subjects_max).write(text)
    return text.done()


def fleet(folder: Path, frames: Sequence[Taken]) -> tuple[Store, Totals]:
    """A store that has taken these in, and completed their last tick."""
    store, totals = Store(folder), Totals()

    def count(taken: Sequence[Taken]) -> None:
        totals.take(taken)

    store.taps.append(count)
    for one in frames:
        assert store.take([one.frame], one.at_ms)[0].taken
    store.advance(frames[-1].at_ms + 1)
    return store, totals


EVERYTHING: dict[str, list[float]] = {
    "gpu_util_percent": [93, math.nan],
    "gpu_power_w": [612.25, 80.5],
    "gpu_throttle_bits": [4, 0],
    "gpu_pcie_rx_bytes": [3e9, 5],
    "node_load": [1.25],
    "member_cpu_percent": [250],
    "port_rx_bytes": [10],
    "report_loss/train": [0.25],
}
KEYS = {
    "member_cpu_percent": ("digits-1.2/3",),
    "port_rx_bytes": ("mlx5_0/1",),
    "report_loss/train": ("digits-1.2/0",),
}


@pytest.mark.parametrize("open_metrics", [True, False])
def test_strict_readers_of_both_forms_read_the_same_values(
    tmp_path: Path, open_metrics: bool
) -> None:
    frames = [frame("n1", seq, BEGIN_MS + 10_000 * seq, EVERYTHING, KEYS) for seq in (0, 1, 2)]
    store, totals = fleet(tmp_path, frames)

    text = scraped(store, totals, 100, open_metrics=open_metrics)
    found = (of_open_metrics if open_metrics else of_classic)(text)

    gpu = lambda key: (("gpu", key), ("node", "n1"))  # noqa: E731
    member = (("allocation", "digits-1.2"), ("job", "digits-1"), ("node", "n1"))
    assert found == {
        ("madang_gpu_util_percent", gpu("0")): 93.0,
        ("madang_gpu_power_w", gpu("0")): 612.25,
        ("madang_gpu_power_w", gpu("1")): 80.5,
        ("madang_gpu_throttle_mask", gpu("0")): 4.0,
        ("madang_gpu_throttle_mask", gpu("1")): 0.0,
        ("madang_gpu_pcie_rx_bytes_total", gpu("0")): 9e9,
        ("madang_gpu_pcie_rx_bytes_total", gpu("1")): 15.0,
        ("madang_node_load", (("node", "n1"),)): 1.25,
        ("madang_member_cpu_percent", (*member, ("rank", "3"))): 250.0,
        ("madang_port_rx_bytes_total", (("node", "n1"), ("port", "mlx5_0/1"))): 30.0,
        ("madang_report", (*member, ("rank", "0"), ("report", "loss/train"))): 0.25,
    }
    assert text.endswith(b"# EOF\n") == open_metrics
    assert (b"# UNIT madang_gpu_util_percent percent\n" in text) == open_metrics


def test_types_units_and_help_are_said_of_every_family(tmp_path: Path) -> None:
    store, totals = fleet(tmp_path, [frame("n1", 0, BEGIN_MS, EVERYTHING, KEYS)])

    families = {
        one.name: one
        for one in parser.text_string_to_metric_families(scraped(store, totals, 100).decode())
    }

    received = families["madang_gpu_pcie_rx_bytes"]
    assert (received.type, received.unit) == ("counter", "bytes")
    assert families["madang_gpu_throttle_mask"].type == "gauge"
    assert all(one.documentation for one in families.values())
    assert all(one.type in ("gauge", "counter") for one in families.values())


def test_a_large_fleet_has_its_nodes_instead_of_single_gpus_and_says_so(tmp_path: Path) -> None:
    frames = [
        frame(
            f"n{node}",
            0,
            BEGIN_MS,
            {
                "gpu_util_percent": [10 * node, 10 * node + 5, math.nan],
                "gpu_throttle_bits": [1, 4, 0],
                "gpu_nvlink_errors": [node, 1, 1],
                "node_load": [node],
            },
        )
        for node in (1, 2)
    ]
    store, totals = fleet(tmp_path, frames)

    found = of_open_metrics(scraped(store, totals, 3))

    node = ("node", "n2")
    assert not any(name.startswith("madang_gpu_") for name, _ in found)
    assert found["madang_node_gpu_util_percent", (node, ("over", "mean"))] == 22.5
    assert found["madang_node_gpu_util_percent", (node, ("over", "min"))] == 20.0
    assert found["madang_node_gpu_util_percent", (node, ("over", "max"))] == 25.0
    assert found["madang_node_gpu_throttle_mask", (node,)] == 5.0
    assert found["madang_node_gpu_nvlink_errors_total", (node,)] == 4.0
    assert found["madang_node_load", (node,)] == 2.0
    assert found["madang_metrics_left_out", (("subject", "gpu"),)] == 6.0


def test_every_name_of_a_scrape_is_in_the_list_of_known_names(tmp_path: Path) -> None:
    values = {metric.name: [1.0] for metric in METRICS.values()}
    keys = {one.name: ("a-1.1/0",) if one.subject == "member" else ("p/1",)
            for one in METRICS.values() if one.subject in ("member", "port")}  # fmt: skip
    store, totals = fleet(tmp_path, [frame("n1", 0, BEGIN_MS, values, keys)])
    for subjects_max in (0, 100):
        found = of_open_metrics(scraped(store, totals, subjects_max))
        assert {name for name, _ in found} <= known_names()
    assert {family_of(one).sample for one in METRICS.values()} <= known_names()


def test_a_histogram_counts_up_to_each_bound() -> None:
    counted = Histogram((0.1, 0.5, 1.0))
    for seconds in (0.05, 0.1, 0.2, 0.7, 3.0):
        counted.add(seconds)
    text = Text(open_metrics=True)
    text.figures([histogram("turn_seconds", "turns", counted)])

    found = of_open_metrics(text.done())

    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if "bucket" in name
    }
    assert buckets == {"0.1": 2, "0.5": 3, "1.0": 4, "+Inf": 5}
    assert found["madang_turn_seconds_count", ()] == 5
    assert found["madang_turn_seconds_sum", ()] == pytest.approx(4.05)


@pytest.mark.parametrize("open_metrics", [True, False])
def test_what_people_name_things_does_not_break_the_text(open_metrics: bool) -> None:
    nasty = 'a "quoted" back\\slash\nand a line'
    text = Text(open_metrics=open_metrics)
    text.figures(
        [
            gauge("jobs", nasty, [((("project", nasty),), 1.0)]),
            counter("things", "things", [((), 1e17), ((("a", "마당"),), 0.1)]),
        ]
    )

    found = (of_open_metrics if open_metrics else of_classic)(text.done())

    assert found["madang_jobs", (("project", nasty),)] == 1.0
    assert found["madang_things_total", (("a", "마당"),)] == 0.1


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (0.1, "0.1"), (-2.0, "-2"), (1e300, "1e+300"), (math.inf, "+Inf"),
     (-math.inf, "-Inf"), (math.nan, "NaN")],
)  # fmt: skip
def test_numbers_are_short_and_exact(value: float, text: str) -> None:
    assert number(value) == text


PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        (PROMETHEUS_2_42, True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.9", False),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", False),  # VictoriaMetrics
        ("*/*", False),
        ("", False),
        ("application/openmetrics-text;q=none", False),
    ],
)
def test_who_asks_for_open_metrics_gets_it(accept: str, wants: bool) -> None:
    assert wants_open_metrics(accept) is wants
