"""The application: rooms of handlers behind one gate.

`create_app` reads no clock, opens no file but the built page's list, and starts no thread that does
work; the feed begins with its first listener. `app.state.leave()` ends all that has no end by
itself, so that a server can stop at once; `app.state.login_link(name)` makes a one-time URL.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route as PlainRoute

from madang.api.desk import Desk
from madang.api.feed import Feed
from madang.api.gate import Gate
from madang.api.identity import Identities, now_ms
from madang.api.live import Hub
from madang.api.live.chronicle import Chronicle
from madang.api.live.sensors import RingSensors
from madang.api.openapi import document
from madang.api.pages import Pages, unknown_path, wrong_method
from madang.api.problems import from_validation, invalid
from madang.api.pulse import Pulse
from madang.api.readers import Readers
from madang.api.reference import reference_page
from madang.api.roles import guard
from madang.api.routes.budgets import budgets_router
from madang.api.routes.code import code_router
from madang.api.routes.holes import holes_router
from madang.api.routes.jobs import jobs_router
from madang.api.routes.live import live_router
from madang.api.routes.login import login_router
from madang.api.routes.logs import logs_router
from madang.api.routes.metrics import metrics_route
from madang.api.routes.nodes import nodes_router
from madang.api.routes.owners import projects_router, workspaces_router
from madang.api.routes.policy import policy_router
from madang.api.routes.quotas import quotas_router
from madang.api.routes.reports import reports_router
from madang.api.routes.reservations import reservations_router
from madang.api.routes.rules import rules_router
from madang.api.routes.telemetry import telemetry_router
from madang.api.routes.terminal import terminal_router
from madang.api.routes.topology import topology_router
from madang.api.routes.yard import yard_router
from madang.api.routes.zones import zones_router
from madang.api.settings import ApiSettings
from madang.api.yard import Yard
from madang.wire.access import Role

ROW_THREADS = 4
FILE_THREADS = 4
SERIES_THREADS = 2
SERIES_WAITING_MAX = 64
BOOKS_WAITING_MAX = 16  # the first report of a long journal takes its time
ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(yard: Yard, settings: ApiSettings) -> FastAPI:
    """The API of a yard, with the page and its reference. Serve it with `make_server`."""
    desk = _desk(yard, settings)
    with _without_pydantic_v1():
        return _app(desk)


@contextmanager
def _without_pydantic_v1() -> Iterator[None]:
    """FastAPI looks at each shape whether it is of pydantic 1, and imports that whole: 0.1 s of a
    daemon's start for nothing. Where it can't be imported, FastAPI goes on without.
    """
    name = "pydantic.v1"
    known = sys.modules.get(name)
    sys.modules[name] = known  # type: ignore[assignment]  # None: may not be imported
    try:
        yield
    finally:
        if known is None:
            del sys.modules[name]


def _app(desk: Desk) -> FastAPI:
    yard, settings = desk.yard, desk.settings
    app = FastAPI(
        title="Madang",
        version=yard.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(desk),
    )
    routers = (
        jobs_router(desk),
        logs_router(desk),
        terminal_router(desk),
        code_router(desk),
        nodes_router(desk),
        live_router(desk),
        holes_router(desk),
        yard_router(desk),
        projects_router(desk),
        policy_router(desk),
        quotas_router(desk),
        workspaces_router(desk),
        reservations_router(desk),
        zones_router(desk),
        budgets_router(desk),
        topology_router(desk),
        reports_router(desk),
        telemetry_router(desk),
        rules_router(desk),
        login_router(desk),
    )
    for router in routers:
        # Not include_router: it makes every route once more, at the first request.
        app.router.routes.extend(router.routes)
        guard(router.routes)
    http = [one for router in routers for one in router.routes if isinstance(one, APIRoute)]
    _add_pages(app, settings, http, [metrics_route(desk)])
    app.state.routes = [one for router in routers for one in router.routes]
    app.state.desk = desk
    app.state.leave = desk.leaving.set
    app.state.login_link = partial(_owners_link, desk)
    app.add_exception_handler(HTTPException, _pass_on)
    app.add_exception_handler(RequestValidationError, _explain)
    app.add_exception_handler(WebSocketRequestValidationError, _explain)
    app.add_middleware(Gate, settings=settings, identities=desk.identities)
    return app


def _owners_link(desk: Desk, name: str) -> str:
    """For who has started the daemon."""
    path, _ = desk.identities.new_link(name, Role.OWNER)
    return desk.yard.url.rstrip("/") + path


def _desk(yard: Yard, settings: ApiSettings) -> Desk:
    limits = settings.limits
    rows = Readers("rows", ROW_THREADS, limits.reads_waiting_max)
    pulse = Pulse(yard)
    return Desk(
        yard=yard,
        settings=settings,
        identities=Identities(yard.ledger, rows, limits.login_links_max),
        rows=rows,
        files=Readers("files", FILE_THREADS, limits.reads_waiting_max),
        books=Readers("books", 1, BOOKS_WAITING_MAX),
        frames=Readers("frames", 1, limits.frames_waiting_max),
        series=Readers("series", SERIES_THREADS, SERIES_WAITING_MAX),
        pulse=pulse,
        feed=Feed(yard, pulse, rows, limits.streams_max),
        live=Hub(yard, RingSensors(yard.telemetry.ring), now_ms, Chronicle(settings.keep)),
        leaving=asyncio.Event(),
    )


def _lifespan(desk: Desk) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.live.open()
        yield
        desk.pulse.close()
        desk.live.close()
        desk.rows.close()
        desk.files.close()
        desk.books.close()
        desk.frames.close()
        desk.series.close()

    return lifespan


def _add_pages(
    app: FastAPI, settings: ApiSettings, routes: Sequence[APIRoute], more: Sequence[PlainRoute]
) -> None:
    """The reference, its source, `more` that is no JSON, and whatever is not the API: the page."""
    pages = Pages(settings.web)
    written: dict[str, str] = {}

    async def openapi(request: Request) -> Response:
        return JSONResponse(_document(app))

    async def docs(request: Request) -> Response:
        if not written:
            written["docs"] = reference_page(_document(app))
        return HTMLResponse(written["docs"], headers={"cache-control": "no-cache"})

    async def rest(request: Request) -> Response:
        allowed = sorted(
            method
            for pattern, methods in known
            if pattern.match(request.url.path)
            for method in methods
        )
        if allowed:
            raise wrong_method(request, allowed)
        if request.url.path.startswith("/v1") or request.method not in ("GET", "HEAD"):
            raise unknown_path(request)
        return await pages.get(request)

    plain = [PlainRoute("/openapi.json", openapi), PlainRoute("/docs", docs), *more]
    known = [(route.path_regex, route.methods or ()) for route in (*routes, *plain)]
    app.router.routes.extend(plain)
    app.router.routes.append(PlainRoute("/{path:path}", rest, methods=ALL_METHODS))


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = document(app)
    return app.openapi_schema


async def _pass_on(connection: Any, error: Exception) -> Response:
    """To the gate, which answers for everyone."""
    raise error


async def _explain(connection: Any, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        raise from_validation(error, connection)
    assert isinstance(error, WebSocketRequestValidationError), f"not of a request: {error!r}"
    raise invalid(error.errors(), {})
