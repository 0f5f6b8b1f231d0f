"""Frames in; series, quantiles, signals and the health of reporting out.

Frames are taken in by one thread behind a bounded line: a daemon that is behind says 503 and when
to come again, and tells senders to rest a little before that. Questions have threads of their own.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.identity import now_ms
from madang.api.problems import Problem, busy
from madang.core.model import Allocation
from madang.ledger import JobRecord
from madang.telemetry import queries
from madang.telemetry.frames import Frame, FrameError, Subject, decode, split
from madang.telemetry.metrics import METRICS, Metric, metric_of
from madang.telemetry.quantiles import Quantiles
from madang.telemetry.ring import Floats
from madang.telemetry.store import StoreBusy
from madang.wire import reports as words
from madang.wire import series as wire
from madang.wire.jobs import duration_ms

REFUSED_SHOWN_MAX = 100
PAUSE_MS_MAX = 2_000
STEPS_USUAL = 361  # an hour, tick by tick
STEPS_MS = tuple(
    1000 * s
    for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
)
SINCE_USUAL = "1h"
SIGNALS_MAX = 1_000
CSV = "text/csv; charset=utf-8"
QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}

Word = Annotated[str, Query(max_length=253)]
Moment = Annotated[str, Query(max_length=words.MOMENT_CHARS_MAX)]
Attempt = Annotated[int | None, Query(ge=1, le=1_000_000, description="Default: the newest.")]


class SeriesQuery(BaseModel):
    """Which series, and how."""

    model_config = ConfigDict(extra="forbid")

    metric: str = Field(max_length=200)
    job: str = Field("", max_length=253)
    node: str = Field("", max_length=253, description="Alone, or of the job.")
    gpu: str = Field("", max_length=200, description="One GPU, or another subject's key.")
    attempt: int | None = Field(None, ge=1, le=1_000_000, description="Default: the newest.")
    since: str = Field("", max_length=words.MOMENT_CHARS_MAX, alias="from")
    until: str = Field("", max_length=words.MOMENT_CHARS_MAX, alias="to")
    step: str = Field("", max_length=20, description="A duration: `10s`, `5m`.")
    how: queries.How = "mean"
    format: Literal["json", "csv"] = "json"


@dataclass(frozen=True, slots=True)
class _Subjects:
    """Who is asked about: `ranks` where they are members', the allocation where there is one."""

    keys: tuple[tuple[str, str], ...]
    ranks: tuple[int | None, ...]
    allocation: Allocation | None = None


class Telemetry:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._store = desk.yard.telemetry

    # -- in ----------------------------------------------------------------------------------------

    async def take(self, request: Request) -> Response:
        """Send frames: what an agent's sensors said, each behind its length, packed by zstandard.

        The header `Madang-Sent-Ms` tells the sender's clock, so that one that is wrong is noticed
        at once. Frames that are wrong are refused one by one, with reasons; values that are wrong
        are dropped and told in `marks`. Sent again, a frame is taken once.
        """
        try:
            body = await request.body()
        except ClientDisconnect:
            raise Problem(400, "bad_request", "the upload broke off") from None
        sent_ms = _sent_ms(request.headers.get("madang-sent-ms", ""))
        return answer(await self._desk.frames.read(self._take, body, sent_ms))

    def _take(self, body: bytes, sent_ms: int | None) -> wire.FramesTaken:
        frames: list[Frame] = []
        refused: list[wire.RefusedFrame] = []
        try:
            for encoded in split(body):
                try:
                    frames.append(decode(encoded))
                except FrameError as wrong:
                    refused.append(
                        wire.RefusedFrame(node=wrong.node, seq=wrong.seq, reason=wrong.reason)
                    )
        except FrameError as wrong:
            raise Problem(
                422,
                "wrong_frames",
                str(wrong),
                allowed="frames as telemetry/frames.py writes them, each behind its length, "
                "packed by zstandard",
            ) from None
        try:
            verdicts = self._store.receive(body, frames, now_ms(), sent_ms)
        except StoreBusy as full:
            raise busy(str(full)) from None
        refused += [
            wire.RefusedFrame(node=one.node, seq=one.seq, reason=one.reason)
            for one in verdicts
            if not one.taken and not one.quiet
        ]
        marks = dict.fromkeys(mark for one in verdicts for mark in one.marks)
        load = self._desk.frames.load
        return wire.FramesTaken(
            taken=sum(one.taken for one in verdicts),
            known=sum(one.quiet for one in verdicts),
            refused_count=len(refused),
            refused=refused[:REFUSED_SHOWN_MAX],
            marks=list(marks)[:REFUSED_SHOWN_MAX],
            pause_ms=int(PAUSE_MS_MAX * max(0.0, load - 0.25)),
        )

    # -- out ---------------------------------------------------------------------------------------

    async def series(self, query: Annotated[SeriesQuery, Query()]) -> Response:
        """A metric over time: of a job's GPUs, members, nodes or ports, or of those of a node.

        `from` and `to` are `30m` (before now), a date or time (UTC), or milliseconds since 1970;
        the default is the whole attempt of a job, the last hour of a node. `step` is a duration.
        `gpu` (or another key: a port, a member) is one of the subjects. A value is the mean, least
        or greatest of its step, or the sum: of a count, what was added in it.
        """
        known = self._metric(query.metric)
        subjects = await self._subjects(known, query)
        asked = _query(known, subjects, query, self._store.ring.tick_ms)
        found = await self._desk.series.read(self._query, asked)
        if query.format == "csv":
            return Response(_csv(known, subjects, found), headers={"content-type": CSV})
        view = _series_view(known, asked, subjects, found)
        if subjects.allocation is not None:
            id = subjects.allocation.id
            view.quantiles = await self._desk.series.read(self._quantiles, id, known, False)
        return answer(view)

    async def quantiles(
        self, job: Word, metric: Word = "gpu_util_percent", attempt: Attempt = None
    ) -> Response:
        """Quantiles of a metric of a job's attempt, since its start, over all its devices.

        Exact for integer percents, which have them per device too; else ranks are within 1 %.
        """
        known = self._metric(metric)
        record, allocation = await self._allocation(job, attempt)
        view = await self._desk.series.read(self._quantiles, allocation.id, known, True)
        if view is None:
            names = await self._desk.series.read(self._store.known_metrics, allocation.id)
            raise Problem(
                404,
                "not_found",
                f"nothing of {metric} is known of {record.job.id}",
                given=metric,
                allowed=names,
                tries=["a job that has just started has its first values within some seconds"],
            )
        return answer(view)

    async def metrics(self) -> Response:
        """The table of metrics, and the names that running jobs report by."""
        table = [
            wire.MetricView(
                name=one.name,
                unit=one.unit,
                form=one.form,
                subject=one.subject.value,
                text=one.text,
                exact_quantiles=one.percent,
                dcgm=list(one.dcgm),
            )
            for one in METRICS.values()
        ]
        return answer(wire.MetricsView(metrics=table, reports=self._store.ring.report_names()))

    async def health(self) -> Response:
        """Who reports, when last, what was refused or dropped, and why."""
        return answer(await self._desk.series.read(self._health))

    def _health(self) -> wire.TelemetryHealthView:
        store = self._store
        return wire.TelemetryHealthView(
            tick=store.ring.tick,
            tick_ms=store.ring.tick_ms,
            taken=store.counts.taken,
            refused=store.counts.refused,
            samples=store.counts.samples,
            marks=store.counts.marks,
            trouble=store.trouble,
            history_bytes=store.history_bytes,
            nodes=[
                wire.ReporterView(
                    node=one.node,
                    seen_ms=one.seen_ms,
                    at_ms=one.at_ms,
                    taken=one.taken,
                    refused=one.refused,
                    dropped=one.dropped,
                    clock_offset_ms=one.clock_offset_ms,
                    marks=[
                        wire.MarkView(kind=m.kind, count=m.count, at_ms=m.at_ms, text=m.text)
                        for m in one.marks
                    ],
                )
                for one in store.health()
            ],
        )

    async def signals(
        self,
        since: Annotated[str, Query(max_length=words.MOMENT_CHARS_MAX, alias="from")] = "24h",
        until: Annotated[str, Query(max_length=words.MOMENT_CHARS_MAX, alias="to")] = "",
        node: Word = "",
        job: Word = "",
        limit: Annotated[int, Query(ge=1, le=SIGNALS_MAX)] = SIGNALS_MAX,
    ) -> Response:
        """What happened once: Xids, messages of network cards, clocks; oldest first."""
        from_ms, to_ms = _moments(since, until)
        if job:
            job = (await self._desk.job(job)).job.id
        found = await self._desk.series.read(
            self._store.signals, from_ms, to_ms, node or None, job or None
        )
        views = [
            wire.SignalView(
                node=one.node,
                at_ms=one.at_ms,
                kind=one.kind,
                code=one.code,
                subject=one.subject.value,
                key=one.key,
                text=one.text,
                job=one.job,
                allocation=one.allocation,
            )
            for one in found[-limit:]
        ]
        return answer(wire.SignalsView(signals=views))

    # -- parts -------------------------------------------------------------------------------------

    @staticmethod
    def _metric(name: str) -> Metric:
        known = metric_of(name)
        if known is not None:
            return known
        near = get_close_matches(name, METRICS, n=1, cutoff=0.5)
        raise Problem(
            404,
            "no_such_metric",
            f"there is no metric {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            given=name,
            allowed="a name of the table, or report_NAME for what a job reports as NAME",
            tries=["see the table: GET /v1/metrics/names"],
        )

    async def _allocation(self, job: str, attempt: int | None) -> tuple[JobRecord, Allocation]:
        record = await self._desk.job(job)
        allocation = await self._desk.allocation(record, attempt)
        if allocation is None:
            raise Problem(404, "no_such_member", f"{record.job.id} has not started yet", given=job)
        return record, allocation

    async def _subjects(self, metric: Metric, query: SeriesQuery) -> _Subjects:
        job, node, key = query.job, query.node, query.gpu
        if job:
            _, allocation = await self._allocation(job, query.attempt)
            found = self._of_job(metric, allocation)
        elif node:
            keys = self._store.ring.keys_of(metric.name, [node])
            if metric.subject is Subject.NODE:
                keys = [(node, "")]
            found = _Subjects(tuple(keys), (None,) * len(keys))
        else:
            raise Problem(
                422,
                "invalid",
                "give the job or the node whose series you want",
                tries=[f"/v1/series?metric={metric.name}&job=JOB"],
            )
        kept = [
            (one, rank)
            for one, rank in zip(found.keys, found.ranks, strict=True)
            if (not key or one[1] == key) and (not job or not node or one[0] == node)
        ]
        return _Subjects(
            tuple(one for one, _ in kept), tuple(rank for _, rank in kept), found.allocation
        )

    def _of_job(self, metric: Metric, allocation: Allocation) -> _Subjects:
        seats = list(enumerate(allocation.seats))
        pairs: list[tuple[tuple[str, str], int | None]]
        nodes = list(dict.fromkeys(seat.node for seat in allocation.seats))
        match metric.subject:
            case Subject.GPU:
                pairs = [((seat.node, str(gpu)), rank) for rank, seat in seats for gpu in seat.gpus]
            case Subject.MEMBER:
                pairs = [((seat.node, f"{allocation.id}/{rank}"), rank) for rank, seat in seats]
            case Subject.NODE:
                pairs = [((node, ""), None) for node in nodes]
            case Subject.PORT:
                pairs = [(key, None) for key in self._store.ring.keys_of(metric.name, nodes)]
        unique = dict(reversed(pairs))
        ordered = list(dict.fromkeys(key for key, _ in pairs))
        return _Subjects(tuple(ordered), tuple(unique[key] for key in ordered), allocation)

    def _query(self, asked: queries.Query) -> queries.Series:
        try:
            return self._store.query(asked)
        except queries.BadQuery as wrong:
            raise Problem(422, "invalid", str(wrong)) from None

    def _quantiles(self, id: str, metric: Metric, per_gpu: bool) -> wire.QuantilesView | None:
        found = self._store.quantiles(id, metric.name)
        if found is None:
            return None
        devices = self._store.device_quantiles(id, metric.name) if per_gpu else []
        return wire.QuantilesView(
            metric=metric.name,
            unit=metric.unit,
            allocation=id,
            exact=found.is_exact,
            count=found.count,
            **_values_of(found),
            per_gpu=[
                wire.QuantilesOfDevice(node=node, gpu=gpu, count=one.count, **_values_of(one))
                for (node, gpu), one in devices
            ]
            or None,
        )


def _values_of(found: Quantiles) -> dict[str, float]:
    return {name: found.at(p) for name, p in QUANTILES.items()}


def _sent_ms(stated: str) -> int | None:
    if stated == "":
        return None
    if not stated.isascii() or not stated.isdigit() or len(stated) > 15:
        raise Problem(
            422,
            "invalid",
            "the header Madang-Sent-Ms is not a time in ms since 1970",
            given=stated[:40],
        )
    return int(stated)


def _moments(since: str, until: str) -> tuple[int, int]:
    here_ms = now_ms()
    try:
        return words.moment_ms(since, here_ms), words.moment_ms(until, here_ms)
    except ValueError as wrong:
        raise Problem(422, "invalid", str(wrong), given=f"{since} to {until}") from None


def _query(
    metric: Metric,
    subjects: _Subjects,
    query: SeriesQuery,
    tick_ms: int,
) -> queries.Query:
    since, until = query.since, query.until
    from_ms, to_ms = _moments(since or SINCE_USUAL, until)
    allocation = subjects.allocation
    if allocation is not None:
        if not since:
            from_ms = allocation.running_ms or allocation.bound_ms
        if not until and allocation.released_ms:
            to_ms = allocation.released_ms
        to_ms = max(to_ms, from_ms + 1000)
    step_ms = _step_ms(query.step, to_ms - from_ms, tick_ms)
    return queries.Query(
        metric.name, metric.subject, subjects.keys, from_ms, to_ms, step_ms, query.how
    )


def _step_ms(stated: str, span_ms: int, tick_ms: int) -> int:
    """As stated, or the shortest of the usual ones, from a tick on, that makes no more than a
    chart's points.
    """
    if stated:
        try:
            return int(duration_ms(stated))
        except (ValueError, TypeError) as wrong:
            raise Problem(422, "invalid", str(wrong), given=stated, allowed="10s, 5m") from None
    fitting = (one for one in STEPS_MS if one >= tick_ms and span_ms <= one * STEPS_USUAL)
    return next(fitting, STEPS_MS[-1])


def shortened(values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """float32 as float64 of seven significant digits: what JSON needs to say, and no more."""
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = np.power(10.0, 6 - np.floor(np.log10(np.abs(wide))))
        short = np.round(wide * digits) / digits
    return np.where(np.isfinite(short), short, wide)


def _series_view(
    metric: Metric, asked: queries.Query, subjects: _Subjects, found: queries.Series
) -> wire.SeriesView:
    rows: Sequence[list[float | None]] = shortened(found.values).T.tolist()
    # Not validated once more: they are numbers, and there may be a million. NaN is written as null.
    series = [
        wire.OneSeries.model_construct(
            key=f"{node}/{key}" if metric.subject is Subject.GPU else key or node,
            node=node,
            gpu=int(key) if metric.subject is Subject.GPU and key.isdecimal() else None,
            rank=rank,
            values=values,
        )
        for (node, key), rank, values in zip(found.keys, subjects.ranks, rows, strict=True)
    ]
    return wire.SeriesView.model_construct(
        metric=metric.name,
        unit=metric.unit,
        form=metric.form,
        how=asked.how,
        step_ms=asked.step_ms,
        times=found.times_ms.tolist(),
        series=series,
        notice=found.notice or None,
        quantiles=None,
    )


def _csv(metric: Metric, subjects: _Subjects, found: queries.Series) -> str:
    """A line a step and subject of which something is known."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(["time_ms", "node", "key", "rank", metric.name])
    rows = shortened(found.values)
    for at, time_ms in enumerate(found.times_ms.tolist()):
        for to in np.flatnonzero(~np.isnan(rows[at])).tolist():
            node, key = (words.cell(word) for word in found.keys[to])
            rank = subjects.ranks[to]
            write([time_ms, node, key, "" if rank is None else rank, rows[at, to]])
    return out.getvalue()


def telemetry_router(desk: Desk) -> APIRouter:
    """The table of telemetry."""
    here = Telemetry(desk)
    problems = (404, 422, 503)
    health = wire.TelemetryHealthView
    return router_of(
        "telemetry",
        [
            Route("POST", "/v1/frames", here.take, wire.FramesTaken, 200, (422, 503)),
            Route("GET", "/v1/series", here.series, wire.SeriesView, 200, problems),
            Route("GET", "/v1/quantiles", here.quantiles, wire.QuantilesView, 200, problems),
            Route("GET", "/v1/metrics/names", here.metrics, wire.MetricsView),
            Route("GET", "/v1/signals", here.signals, wire.SignalsView, 200, problems),
            Route("GET", "/v1/telemetry/health", here.health, health, 200, (503,)),
        ],
    )
