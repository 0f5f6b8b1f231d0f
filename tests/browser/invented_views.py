"""Invented readings over time, quotas, calendar and usage, of the shapes that the daemon answers.

Everything follows from the yard and the time asked for, so that a frozen clock gives the same page.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.browser.invented import PROJECT_OF, Job, Yard, zlib_like

Values = NDArray[np.float64]
HOUR_MS = 3_600_000
TICK_MS = 10_000
METRICS = {
    "gpu_util_percent": ("percent", "share of the time in which a kernel ran"),
    "gpu_tensor_active_percent": ("percent", "share of the time in which the tensor cores worked"),
    "gpu_memory_used_percent": ("percent", "device memory in use, of all there is"),
    "gpu_power_w": ("W", "power drawn"),
    "gpu_temperature_c": ("°C", "temperature of the die"),
    "gpu_sm_clock_mhz": ("MHz", "clock of the multiprocessors"),
    "gpu_nvlink_rx_bytes": ("B", "bytes it received over NVLink"),
}
SINCE_H = {"24h": 24.0, "7d": 168.0, "30d": 720.0}


def names() -> list[dict[str, Any]]:
    return [
        {"name": name, "unit": unit, "form": "gauge", "subject": "gpu", "text": text}
        for name, (unit, text) in METRICS.items()
    ]


# -- readings ------------------------------------------------------------------------------------


def series(yard: Yard, query: dict[str, str]) -> dict[str, Any] | None:
    """One metric of a job's devices, rank after rank; None: no such job or metric."""
    job, metric = yard.jobs.get(query.get("job", "")), query.get("metric", "")
    if job is None or metric not in METRICS:
        return None
    step_ms = int(query["step"].removesuffix("ms"))
    times = np.arange(int(query["from"]), int(query["to"]), step_ms, dtype=np.int64)
    devices = [(s["rank"], s["node"], gpu) for s in job["seats"] for gpu in s["gpus"]]
    values = readings(yard, job, metric, times)
    lines = []
    for (rank, node, gpu), row in zip(devices, np.round(values, 1), strict=True):
        cells = [None if math.isnan(cell) else cell for cell in row.tolist()]
        key = f"{node}/{gpu}"
        lines.append({"key": key, "node": node, "gpu": gpu, "rank": rank, "values": cells})
    found = {"metric": metric, "unit": METRICS[metric][0], "times": times.tolist()}
    return found | {"series": lines, "quantiles": quantiles(yard, query)}


def quantiles(yard: Yard, query: dict[str, str]) -> dict[str, Any] | None:
    """Of every reading since the start."""
    job, metric = yard.jobs.get(query.get("job", "")), query.get("metric", "")
    if job is None or metric not in METRICS or not job["running_ms"]:
        return None
    end_ms = job["ended_ms"] or yard.clock()
    times = np.linspace(job["running_ms"], end_ms, 200).astype(np.int64)
    known = readings(yard, job, metric, times)
    known = known[~np.isnan(known)]
    count = known.size and len(known) * max(1, (end_ms - job["running_ms"]) // TICK_MS) // 200
    found = {f"p{p}": round(float(np.percentile(known, p)), 1) for p in (5, 25, 50, 75, 95, 99)}
    return {"count": int(count), **found}


def readings(yard: Yard, job: Job, metric: str, times: NDArray[np.int64]) -> Values:
    """(devices, times); NaN where nothing was read."""
    devices = [(s["rank"], s["node"], gpu) for s in job["seats"] for gpu in s["gpus"]]
    seed = zlib_like(job["id"]) % 1000
    row = np.arange(len(devices))[:, None]
    tick = (times // TICK_MS)[None, :]
    noise = np.modf(np.sin(row * 12.9898 + (tick % 9973) * 78.233 + seed) * 43758.5453)[0]
    slow = _slow_rows(job, devices)[:, None] & (times[None, :] >= _changed_ms(yard, job))
    waits = ~slow & (times[None, :] >= _changed_ms(yard, job)) & _slow_rows(job, devices).any()
    util = _util(yard.kinds[job["id"]], seed, noise, tick)
    util = np.where(slow, np.minimum(99, util + 8), np.where(waits, util - 17, util))
    util = np.where((times[None, :] - job["running_ms"]) % (29 * 60_000) < 70_000, 6.0, util)
    util = np.clip(util, 0, 100)
    match metric:
        case "gpu_util_percent":
            found = np.round(util)
        case "gpu_tensor_active_percent":
            found = np.round(util * 0.62 + 2 * noise)
        case "gpu_memory_used_percent":
            found = np.round(55 + seed % 38 + (row % 8 == 0) * 3 + 0.4 * noise)
        case "gpu_power_w":
            found = 92 + 5.9 * util - slow * 190 + 6 * noise
        case "gpu_temperature_c":
            found = 34 + util * 0.36 + slow * 22 + noise + (row % 8) * 0.7
        case "gpu_sm_clock_mhz":
            found = 1965 - 15 * np.round(1 + noise) - slow * 630
        case _:
            found = util * 3.1e8 * (1 + 0.05 * noise)
    started = times[None, :] >= job["running_ms"] - TICK_MS
    ended = times[None, :] <= (job["ended_ms"] or yard.clock())
    dead = (row == 5) & (metric == "gpu_power_w")  # a sensor that says nothing
    return np.where(started & ended & ~dead, found, np.nan)


def _util(kind: str, seed: int, noise: Values, tick: NDArray[np.int64]) -> Values:
    base = 76 + seed % 18
    wave = np.sin(tick / 9 + seed)
    if kind == "idle":
        return np.zeros_like(noise)
    if kind == "low":
        return 36 + 6 * wave + 4 * noise
    if kind == "bubbly":
        return base - 24 + 22 * wave + 3 * noise
    return base + 2 * wave + 3 * noise


def _slow_rows(job: Job, devices: list[tuple[int, str, int]]) -> NDArray[np.bool_]:
    """One node of a gang loses its clocks."""
    nodes = list(dict.fromkeys(node for _, node, _ in devices))
    bad = nodes[zlib_like(job["id"]) % len(nodes)] if len(nodes) >= 4 else None
    return np.array([node == bad for _, node, _ in devices], dtype=bool)


def _changed_ms(yard: Yard, job: Job) -> int:
    return int((job["ended_ms"] or yard.clock()) - 19 * 60_000)


# -- who may have what ---------------------------------------------------------------------------


def quotas(yard: Yard) -> list[dict[str, Any]]:
    if yard.calm:
        return []
    shares = {
        "project:atlas-llm": (0.25, 0.35),
        "project:speech": (0.1, 0.2),
        "project:vision": (0.12, 0.125),
        "project:robotics": (0.06, 0.09),
        "workspace:foundation": (0.35, 0.6),
    }
    held = {one["id"]: one["used_gpus"] for one in projects(yard)}
    found = []
    for owner, (promised, limit) in shares.items():
        name = owner.partition(":")[2]
        mine = sum(v for k, v in held.items() if k == name or workspace_of(k) == name)
        row = {"owner": owner, "group": "*", "provisioning": "*", "weight": 1, "cells": {}}
        row |= {"guaranteed_gpus": round(yard.gpus * promised), "cells_now": [], "held_gpus": mine}
        found.append(row | {"limit_gpus": yard.quotas.get(name, round(yard.gpus * limit))})
    return found


def workspace_of(project: str) -> str:
    return "foundation" if project in ("atlas-llm", "speech", "translation") else "products"


def projects(yard: Yard) -> list[dict[str, Any]]:
    found = yard.projects()
    if not yard.calm:
        for one in found:
            one["workspace"] = workspace_of(one["id"])
    return found


def workspaces(yard: Yard) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for one in projects(yard):
        row = rows.setdefault(
            one["workspace"], {"id": one["workspace"], "projects": [], "held_gpus": 0}
        )
        row["projects"].append(one["id"])
        row["held_gpus"] += one["used_gpus"]
    return list(rows.values())


def reservations(yard: Yard) -> list[dict[str, Any]]:
    if yard.gpus < 200:
        return []
    now = yard.made_ms - yard.made_ms % 60_000
    gang = max(2, yard.gpus // 80)
    asked = (
        ("llm-70b", "atlas-llm", gang, now + 5 * HOUR_MS, 10),
        ("demo-week", "speech", 4, now - 2 * HOUR_MS, 9),
        ("vit-sweep", "vision", gang // 2, now + 13 * HOUR_MS, 30),
        ("course", "default", 2, now + 18 * HOUR_MS, 4),
    )
    return [
        {
            "id": name,
            "project": project,
            "gpus": 8,
            "members": members,
            "profile": "",
            "begin_ms": begin,
            "end_ms": begin + hours * HOUR_MS,
            "by": "jiwoo",
            "state": "open" if begin <= yard.clock() else "waiting",
            "held_gpus": 24 if begin <= yard.clock() else 0,
        }
        for name, project, members, begin, hours in asked
    ]


def holes(yard: Yard) -> list[dict[str, Any]]:
    if yard.gpus < 200:
        return []
    return [
        {
            "id": "room-1",
            "members": 4,
            "gpus": 8,
            "within": "block",
            "project": "robotics",
            "by": "minseo",
            "until_ms": yard.made_ms + 3 * HOUR_MS + 1_500_000,
            "is_free": False,
            "pieces": [],
            "moves": [],
            "cost_gpu_s": 1440,
            "text": "2 jobs move, which throws away 0.4 GPU-hours of work",
        }
    ]


# -- usage ---------------------------------------------------------------------------------------


def usage(yard: Yard, query: dict[str, str]) -> dict[str, Any]:
    """Who held what over a time: what they hold now, for as long, more or less."""
    hours = SINCE_H.get(query.get("since", ""), 720.0)
    by = query.get("by", "project") or "project"
    groups: dict[str, float] = {}
    for job in yard.jobs.values():
        if job["running_ms"]:
            name = _group(yard, job, by)
            groups[name] = groups.get(name, 0.0) + job["members"] * job["gpus"]
    if by == "day":
        days = round(hours / 24)
        base = sum(groups.values()) / max(1, days)
        at_s = yard.made_ms // 1000
        groups = {
            f"2026-11-{21 - day:02}" if day < 21 else f"2026-10-{52 - day:02}": base
            * (0.8 + 0.2 * math.sin(at_s + day))
            for day in range(days)
        }
    lines = [_line({by: name}, held, hours, name) for name, held in sorted(groups.items())]
    total = _line({}, sum(groups.values()), hours, "total")
    total |= {"held_pct": 91.4, "capacity_gpu_h": yard.gpus * hours}
    now = yard.clock()
    since = now - int(hours * HOUR_MS)
    head = {"since_ms": since, "until_ms": now, "begins_ms": since, "by": [by]}
    return head | {"total": total, "lines": lines, "points": []}


def _group(yard: Yard, job: Job, by: str) -> str:
    if by == "workspace":
        return workspace_of(job["project"])
    if by == "model":
        nodes = {node["id"]: node["model"] for node in yard.nodes[:]}
        return str(nodes.get(job["seats"][0]["node"], "")) if job["seats"] else ""
    return str(job[by]) if by in job else str(job["project"])


def _line(group: dict[str, str], held_gpus: float, hours: float, name: str) -> dict[str, Any]:
    chance = zlib_like(name) % 1000 / 1000
    held = held_gpus * hours * (0.7 + 0.25 * chance)
    measured = held * 0.97
    used = measured * (0.55 + 0.35 * chance)
    waited = held * (0.02 + 0.1 * (1 - chance))
    count = 20 + zlib_like(name) % 300
    wait = 60_000 + int(chance * 900_000)
    waits = {"count": count, "mean_ms": wait, "p50_ms": wait // 2, "p90_ms": wait * 3}
    amounts = {
        "asked": held + waited,
        "held": held,
        "waited": waited,
        "measured": measured,
        "used": used,
        "wasted": held * 0.004 * (1 + chance),
        "failed": held * 0.01,
        "stranded": 0.0,
    }
    return {
        "group": group,
        **{f"{key}_gpu_h": round(value, 3) for key, value in amounts.items()},
        "util_pct": round(100 * used / measured, 2) if measured else None,
        "capacity_gpu_h": None,
        "held_pct": None,
        "submitted": count,
        "ended": count - 3,
        "waiting": 2,
        "jct_mean_ms": 5 * HOUR_MS,
        **dict.fromkeys(("moves", "reclaims", "requeues", "node_losses", "failures"), 1),
        "preemptions": zlib_like(name) % 9,
        "waits": waits | {"p99_ms": wait * 8, "max_ms": wait * 12},
    }


def idle(yard: Yard, query: dict[str, str]) -> list[dict[str, Any]]:
    found = []
    for line in usage(yard, {**query, "by": "project"})["lines"]:
        name = line["group"]["project"]
        share = 0.02 + 0.1 * (zlib_like(name + "idle") % 100) / 100
        found.append(
            {
                "project": name,
                "asked_gpu_h": line["asked_gpu_h"],
                "held_gpu_h": line["held_gpu_h"],
                "measured_gpu_h": line["measured_gpu_h"],
                "used_gpu_h": line["used_gpu_h"],
                "idle_gpu_h": round(line["measured_gpu_h"] * share, 2),
                "wasted_gpu_h": line["wasted_gpu_h"],
                "warned": 1,
                "reclaimed": [],
            }
        )
    assert {one["project"] for one in found} <= {*PROJECT_OF.values(), "default"}
    return found
