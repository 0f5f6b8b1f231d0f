"""The daemon's own figures: turns, queues, who waits and runs, who holds what, what goes out.

Read by whoever asks for /metrics, and sent by remote write. Reading takes a snapshot and never
waits for a turn longer than that takes.
"""

import platform
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from madang import __version__
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI, NodeState
from madang.core.settings import ANY
from madang.core.snapshot import Snapshot
from madang.daemon.loop import TurnLoop
from madang.telemetry.out.figures import Figure, Row, counter, gauge, histogram, single
from madang.telemetry.out.names import Family
from madang.telemetry.store import Store

if TYPE_CHECKING:
    from madang.telemetry.out.writer import Writer

GPU_STATES = ("total", "free", "unhealthy", "lost")
SILENT_MS = 60_000  # a node that has sent no frame for so long


def daemon_figures(
    loop: TurnLoop, store: Store, writer: "Writer | None", gpus_max: int
) -> Iterator[Figure]:
    """All of them; who holds each GPU only up to `gpus_max` GPUs."""
    snapshot = loop.snapshot()
    python = platform.python_version()
    build = (("version", __version__), ("python", python))
    yield gauge("build_info", "what runs", [(build, 1.0)])
    yield from _turns(loop)
    yield from _jobs(snapshot)
    yield from _gpus(snapshot)
    yield from _quotas(snapshot)
    yield _held(snapshot, gpus_max)
    yield from _frames(store)
    if writer is not None:
        yield from _out(writer)
    yield from _process()


def _turns(loop: TurnLoop) -> Iterator[Figure]:
    text = "how long turns of the loop took, from collecting to answering"
    yield histogram("turn_duration_seconds", text, loop.turns)
    yield gauge("inbox_requests", "requests that wait for the next turn", single(len(loop.inbox)))
    yield counter("journal_events", "events in the journal", single(loop.last_seq))


def _jobs(snapshot: Snapshot) -> Iterator[Figure]:
    counts: Counter[tuple[str, str, str]] = Counter()
    oldest_ms: dict[tuple[str, str], int] = {}
    for live in snapshot.jobs.values():
        job, phase = live.job, live.standing.phase.value
        counts[job.project, job.provisioning.value, phase] += 1
        if phase == "waiting":
            since_ms = live.standing.waiting_ms or job.submitted_ms
            key = (job.project, job.provisioning.value)
            oldest_ms[key] = min(since_ms, oldest_ms.get(key, since_ms))
    names = ("project", "provisioning", "phase")
    rows = [(tuple(zip(names, key, strict=True)), float(n)) for key, n in sorted(counts.items())]
    yield gauge("jobs", "jobs that have not ended", rows)
    waits: list[Row] = [
        (tuple(zip(names[:2], key, strict=True)), max(0, snapshot.now_ms - since_ms) / 1000)
        for key, since_ms in sorted(oldest_ms.items())
    ]
    text = "how long the job waits that has waited longest"
    yield gauge("queue_oldest_wait_seconds", text, waits, "seconds")


def _gpus(snapshot: Snapshot) -> Iterator[Figure]:
    pool = snapshot.pool
    counts: dict[tuple[str, str], dict[str, float]] = {}
    nodes: Counter[str] = Counter()
    for live in snapshot.nodes.values():
        node = live.node
        nodes[live.state.value] += 1
        if live.state is NodeState.REMOVED:
            continue
        states = counts.setdefault((node.group, node.model), dict.fromkeys(GPU_STATES, 0.0))
        states["total"] += node.gpus
        states["unhealthy"] += node.gpus - node.usable.bit_count()
        if live.state is NodeState.LOST:
            states["lost"] += node.gpus
        elif pool.open[live.row]:
            states["free"] += int(pool.gpu_free[live.row].sum()) / WHOLE_GPU_MILLI
    rows: list[Row] = [
        ((("group", group), ("model", model), ("state", state)), count)
        for (group, model), states in sorted(counts.items())
        for state, count in states.items()
    ]
    yield gauge("gpus", "devices of machine groups; shares count as parts", rows)
    yield gauge(
        "nodes", "machines", [((("state", one),), float(n)) for one, n in sorted(nodes.items())]
    )


def _quotas(snapshot: Snapshot) -> Iterator[Figure]:
    names = ("project", "group", "provisioning")
    held: list[Row] = [
        (tuple(zip(names, key, strict=True)), milli / WHOLE_GPU_MILLI)
        for key, milli in sorted(snapshot.held_milli.items())
        if milli
    ]
    yield gauge("project_held_gpus", "devices that projects hold", held)
    rows: list[Row] = []
    for id, project in sorted(snapshot.projects.items()):
        if project.quota_milli != UNLIMITED:
            owner = (("owner", f"project:{id}"), ("group", ANY), ("provisioning", ANY))
            rows.append(((*owner, ("kind", "limit")), project.quota_milli / WHOLE_GPU_MILLI))
    for _, quota in sorted(snapshot.settings.quotas.items()):
        owner = (
            ("owner", quota.owner),
            ("group", quota.group),
            ("provisioning", quota.provisioning),
        )
        kinds = (("guaranteed", quota.guaranteed_milli), ("limit", quota.limit_milli))
        rows += [
            ((*owner, ("kind", kind)), milli / WHOLE_GPU_MILLI)
            for kind, milli in kinds
            if milli != UNLIMITED and (milli or kind == "limit")
        ]
    text = "devices that owners may hold, or can always have back"
    yield gauge("quota_gpus", text, dict(rows).items())


def _held(snapshot: Snapshot, gpus_max: int) -> Figure:
    """Who holds each device: to be joined with what its sensors say."""
    rows: list[Row] = []
    if int(snapshot.pool.gpu_count.sum()) <= gpus_max:
        for allocation in snapshot.allocations.values():
            live = snapshot.jobs.get(allocation.job)
            provisioning = live.job.provisioning.value if live else ""
            category = live.job.category.value if live else ""
            about = (
                ("job", allocation.job),
                ("allocation", allocation.id),
                ("project", allocation.project),
                ("provisioning", provisioning),
                ("category", category),
            )
            for rank, seat in enumerate(allocation.seats):
                if allocation.holds(rank):
                    rows += [
                        ((("node", seat.node), ("gpu", str(one)), *about), 1.0) for one in seat.gpus
                    ]
    return gauge("gpu_held", "1 for each job and device that it holds", dict(rows).items())


def _frames(store: Store) -> Iterator[Figure]:
    counts, reporters = store.counts, store.health()
    now_ms = time.time_ns() // 1_000_000
    yield counter("frames_taken", "frames of sensors taken in", single(counts.taken))
    yield counter("frames_refused", "frames of sensors refused", single(counts.refused))
    yield counter(
        "frame_marks", "values and clocks that were marked as wrong", single(counts.marks)
    )
    yield counter("samples_taken", "values of sensors taken in", single(counts.samples))
    dropped = sum(one.dropped for one in reporters)
    yield counter("agent_frames_dropped", "frames that agents had to drop", single(dropped))
    silent = sum(now_ms - one.seen_ms > SILENT_MS for one in reporters)
    rows = [
        ((("state", "reporting"),), float(len(reporters) - silent)),
        ((("state", "silent"),), float(silent)),
    ]
    yield gauge("reporting_nodes", "nodes that send frames, or did", rows)
    tick_s = store.ring.time_ms(store.ring.tick) / 1000 if store.ring.tick >= 0 else 0.0
    text = "the newest tick that is complete"
    yield gauge("tick_timestamp_seconds", text, single(tick_s), "seconds")


def _out(writer: "Writer") -> Iterator[Figure]:
    yield counter("out_samples_queued", "samples put into the queue on disk", single(writer.queued))
    lost = single(writer.spool.lost_samples)
    yield counter("out_samples_unwritten", "samples that the disk took no more", lost)
    yield gauge(
        "out_queue_bytes", "size of the queue on disk", single(writer.spool.size_bytes), "bytes"
    )
    text = "bound of the queue on disk"
    yield gauge("out_queue_limit_bytes", text, single(writer.spool.bytes_max), "bytes")
    samples: list[Row] = []
    requests: list[Row] = []
    retries: list[Row] = []
    sent: list[Row] = []
    lag: list[Row] = []
    up: list[Row] = []
    newest: list[Row] = []
    for one in writer.senders:
        counts, name = one.counts, ("destination", one.name)
        for what, count in (
            ("sent", counts.sent),
            ("refused", counts.refused),
            ("overrun", counts.overrun),
        ):
            samples += [((name, ("result", what)), float(count))]
        requests.append(((name,), float(counts.requests)))
        retries.append(((name,), float(counts.retries)))
        sent.append(((name,), float(counts.sent_bytes)))
        lag.append(((name,), float(one.lag_bytes)))
        up.append(((name,), 0.0 if counts.trouble else 1.0))
        newest.append(((name,), counts.delivered_ms / 1000))
    yield counter("out_samples", "samples by what became of them", samples)
    yield counter("out_requests", "requests to destinations", requests)
    yield counter("out_retries", "requests that had to be made again", retries)
    yield counter("out_sent_bytes", "bytes sent to destinations", sent, "bytes")
    yield gauge("out_lag_bytes", "of the queue, what is not delivered yet", lag, "bytes")
    yield gauge("out_up", "1 while a destination takes what is sent", up)
    text = "time of the newest sample that was delivered"
    yield gauge("out_delivered_timestamp_seconds", text, newest, "seconds")


def _process() -> Iterator[Figure]:
    """What the client libraries of Prometheus say of every process, by the same names."""
    import psutil  # ten ms of a start that need not be

    me = psutil.Process()
    with me.oneshot():
        times = me.cpu_times()
        memory = me.memory_info()
        began_s = me.create_time()
        descriptors = me.num_fds() if hasattr(me, "num_fds") else 0
        threads = me.num_threads()
    cpu_s = times.user + times.system
    for name, form, text, unit, value in (
        ("process_cpu_seconds", "counter", "CPU time of the daemon", "seconds", cpu_s),
        ("process_resident_memory_bytes", "gauge", "memory of the daemon", "bytes", memory.rss),
        ("process_start_time_seconds", "gauge", "when it started", "seconds", began_s),
        ("process_open_fds", "gauge", "open file descriptors", "", descriptors),
        ("process_threads", "gauge", "threads", "", threads),
    ):
        yield Figure(Family(name, form, text, unit), single(float(value)))
