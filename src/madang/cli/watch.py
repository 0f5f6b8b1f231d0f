"""Verbs that only look: ls, show, why, nodes, status, project ls, token ls."""

from __future__ import annotations

import time

from madang.cli.desk import Desk
from madang.cli.kept import Kept
from madang.cli.parse import Given
from madang.cli.show import (
    DIM,
    Column,
    clean,
    coloured,
    duration,
    gpus,
    mib,
    moment,
    pairs,
    phase,
    table,
)
from madang.client.api import ENDED

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]

LIMIT = 100
ENDED_SHOWN = 10
SEATS_SHOWN = 32


def _now_ms() -> int:
    return int(time.time() * 1000)


# -- ls ---------------------------------------------------------------------------------------


def ls_verb(given: Given, desk: Desk) -> int:
    """The live jobs and the latest ended ones, or what the filters say."""
    limit = given.count("limit") or LIMIT
    filters = {key: given.text(key) for key in ("project", "owner", "name")}
    if given.text("phase") or given.flag("all"):
        page = desk.client.jobs(phase=given.text("phase"), limit=limit, **filters)
        jobs, more = page["jobs"], page["next"]
    else:
        live = desk.client.jobs(phase="live", limit=limit, **filters)
        ended = desk.client.jobs(phase="ended", limit=min(ENDED_SHOWN, limit), **filters)
        jobs, more = live["jobs"] + ended["jobs"], live["next"]
        seen: dict[str, Document] = {}
        for job in jobs:  # one may have ended between the two questions
            seen[job["id"]] = job
        jobs = sorted(seen.values(), key=lambda job: -job["n"])
    document = {"jobs": jobs, "next": more}
    if not jobs:
        desk.answer(document, "no jobs yet: madang run -- python train.py")
        return 0
    desk.answer(document, "" if desk.is_json else jobs_table(jobs))
    if more:
        desk.note(f"… there are more: madang ls --limit {limit * 10}")
    return 0


def jobs_table(jobs: list[Document]) -> str:
    """Jobs, one a line."""
    now_ms = _now_ms()
    columns = [
        Column("ID"),
        Column("PHASE"),
        Column("GPUS", right=True),
        Column("AGE/RUN", right=True),
        Column("PROJECT"),
        Column("WHY", shrinks=True),
    ]
    rows = [
        [
            clean(job["id"]),
            phase(job["phase"]),
            size(job),
            age(job, now_ms),
            clean(job["project"]),
            clean(short_why(job)),
        ]
        for job in jobs
    ]
    if any(job.get("broken") for job in jobs):  # a column that is mostly empty takes room
        from madang.cli.rules import broken_cell

        columns.insert(5, Column("BREAKS"))
        for row, job in zip(rows, jobs, strict=True):
            row.insert(5, broken_cell(job))
    return table(columns, rows)


def size(job: Document) -> str:
    """`8`, `4×2`: members × GPUs of each."""
    each = gpus(job["gpus"])
    return f"{job['members']}×{each}" if job["members"] != 1 else each


# Why jobs were ended, where the API says a word only.
ENDED_WORDS = {
    "stop": "somebody stopped it",
    "time_limit": "its time was up",
    "reclaimed": "its GPUs were idle",
    "attempts": "its attempts were used up",
}


def age(job: Document, now_ms: int) -> str:
    """How long it has waited, runs, or ran."""
    if job["phase"] in ENDED:
        return duration(job["ended_ms"] - job["running_ms"]) if job["running_ms"] else "–"
    since_ms = job["running_ms"] if job["phase"] == "running" else job["submitted_ms"]
    return duration(now_ms - since_ms)


def short_why(job: Document) -> str:
    """Why it waits, or how it ended badly."""
    if job["phase"] in ("waiting", "starting"):
        return str((job.get("waits") or {}).get("text") or job["reason"])
    if job["phase"] == "succeeded":
        return ""
    reason = str(job["reason"])
    return str(job.get("warning") or ENDED_WORDS.get(reason, reason))


# -- show -------------------------------------------------------------------------------------


def show_verb(given: Given, desk: Desk) -> int:
    """One job in full."""
    job = desk.job(given.text("job"))
    desk.answer(job, "" if desk.is_json else job_text(job))
    return 0


def job_text(job: Document) -> str:
    """A job as names and values, then its seats."""
    import shlex

    now_ms = _now_ms()
    waits = job.get("waits") or {}
    each = f"{gpus(job['gpus'])} GPU" + ("s" if job["gpus"] != 1 else "")
    rows = [
        ("job", f"{clean(job['id'])}  {phase(job['phase'])}"),
        ("why", _wait_text(waits, now_ms) if waits else clean(job["reason"])),
        ("warning", clean(job.get("warning") or "")),
        *(("breaks", line) for line in _broken(job, now_ms)),
        ("command", clean(shlex.join(job["command"]))),
        ("asks", each if job["members"] == 1 else f"{job['members']} members × {each}"),
        ("on", clean(job.get("profile") or "")),
        ("class", f"{job['provisioning']} · {job['category']} · {job['purpose']}"),
        ("project", f"{clean(job['project'])} (owner {clean(job['owner'])})"),
        ("image", clean(job.get("image") or "")),
        ("code", clean(job.get("code") or "")[:12]),
        ("limit", duration(job["time_ms"]) if job.get("time_ms") else ""),
        ("attempt", _attempts(job)),
        ("submitted", moment(job["submitted_ms"], now_ms)),
        ("running", moment(job["running_ms"], now_ms) if job["running_ms"] else ""),
        ("ended", moment(job["ended_ms"], now_ms) if job["ended_ms"] else ""),
        ("exit", "" if job.get("exit_code") is None else str(job["exit_code"])),
        ("forked from", clean(job.get("forked_from") or "")),
        ("memo", clean(job.get("memo") or "")),
    ]
    text = pairs([(name, value) for name, value in rows if value])
    seats = job.get("seats") or []
    return f"{text}\n\n{_seats_table(seats)}" if seats else text


def _broken(job: Document, now_ms: int) -> list[str]:
    if not job.get("broken"):
        return []
    from madang.cli.rules import broken_lines

    return broken_lines(job, now_ms)


def _attempts(job: Document) -> str:
    if not job.get("attempt"):
        return ""
    failures = job.get("failures") or 0
    allowed = job.get("retries") or 0
    if not allowed and not failures:
        return str(job["attempt"])
    return f"{job['attempt']} (failures {failures}, retries allowed {allowed})"


def _seats_table(seats: list[Document]) -> str:
    columns = [Column("RANK", right=True), Column("NODE"), Column("GPUS"), Column("STATE")]
    rows = [
        [
            str(seat["rank"]),
            clean(seat["node"]),
            ",".join(str(index) for index in seat["gpus"]) or "–",
            _seat_state(seat),
        ]
        for seat in seats[:SEATS_SHOWN]
    ]
    text = table(columns, rows)
    if len(seats) > SEATS_SHOWN:
        text += f"\n… and {len(seats) - SEATS_SHOWN} more members"
    return text


def _seat_state(seat: Document) -> str:
    end = seat.get("exit")
    if not end:
        return phase("running" if seat["started"] else "starting")
    if end["lost"]:
        return coloured("✗ lost", "31")
    if end["signal"]:
        return coloured(f"✗ ended by signal {end['signal']}", "31")
    return coloured("✓ exited with 0", "32") if end["code"] == 0 else f"✗ exited with {end['code']}"


def why_verb(given: Given, desk: Desk) -> int:
    """Why it waits, or how it ended."""
    job = desk.job(given.text("job"))
    job_id = job["id"]
    why = desk.client.why(job_id)
    lines = [f"{job_id}: {_wait_text(why, _now_ms())}"]
    lines += [f"  breaks {line}" for line in _broken(job, _now_ms())]
    numbers = why.get("numbers") or {}
    if numbers:
        told = pairs([_told(str(name), value) for name, value in numbers.items()])
        lines += [f"  {line}" for line in told.splitlines()]
    for at, words in enumerate(why.get("try") or ()):
        lines.append(f"  {'try' if at == 0 else 'or':<3} {clean(words)}")
    desk.answer(why, "\n".join(lines))
    return 0


def _told(name: str, value: Any) -> tuple[str, str]:
    """A number for people: its name without underscores, its value with its unit."""
    if isinstance(value, int):
        for unit, words in _UNITS:
            if name.endswith(unit):
                return clean(name.removesuffix(unit).replace("_", " ")), words(value)
    return clean(name.replace("_", " ")), clean(value)


# The first that the name ends with.
_UNITS: tuple[tuple[str, Callable[[int], str]], ...] = (
    ("_gpu_ms", lambda value: f"{value / 3_600_000:.1f} GPU-hours"),
    ("_ms", duration),
    ("_milli", lambda value: f"{value / 1000:g}"),
    ("_mib", mib),
    ("_pct", lambda value: f"{value} %"),
)


def _wait_text(why: Document, now_ms: int) -> str:
    text = clean(why["text"])
    earliest_ms = why.get("earliest_ms") or 0
    if earliest_ms > now_ms:
        text += f"; earliest start in {duration(earliest_ms - now_ms)}"
        text += f" ({clean(why['basis'])})" if why.get("basis") else ""
    return text


# -- machines, projects, tokens ---------------------------------------------------------------


def nodes_verb(_given: Given, desk: Desk) -> int:
    """Machines and who holds their GPUs."""
    nodes = desk.client.nodes()
    columns = [
        Column("NODE"),
        Column("STATE"),
        Column("GPUS", right=True),
        Column("FREE", right=True),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("MODEL"),
        Column("JOBS", shrinks=True),
    ]
    rows = [
        [
            clean(node["id"]),
            phase(node["state"]),
            _gpu_count(node),
            gpus(sum(g["free_milli"] for g in node["gpus"] if g["healthy"]) / 1000),
            gpus(node["cpus"]),
            mib(node["memory_mib"]),
            clean(node["model"] or "–"),
            clean(", ".join(dict.fromkeys(h["job"] for g in node["gpus"] for h in g["jobs"]))),
        ]
        for node in nodes
    ]
    desk.answer({"nodes": nodes}, table(columns, rows) if rows else "no node has reported yet")
    return 0


def _gpu_count(node: Document) -> str:
    sick = sum(not gpu["healthy"] for gpu in node["gpus"])
    return f"{len(node['gpus'])}" + (f" ({sick} unhealthy)" if sick else "")


def status_verb(_given: Given, desk: Desk) -> int:
    """The whole cluster in a few lines."""
    view = desk.client.overview()
    counts = {name: count for name, count in view["counts"].items() if count}
    held = view["gpus"]
    taken = f"{gpus(held['held'])} of {gpus(held['total'])} held"
    unhealthy = f", {gpus(held['unhealthy'])} unhealthy" if held.get("unhealthy") else ""
    rows = [
        ("daemon", f"{desk.client.url} (version {clean(view['version'])})"),
        ("nodes", str(view["nodes"])),
        ("GPUs", f"{taken}, {gpus(held['free'])} free{unhealthy}"),
        ("jobs", ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"),
    ]
    desk.answer(view, pairs(rows))
    return 0


def project_ls_verb(_given: Given, desk: Desk) -> int:
    """Projects with quota and use."""
    return PROJECTS.listed(desk)


def _project_row(project: Document) -> list[str]:
    quota = project["quota_gpus"]
    return [
        clean(project["id"]),
        clean(project["workspace"]),
        gpus(project["used_gpus"]),
        coloured("none", DIM) if quota is None else gpus(quota),
    ]


PROJECTS = Kept(
    "projects",
    [
        Column("PROJECT"),
        Column("WORKSPACE"),
        Column("GPUS HELD", right=True),
        Column("QUOTA", right=True),
    ],
    _project_row,
    "no projects yet: madang project set NAME",
)


def token_ls_verb(_given: Given, desk: Desk) -> int:
    """Who has access, and what they may do."""
    found = desk.client.tokens()
    now_ms = _now_ms()
    columns = [Column(word) for word in ("USER", "ROLE", "KIND", "MADE", "UNTIL", "NAME")]
    rows = [
        [
            clean(each["user"]),
            clean(each["role"]),
            clean(each["kind"]),
            moment(int(each["made_ms"]), now_ms),
            moment(int(each["expires_ms"]), now_ms) if each["expires_ms"] else "revoked",
            clean(each["name"]),
        ]
        for each in found["tokens"]
    ]
    desk.answer(found, table(columns, rows))
    return 0
