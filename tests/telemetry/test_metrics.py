"""The table of metrics and its page in the docs say the same."""

import re
from pathlib import Path

from madang.telemetry.frames import METRIC, Subject
from madang.telemetry.metrics import METRICS, metric_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"


def test_every_metric_is_in_the_docs_with_its_unit_and_dcgm_names():
    rows = {
        found[1]: line
        for line in DOCS.read_text().splitlines()
        if (found := re.match(r"\| `(\w+)` \|", line))
    }

    assert set(rows) == set(METRICS)
    for metric in METRICS.values():
        line = rows[metric.name]
        assert f"| {metric.unit} |" in line, metric.name
        assert f"| {metric.form} |" in line, metric.name
        assert metric.text in line, metric.name
        assert all(f"`{name}`" in line for name in metric.dcgm), metric.name


def test_names_are_of_their_form_and_end_with_their_unit():
    endings = {"percent": "percent", "W": "w", "MiB": "mib", "°C": "c", "MHz": "mhz", "B": "bytes"}
    for metric in METRICS.values():
        assert METRIC.fullmatch(metric.name)
        assert metric.name.startswith(metric.subject.value + "_")
        if metric.unit in endings:
            assert metric.name.endswith("_" + endings[metric.unit]), metric.name
        low, high = metric.range
        assert low < high
        if metric.percent:
            assert (low, high) == (0, 100)
        if metric.whole:
            assert 0 <= low < high <= 65_534


def test_a_report_is_a_metric_of_members_of_any_number():
    found = metric_of("report_val/loss.mean")

    assert found is not None
    assert found.subject is Subject.MEMBER
    assert found.range[0] < -1e30
    assert metric_of("report_") is None
    assert metric_of("report_a b") is None
    assert metric_of("gpu_util") is None
