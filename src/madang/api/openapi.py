"""The OpenAPI document, made complete: who may call, what problems look like, what is a stream."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from madang.api.feed import JobEventView, NodeEventView, ProjectEventView, SettingEventView
from madang.api.problems import TITLES
from madang.wire.problems import MEDIA_TYPE, ProblemView
from madang.wire.views import BatchRequest

FRAMES_TYPE = "application/vnd.madang.frames"
PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
OPEN_PATHS = frozenset({"/v1/health", "/login"})
BODY_METHODS = frozenset({"post", "put"})
NO_BODY = {"minLength": 0, "maxLength": 0}
EVERYWHERE = {
    400: "The request cannot be understood.",
    401: "No valid token or login.",
    403: "The caller's role does not allow it, or a page of another site asks.",
    421: "The daemon is not reached by this host name.",
    500: "A failure of the daemon; its log has the id.",
    503: "The daemon is busy or could not store the change; `Retry-After` says when to come again.",
}
STATUS_WORDS = {
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "It is not in the state for that.",
    413: "The body is too large.",
    415: "The body has the wrong media type.",
    422: "The request has mistakes in it, or the job can never run here.",
    507: "There is no room for the upload.",
    **EVERYWHERE,
}
DESCRIPTION = """Submit, watch and stop jobs on a shared pool of GPUs.

Programs send `Authorization: Bearer TOKEN`; browsers a cookie that a login link has set. Every
error is a problem (RFC 9457) with a `code` for programs and words for people. `POST /v1/jobs` takes
an `Idempotency-Key`: sent twice, it makes one job. `GET /v1/events` streams what changes."""

JOBS = """Submit, watch, stop; logs, reports, terminals.

`/v1/jobs/{id}/exec` is a WebSocket with a terminal beside a member: `?member=0&rows=24&cols=80` and
`command` as a JSON list. Binary frames are its bytes, both ways; a text frame
`{"resize": [rows, cols]}` resizes it; the last text frame is `{"exit": code}`."""


def document(app: FastAPI) -> dict[str, Any]:
    """The finished document."""
    found = get_openapi(
        title="Madang",
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        separate_input_output_schemas=False,
        tags=[
            {"name": "jobs", "description": JOBS},
            {"name": "code", "description": "The code that jobs run, by digest."},
            {"name": "nodes", "description": "Machines, devices, sensors."},
            {"name": "holes", "description": "Room that is made by moving jobs, and kept."},
            {"name": "yard", "description": "The whole: overview, projects, events."},
            {"name": "telemetry", "description": "What sensors say and said; what agents send."},
            {"name": "access", "description": "Tokens, logins."},
        ],
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _add_models(schemas)
    found["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "A token of this daemon."},
        "browser": {
            "type": "apiKey",
            "in": "cookie",
            "name": "madang-PORT",
            "description": "Set by a login link; requests that change something need same-origin.",
        },
    }
    found["security"] = [{"token": []}, {"browser": []}]
    found["x-problem-codes"] = TITLES
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation)
    return found


def _add_models(schemas: dict[str, Any]) -> None:
    template = "#/components/schemas/{model}"
    events = (JobEventView, NodeEventView, ProjectEventView, SettingEventView)
    for model in (ProblemView, BatchRequest, *events):
        schema = model.model_json_schema(ref_template=template, by_alias=True)
        for name, inner in schema.pop("$defs", {}).items():
            schemas.setdefault(name, inner)
        schemas["Problem" if model is ProblemView else model.__name__] = schema
    schemas.pop("ProblemView", None)
    batch = schemas.get("BatchView", {}).get("properties", {}).get("jobs", {})
    if batch:
        batch["items"] = {"anyOf": [{"$ref": "#/components/schemas/JobView"}, PROBLEM_REF]}


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    statuses = {int(status) for status in responses if int(status) >= 400}
    statuses |= set(EVERYWHERE) if path not in OPEN_PATHS else {400, 403, 421, 500}
    if method in BODY_METHODS:
        statuses |= {408, 413, 415}
    if operation.get("parameters") or "requestBody" in operation:
        statuses.add(422)
    for status in sorted(statuses):
        responses[str(status)] = {
            "description": STATUS_WORDS[status],
            "content": {MEDIA_TYPE: {"schema": PROBLEM_REF}},
        }
    if path in OPEN_PATHS:
        operation["security"] = []
    if path == "/v1/code/{digest}" and method == "put":
        operation["requestBody"] = {
            "required": True,
            "description": "A .tar.zst, at most 1 GiB.",
            "content": {"application/zstd": {"schema": {"type": "string", "format": "binary"}}},
        }
    if path == "/v1/frames":
        operation["requestBody"] = {
            "required": True,
            "description": "Frames, each behind its length, packed by zstandard; at most 8 MiB.",
            "content": {FRAMES_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    success = next((one for code, one in responses.items() if code.startswith("2")), None)
    if success is not None and "text/event-stream" in success.get("content", {}):
        names = ("JobEventView", "NodeEventView", "ProjectEventView", "SettingEventView")
        success["description"] = "Events; `data` of each is one of: " + ", ".join(names) + "."
        success["content"]["text/event-stream"] = {"schema": {"type": "string"}}
