"""Reports of core → what the API shows. Pure functions; GPU·µs become GPU·hours here."""

from collections.abc import Sequence

from madang.core.model import WHOLE_GPU_MILLI
from madang.core.usage.idleness import Evaluation
from madang.core.usage.pooling import Advice, PoolNeed, ZoneNeed
from madang.core.usage.report import Line, Report
from madang.wire import reports as wire

GPU_US_PER_HOUR = 3_600_000_000
MS_PER_HOUR = 3_600_000
DIGITS = 6  # an hour to the GPU·3.6 ms
METHOD = (
    "Each stay of the window arrives when it began to wait and takes as long as it took. First "
    "come first served, gangs whole, GPUs of one model as one number: CPU, memory and "
    "fragmentation are left out, for zones and pool alike. Needed are the fewest GPUs at which "
    "{share} % of the jobs wait at most {minutes:g} min; freed is the sum of the zones' needs less "
    "the need of all together. Waits are of the same jobs on the GPUs there are now, alone and "
    "pooled."
)


def usage_view(report: Report) -> wire.UsageReportView:
    """A report with its numbers in hours."""
    return wire.UsageReportView(
        since_ms=report.since_ms,
        until_ms=report.until_ms,
        begins_ms=report.begins_ms,
        by=list(report.by),
        total=_line(report.total, ()),
        lines=[_line(line, report.by) for line in report.lines],
        points=[
            wire.YardPoint(
                at_ms=point.at_ms,
                gpus=point.capacity_milli / 1000,
                free=point.free_milli / 1000,
                stuck=point.stuck_milli / 1000,
            )
            for point in report.points
        ],
    )


def _line(line: Line, by: tuple[str, ...]) -> wire.UsageLine:
    amounts, waits = line.amounts, line.waits
    capacity = amounts.capacity_gpu_us
    taken = amounts.held_gpu_us + amounts.stranded_gpu_us
    return wire.UsageLine(
        group=dict(zip(by, line.group, strict=True)),
        asked_gpu_h=_hours(amounts.asked_gpu_us),
        held_gpu_h=_hours(amounts.held_gpu_us),
        waited_gpu_h=_hours(amounts.waited_gpu_us),
        measured_gpu_h=_hours(amounts.measured_gpu_us),
        used_gpu_h=_hours(amounts.used_gpu_us),
        util_pct=_percent(amounts.used_gpu_us, amounts.measured_gpu_us),
        wasted_gpu_h=_hours(amounts.wasted_gpu_us),
        failed_gpu_h=_hours(amounts.failed_gpu_us),
        stranded_gpu_h=_hours(amounts.stranded_gpu_us),
        capacity_gpu_h=_hours(capacity) if capacity else None,
        held_pct=_percent(taken, capacity),
        submitted=amounts.submitted,
        ended=amounts.ended,
        waiting=amounts.waiting,
        jct_mean_ms=amounts.jct_sum_ms // amounts.ended if amounts.ended else 0,
        preemptions=amounts.preemptions,
        moves=amounts.moves,
        reclaims=amounts.reclaims,
        requeues=amounts.requeues,
        node_losses=amounts.node_losses,
        failures=amounts.failures,
        waits=wire.WaitsOfJobs(
            count=waits.count,
            mean_ms=waits.mean_ms,
            p50_ms=waits.p50_ms,
            p90_ms=waits.p90_ms,
            p99_ms=waits.p99_ms,
            max_ms=waits.max_ms,
        ),
    )


def _hours(gpu_us: int) -> float:
    return round(gpu_us / GPU_US_PER_HOUR, DIGITS)


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def pool_view(advice: Advice, begins_ms: int) -> wire.PoolAdviceView:
    """Advice with its numbers in GPUs and hours."""
    pools = [_pool(pool) for pool in advice.pools]
    return wire.PoolAdviceView(
        since_ms=advice.since_ms,
        until_ms=advice.until_ms,
        begins_ms=max(advice.since_ms, begins_ms),
        target_ms=advice.target_ms,
        share_pct=advice.share_pct,
        pools=pools,
        freed_gpus=sum(pool.freed_gpus for pool in pools),
        wait_saved_h=round(sum(pool.wait_saved_h for pool in pools), DIGITS),
        method=METHOD.format(share=advice.share_pct, minutes=advice.target_ms / 60_000),
    )


def _pool(pool: PoolNeed) -> wire.PoolAdvice:
    return wire.PoolAdvice(
        model=pool.model,
        zones=[_zone(zone) for zone in pool.zones],
        has_gpus=pool.has_milli / 1000,
        sum_of_peaks_gpus=sum(zone.peak_milli for zone in pool.zones) / 1000,
        peak_of_sum_gpus=pool.peak_milli / 1000,
        sum_of_needs_gpus=pool.sum_of_needs_milli / 1000,
        needs_gpus=pool.needs_milli / 1000,
        freed_gpus=pool.freed_milli / 1000,
        wait_saved_h=round(pool.wait_saved_ms / MS_PER_HOUR, DIGITS),
    )


def _zone(zone: ZoneNeed) -> wire.ZoneAdvice:
    saved_ms = zone.wait_alone_ms - zone.wait_pooled_ms
    return wire.ZoneAdvice(
        zone=zone.zone,
        jobs=zone.jobs,
        has_gpus=zone.has_milli / 1000,
        peak_gpus=zone.peak_milli / 1000,
        needs_gpus=zone.needs_milli / 1000,
        wait_alone_h=round(zone.wait_alone_ms / MS_PER_HOUR, DIGITS),
        wait_pooled_h=round(zone.wait_pooled_ms / MS_PER_HOUR, DIGITS),
        wait_saved_h=round(saved_ms / MS_PER_HOUR, DIGITS),
    )


def idle_view(usage: Report, found: Sequence[Evaluation]) -> wire.IdleReportView:
    """What was idle, by project."""
    return wire.IdleReportView(
        since_ms=usage.since_ms,
        until_ms=usage.until_ms,
        begins_ms=usage.begins_ms,
        projects=[
            wire.IdleProjectView(
                project=one.project,
                asked_gpu_h=_gpu_h(one.asked_gpu_ms),
                held_gpu_h=_gpu_h(one.held_gpu_ms),
                measured_gpu_h=_gpu_h(one.measured_gpu_ms),
                used_gpu_h=_gpu_h(one.used_gpu_ms),
                idle_gpu_h=_gpu_h(one.idle_gpu_ms),
                wasted_gpu_h=_gpu_h(one.wasted_gpu_ms),
                warned=one.warned,
                reclaimed=[
                    wire.ReclaimedView(
                        job=taken.job,
                        gpus=taken.gpu_milli / WHOLE_GPU_MILLI,
                        idle_since_ms=taken.idle_since_ms,
                        warned_ms=taken.warned_ms,
                        taken_ms=taken.taken_ms,
                    )
                    for taken in one.reclaimed
                ],
            )
            for one in found
        ],
    )


def _gpu_h(gpu_ms: int) -> float:
    return round(gpu_ms / MS_PER_HOUR, DIGITS)
