"""One turn, one transaction: the lead is checked, the journal grows, the rows follow.

A turn of any size is a handful of statements. Nothing here commits in part: whatever fails, the
transaction rolls back and the memory of what the database holds stays as it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from madang.core import events as ev
from madang.core.model import Allocation, AllocationState, Job
from madang.ledger.bulk import deleting, inserting, updating, upserting
from madang.ledger.coding import (
    allocation_of,
    body,
    fixed_body,
    line_of,
    moving_body,
    number_of,
    subject_of,
)
from madang.ledger.errors import CommitFailed, CommitRefused, CommitUnknown, LostLead
from madang.ledger.schema import (
    allocations,
    holdings,
    jobs,
    journal,
    lead,
    nodes,
    projects,
    requests,
    settings,
)
from madang.ledger.values import JobWrite, NewJob, NodeWrite, SettingWrite, Turn, name_of

OUTCOME_WAITS_S = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # then nobody can say what became of a COMMIT

_INSERT_EVENTS = inserting(journal)
_INSERT_JOBS = inserting(jobs)
_INSERT_REQUESTS = inserting(requests)
_UPDATE_JOBS = updating(
    jobs, "n", ("phase", "live", "allocation", "attached", "nominated", "standing")
)
_UPDATE_MEMOS = updating(jobs, "id", ("memo",))
_INSERT_ALLOCATIONS = inserting(allocations)
_UPDATE_ALLOCATIONS = updating(allocations, "id", ("live", "moving"))
_INSERT_HOLDINGS = inserting(holdings)
_DELETE_HOLDINGS = deleting(holdings, ("allocation", "rank"))
_UPSERT_NODES = upserting(nodes, "id")
_UPSERT_PROJECTS = upserting(projects, "id")
_UPSERT_SETTINGS = upserting(settings, "name")
_DELETE_SETTINGS = deleting(settings, ("name",))

_TAKE_LEAD = (
    sa.update(lead)
    .values(epoch=lead.c.epoch + 1, holder=sa.bindparam("by"))
    .returning(lead.c.epoch)
)
_later = sa.bindparam("now_ms", type_=sa.BigInteger)
_higher = sa.bindparam("n", type_=sa.BigInteger)
_ADVANCE = (
    sa.update(lead)
    .where(lead.c.epoch == sa.bindparam("mine"))
    .values(
        turns=lead.c.turns + 1,
        last_seq=lead.c.last_seq + sa.bindparam("events", type_=sa.BigInteger),
        last_ms=sa.case((lead.c.last_ms < _later, _later), else_=lead.c.last_ms),
        last_n=sa.case((lead.c.last_n < _higher, _higher), else_=lead.c.last_n),
    )
    .returning(lead.c.last_seq, lead.c.turns)
)
_LEADER = sa.select(lead.c.epoch, lead.c.holder, lead.c.turns)
_LIVE_ALLOCATIONS = sa.select(allocations.c.id, allocations.c.fixed, allocations.c.moving).where(
    sa.text("live = 1")
)
_LAST_ALLOCATION = sa.select(sa.func.coalesce(sa.func.max(allocations.c.n), 0))


# What a database may answer to a turn; a text that it cannot store (half a surrogate pair) too.
_WORLDLY = (sa.exc.DBAPIError, sa.exc.TimeoutError, UnicodeError)


@dataclass(slots=True)
class Known:
    """What the database has of live allocations: `ended[id]` is the bit set of the ended ranks."""

    epoch: int = -1
    last_n: int = 0
    ended: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Holding:
    """What a turn does to allocations: rows to write, and what is known once they are written."""

    inserts: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    given: list[dict[str, Any]] = field(default_factory=list)
    ended: dict[str, int | None] = field(default_factory=dict)


class Writer:
    """Commits turns on the ledger's one writing connection. One thread at a time may be inside."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._known = Known()

    def take_lead(self, holder: str) -> int:
        """A new epoch.

        Raises:
            CommitFailed: nothing was written.
        """
        try:
            with self._engine.begin() as connection:
                return int(connection.execute(_TAKE_LEAD, {"by": holder}).scalar_one())
        except sa.exc.DBAPIError as error:
            raise _failed(error) from error

    def commit(self, turn: Turn) -> tuple[int, int]:
        """The first and last journal seq of the turn's events; (last + 1, last) if it has none.

        Raises:
            LostLead, CommitFailed, CommitRefused: nothing was written.
            CommitUnknown: stop, and start again from the rows.
        """
        try:
            connection = self._engine.connect()
        except _WORLDLY as error:
            raise _failed(error) from error
        try:
            return self._commit_on(connection, turn)
        except BaseException:
            if not connection.closed:
                # The transaction goes with its connection, whatever state the two are in.
                connection.invalidate()
            raise
        finally:
            connection.close()

    def _commit_on(self, connection: sa.Connection, turn: Turn) -> tuple[int, int]:
        try:
            transaction = connection.begin()
            last_seq, turns = self._advance(connection, turn)
            holding = self._write(connection, turn, last_seq - len(turn.events))
        except sa.exc.IntegrityError as error:
            raise CommitRefused(f"the database refused the turn: {error.orig}") from error
        except _WORLDLY as error:
            raise _failed(error) from error
        try:
            transaction.commit()
        except sa.exc.DBAPIError as error:
            if connection.dialect.name == "sqlite":
                raise _failed(error) from error
            connection.invalidate()
            connection.close()
            self._find_out(turn.epoch, turns, error)
        self._remember(turn.epoch, holding)
        return last_seq - len(turn.events) + 1, last_seq

    def _advance(self, connection: sa.Connection, turn: Turn) -> tuple[int, int]:
        """Check the epoch and move the counters; their lock is held until the commit."""
        rejected = [number_of(e.job) for e in turn.events if isinstance(e, ev.JobRejected)]
        numbers = {
            "mine": turn.epoch,
            "events": len(turn.events),
            "now_ms": turn.at_ms,
            "n": max((*rejected, *(write.job.seq for write in turn.jobs)), default=0),
        }
        row = connection.execute(_ADVANCE, numbers).one_or_none()
        if row is None:
            raise _lost(connection, turn.epoch)
        if self._known.epoch != turn.epoch:
            self._known = _read_known(connection, turn.epoch)
        return int(row.last_seq), int(row.turns)

    def _write(self, connection: sa.Connection, turn: Turn, seq: int) -> Holding:
        texts = {job.id: body(job) for job in _submitted(turn)}
        _INSERT_EVENTS.write(connection, _event_rows(turn, seq, texts))
        _UPSERT_PROJECTS.write(connection, [{"id": p.id, "body": body(p)} for p in turn.projects])
        _UPSERT_SETTINGS.write(
            connection, [_setting_row(s) for s in turn.settings if s.value is not None]
        )
        gone = [{"name": setting.name} for setting in turn.settings if setting.value is None]
        _DELETE_SETTINGS.write(connection, gone)
        _UPSERT_NODES.write(connection, [_node_row(write) for write in turn.nodes])
        self._write_jobs(connection, turn, texts)
        holding = self._holding(turn.allocations)
        _INSERT_ALLOCATIONS.write(connection, holding.inserts)
        _must_touch("allocations", _UPDATE_ALLOCATIONS.write, connection, holding.updates)
        # What was given first: the same turn may have given a device to the next one.
        _DELETE_HOLDINGS.write(connection, holding.given)
        _INSERT_HOLDINGS.write(connection, holding.taken)
        return holding

    def _write_jobs(self, connection: sa.Connection, turn: Turn, texts: Mapping[str, str]) -> None:
        new = {job.job_id: job for job in turn.new}
        inserts, updates, asked = [], [], []
        for write in turn.jobs:
            first = new.pop(write.job.id, None)
            if first is None:
                updates.append({"n": write.job.seq, **_moving_columns(write)})
            else:
                inserts.append(_job_row(write, first, texts.get(write.job.id)))
                asked.append({"n": write.job.seq, "request": first.request})
        if new:
            raise CommitRefused(f"new jobs without a row in the turn: {sorted(new)}")
        _INSERT_JOBS.write(connection, inserts)
        _INSERT_REQUESTS.write(connection, asked)
        _must_touch("jobs", _UPDATE_JOBS.write, connection, updates)
        memos = [{"id": id, "memo": body(memo)} for id, memo in dict(turn.memos).items()]
        _UPDATE_MEMOS.write(connection, memos)

    def _holding(self, written: Sequence[Allocation]) -> Holding:
        """Compare the allocations with what the database holds of them."""
        holding = Holding()
        for allocation in written:
            live = allocation.state is not AllocationState.RELEASED
            before = self._known.ended.get(allocation.id)
            if before is None:
                n = self._known.last_n + len(holding.inserts) + 1
                holding.inserts.append(_allocation_row(allocation, n, int(live)))
                holding.taken += _holding_rows(allocation)
            else:
                moving = {"live": int(live), "moving": moving_body(allocation)}
                holding.updates.append({"id": allocation.id, **moving})
                holding.given += [
                    {"allocation": allocation.id, "rank": rank}
                    for rank in _ranks(allocation.ended & ~before)
                    if allocation.shape.gpus
                ]
            holding.ended[allocation.id] = allocation.ended if live else None
        return holding

    def _remember(self, epoch: int, holding: Holding) -> None:
        self._known.epoch = epoch
        self._known.last_n += len(holding.inserts)
        for id, ended in holding.ended.items():
            if ended is None:
                self._known.ended.pop(id, None)
            else:
                self._known.ended[id] = ended

    def _find_out(self, epoch: int, turns: int, error: sa.exc.DBAPIError) -> None:
        """The connection broke during COMMIT: return if the turn is there, raise if it is not."""
        for wait_s in OUTCOME_WAITS_S:
            time.sleep(wait_s)
            try:
                with self._engine.connect() as connection:
                    # The lock waits for the broken transaction, should the server still be at it.
                    row = connection.execute(_LEADER.with_for_update()).one()
            except (sa.exc.DBAPIError, sa.exc.TimeoutError):
                continue
            if row.epoch != epoch:
                raise LostLead(f"{row.holder} leads in epoch {row.epoch}, not {epoch}") from error
            if row.turns < turns:
                raise _failed(error) from error
            return
        raise CommitUnknown(
            f"the connection broke during a commit and did not come back: {error.orig}; "
            "restart the daemon: it goes on from what the database has"
        ) from error


def _failed(error: Exception) -> CommitFailed:
    why = " ".join(str(getattr(error, "orig", None) or error).split())
    return CommitFailed(
        f"nothing was written: {why}; check the database's disk and connection, then try again"
    )


def _lost(connection: sa.Connection, epoch: int) -> LostLead:
    row = connection.execute(_LEADER).one()
    return LostLead(f"{row.holder or 'nobody'} leads in epoch {row.epoch}, not {epoch}")


def _read_known(connection: sa.Connection, epoch: int) -> Known:
    ended = {
        row.id: allocation_of(row.fixed, row.moving).ended
        for row in connection.execute(_LIVE_ALLOCATIONS)
    }
    return Known(epoch, int(connection.execute(_LAST_ALLOCATION).scalar_one()), ended)


def _must_touch(
    what: str,
    write: Callable[[sa.Connection, Sequence[dict[str, Any]]], int],
    connection: sa.Connection,
    rows: Sequence[dict[str, Any]],
) -> None:
    touched = write(connection, rows)
    if touched != len(rows):
        raise CommitRefused(f"{len(rows)} {what} to change, but {touched} are there: {rows[:3]}")


def _submitted(turn: Turn) -> list[Job]:
    """Jobs whose text is in the journal and in their row, as they were submitted."""
    rows = {write.job.id: write.job for write in turn.jobs}
    jobs = [event.job for event in turn.events if isinstance(event, ev.JobSubmitted)]
    return [job for job in jobs if rows.get(job.id) is job]


def _event_rows(turn: Turn, seq: int, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for event in turn.events:
        seq += 1
        job, node = subject_of(event)
        rows.append(
            {
                "seq": seq,
                "at_ms": turn.at_ms,
                "kind": type(event).__name__,
                "job": job,
                "node": node,
                "line": line_of(event, texts),
            }
        )
    return rows


def _moving_columns(write: JobWrite) -> dict[str, Any]:
    newest = f"{write.job.id}.{write.standing.attempt}" if write.standing.attempt else None
    if write.allocation not in (None, newest):
        raise CommitRefused(f"{write.job.id} has {write.allocation}, but its newest is {newest}")
    return {
        "phase": write.standing.phase.value,
        "live": int(not write.standing.phase.is_final),
        "allocation": newest,
        "attached": int(write.allocation is not None),
        "nominated": body(write.nominated) if write.nominated else None,
        "standing": body(write.standing),
    }


def _job_row(write: JobWrite, first: NewJob, text: str | None) -> dict[str, Any]:
    return {
        "n": write.job.seq,
        "id": write.job.id,
        "name": name_of(write.job.id),
        "project": write.job.project,
        "owner": first.owner,
        "idempotency_key": first.key or None,
        **_moving_columns(write),
        "job": body(write.job) if text is None else text,
        "memo": body(first.memo),
    }


def _node_row(write: NodeWrite) -> dict[str, Any]:
    return {
        "id": write.node.id,
        "row": write.row,
        "state": write.state.value,
        "cordoned": int(write.cordoned),
        "suspicion": write.suspicion,
        "body": body(write.node),
    }


def _setting_row(write: SettingWrite) -> dict[str, Any]:
    return {"name": write.name, "kind": write.kind, "body": body(write.value)}


def _allocation_row(allocation: Allocation, n: int, live: int) -> dict[str, Any]:
    return {
        "n": n,
        "id": allocation.id,
        "job": allocation.job,
        "live": live,
        "fixed": fixed_body(allocation),
        "moving": moving_body(allocation),
    }


def _holding_rows(allocation: Allocation) -> list[dict[str, Any]]:
    return [
        {
            "allocation": allocation.id,
            "rank": rank,
            "gpu": gpu,
            "node": seat.node,
            "milli": allocation.shape.gpu_milli,
        }
        for rank, seat in enumerate(allocation.seats)
        if allocation.holds(rank)
        for gpu in seat.gpus
    ]


def _ranks(bits: int) -> list[int]:
    """The ranks in a bit set, lowest first."""
    return [rank for rank in range(bits.bit_length()) if bits >> rank & 1]
