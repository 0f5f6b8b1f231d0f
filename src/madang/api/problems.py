"""Every way a request can fail, as a Problem that becomes RFC 9457 JSON.

A handler raises `Problem`; what FastAPI and the yard raise is translated here. A failure of ours is
told by an id only: the log has the rest under it.
"""

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from madang.api.yard import Busy, NoSuchMember, NotCommitted, Refused
from madang.ledger import LedgerError
from madang.wire.problems import MEDIA_TYPE, FieldError, ProblemView, shortened

log = logging.getLogger("madang.api")

ERRORS_SHOWN_MAX = 50
_PYDANTICS = re.compile(r"^(Input|List|String|Dictionary)(?= should)")
RETRY_AFTER_S = 2

# Each code with its words. The reference at /docs lists them; nothing else may be answered.
TITLES: dict[str, str] = {
    "bad_json": "The body is not JSON",
    "bad_request": "The request cannot be understood",
    "invalid": "The request has mistakes in it",
    "rejected": "The job can never run here",
    "unauthorized": "No valid token or login",
    "login_link_void": "The login link is used up or too old",
    "forbidden": "Your role does not allow that",
    "wrong_host": "The daemon is not reached by this name",
    "cross_site": "The request comes from another site",
    "not_found": "There is no such thing",
    "no_such_path": "There is no such path",
    "no_such_job": "There is no such job",
    "no_such_member": "There is no such member here",
    "no_such_code": "There is no such code snapshot",
    "no_such_node": "There is no such node",
    "no_such_moment": "There is no such moment",
    "no_such_project": "There is no such project",
    "no_such_hole": "There is no such hole",
    "no_room": "The room cannot be made",
    "no_such_metric": "There is no such metric",
    "no_such_token": "There is no such token",
    "wrong_method": "This path has no such method",
    "slow_body": "The body came too slowly",
    "conflict": "It is not in the state for that",
    "key_reused": "The idempotency key belongs to another request",
    "name_taken": "The name is taken",
    "too_large": "The body is too large",
    "wrong_frames": "The body is not frames",
    "wrong_code": "The upload is not the code snapshot that its path names",
    "wrong_media_type": "The body has the wrong media type",
    "busy": "The daemon is busy",
    "not_committed": "The change could not be stored",
    "no_space": "The upload could not be stored",
    "internal": "A failure of the daemon",
}


class Problem(HTTPException):
    """A failure with its words; `code` is a key of TITLES."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        tries: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.view = ProblemView(
            type=f"/docs#{code}",
            title=TITLES[code],
            status=status,
            code=code,
            detail=detail,
            tries=list(tries),
            **more,
        )

    def response(self) -> Response:
        return Response(
            self.view.model_dump_json(by_alias=True),
            self.status_code,
            self.headers,
            MEDIA_TYPE,
        )


def busy(detail: str, retry_after_s: int = RETRY_AFTER_S) -> Problem:
    """503: a bound is reached; nothing happened."""
    return Problem(
        503,
        "busy",
        detail,
        tries=[f"again in {retry_after_s} s"],
        headers={"retry-after": str(retry_after_s)},
    )


def refused(answer: Refused) -> Problem:
    """422: the guide of a job that never fits."""
    guide = answer.guide
    return Problem(
        422,
        "rejected",
        guide.text,
        tries=guide.tries,
        reason=guide.code,
        numbers=dict(guide.numbers),
    )


def from_exception(error: Exception) -> Problem:
    """The problem for anything that came up; what nobody expected is logged here, once."""
    match error:
        case Problem():
            return error
        case Busy():
            return busy(str(error), error.retry_after_s)
        case NotCommitted() | LedgerError():
            return not_committed(error)
        case NoSuchMember():
            return Problem(404, "no_such_member", str(error))
        case HTTPException():
            return _from_http(error)
    id = secrets.token_hex(6)
    log.error("failure %s of a request", id, exc_info=error)
    return Problem(
        500,
        "internal",
        f"something went wrong that should not have; the daemon's log tells more under {id}",
        tries=["again; if it stays, send the log's lines to whoever runs this daemon"],
        id=id,
    )


def not_committed(error: Exception) -> Problem:
    """503: the ledger could not be read or written; nothing was acknowledged."""
    log.warning("the ledger failed a request: %s", error)
    return Problem(
        503,
        "not_committed",
        f"nothing was changed: {str(error).splitlines()[0] if str(error) else 'no details'}",
        tries=[
            f"again in {RETRY_AFTER_S} s",
            "see whether the disk of the state directory is full",
        ],
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def _from_http(error: HTTPException) -> Problem:
    if error.status_code == 400:  # FastAPI's, for what its parser choked on
        return Problem(
            400,
            "bad_json",
            "the body cannot be read: it is nested too deeply, holds a number of thousands of "
            "digits, or is not UTF-8",
        )
    code = "no_such_path" if error.status_code == 404 else "bad_request"
    return Problem(error.status_code, code, str(error.detail), headers=error.headers)


# -- mistakes in a request -------------------------------------------------------------------------


def from_validation(error: RequestValidationError, request: Request) -> Problem:
    """400 for what is no JSON, 422 with each wrong place for the rest."""
    found = error.errors()
    first = found[0]
    if first["type"] == "json_invalid":
        position = first["loc"][-1]
        reason = first.get("ctx", {}).get("error", "it breaks off")
        return Problem(
            400,
            "bad_json",
            f"{reason} at character {position}",
            given=shortened(error.body[int(position) :] if isinstance(error.body, str) else None),
            tries=['send one JSON object, e.g. {"command": ["python", "train.py"]}'],
        )
    return invalid(found, _known_keys(request))


def invalid(found: Sequence[Any], known: Mapping[str, Sequence[str]]) -> Problem:
    """422 from pydantic's errors. `known` are the keys of body and query, for a near miss."""
    errors = [_field_error(one, known) for one in found[:ERRORS_SHOWN_MAX]]
    more = f" (the first {ERRORS_SHOWN_MAX} are shown)" if len(found) > ERRORS_SHOWN_MAX else ""
    count = f"{len(found)} mistakes{more}: " if len(found) > 1 else ""
    return Problem(
        422,
        "invalid",
        f"{count}{errors[0].where or 'the body'}: {errors[0].problem}",
        errors=errors,
    )


def model_keys(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


def _known_keys(request: Request) -> dict[str, Sequence[str]]:
    """The keys that the route's body and query know."""
    route = request.scope.get("route")
    known: dict[str, Sequence[str]] = {}
    dependant = getattr(route, "dependant", None)
    for place, fields in (
        ("body", getattr(dependant, "body_params", ())),
        ("query", getattr(dependant, "query_params", ())),
    ):
        for field in fields:
            model = field.field_info.annotation
            if isinstance(model, type) and issubclass(model, BaseModel):
                known[place] = model_keys(model)
    return known


def _field_error(one: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> FieldError:
    place, *path = one["loc"] or ("body",)
    prefix = [] if place == "body" else [str(place)]
    where = ".".join([*prefix, *(str(step) for step in path)])
    problem = _PYDANTICS.sub("it", str(one["msg"]).removeprefix("Value error, "))
    given = shortened(one.get("input"))
    match one["type"]:
        case "extra_forbidden":
            problem = _unknown_key(str(path[-1]), known.get(str(place), ()))
        case "missing" if not path:
            problem, given = "the body is missing; send a JSON object", None
        case "missing":
            problem, given = "it is missing", None
        case "model_attributes_type" | "model_type":
            problem = "it must be a JSON object"
    return FieldError(where=where, given=given, problem=problem)


def _unknown_key(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"there is no key {key!r}; did you mean {near[0]!r}?"
    return f"there is no key {key!r}; there are: {', '.join(known)}" if known else "unknown key"
