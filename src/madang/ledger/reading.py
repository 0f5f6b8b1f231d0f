"""What can be asked of a ledger: each question is one statement, whatever the size of the page."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from madang.core.live import LiveJob, LiveNode
from madang.core.model import Allocation, Job, Node, NodeState, Phase, Project, Seat, Standing
from madang.core.policy import Policy
from madang.core.settings import KINDS, Learned, Setting
from madang.ledger.coding import allocation_of, of_body
from madang.ledger.schema import (
    allocations,
    jobs,
    journal,
    lead,
    nodes,
    projects,
    requests,
    settings,
    tokens,
)
from madang.ledger.values import POLICY, EventRecord, JobRecord, Loaded, Token

_SETTING_KINDS: dict[str, type] = {**KINDS, POLICY: Policy}

_LIVE = sa.text("jobs.live = 1")  # as literal as in the partial index, or it would not be used
_LIVE_PHASES = frozenset(phase for phase in Phase if not phase.is_final)

_JOBS = (
    sa.select(
        jobs.c.job,
        jobs.c.standing,
        jobs.c.owner,
        jobs.c.memo,
        requests.c.request,
        allocations.c.fixed,
        allocations.c.moving,
    )
    .join(requests, requests.c.n == jobs.c.n)
    .outerjoin(allocations, allocations.c.id == jobs.c.allocation)
)
_JOB_BY_N = _JOBS.where(jobs.c.n == sa.bindparam("n"))
_JOB_BY_ID = _JOBS.where(jobs.c.id == sa.bindparam("id"))
_JOB_OF_KEY = sa.select(jobs.c.id).where(
    jobs.c.owner == sa.bindparam("owner"), jobs.c.idempotency_key == sa.bindparam("key")
)
_JOBS_OF_KEYS = sa.select(jobs.c.idempotency_key, jobs.c.id).where(
    jobs.c.owner == sa.bindparam("owner"),
    jobs.c.idempotency_key.in_(sa.bindparam("keys", expanding=True)),
)
KEYS_AT_ONCE = 500  # what one statement may hold of them, on any database
_LIVE_KEYS = sa.select(jobs.c.idempotency_key, jobs.c.id).where(
    jobs.c.live == 1,
    jobs.c.owner == sa.bindparam("owner"),
    jobs.c.idempotency_key.is_not(None),
)
_PHASES = sa.select(jobs.c.phase, sa.func.count()).group_by(jobs.c.phase)

_ALLOCATION = sa.select(allocations.c.fixed, allocations.c.moving).where(
    allocations.c.id == sa.bindparam("id")
)
_ALLOCATIONS = (
    sa.select(allocations.c.fixed, allocations.c.moving)
    .where(allocations.c.job == sa.bindparam("job"))
    .order_by(allocations.c.n)
)

_EVENTS = (
    sa.select(
        journal.c.seq,
        journal.c.at_ms,
        journal.c.kind,
        journal.c.job,
        journal.c.node,
        journal.c.line,
    )
    .where(journal.c.seq > sa.bindparam("after"))
    .order_by(journal.c.seq)
    .limit(sa.bindparam("limit", type_=sa.BigInteger))
)
_EVENTS_OF_JOB = _EVENTS.where(journal.c.job == sa.bindparam("job"))
_EVENTS_OF_NODE = _EVENTS.where(journal.c.node == sa.bindparam("node"))
_SPAN = sa.select(sa.select(sa.func.min(journal.c.seq)).scalar_subquery(), lead.c.last_seq)

_LEAD = sa.select(lead.c.last_seq, lead.c.last_ms, lead.c.last_n)
_NODES = sa.select(
    nodes.c.row, nodes.c.state, nodes.c.cordoned, nodes.c.suspicion, nodes.c.body
).order_by(nodes.c.row)
_SETTINGS = sa.select(settings.c.kind, settings.c.body).order_by(settings.c.name)
# What placement has not learned from yet; `madang.core.learning` asks for fewer.
RECENT_JOBS_MAX = 4_096
_RECENT = (
    sa.select(jobs.c.job)
    .where(jobs.c.n > sa.bindparam("after"))
    .order_by(jobs.c.n.desc())
    .limit(RECENT_JOBS_MAX)
)
_PROJECTS = sa.select(projects.c.body).order_by(projects.c.id)
_LIVE_JOBS = (
    sa.select(jobs.c.job, jobs.c.standing, jobs.c.allocation, jobs.c.attached, jobs.c.nominated)
    .where(_LIVE)
    .order_by(jobs.c.n)
)
# What holds devices, and what a live job has not been settled for yet.
_LIVE_ALLOCATIONS = sa.union(
    sa.select(allocations.c.n, allocations.c.fixed, allocations.c.moving).where(
        sa.text("allocations.live = 1")
    ),
    sa.select(allocations.c.n, allocations.c.fixed, allocations.c.moving)
    .join(jobs, jobs.c.allocation == allocations.c.id)
    .where(_LIVE, jobs.c.attached == 1),
).order_by("n")

_TOKENS = sa.select(tokens.c.name, tokens.c.digest, tokens.c.made_ms, tokens.c.role)
_TOKEN = _TOKENS.where(tokens.c.digest == sa.bindparam("sought"))
_TOKENS_BY_NAME = _TOKENS.order_by(tokens.c.name)


def load(connection: sa.Connection) -> Loaded:
    """All live rows, of one moment: the connection is in a transaction that sees one."""
    counters = connection.execute(_LEAD).one()
    live_jobs = [
        (
            LiveJob(
                of_body(Job, row.job),
                of_body(Standing, row.standing),
                row.allocation if row.attached else None,
            ),
            row.nominated,
        )
        for row in connection.execute(_LIVE_JOBS)
    ]
    made: tuple[Setting | Policy, ...] = tuple(
        of_body(_SETTING_KINDS[row.kind], row.body) for row in connection.execute(_SETTINGS)
    )
    after = max((setting.seq for setting in made if isinstance(setting, Learned)), default=0)
    recent = [of_body(Job, row.job) for row in connection.execute(_RECENT, {"after": after})]
    return Loaded(
        nodes=tuple(
            LiveNode(
                of_body(Node, row.body),
                NodeState(row.state),
                row.row,
                bool(row.cordoned),
                row.suspicion,
            )
            for row in connection.execute(_NODES)
        ),
        projects=tuple(of_body(Project, row.body) for row in connection.execute(_PROJECTS)),
        jobs=tuple(live for live, _ in live_jobs),
        allocations=tuple(
            allocation_of(row.fixed, row.moving) for row in connection.execute(_LIVE_ALLOCATIONS)
        ),
        nominations=tuple(
            (live.job.id, of_body(tuple[Seat, ...], seats)) for live, seats in live_jobs if seats
        ),
        next_n=counters.last_n + 1,
        last_seq=counters.last_seq,
        last_ms=counters.last_ms,
        settings=made,
        recent=tuple(reversed(recent)),
    )


def job(connection: sa.Connection, id_or_n: str | int) -> JobRecord | None:
    """By `digits-42`, `"42"` or 42."""
    text = str(id_or_n)
    if text.isascii() and text.isdigit():
        if len(text) > 18:
            return None
        row = connection.execute(_JOB_BY_N, {"n": int(text)}).one_or_none()
    else:
        row = connection.execute(_JOB_BY_ID, {"id": text}).one_or_none()
    return None if row is None else _job_record(row)


def jobs_page(
    connection: sa.Connection,
    phases: Iterable[Phase],
    equals: dict[str, str | None],
    limit: int,
    before: int | None,
) -> list[JobRecord]:
    """Newest first; `equals` maps columns to the value wanted, None for any."""
    query = _JOBS.order_by(jobs.c.n.desc()).limit(sa.bindparam("limit", type_=sa.BigInteger))
    values: dict[str, Any] = {"limit": limit}
    wanted = sorted(set(phases))
    if wanted and _LIVE_PHASES.issuperset(wanted):
        query = query.where(_LIVE)
    if wanted and set(wanted) != _LIVE_PHASES:
        query = query.where(jobs.c.phase.in_(sa.bindparam("phases", expanding=True)))
        values["phases"] = [phase.value for phase in wanted]
    for column, value in equals.items():
        if value is not None:
            query = query.where(jobs.c[column] == sa.bindparam(column))
            values[column] = value
    if before is not None:
        query = query.where(jobs.c.n < sa.bindparam("before", type_=sa.BigInteger))
        values["before"] = before
    return [_job_record(row) for row in connection.execute(query, values)]


def _job_record(row: Any) -> JobRecord:
    return JobRecord(
        job=of_body(Job, row.job),
        standing=of_body(Standing, row.standing),
        owner=row.owner,
        request=row.request,
        memo=of_body(str, row.memo),
        newest=None if row.fixed is None else allocation_of(row.fixed, row.moving),
    )


def phase_counts(connection: sa.Connection) -> dict[Phase, int]:
    counts = dict.fromkeys(Phase, 0)
    for phase, count in connection.execute(_PHASES):
        counts[Phase(phase)] = count
    return counts


def job_of_key(connection: sa.Connection, owner: str, key: str) -> str | None:
    return connection.scalar(_JOB_OF_KEY, {"owner": owner, "key": key})


def jobs_of_keys(connection: sa.Connection, owner: str, keys: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for begin in range(0, len(keys), KEYS_AT_ONCE):
        some = list(keys[begin : begin + KEYS_AT_ONCE])
        rows = connection.execute(_JOBS_OF_KEYS, {"owner": owner, "keys": some})
        found |= {row.idempotency_key: row.id for row in rows}
    return found


def live_keys(connection: sa.Connection, owner: str) -> dict[str, str]:
    rows = connection.execute(_LIVE_KEYS, {"owner": owner})
    return {row.idempotency_key: row.id for row in rows}


def allocation(connection: sa.Connection, id: str) -> Allocation | None:
    row = connection.execute(_ALLOCATION, {"id": id}).one_or_none()
    return None if row is None else allocation_of(row.fixed, row.moving)


def allocations_of(connection: sa.Connection, job_id: str) -> list[Allocation]:
    rows = connection.execute(_ALLOCATIONS, {"job": job_id})
    return [allocation_of(row.fixed, row.moving) for row in rows]


def events(
    connection: sa.Connection,
    after: int,
    limit: int,
    job: str | None,
    node: str | None,
    kinds: Collection[str] = (),
) -> list[EventRecord]:
    values: dict[str, Any] = {"after": after, "limit": limit}
    query = _EVENTS
    if job is not None:
        query, values = _EVENTS_OF_JOB, {**values, "job": job}
    elif node is not None:
        query, values = _EVENTS_OF_NODE, {**values, "node": node}
    if kinds:
        query = query.where(journal.c.kind.in_(sa.bindparam("kinds", expanding=True)))
        values["kinds"] = sorted(kinds)
    return [
        EventRecord(row.seq, row.at_ms, row.kind, row.job or "", row.node or "", row.line)
        for row in connection.execute(query, values)
    ]


def journal_span(connection: sa.Connection) -> tuple[int, int]:
    first, last = connection.execute(_SPAN).one()
    return (last + 1 if first is None else first), last


def token(connection: sa.Connection, digest: str) -> Token | None:
    row = connection.execute(_TOKEN, {"sought": digest}).one_or_none()
    return None if row is None else Token(*row)


def all_tokens(connection: sa.Connection) -> list[Token]:
    return [Token(*row) for row in connection.execute(_TOKENS_BY_NAME)]
