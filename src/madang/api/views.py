"""Rows and snapshots → what the API shows. Pure functions; nothing is read here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from madang.api.rule_views import broken_views
from madang.api.sentences import reason_words, sentence
from madang.api.yard import Top
from madang.core import explain_upkeep
from madang.core.explain import Trial, Why, how_it_ended
from madang.core.live import LiveNode
from madang.core.model import (
    UNLIMITED,
    WHOLE_GPU_MILLI,
    Allocation,
    Exit,
    Job,
    NodeState,
    Phase,
    Project,
    Standing,
)
from madang.core.needs import taint_text
from madang.core.rules import Violations
from madang.core.snapshot import Snapshot
from madang.ledger import EventRecord, JobRecord
from madang.wire import views as wire


def job_number(job_id: str) -> int:
    """42 of `digits-42`; 0 if it has none."""
    tail = job_id.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def of_record(
    record: JobRecord,
    waits: wire.WaitsView | None = None,
    violations: Mapping[str, Violations] | None = None,
) -> wire.JobView:
    """A job as the ledger has it, and what it breaks."""
    made = job_view(
        record.job,
        record.standing,
        asked=json.loads(record.request or "{}"),
        owner=record.owner,
        memo=record.memo,
        newest=record.newest,
        waits=waits,
    )
    if violations and record.newest is not None:
        made.broken = broken_views(violations, record.newest.id)
    return made


def job_view(  # noqa: PLR0913 - the six parts that a job's picture is put together from
    job: Job,
    standing: Standing,
    *,
    asked: Mapping[str, Any],
    owner: str,
    memo: str,
    newest: Allocation | None,
    waits: wire.WaitsView | None = None,
) -> wire.JobView:
    """`asked` is the JobRequest as JSON, of which only what the scheduler does not know is used."""
    return wire.JobView(
        id=job.id,
        n=job_number(job.id),
        name=job.id.rpartition("-")[0] or job.id,
        project=job.project,
        owner=owner,
        phase=standing.phase.value,
        reason=standing.reason,
        provisioning=job.provisioning.value,
        category=job.category.value,
        purpose=job.purpose.value,
        priority=job.priority,
        members=job.members,
        gpus=job.shape.milli / WHOLE_GPU_MILLI,
        profile=asked.get("profile", ""),
        command=asked.get("command", []),
        image=asked.get("image", ""),
        code=asked.get("code", ""),
        env_names=sorted(asked.get("env", {})),
        time_ms=job.time_limit_ms,
        grace_ms=job.grace_ms,
        retries=job.retries_max,
        failures=standing.failures,
        attempt=standing.attempt,
        allocation=newest.id if newest is not None else "",
        submitted_ms=job.submitted_ms,
        running_ms=standing.running_ms,
        ended_ms=standing.ended_ms,
        exit_code=exit_code(standing, newest),
        seats=_seats(newest),
        memo=memo,
        warning=explain_upkeep.idle(job, standing),
        forked_from=asked.get("forked_from", ""),
        waits=waits,
    )


def exit_code(standing: Standing, newest: Allocation | None) -> int | None:
    """Of an ended job; see JobView."""
    if standing.phase is Phase.SUCCEEDED:
        return 0
    if not standing.phase.is_final or newest is None:
        return None
    bad = next((end for _, end in newest.exits if not end.ok and not end.lost), None)
    if bad is None:
        return None
    return 128 + bad.signal if bad.signal else bad.code


def _seats(newest: Allocation | None) -> list[wire.SeatView]:
    if newest is None:
        return []
    exits = dict(newest.exits)
    return [
        wire.SeatView(
            rank=rank,
            node=seat.node,
            gpus=list(seat.gpus),
            started=bool((newest.started | newest.ended) >> rank & 1),
            exit=_exit(exits.get(rank)),
        )
        for rank, seat in enumerate(newest.seats)
    ]


def _exit(end: Exit | None) -> wire.ExitView | None:
    return None if end is None else wire.ExitView(code=end.code, signal=end.signal, lost=end.lost)


# -- why -----------------------------------------------------------------------------------------


def waits_view(why: Why) -> wire.WaitsView:
    return wire.WaitsView(
        code=why.code, text=why.text, earliest_ms=why.earliest_ms, basis=why.basis
    )


def why_view(why: Why, tries: Sequence[str] = ()) -> wire.WhyView:
    return wire.WhyView(
        code=why.code,
        text=why.text,
        earliest_ms=why.earliest_ms,
        basis=why.basis,
        numbers=dict(why.numbers),
        tries=list(tries),
    )


def why_ended(record: JobRecord) -> wire.WhyView:
    """How an ended job came to its end."""
    standing = record.standing
    text = f"it has {standing.phase.value}" if standing.phase is not Phase.STOPPED else "it stopped"
    if standing.reason:
        text += f": {reason_words(standing.reason)}"
    numbers: dict[str, int | str] = {"attempts": standing.attempt, "failures": standing.failures}
    exits = record.newest.exits if record.newest is not None else ()
    bad = [(rank, end) for rank, end in exits if not end.ok]
    if bad and how_it_ended(*bad[0]) not in text:
        text += f" ({how_it_ended(*bad[0])})"
    if standing.phase is not Phase.SUCCEEDED and bad:
        numbers["members_ended_badly"] = len(bad)
    return wire.WhyView(
        code=standing.phase.value,
        text=text,
        earliest_ms=0,
        basis="it has ended",
        numbers=numbers,
    )


def trial_view(trial: Trial) -> wire.TrialView:
    return wire.TrialView(
        code=trial.code,
        text=trial.text,
        places=[wire.PlaceView(node=node, gpus=list(gpus)) for node, gpus in trial.places],
        tries=list(trial.tries),
        earliest_ms=trial.earliest_ms,
    )


# -- events --------------------------------------------------------------------------------------


def event_view(record: EventRecord) -> wire.EventView:
    return wire.EventView(
        seq=record.seq,
        at_ms=record.at_ms,
        kind=record.kind,
        job=record.job,
        node=record.node,
        text=sentence(record.line),
    )


# -- nodes and projects --------------------------------------------------------------------------

Holders = dict[tuple[str, int], list[wire.HolderView]]


def node_views(snapshot: Snapshot, only: str = "") -> list[wire.NodeView]:
    """Every node, or one, with who holds its devices."""
    holders: Holders = {}
    for allocation in list(snapshot.allocations.values()):
        for rank, seat in enumerate(allocation.seats):
            if not allocation.holds(rank) or (only and seat.node != only):
                continue
            holder = wire.HolderView(
                job=allocation.job, member=rank, milli=allocation.shape.gpu_milli
            )
            for gpu in seat.gpus:
                holders.setdefault((seat.node, gpu), []).append(holder)
    there = (id for id, live in snapshot.nodes.items() if live.state is not NodeState.REMOVED)
    ids = [only] if only else list(there)
    return [_node(snapshot.nodes[id], snapshot, holders) for id in ids]


def _node(live: LiveNode, snapshot: Snapshot, holders: Holders) -> wire.NodeView:
    node = live.node
    gpus = []
    for index in range(node.gpus):
        jobs = holders.get((node.id, index), [])
        healthy, taken = bool(node.well >> index & 1), bool(node.taken >> index & 1)
        offered = healthy and not taken and live.state not in (NodeState.LOST, NodeState.REMOVED)
        held_milli = sum(holder.milli for holder in jobs)
        gpus.append(
            wire.GpuView(
                index=index,
                healthy=healthy,
                taken=taken,
                free_milli=max(0, WHOLE_GPU_MILLI - held_milli) if offered else 0,
                jobs=jobs,
                model=node.model,
                memory_mib=node.gpu_memory_mib,
            )
        )
    return wire.NodeView(
        id=node.id,
        state=live.state.value,
        model=node.model,
        group=node.group,
        domains=list(node.domains),
        cpus=node.cpu_milli / 1000,
        memory_mib=node.memory_mib,
        gpus=gpus,
        labels=dict(node.labels),
        taints=[taint_text(taint) for taint in node.taints],
    )


def gpu_counts(snapshot: Snapshot) -> wire.GpuCountsView:
    """Devices in sum; those of lost nodes are neither free nor held, but counted."""
    pool = snapshot.pool
    total = int(pool.gpu_count.sum())
    unhealthy = sum(
        live.node.gpus - live.node.well.bit_count()
        for live in list(snapshot.nodes.values())
        if live.state is not NodeState.REMOVED
    )
    free_milli = int(pool.gpu_free[pool.open].sum())
    held_milli = sum(list(snapshot.usage_milli.values()))
    return wire.GpuCountsView(
        total=total,
        held=held_milli / WHOLE_GPU_MILLI,
        free=free_milli / WHOLE_GPU_MILLI,
        unhealthy=unhealthy,
    )


def phase_counts(snapshot: Snapshot) -> dict[str, int]:
    counts = {"waiting": 0, "starting": 0, "running": 0, "stopping": 0}
    for live in list(snapshot.jobs.values()):
        counts[live.standing.phase.value] += 1
    return counts


def project_view(project: Project, used_milli: int) -> wire.ProjectView:
    quota = project.quota_milli
    return wire.ProjectView(
        id=project.id,
        workspace=project.workspace,
        quota_gpus=None if quota == UNLIMITED else quota / WHOLE_GPU_MILLI,
        used_gpus=used_milli / WHOLE_GPU_MILLI,
    )


def top_view(top: Top) -> wire.TopView:
    return wire.TopView(
        nodes=[wire.NodeTopView(**asdict(node)) for node in top.nodes],
        members=[wire.MemberTopView(**asdict(member)) for member in top.members],
    )


# -- reports -------------------------------------------------------------------------------------


def whole_lines(block: bytes) -> Sequence[bytes]:
    """The lines of a block that are whole; a tail without its newline waits for the next read."""
    return block[: block.rfind(b"\n") + 1].splitlines()


def report_of(line: bytes) -> dict[str, Any] | None:
    """One reported line as an object; None if a program wrote something else into the file."""
    try:
        value = json.loads(line, parse_constant=str)  # NaN and Infinity have no JSON
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
