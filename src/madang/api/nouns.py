"""What operators set, as one family: `GET /v1/NOUNS`, `PUT` one whole, `DELETE` one.

A noun is a line of what differs: its shapes on the wire, how a request is judged and becomes a
setting, the fact that carries it, how it is shown. What is alike is here once: nothing is answered
before its commit, the turn's own judgement is the last word, and what is not there is told with
what is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, who
from madang.api.problems import Problem
from madang.core.events import Fact, SettingDropped
from madang.core.snapshot import Snapshot
from madang.wire.jobs import NAME_PATTERN

KNOWN_SHOWN_MAX = 20
Name = Annotated[str, Path(pattern=NAME_PATTERN)]
Known = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to set something: by whom, under which name (""; it is in the body), what."""

    by: str
    id: str
    body: Any


@dataclass(frozen=True, slots=True)
class Noun:
    """A line of the family; see the module's docstring.

    Attributes:
        kind: the plural, as in the path, and in `core.settings.KINDS`, or `known` says.
        one: the singular; `ls` the command that lists them.
        asked: the body's shape; None: there is none, the name says all.
        setting: the judged setting of a request; raises the Problem that speaks against it.
        fact: what brings it into the next turn.
        views: all of them as they are shown, in order; `view_of` one.
        most: so many at most; 0: `setting` sees to that.
        named: the path ends in the name; else the body has it.
        docs: what the reference says of list, set, drop.
        known: all there are, by `key`.
    """

    kind: str
    one: str
    ls: str
    asked: type[BaseModel] | None
    view: type[BaseModel]
    listed: type[BaseModel]
    setting: Callable[[Snapshot, Asked], Any]
    fact: Callable[[Any], Fact]
    views: Callable[[Snapshot], Sequence[BaseModel]]
    view_of: Callable[[Snapshot, Any], BaseModel]
    docs: tuple[str, str, str]
    most: int = 0
    named: bool = True
    known: Callable[[Snapshot], Known] | None = None
    key: Callable[[Any], str] = attrgetter("key")

    def kept(self, snapshot: Snapshot) -> Known:
        """All that was set, by key."""
        return self.known(snapshot) if self.known else snapshot.settings.of(self.kind)


class Family:
    """The handlers of a noun, as routes. A noun with other ways leaves a route out."""

    def __init__(self, desk: Desk, noun: Noun) -> None:
        self._desk = desk
        self._noun = noun

    # -- what is done ----------------------------------------------------------------------------

    async def all(self) -> Response:
        """Every one of them."""
        return answer(await self._desk.rows.read(self._all))

    def _all(self) -> BaseModel:
        noun = self._noun
        return noun.listed(**{noun.kind: noun.views(self._desk.yard.snapshot())})

    async def put(self, asked: Asked) -> Response:
        """Make or change one; answered as the turn left it."""
        noun, rows, yard = self._noun, self._desk.rows, self._desk.yard
        setting = await rows.read(self._judged, asked)
        await yard.ask(noun.fact(setting))
        return answer(await rows.read(self._made, asked, setting))

    def _judged(self, asked: Asked) -> Any:
        noun, snapshot = self._noun, self._desk.yard.snapshot()
        kept, setting = noun.kept(snapshot), noun.setting(snapshot, asked)
        key = noun.key(setting)
        if noun.most and key not in kept and len(kept) >= noun.most:
            text = f"there are too many {noun.kind}"
            raise Problem(409, "conflict", text, given=key, allowed=noun.most)
        return setting

    def _made(self, asked: Asked, setting: Any) -> BaseModel:
        noun, snapshot = self._noun, self._desk.yard.snapshot()
        key = noun.key(setting)
        if noun.kept(snapshot).get(key) == setting:
            return noun.view_of(snapshot, setting)
        # Somebody was quicker: the turn has judged it again, beside theirs.
        noun.setting(snapshot, asked)
        raise Problem(
            409,
            "conflict",
            f"{noun.one} {key} is not in force: somebody changed it at the same moment",
            given=key,
            tries=[f"look, and try again: `{noun.ls}`, GET /v1/{noun.kind}"],
        )

    async def drop(self, key: str, by: str) -> Response:
        """Take one away; what is left is the answer."""
        noun = self._noun
        kept = noun.kept(await self._desk.rows.read(self._desk.yard.snapshot))
        if key not in kept:
            raise missing(
                f"there is no {noun.one} {key}",
                key,
                kept,
                f"see what there is: `{noun.ls}`, GET /v1/{noun.kind}",
            )
        await self._desk.yard.ask(SettingDropped(noun.kind, key, by))
        return answer(await self._desk.rows.read(self._all))

    # -- as routes -------------------------------------------------------------------------------

    def list_route(self) -> Route:
        """`GET /v1/NOUNS`."""

        async def all_of_them() -> Response:
            return await self.all()

        handler = _said(all_of_them, f"list_{self._noun.kind}", self._noun.docs[0])
        return Route("GET", f"/v1/{self._noun.kind}", handler, self._noun.listed)

    def set_route(self, problems: tuple[int, ...] = (404, 409, 422, 503)) -> Route:
        """`PUT /v1/NOUNS/{id}`, or without the id where the body has it."""
        noun = self._noun
        path = f"/v1/{noun.kind}/{{id}}" if noun.named else f"/v1/{noun.kind}"
        handler = _said(self._set_handler(), f"set_{noun.one}", noun.docs[1])
        return Route("PUT", path, handler, noun.view, 200, problems)

    def drop_route(self) -> Route:
        """`DELETE /v1/NOUNS/{id}`."""

        async def drop(request: Request, id: Name) -> Response:
            return await self.drop(id, who(request).name)

        noun = self._noun
        handler = _said(drop, f"drop_{noun.one}", noun.docs[2])
        path = f"/v1/{noun.kind}/{{id}}"
        return Route("DELETE", path, handler, noun.listed, 200, (404, 422, 503))

    def _set_handler(self) -> Callable[..., Any]:
        """FastAPI reads what a handler takes from its signature: one for each form."""

        async def put_named(request: Request, id: Name, body: Any) -> Response:
            return await self.put(Asked(who(request).name, id, body))

        async def put_bare(request: Request, id: Name) -> Response:
            return await self.put(Asked(who(request).name, id, None))

        async def put_whole(request: Request, body: Any) -> Response:
            return await self.put(Asked(who(request).name, "", body))

        if self._noun.asked is None:
            return put_bare
        handler = put_named if self._noun.named else put_whole
        handler.__annotations__["body"] = self._noun.asked
        return handler


def _said(handler: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    """The handler under the name and with the words that the reference shows."""
    handler.__name__, handler.__doc__ = name, doc
    return handler


# -- what the judgements share ---------------------------------------------------------------------


def missing(text: str, given: str, known: Iterable[str], hint: str) -> Problem:
    """404: what was named is not there; some of what is."""
    return Problem(404, "not_found", text, given=given, allowed=shown(known), tries=[hint])


def shown(known: Iterable[str]) -> str:
    """The first names, and how many more."""
    names = sorted(known)
    more = len(names) - KNOWN_SHOWN_MAX
    said = ", ".join(names[:KNOWN_SHOWN_MAX]) or "none"
    return f"{said} and {more} more" if more > 0 else said


def check_owner(snapshot: Snapshot, owner: str) -> None:
    """`project:NAME` or `workspace:NAME` of one that there is.

    Raises:
        Problem: 422, not that form; 404, no such owner.
    """
    kind, _, name = owner.partition(":")
    known: Iterable[str] = snapshot.projects
    if kind == "workspace":
        known = workspaces_of(snapshot)
    elif kind != "project":
        raise Problem(
            422, "invalid", "this is no owner", given=owner, allowed="project:NAME, workspace:NAME"
        )
    if name not in known:
        text = f"there is no {kind} {name}"
        raise missing(text, owner, known, f"madang {kind} set {name}")


def workspaces_of(snapshot: Snapshot) -> set[str]:
    """The names of all that were made or that a project is in."""
    inside = {project.workspace for project in snapshot.projects.values()}
    return inside | set(snapshot.settings.workspaces)
