"""A daemon's HTTP, small and in this process: the contract's paths over a dictionary of jobs.

It schedules nothing: a test moves its jobs (`start`, `write`, `end`). `faults` makes the next
requests fail as networks and restarting daemons do. What arrived is in `requests`.
"""

import hashlib
import json
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "secret-of-the-double"
ENDED = ("succeeded", "failed", "stopped")


class Problem(Exception):
    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        self.status = status
        self.document = {
            "type": "about:blank",
            "title": code,
            "status": status,
            "code": code,
            "detail": detail,
            **more,
        }


def _entry(name: str) -> dict[str, Any]:
    """A token in the list."""
    return {
        "name": name,
        "user": name,
        "role": "member",
        "kind": "token",
        "made_ms": 1,
        "expires_ms": 0,
    }


class Double:
    """The state of the small daemon. Use with `serving()`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.logs: dict[tuple[str, int], bytes] = {}
        self.codes: dict[str, bytes] = {}
        self.memos: dict[str, str] = {}
        self.why_numbers: dict[str, int] = {"free": 1, "total": 4}
        self.projects: dict[str, float | None] = {"default": None}
        self.tokens: list[str] = ["first"]
        self.nodes = {"node-1": "ready"}
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.faults: deque[str] = deque()
        self.streams_break_after = 0  # events sent before a stream is cut; 0: never
        self.listened = threading.Event()  # somebody follows the events
        self.url = ""
        self.closing = False

    # -- what tests do ---------------------------------------------------------------------

    def submit(self, request: dict[str, Any], key: str = "") -> dict[str, Any]:
        with self.changed:
            if key and key in self.keys:
                return self.jobs[self.keys[key]]
            n = len(self.jobs) + 1
            name = request.get("name") or "job"
            job = job_view(n, name, request)
            self.jobs[job["id"]] = job
            self.asked[job["id"]] = request
            if key:
                self.keys[key] = job["id"]
            self.tell(job["id"], "JobSubmitted")
            return job

    def start(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.update(phase="running", attempt=job["attempt"] + 1, running_ms=now_ms(), waits=None)
        job["allocation"] = f"{job_id}.{job['attempt']}"
        job["seats"] = [
            {"rank": rank, "node": "node-1", "gpus": [rank], "started": True, "exit": None}
            for rank in range(job["members"])
        ]
        self.tell(job_id, "AllocationStarted")

    def write(self, job_id: str, text: bytes, rank: int = 0) -> None:
        with self.changed:
            self.logs[job_id, rank] = self.logs.get((job_id, rank), b"") + text
            self.changed.notify_all()

    def end(self, job_id: str, code: int = 0) -> None:
        job = self.jobs[job_id]
        job.update(
            phase="failed" if code else "succeeded",
            exit_code=code,
            ended_ms=now_ms(),
            reason=f"member 0 exited with {code}" if code else "",
        )
        self.tell(job_id, "AllocationReleased")

    def tell(self, job_id: str, kind: str) -> None:
        with self.changed:
            job = self.jobs[job_id]
            self.events.append(
                {
                    "seq": len(self.events) + 1,
                    "at_ms": now_ms(),
                    "kind": kind,
                    "job": job_id,
                    "node": "",
                    "phase": job["phase"],
                    "reason": job["reason"],
                    "text": f"{job_id}: {kind}",
                }
            )
            self.changed.notify_all()

    @contextmanager
    def serving(self):
        server = _Server(("127.0.0.1", 0), _Handler)
        server.double = self
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with self.changed:
                self.closing = True
                self.changed.notify_all()
            server.shutdown()
            server.server_close()
            thread.join()

    # -- what the API does -----------------------------------------------------------------

    def job(self, named: str) -> dict[str, Any]:
        for job in self.jobs.values():
            if named in (job["id"], str(job["n"])):
                return job
        raise Problem(404, "no_such_job", f"there is no job {named}", given=named)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        match method, path.split("/")[2:]:
            case "GET", ["health"]:
                return {"status": "ok", "version": "9.9", "role": "leader"}
            case "POST", ["try"]:
                return {
                    "code": "never" if body.get("gpus", 1) > 8 else "waits",
                    "text": "needs 2 GPUs; 1 of 4 GPUs are free",
                    "places": [],
                    "try": ["--gpus 1 per member fits in what is free now"],
                    "earliest_ms": 0,
                }
            case "GET", ["jobs"]:
                return self.list_jobs(query)
            case method, ["jobs", job_id, *rest]:
                return self.of_job(method, self.job(job_id), rest, query, body)
            case "POST", ["jobs:batch"]:
                return {"jobs": [self.submit(each) for each in body["jobs"]]}
            case "GET", ["nodes"]:
                return {"nodes": [node_view(id_, state) for id_, state in self.nodes.items()]}
            case "POST", ["nodes", node, verb]:
                if node not in self.nodes:
                    raise Problem(404, "no_such_node", f"there is no node {node}", given=node)
                self.nodes[node] = "cordoned" if verb == "cordon" else "ready"
                return node_view(node, self.nodes[node])
            case _:
                return self.of_yard(method, path, body)

    def of_yard(self, method: str, path: str, body: Any) -> Any:
        match method, path.split("/")[2:]:
            case "GET", ["top"]:
                return TOP
            case "GET", ["overview"]:
                return OVERVIEW
            case "GET", ["projects"]:
                return {"projects": [project_view(*each) for each in self.projects.items()]}
            case "PUT", ["projects", project]:
                self.projects[project] = body["quota_gpus"]
                return project_view(project, body["quota_gpus"])
            case "POST", ["login-links"]:
                said = {"user": "tester", "role": "owner", **(body or {})}
                return {"url": f"{self.url}/login?once=abc", "expires_ms": 0, **said}
            case "GET", ["tokens"]:
                return {"tokens": [_entry(n) for n in self.tokens]}
            case "POST", ["tokens"]:
                self.tokens.append(body["name"])
                return {**body, "token": "mdg_new"}
            case "DELETE", ["tokens", name]:
                if name not in self.tokens:
                    raise Problem(404, "no_such_token", f"there is no token {name}", given=name)
                self.tokens.remove(name)
                return {}
            case _:
                raise Problem(404, "no_such_path", f"there is no {path}")

    def list_jobs(self, query: dict[str, str]) -> dict[str, Any]:
        wanted = query.get("phase", "")
        found = []
        for job in sorted(self.jobs.values(), key=lambda each: -each["n"]):
            is_ended = job["phase"] in ENDED
            fits = not wanted or wanted == ("ended" if is_ended else "live")
            fits = fits or job["phase"] in wanted.split(",")
            if fits and all(job[k] == query[k] for k in ("name", "project") if k in query):
                found.append(job)
        limit = int(query.get("limit", 100))
        return {"jobs": found[:limit], "next": found[limit]["n"] if len(found) > limit else None}

    def of_job(self, method: str, job: dict[str, Any], rest: list[str], query: Any, body: Any):
        match method, rest:
            case "GET", []:
                return job
            case "GET", ["request"]:
                return self.asked[job["id"]]
            case "GET", ["why"]:
                return {
                    "code": "capacity",
                    "text": "needs 2 GPUs; 1 of 4 GPUs are free",
                    "numbers": self.why_numbers,
                    "earliest_ms": 0,
                    "basis": "",
                }
            case "GET", ["events"]:
                after = int(query.get("after", 0))
                mine = [e for e in self.events if e["job"] == job["id"] and e["seq"] > after]
                return {"events": mine[: int(query.get("limit", 1000))]}
            case "GET", ["reports"]:
                return {"offset": 10, "reports": [{"t_ms": 1, "step": 1, "loss": 0.5}]}
            case "PUT", ["memo"]:
                job["memo"] = body["memo"]
                return job
            case "POST", ["stop"]:
                if job["phase"] not in ENDED:
                    job.update(phase="stopped", reason="stopped", ended_ms=now_ms())
                    self.tell(job["id"], "JobStopAsked")
                return job
            case "POST", ["requeue"]:
                if job["phase"] != "running":
                    raise Problem(409, "conflict", f"{job['id']} does not run", given=job["phase"])
                job.update(phase="waiting")
                return job
            case _:
                raise Problem(404, "no_such_path", "there is no such path")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    double: Double

    def process_request(self, request: Any, client_address: Any) -> None:
        self.double.connections += 1
        super().process_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_any(self) -> None:
        double = self.server.double
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        double.requests.append((self.command, self.path, headers, body))
        fault = double.faults.popleft() if double.faults else ""
        if fault == "drop":
            self.close_connection = True
            return
        try:
            if fault == "busy":
                raise Problem(503, "busy", "the daemon is busy")
            answered = self.answered(body)
        except Problem as problem:
            if fault != "drop_after":
                self.send(problem.status, problem.document, "application/problem+json")
            return
        if fault == "drop_after":
            self.close_connection = True
        elif answered is not None:
            self.send(*answered)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_any

    def answered(self, body: bytes) -> tuple[int, Any, str] | None:
        double = self.server.double
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if path != "/v1/health" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Problem(401, "unauthorized", "no valid token", **{"try": ["madang token add"]})
        if path == "/v1/events":
            self.stream_events(query)
            return None
        if path.endswith("/log"):
            return self.log(path, query)
        if path.startswith("/v1/code/"):
            return self.code(path.rpartition("/")[2], body)
        try:
            given: Any = json.loads(body) if body else None
        except ValueError:
            raise Problem(400, "bad_json", "the body is not JSON") from None
        if (self.command, path) == ("POST", "/v1/jobs"):
            return self.create(given)
        return 200, double.answer(self.command, path, query, given), "application/json"

    def create(self, given: dict[str, Any]) -> tuple[int, Any, str]:
        if given.get("gpus", 1) > 8:
            tries = {"try": ["--gpus 8", "--members 2"]}
            detail = "64 GPUs asked, but the largest node has 8 GPUs"
            raise Problem(422, "rejected", detail, given=given["gpus"], **tries)
        if "colour" in given:
            found = [{"where": "colour", "given": given["colour"], "problem": "no such field"}]
            raise Problem(422, "invalid", "the request has mistakes in it", errors=found)
        key = self.headers.get("Idempotency-Key", "")
        return 201, self.server.double.submit(given, key), "application/json"

    def code(self, digest: str, body: bytes) -> tuple[int, Any, str]:
        codes = self.server.double.codes
        if self.command == "PUT":
            found = hashlib.sha256(body).hexdigest()
            if found != digest:
                raise Problem(422, "wrong_digest", "other bytes", given=found, allowed=digest)
            codes[digest] = body
            return 201, {"digest": digest, "size_bytes": len(body)}, "application/json"
        if digest not in codes:
            raise Problem(404, "no_such_code", "there is no such code", given=digest)
        return 200, codes[digest], "application/zstd"

    def log(self, path: str, query: dict[str, str]) -> tuple[int, Any, str] | None:
        double = self.server.double
        job = double.job(path.split("/")[3])
        rank, offset = int(query.get("member", 0)), int(query.get("offset", 0))
        written = double.logs.get((job["id"], rank), b"")
        if "tail" in query:
            lines = written.splitlines(keepends=True)[-int(query["tail"]) :]
            offset = len(written) - len(b"".join(lines))
        if "follow" not in query:
            piece = written[offset : offset + int(query.get("limit", 1 << 20))]
            self.next_offset = offset + len(piece)
            return 200, piece, "text/plain"
        self.begin_stream("text/plain")
        while True:
            with double.changed:
                while not (piece := double.logs.get((job["id"], rank), b"")[offset:]):
                    if job["phase"] in ENDED or double.closing:
                        break
                    double.changed.wait()
            if not piece:
                self.end_stream()
                return None
            offset += len(piece)
            self.chunk(piece)

    def stream_events(self, query: dict[str, str]) -> None:
        double = self.server.double
        said = self.headers.get("Last-Event-ID") or query.get("after")
        after = int(said) if said else len(double.events)
        self.begin_stream("text/event-stream")
        self.chunk(b": after %d\n\n" % after)
        double.listened.set()
        sent = 0
        while not double.closing:
            with double.changed:
                while not (fresh := double.events[after:]) and not double.closing:
                    double.changed.wait()
            for event in fresh:
                after = event["seq"]
                text = json.dumps(event)
                self.chunk(b"id: %d\r\nevent: job\r\ndata: %s\r\n\r\n" % (after, text.encode()))
                sent += 1
                if sent == double.streams_break_after:
                    self.close_connection = True
                    return

    def begin_stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    next_offset = 0

    def send(self, status: int, answer: Any, kind: str) -> None:
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        if kind == "text/plain":
            self.send_header("Madang-Offset", str(self.next_offset))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def now_ms() -> int:
    return int(time.time() * 1000)


def job_view(n: int, name: str, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{name}-{n}",
        "n": n,
        "name": name,
        "project": request.get("project", "default"),
        "owner": "ada",
        "phase": "waiting",
        "reason": "",
        "provisioning": request.get("provisioning", "on_demand"),
        "category": "training",
        "purpose": "produce",
        "priority": 0,
        "members": request.get("members", 1),
        "gpus": request.get("gpus", 1),
        "profile": "",
        "command": request["command"],
        "image": "",
        "code": request.get("code", ""),
        "env_names": sorted(request.get("env", {})),
        "time_ms": 0,
        "grace_ms": 30_000,
        "retries": 0,
        "failures": 0,
        "attempt": 0,
        "allocation": "",
        "submitted_ms": now_ms(),
        "running_ms": 0,
        "ended_ms": 0,
        "exit_code": None,
        "seats": [],
        "memo": request.get("memo", ""),
        "forked_from": request.get("forked_from", ""),
        "waits": {
            "code": "capacity",
            "text": "needs 2 GPUs; 1 of 4 GPUs are free",
            "earliest_ms": 0,
            "basis": "",
        },
    }


def node_view(id_: str, state: str) -> dict[str, Any]:
    gpu = {"index": 0, "healthy": True, "free_milli": 500, "model": "H100", "memory_mib": 81_920}
    gpu["jobs"] = [{"job": "digits-1", "member": 0, "milli": 500}]
    return {
        "id": id_,
        "state": state,
        "model": "H100",
        "group": "default",
        "domains": [],
        "cpus": 16,
        "memory_mib": 131_072,
        "gpus": [gpu],
    }


def project_view(id_: str, quota: float | None) -> dict[str, Any]:
    return {"id": id_, "workspace": "default", "quota_gpus": quota, "used_gpus": 0.5}


TOP = {
    "nodes": [
        {
            "id": "node-1",
            "cpu_percent": 50.0,
            "memory_used_mib": 2_048,
            "gpus": [
                {
                    "index": 0,
                    "util_percent": 97.0,
                    "memory_used_mib": 40_960,
                    "power_w": None,
                    "temperature_c": 61.0,
                }
            ],
        }
    ],
    "members": [
        {"job": "digits-1", "allocation": "digits-1.1", "rank": 0, "cpu_percent": 99.0}
        | {"memory_mib": 512}
    ],
}
OVERVIEW = {
    "now_ms": 0,
    "version": "9.9",
    "cluster": "yard",
    "counts": {"waiting": 3, "running": 2, "starting": 0},
    "gpus": {"total": 4, "held": 2.5, "free": 1.5, "unhealthy": 0},
    "nodes": 1,
}
