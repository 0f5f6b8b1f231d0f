"""Reports: usage, what pooling would free, and the journal itself for who replays it.

The books are kept by one thread of their own: the first question reads the whole journal (some 20 s
a million events), every later one what came since.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from madang.api import report_views
from madang.api.desk import Desk, Route, answer, router_of
from madang.api.identity import now_ms
from madang.api.problems import Problem
from madang.core.usage.books import Books
from madang.core.usage.idleness import evaluations
from madang.core.usage.pooling import SHARE_PCT, TARGET_MS, advise
from madang.core.usage.report import BY, BadWindow, report
from madang.ledger.bookkeeping import Bookkeeper, IdleKeeper
from madang.wire import reports as wire
from madang.wire.jobs import duration_ms

JOURNAL_LINES_MAX = 5_000  # a page of some megabytes
CSV = "text/csv"
Moment = Annotated[str, Query(max_length=wire.MOMENT_CHARS_MAX)]


class Reports:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._keeper = Bookkeeper(desk.yard.ledger)
        self._idle_keeper = IdleKeeper(desk.yard.ledger)

    async def usage(
        self,
        since: Moment = wire.SINCE_DEFAULT,
        until: Moment = "",
        by: Annotated[str, Query(max_length=200)] = "",
        format: Literal["json", "csv"] = "json",
    ) -> Response:
        """GPU·hours asked, held, used, wasted; waits; preemptions; fragmentation over time.

        `since` and `until` are `30d` (before now), a date or time (UTC), or milliseconds since
        1970. `by` groups: any of model, size, project, workspace, zone, provisioning, category,
        purpose, owner, day, separated by commas. What lies across the window's end is cut there.
        """
        window = _window(since, until)
        names = tuple(word.strip() for word in by.split(",") if word.strip())
        view = await self._desk.books.read(self._usage, window, names)
        if format == "csv":
            text = "".join(wire.csv_of(view.model_dump()))
            return Response(text, headers={"content-type": f"{CSV}; charset=utf-8"})
        return answer(view)

    def _usage(self, window: tuple[int, int], by: tuple[str, ...]) -> wire.UsageReportView:
        try:
            return report_views.usage_view(report(self._keeper.books(), *window, by))
        except BadWindow as wrong:
            given = f"since {window[0]}, until {window[1]}, by {','.join(by)}"
            raise Problem(422, "invalid", str(wrong), given=given, allowed=", ".join(BY)) from None

    async def idle(self, since: Moment = wire.SINCE_DEFAULT, until: Moment = "") -> Response:
        """Per project: GPU·hours asked, held, used, idle, wasted; who was warned, what was taken.

        Idle is what was measured with its busiest GPU under 5 %; `since` and `until` as for usage.
        """
        return answer(await self._desk.books.read(self._idle, _window(since, until)))

    def _idle(self, window: tuple[int, int]) -> wire.IdleReportView:
        try:
            usage = report(self._keeper.books(), *window, ("project",))
        except BadWindow as wrong:
            given = f"since {window[0]}, until {window[1]}"
            raise Problem(422, "invalid", str(wrong), given=given) from None
        return report_views.idle_view(usage, evaluations(usage, self._idle_keeper.idleness()))

    async def pool(
        self,
        since: Moment = wire.SINCE_DEFAULT,
        wait: Moment = "10m",
        share: Annotated[int, Query(ge=1, le=100)] = SHARE_PCT,
    ) -> Response:
        """What pooling private zones into the public one would free, by past demand.

        Each zone's demand is replayed alone and all of a model together; GPUs needed are those at
        which `share` percent of the jobs wait at most `wait`.
        """
        window = _window(since, "")
        target_ms = _duration_ms(wait)
        return answer(await self._desk.books.read(self._pool, window, target_ms, share))

    def _pool(self, window: tuple[int, int], target_ms: int, share_pct: int) -> wire.PoolAdviceView:
        books: Books = self._keeper.books()
        advice = advise(books, *window, target_ms=target_ms, share_pct=share_pct)
        return report_views.pool_view(advice, books.begins_ms)

    async def journal(
        self,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=JOURNAL_LINES_MAX)] = 1_000,
    ) -> Response:
        """The journal as it was committed, oldest first, for tools that replay it.

        A line is one event in the form of `madang.core.codec`. Go on with the last line's seq.
        """
        return answer(await self._desk.rows.read(self._journal, after, limit))

    def _journal(self, after: int, limit: int) -> wire.JournalPage:
        ledger = self._desk.yard.ledger
        lines = [(one.seq, one.at_ms, one.line) for one in ledger.events(after, limit)]
        first, last = ledger.journal_span()
        return wire.JournalPage(first_seq=first, last_seq=last, lines=lines)


def _window(since: str, until: str) -> tuple[int, int]:
    here_ms = now_ms()
    try:
        return wire.moment_ms(since, here_ms), wire.moment_ms(until, here_ms)
    except ValueError as wrong:
        raise Problem(422, "invalid", str(wrong), given=f"{since} to {until or 'now'}") from None


def _duration_ms(text: str) -> int:
    try:
        return int(duration_ms(text)) if text else TARGET_MS
    except (ValueError, TypeError) as wrong:
        raise Problem(422, "invalid", str(wrong), given=text, allowed="0s, 10m, 2h") from None


def reports_router(desk: Desk) -> APIRouter:
    """The table of reports."""
    reports = Reports(desk)
    usage, pool = wire.UsageReportView, wire.PoolAdviceView
    return router_of(
        "reports",
        [
            Route("GET", "/v1/reports/usage", reports.usage, usage, 200, (422, 503)),
            Route("GET", "/v1/reports/idle", reports.idle, wire.IdleReportView, 200, (422, 503)),
            Route("GET", "/v1/reports/pool", reports.pool, pool, 200, (422, 503)),
            Route("GET", "/v1/journal", reports.journal, wire.JournalPage, 200, (422, 503)),
        ],
    )
