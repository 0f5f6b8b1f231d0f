"""Jobs: submit, look, stop, and why."""

import json
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator
from starlette.requests import Request
from starlette.responses import Response

from madang.api import views
from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.problems import Problem, invalid, model_keys, refused
from madang.api.yard import Accepted, Refused, Submission
from madang.core import explain
from madang.core.events import JobRequeueAsked, JobStopAsked
from madang.core.forecast import why_and_when
from madang.core.model import Phase
from madang.core.snapshot import Snapshot
from madang.ledger import JobRecord
from madang.wire import views as wire
from madang.wire.jobs import JobRequest
from madang.wire.problems import ProblemView

WAITS_SHOWN_MAX = 50  # reckoning why a job waits looks at the whole queue
LIMIT_MAX = 1_000
KEY_CHARS_MAX = 255
PHASE_GROUPS = {
    "live": ("waiting", "starting", "running", "stopping"),
    "ended": ("succeeded", "failed", "stopped"),
}
IdempotencyKey = Annotated[
    str,
    Header(
        max_length=KEY_CHARS_MAX,
        pattern=r"^[\x21-\x7e]*$",
        description="Any text of yours: the same key makes the same job once, however often sent.",
    ),
]
Job = Annotated[JobRequest, Body()]


class JobsQuery(BaseModel):
    """Which jobs."""

    model_config = ConfigDict(extra="forbid")

    phase: str = Field(
        "",
        description="Phases with commas between, also `live` and `ended`.",
        examples=["running,waiting"],
    )
    project: str = Field("", max_length=128)
    owner: str = Field("", max_length=128)
    name: str = Field("", max_length=128)
    limit: int = Field(100, ge=1, le=LIMIT_MAX)
    before: int = Field(0, ge=0, le=2**53, description="Only jobs with a smaller `n`; 0: newest.")

    @field_validator("phase")
    @classmethod
    def _phase(cls, value: str) -> str:
        for word in filter(None, value.split(",")):
            if word not in wire.PHASES and word not in PHASE_GROUPS:
                there = ", ".join((*wire.PHASES, *PHASE_GROUPS))
                raise ValueError(f"{word!r} is not a phase; there are: {there}")
        return value

    @property
    def phases(self) -> tuple[Phase, ...]:
        words: dict[str, None] = {}
        for word in filter(None, self.phase.split(",")):
            words.update(dict.fromkeys(PHASE_GROUPS.get(word, (word,))))
        return tuple(map(Phase, words))


class EventsQuery(BaseModel):
    """Which part of a job's journal."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=2**53, description="Only events with a greater `seq`.")
    limit: int = Field(500, ge=1, le=5_000)


class _BatchBody(BaseModel):
    """A batch whose jobs are judged one by one, so that one mistake does not cost the rest."""

    model_config = ConfigDict(extra="forbid", title="BatchRequest")

    jobs: Annotated[
        list[Any],
        WithJsonSchema(
            {
                "type": "array",
                "items": {"$ref": "#/components/schemas/JobRequest"},
                "minItems": 1,
                "maxItems": wire.BATCH_JOBS_MAX,
            }
        ),
    ] = Field(min_length=1, max_length=wire.BATCH_JOBS_MAX)


class Jobs:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def create_job(
        self, request: Request, job: Job, idempotency_key: IdempotencyKey = ""
    ) -> Response:
        """Submit a job.

        Answered once the job is stored durably: from then on it survives any crash. With an
        `Idempotency-Key` that has made a job before, that job is the answer, with status 200.
        """
        owner = who(request).name
        outcome = (await self._yard.submit([Submission(job, owner, idempotency_key)]))[0]
        if isinstance(outcome, Refused):
            raise refused(outcome)
        view = await self._submitted(outcome, job, owner)
        headers = {"location": f"/v1/jobs/{view.id}"}
        return answer(view, 201 if outcome.new else 200, headers)

    async def _submitted(self, outcome: Accepted, job: JobRequest, owner: str) -> wire.JobView:
        """The view of a job just submitted; nearly always without a read."""
        made = outcome.made
        if made is not None:
            return views.job_view(
                made.job,
                made.standing,
                asked=job.model_dump(),
                owner=owner,
                memo=job.memo,
                newest=made.newest,
            )
        record = await self._desk.job(outcome.job_id)
        if not outcome.new and not _same_request(record, job):
            raise Problem(
                409,
                "key_reused",
                f"the idempotency key has made {record.job.id} from a different request",
                given=record.job.id,
                tries=["use a new key for a new request", f"see GET /v1/jobs/{record.job.id}"],
            )
        return views.of_record(record)

    async def create_jobs(
        self, request: Request, body: _BatchBody, idempotency_key: IdempotencyKey = ""
    ) -> Response:
        """Submit up to 1,000 jobs with one commit.

        Each is judged by itself: the answer has a job or a problem in each place. With an
        `Idempotency-Key`, each place of the batch has a key of its own made of it.
        """
        owner = who(request).name
        answers: list[wire.JobView | ProblemView | None] = []
        submissions: list[Submission] = []
        for at, given in enumerate(body.jobs):
            try:
                job = JobRequest.model_validate(given)
            except ValidationError as error:
                answers.append(_mistakes(error, at))
                continue
            key = f"{idempotency_key}/{at}" if idempotency_key else ""
            submissions.append(Submission(job, owner, key))
            answers.append(None)
        outcomes = iter(await self._yard.submit(submissions) if submissions else ())
        sent = iter(submissions)
        jobs = [one or await self._outcome(next(outcomes), next(sent)) for one in answers]
        return answer(wire.BatchView(jobs=jobs), 201)

    async def _outcome(
        self, outcome: Accepted | Refused, sent: Submission
    ) -> wire.JobView | ProblemView:
        if isinstance(outcome, Refused):
            return refused(outcome).view
        try:
            return await self._submitted(outcome, sent.request, sent.owner)
        except Problem as problem:
            return problem.view

    async def try_job(self, request: Request, job: Job) -> Response:
        """Ask what would happen to a job, without submitting it.

        It would start now (and where), or wait (for what), or can never run here (and what would).
        """
        owner = who(request).name
        trial = await self._desk.rows.read(self._yard.trial, job, owner)
        return answer(views.trial_view(trial))

    async def list_jobs(self, query: Annotated[JobsQuery, Query()]) -> Response:
        """Jobs, newest first. `waits` is told of those that are first in the queue."""
        return answer(await self._desk.rows.read(self._list, query))

    def _list(self, query: JobsQuery) -> wire.JobListView:
        page = self._yard.ledger.jobs(
            phases=query.phases,
            project=query.project or None,
            owner=query.owner or None,
            name=query.name or None,
            limit=query.limit,
            before=query.before or None,
        )
        snapshot = self._yard.snapshot()
        listed = {r.job.id for r in page if r.standing.phase is Phase.WAITING}
        first = islice((id for _, id in snapshot.queue if id in listed), WAITS_SHOWN_MAX)
        waits = {id: _waits(snapshot, id) for id in first}
        broken = snapshot.settings.violations
        jobs = [views.of_record(record, waits.get(record.job.id), broken) for record in page]
        return wire.JobListView(jobs=jobs, next=jobs[-1].n if len(jobs) == query.limit else None)

    async def show_job(self, id: str) -> Response:
        """A job as it stands. `id` is `digits-42` or `42`."""
        record = await self._desk.job(id)
        waits, broken = None, None
        if record.standing.phase is Phase.WAITING:
            waits = await self._desk.rows.read(self._waits_now, record.job.id)
        elif record.standing.phase is Phase.RUNNING:
            broken = (await self._desk.rows.read(self._yard.snapshot)).settings.violations
        return answer(views.of_record(record, waits, broken))

    def _waits_now(self, id: str) -> wire.WaitsView | None:
        return _waits(self._yard.snapshot(), id)

    async def stop_job(
        self, request: Request, id: str, body: wire.StopRequest | None = None
    ) -> Response:
        """Stop a job: SIGTERM to its members, its grace, then SIGKILL.

        A job that has ended already is the answer as it is, with status 200.
        """
        grace_ms = -1 if body is None or body.grace is None else body.grace
        record = await self._desk.job(id)
        if record.standing.phase.is_final:
            return answer(views.of_record(record))
        self._desk.check_own(request, record, "stop it")
        await self._yard.ask(JobStopAsked(record.job.id, who(request).name, grace_ms))
        return answer(views.of_record(await self._desk.job(record.job.id)), 202)

    async def requeue_job(self, request: Request, id: str) -> Response:
        """Take a job's GPUs and put it back into the queue, at no cost to its retries."""
        record = await self._desk.job(id)
        self._desk.check_own(request, record, "send it back to the queue")
        phase = record.standing.phase
        if phase.is_final or phase is Phase.WAITING:
            raise Problem(
                409,
                "conflict",
                f"{record.job.id} has nothing to give back: it is {phase.value}",
                given=phase.value,
                allowed=["starting", "running"],
                tries=[f"submit it again: `madang fork {record.job.id}`"] if phase.is_final else [],
            )
        await self._yard.ask(JobRequeueAsked(record.job.id, who(request).name))
        return answer(views.of_record(await self._desk.job(record.job.id)), 202)

    async def set_memo(self, request: Request, id: str, body: wire.MemoRequest) -> Response:
        """Write the note on a job; an empty one takes it away."""
        record = await self._desk.job(id)
        self._desk.check_own(request, record, "write on it")
        await self._yard.set_memo(record.job.id, body.memo)
        return answer(views.of_record(await self._desk.job(record.job.id)))

    async def show_request(self, request: Request, id: str) -> Response:
        """The request as it was submitted, with the values of its environment.

        These may be secrets: of somebody else's job only owners see them.
        """
        record = await self._desk.job(id)
        if json.loads(record.request or "{}").get("env"):
            self._desk.check_own(request, record, "see its environment")
        return Response(record.request or "{}", media_type="application/json")

    async def explain_job(self, id: str) -> Response:
        """Why a job waits, with numbers; of an ended one, how it ended."""
        record = await self._desk.job(id)
        return answer(await self._desk.rows.read(self._why, record))

    def _why(self, record: JobRecord) -> wire.WhyView:
        snapshot = self._yard.snapshot()
        if record.job.id in snapshot.jobs:
            tries = explain.tries_now(snapshot, record.job.id)
            return views.why_view(why_and_when(snapshot, record.job.id), tries)
        ended = self._yard.ledger.job(record.job.id) or record
        return views.why_ended(ended)

    async def list_events(self, id: str, query: Annotated[EventsQuery, Query()]) -> Response:
        """What happened to a job, oldest first."""
        record = await self._desk.job(id)
        events = await self._desk.rows.read(
            self._yard.ledger.events, query.after, query.limit, record.job.id
        )
        return answer(wire.EventListView(events=[views.event_view(event) for event in events]))

    async def job_schema(self) -> Response:
        """The JSON Schema of a job, for editors: also of the file of `madang run -f`."""
        return Response(json.dumps(JobRequest.model_json_schema(), indent=1), media_type=SCHEMA)


SCHEMA: Literal["application/schema+json"] = "application/schema+json"


def _same_request(record: JobRecord, job: JobRequest) -> bool:
    """True iff the stored request asks for the same, whichever defaults it spells out."""
    try:
        return JobRequest.model_validate_json(record.request) == job
    except ValidationError:
        return False  # of an older version


def _mistakes(error: ValidationError, at: int) -> ProblemView:
    problem = invalid(_at_place(error, at), {"body": model_keys(JobRequest)})
    return problem.view


def _at_place(error: ValidationError, at: int) -> Sequence[dict[str, Any]]:
    found = error.errors(include_url=False, include_context=False)
    return [{**one, "loc": ("body", "jobs", at, *one["loc"])} for one in found]


def _waits(snapshot: Snapshot, id: str) -> wire.WaitsView | None:
    """Why it waits; None if it has ceased to since its row was read."""
    live = snapshot.jobs.get(id)
    if live is None or live.standing.phase is not Phase.WAITING:
        return None
    return views.waits_view(explain.why(snapshot, id))


def jobs_router(desk: Desk) -> APIRouter:
    """The table of what one can do with jobs."""
    jobs = Jobs(desk)
    one = "/v1/jobs/{id}"
    return router_of(
        "jobs",
        [
            Route("POST", "/v1/jobs", jobs.create_job, wire.JobView, 201, (409,), also=200),
            Route("POST", "/v1/jobs:batch", jobs.create_jobs, wire.BatchView, 201, (422, 503)),
            Route("POST", "/v1/try", jobs.try_job, wire.TrialView, 200, (422,)),
            Route("GET", "/v1/jobs", jobs.list_jobs, wire.JobListView, 200, (422,)),
            Route("GET", one, jobs.show_job, wire.JobView, 200, (404,)),
            Route("POST", one + "/stop", jobs.stop_job, wire.JobView, 202, (404,), also=200),
            Route("POST", one + "/requeue", jobs.requeue_job, wire.JobView, 202, (404, 409, 503)),
            Route("PUT", one + "/memo", jobs.set_memo, wire.JobView, 200, (404, 422, 503)),
            Route("GET", one + "/request", jobs.show_request, JobRequest, 200, (404,)),
            Route("GET", one + "/why", jobs.explain_job, wire.WhyView, 200, (404,)),
            Route("GET", one + "/events", jobs.list_events, wire.EventListView, 200, (404, 422)),
            Route("GET", "/v1/schema/job", jobs.job_schema, None, 200, (), SCHEMA),
        ],
    )
