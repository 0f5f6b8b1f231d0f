"""Who may call which route: one table, looked up by the route that was matched, not by the path.

A route that is not in the table is for owners. What a member may do to a single job depends on
whose job it is: `Desk.check_own`. Why so: docs/decisions/roles.md.
"""

from collections.abc import Iterable

from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from madang.api.gate import WHO
from madang.api.identity import Identity
from madang.api.problems import Problem
from madang.wire.access import Role

# The gate asks nobody who comes for these.
OPEN = frozenset({"/v1/health", "/login"})

_SEEN = (
    "GET /v1/jobs",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/request",  # of others without the environment: check_own
    "GET /v1/jobs/{id}/why",
    "GET /v1/jobs/{id}/events",
    "GET /v1/jobs/{id}/log",
    "GET /v1/jobs/{id}/reports",
    "GET /v1/schema/job",
    "GET /v1/code/{digest}",
    "HEAD /v1/code/{digest}",
    "GET /v1/nodes",
    "GET /v1/top",
    "GET /v1/overview",
    "GET /v1/events",
    "GET /v1/journal",
    "GET /v1/projects",
    "GET /v1/workspaces",
    "GET /v1/quotas",
    "GET /v1/policy",
    "GET /v1/zones",
    "GET /v1/profiles",
    "GET /v1/reservations",
    "GET /v1/budgets",
    "GET /v1/holes",
    "GET /v1/topology",
    "GET /v1/reports/usage",
    "GET /v1/reports/idle",
    "GET /v1/reports/pool",
    "GET /v1/me",
    "WEBSOCKET /v1/live",
    "GET /v1/live/history",
    "GET /v1/live/moment",
    "GET /v1/series",
    "GET /v1/quantiles",
    "GET /v1/metrics/names",
    "GET /v1/signals",
    "GET /v1/telemetry/health",
    "GET /v1/rules",
    "GET /v1/violations",
    # These ask, and change nothing.
    "POST /v1/try",
    "POST /v1/topology/check",
    # One's own browser.
    "POST /v1/login-links",  # for others: owners
    "POST /v1/logout",
)
_SUBMITTING = (
    "POST /v1/jobs",
    "POST /v1/jobs:batch",
    "PUT /v1/code/{digest}",
    # Of one's own jobs: check_own.
    "POST /v1/jobs/{id}/stop",
    "POST /v1/jobs/{id}/requeue",
    "PUT /v1/jobs/{id}/memo",
    "WEBSOCKET /v1/jobs/{id}/exec",
    "POST /v1/rules:preview",
    # About one's own jobs: routes/rules.py.
    "PUT /v1/rules/{id}",
    "DELETE /v1/rules/{id}",
)
_RUNNING_THE_YARD = (
    "PUT /v1/projects/{id}",
    "PUT /v1/workspaces/{id}",
    "PUT /v1/quotas",
    "DELETE /v1/quotas",
    "PUT /v1/policy",
    "PUT /v1/zones/{id}",
    "DELETE /v1/zones/{id}",
    "PUT /v1/reservations",
    "DELETE /v1/reservations/{id}",
    "PUT /v1/budgets/{id}",
    "DELETE /v1/budgets/{id}",
    "POST /v1/holes",
    "DELETE /v1/holes/{id}",
    "PUT /v1/topology",
    "DELETE /v1/topology",
    "POST /v1/nodes/{id}/cordon",
    "POST /v1/nodes/{id}/uncordon",
    "DELETE /v1/nodes/{id}",
    "GET /v1/tokens",
    "POST /v1/tokens",
    "DELETE /v1/tokens/{name}",
)
_MEASURING = ("POST /v1/frames",)

LEAST: dict[str, Role] = {
    **dict.fromkeys(_SEEN, Role.VIEWER),
    **dict.fromkeys(_SUBMITTING, Role.MEMBER),
    **dict.fromkeys(_RUNNING_THE_YARD, Role.OWNER),
    **dict.fromkeys(_MEASURING, Role.AGENT),
}


def least_of(verb: str, path: str) -> Role:
    """The least role for a route, `/v1/jobs/{id}` as it is written."""
    return LEAST.get(f"{verb} {path}", Role.OWNER)


def names_of(route: BaseRoute) -> list[str]:
    """`GET /v1/jobs/{id}` of a route, once a method."""
    if isinstance(route, APIWebSocketRoute):
        return [f"WEBSOCKET {route.path}"]
    assert isinstance(route, APIRoute), f"not a route of ours: {route!r}"
    return [f"{verb} {route.path}" for verb in sorted(route.methods or ())]


def guard(routes: Iterable[BaseRoute]) -> None:
    """Let each route ask for its role before anything of the request is read."""
    for route in routes:
        assert isinstance(route, APIRoute | APIWebSocketRoute), f"not a route of ours: {route!r}"
        if route.path not in OPEN:
            route.app = _Guarded(route.app, route.path)


def check_caller(scope: Scope, least: Role) -> None:
    """Raises:
    Problem: 403, the caller's role does not cover that.
    """
    caller = scope[WHO]
    assert isinstance(caller, Identity), f"passed the gate unknown: {scope['path']}"
    if not caller.role.covers(least):
        raise _forbidden(caller, least)


class _Guarded:
    """The ASGI application of one route, for those who may call it."""

    __slots__ = ("_app", "_path")

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        verb = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        check_caller(scope, least_of(verb, self._path))
        await self._app(scope, receive, send)


def _forbidden(caller: Identity, least: Role) -> Problem:
    allowed = [role.value for role in Role if role.covers(least)]
    return Problem(
        403,
        "forbidden",
        f"{caller.name} is {caller.role.said} of this yard; this takes {least.said}",
        given=caller.role.value,
        allowed=allowed,
        tries=[
            "ask an owner of this yard: `madang token add NAME --role ROLE` makes another token"
        ],
    )
