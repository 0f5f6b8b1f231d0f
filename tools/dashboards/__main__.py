"""The Grafana dashboards, written from a few lines a panel: deploy/grafana/*.json.

    python -m tools.dashboards          write them
    python -m tools.dashboards --check  say whether they are as this would write them

They import into any Grafana from 9 on, with a Prometheus data source of any kind (Prometheus,
VictoriaMetrics). What is heavy comes from deploy/rules/recording.yml, so that a dashboard that
is open on a wall costs the store as little with 100,000 GPUs as with 100.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.dashboards import fleet, itself, job, node, queue
from tools.dashboards.panels import Dashboard, Panel, Variable

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARDS = (fleet.PAGE, node.PAGE, job.PAGE, queue.PAGE, itself.PAGE)
WIDTH = 24
HEIGHT = 8
STAT_HEIGHT = 4
SOURCE = {"type": "prometheus", "uid": "${source}"}


def written(page: Dashboard) -> str:
    """The dashboard as a file."""
    return json.dumps(_page(page), indent=1, ensure_ascii=False) + "\n"


def _page(page: Dashboard) -> dict[str, Any]:
    return {
        "uid": page.uid,
        "title": page.title,
        "description": page.text,
        "tags": ["madang"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 37,
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "tags": ["madang"],
                "title": "Madang",
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "templating": {"list": [_source(), *map(_variable, page.variables)]},
        "panels": _panels(page),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 7,
        "multi": variable.many,
        "includeAll": variable.many,
    }
    if variable.many:
        # An absent label matches `.*`: who has one cluster need not name it.
        made |= {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return made


def _panels(page: Dashboard) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    top = 0
    for title, panels in page.rows:
        made.append(
            {
                "id": len(made) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in panels:
            height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
            if left + panel.wide > WIDTH:
                left, top = 0, top + height
            place = {"h": height, "w": panel.wide, "x": left, "y": top}
            made.append({"id": len(made) + 1, "gridPos": place, **_panel(panel)})
            left += panel.wide
        top += height
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.warn is not None:
        steps.append({"color": "orange", "value": panel.warn})
    defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": panel.kind in ("stat", "bargauge"),
                "range": panel.kind not in ("stat", "bargauge"),
            }
            for number, (expression, legend) in enumerate(panel.asks)
        ],
    }


def _options(kind: str) -> dict[str, Any]:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match kind:
        case "stat":
            return {"reduceOptions": reduced, "colorMode": "value", "graphMode": "none"}
        case "bargauge":
            return {"reduceOptions": reduced, "orientation": "horizontal", "displayMode": "basic"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write them, or with --check compare; the status is 1 if one differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    different = 0
    for page in DASHBOARDS:
        path = FOLDER / f"{page.uid.removeprefix('madang-')}.json"
        text = written(page)
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                different += 1
                print(f"{path.name} differs: python -m tools.dashboards")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
