"""What the handlers share: the yard, the limits, the reader threads, the event feed; and the few
steps that every noun takes (find a job, answer with a view).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import Response

from madang.api.feed import Feed
from madang.api.gate import WHO
from madang.api.identity import Identities, Identity
from madang.api.live import Hub
from madang.api.problems import Problem
from madang.api.pulse import Pulse
from madang.api.readers import Readers
from madang.api.settings import ApiSettings
from madang.api.yard import Yard
from madang.core.model import Allocation
from madang.ledger import JobRecord
from madang.wire.access import Role

ID_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class Desk:
    """`rows` reads the ledger and snapshots, `files` logs and uploads: a slow disk under the logs
    must not keep anyone from asking for jobs. `books` is one thread, for reports; `frames` one that
    takes in what agents send, `series` one for questions of history.
    """

    yard: Yard
    settings: ApiSettings
    identities: Identities
    rows: Readers
    files: Readers
    books: Readers
    frames: Readers
    series: Readers
    pulse: Pulse
    feed: Feed
    live: Hub
    leaving: asyncio.Event

    async def job(self, id: str) -> JobRecord:
        """The job of `digits-42` or `42`.

        Raises:
            Problem: 404.
        """
        record = None
        if len(id) <= ID_CHARS_MAX and "\0" not in id:
            record = await self.rows.read(self.yard.ledger.job, id)
        if record is None:
            raise Problem(
                404,
                "no_such_job",
                f"there is no job {id[:ID_CHARS_MAX]!r}",
                given=id[:ID_CHARS_MAX],
                allowed="an id like digits-42, or its number, 42",
                tries=["see what there is: `madang ls`, GET /v1/jobs"],
            )
        return record

    @staticmethod
    def check_own(connection: HTTPConnection, record: JobRecord, doing: str) -> None:
        """Members act on their own jobs only; `doing` is what for: "stop it".

        Raises:
            Problem: 403, it is somebody else's.
        """
        caller = who(connection)
        if caller.role is Role.OWNER or caller.name == record.owner:
            return
        raise Problem(
            403,
            "forbidden",
            f"{record.job.id} is {record.owner}'s; {caller.name}, {caller.role.said} of this yard, "
            f"cannot {doing}",
            given=caller.name,
            allowed=[record.owner, "owners of this yard"],
            tries=[
                f"ask {record.owner}, or an owner of this yard",
                f"see your own: `madang ls --owner {caller.name}`",
            ],
        )

    async def allocation(self, job: JobRecord, attempt: int | None) -> Allocation | None:
        """One of a job's stays: the newest, which it may not have yet, or the numbered one.

        Raises:
            Problem: 404, there was no such attempt.
        """
        newest = job.newest
        if attempt is None or (newest is not None and newest.attempt == attempt):
            return newest
        id = f"{job.job.id}.{attempt}"
        allocation = await self.rows.read(self.yard.ledger.allocation, id)
        if allocation is None:
            raise Problem(
                404,
                "no_such_member",
                f"{job.job.id} has no attempt {attempt}",
                given=attempt,
                allowed=f"1 to {job.standing.attempt}" if job.standing.attempt else "none yet",
            )
        return allocation

    @staticmethod
    def check_member(allocation: Allocation, member: int) -> None:
        """Raises:
        Problem: 404, the gang has no such rank.
        """
        if member < len(allocation.seats):
            return
        raise Problem(
            404,
            "no_such_member",
            f"{allocation.job} has no member {member}",
            given=member,
            allowed=f"0 to {len(allocation.seats) - 1}",
        )


def who(connection: HTTPConnection) -> Identity:
    """Whom the gate let in."""
    identity = connection.scope[WHO]
    assert isinstance(identity, Identity), f"passed the gate unknown: {connection.url.path}"
    return identity


def answer(
    view: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A view as JSON, written once by pydantic's core: no second validation, no dict between."""
    body = view.__pydantic_serializer__.to_json(view, by_alias=True)
    return Response(body, status, headers, "application/json")


@dataclass(frozen=True, slots=True)
class Route:
    """A line of the table of routes.

    `problems` are the statuses that the reference shows for it besides those of every route; `also`
    is a second good one with the same view.
    """

    verb: str
    path: str
    handler: Callable[..., Any]
    view: type[BaseModel] | None
    status: int = 200
    problems: tuple[int, ...] = ()
    media_type: str = ""
    also: int = 0


def router_of(noun: str, routes: list[Route]) -> APIRouter:
    """FastAPI's router of the table. The view documents; `answer` has written it already."""
    router = APIRouter(tags=[noun])
    for route in routes:
        text = (route.handler.__doc__ or "").strip()
        responses: dict[int | str, dict[str, Any]] = {
            route.status: {"description": "What was asked for."}
        }
        if route.also:
            responses[route.also] = {"description": "Nothing had to be done: it is so already."}
        if route.view is not None:
            for response in responses.values():
                response["model"] = route.view
        if route.media_type:
            responses[route.status]["content"] = {route.media_type: {}}
        for status in route.problems:
            responses[status] = {}
        router.add_api_route(
            route.path,
            route.handler,
            methods=[route.verb],
            status_code=route.status,
            response_model=None,
            response_class=Response,
            responses=responses,
            summary=text.partition("\n")[0].rstrip("."),
            description="\n".join(line.strip() for line in text.splitlines()),
            name=route.handler.__name__,
        )
    return router
