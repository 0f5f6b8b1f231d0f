"""A stand-in for the daemon: the /v1 contract over an invented yard, for looking at the page.

Standard library only. The yard holds jobs that run, report and write logs as time passes, and tells
its changes as server-sent events. Run it alone to look:

    python -m tests.browser.double --gpus 1024 --port 7171
"""

import argparse
import json
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.browser import invented_views as views
from tests.browser.invented import Job, Yard
from tests.browser.line import Line

PAGE = Path(__file__).resolve().parents[2] / "src" / "madang" / "_web"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
TYPES |= {".svg": "image/svg+xml", ".woff2": "font/woff2"}
# What the real daemon is asked to send: the page must work under it.
CSP = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class Handler(BaseHTTPRequestHandler):
    """The contract's verbs, as far as the page uses them."""

    protocol_version = "HTTP/1.1"
    yard: Yard
    line: Line
    folder: Path = PAGE

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(split.query).items()}
        parts = [unquote(part) for part in split.path.split("/") if part]
        self.yard.asked.append(self.path)
        if not parts or parts[0] != "v1":
            return self.page(parts)
        if not self.yard.logged_in:
            return self.problem(401, "log in first", "unauthorized")
        if parts == ["v1", "events"]:
            return self.stream(int(self.headers.get("Last-Event-ID") or query.get("after") or "-1"))
        if parts == ["v1", "live"]:
            return self.watch(query)
        if parts == ["v1", "live", "moment"]:
            return self.bytes(self.line.moment(int(query["at"])), "application/octet-stream", {})
        with self.yard.news:
            answer = self.answer(parts[1:], query)
        if answer is None:
            return self.problem(404, f"nothing at {split.path}", "not_found")
        if isinstance(answer, tuple):
            return self.bytes(answer[0], "text/plain; charset=utf-8", {"Madang-Offset": answer[1]})
        return self.json(answer)

    def answer(self, parts: list[str], query: dict[str, str]) -> Any:
        yard = self.yard
        match parts:
            case ["overview"]:
                return yard.overview()
            case ["nodes"]:
                return {"nodes": yard.nodes}
            case ["top"]:
                return yard.top()
            case ["jobs"]:
                return yard.page_of_jobs(query)
            case ["jobs", job_id, *rest]:
                job = yard.jobs.get(job_id)
                return None if job is None else self.of_job(job, rest, query)
        return self.of_time(parts, query)

    def of_time(self, parts: list[str], query: dict[str, str]) -> Any:
        """What was and will be: readings, usage, the calendar, and who may have what."""
        yard = self.yard
        match parts:
            case ["series"]:
                return views.series(yard, query)
            case ["live", "history"]:
                return self.line.history(int(query.get("from", 0)))
            case ["quantiles"]:
                return views.quantiles(yard, query)
            case ["metrics", "names"]:
                return {"metrics": views.names()}
            case ["reports", "usage"]:
                return views.usage(yard, query)
            case ["reports", "idle"]:
                return {"projects": views.idle(yard, query)}
            case [("projects" | "quotas" | "workspaces" | "reservations" | "holes") as name]:
                return {name: getattr(views, name)(yard)}
        return None

    def of_job(self, job: Job, rest: list[str], query: dict[str, str]) -> Any:
        member = int(query.get("member", 0))
        match rest:
            case []:
                return job
            case ["why"]:
                waits = job["waits"] or {
                    "code": job["phase"],
                    "text": job["reason"] or job["phase"],
                }
                return {"numbers": {}, "earliest_ms": 0, "basis": "", **waits}
            case ["request"]:
                keys = ("name", "project", "members", "gpus", "command", "category", "retries")
                env = {"HF_HOME": "/mnt/cache/hf", "WANDB_MODE": "offline"}
                return {key: job[key] for key in keys} | {"env": env, "time": "12h"}
            case ["events"]:
                after = int(query.get("after", 0))
                return {"events": [e for e in self.yard.history(job) if e["seq"] > after]}
            case ["reports"]:
                return self.yard.reports(job, member, int(query.get("offset", 0)))
            case ["log"]:
                whole = self.yard.log(job, member)
                if "tail" in query:
                    lines = whole.splitlines(keepends=True)[-int(query["tail"]) :]
                    return b"".join(lines), len(whole)
                offset, limit = int(query.get("offset", 0)), int(query.get("limit", 1 << 20))
                part = whole[offset : offset + limit]
                return part, offset + len(part)
        return None

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.yard.asked.append(f"POST {self.path}")
        parts = [unquote(part) for part in self.path.split("/") if part]
        with self.yard.news:
            job = self.yard.jobs.get(parts[2]) if len(parts) == 4 else None
            if job is None:
                return self.problem(404, "no such job", "not_found")
            if parts[3] == "stop":
                self.yard.end(job, "stopped", 143)
            else:
                self.yard.end(job, "waiting", 0)
                job |= {"ended_ms": 0, "running_ms": 0, "exit_code": None, "seats": []}
                self.yard._reasons()
            self.yard.tell("job", job)
            body = dict(job)
        self.json(body, HTTPStatus.ACCEPTED)

    def watch(self, query: dict[str, str]) -> None:
        """The live line, for as long as it is open."""
        self.close_connection = True
        self.line.serve(self.headers["Sec-WebSocket-Key"], self.connection, query)

    def stream(self, after: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        yard = self.yard
        at = len(yard.events) if after < 0 else after
        cut = yard.cut
        try:
            self.wfile.write(b": hello\n\n")
            self.wfile.flush()
            while True:
                with yard.news:
                    if len(yard.events) <= at and yard.cut == cut:
                        yard.news.wait(timeout=5)
                    if yard.cut > cut:
                        self.close_connection = True
                        return
                    news = yard.events[at:]
                at += len(news)
                text = "".join(
                    f"id: {e['seq']}\nevent: {e['type']}\ndata: {json.dumps(e['body'])}\n\n"
                    for e in news
                )
                self.wfile.write((text or ": still here\n\n").encode())
                self.wfile.flush()
        except OSError:
            self.close_connection = True

    def page(self, parts: list[str]) -> None:
        path = self.folder.joinpath(*parts)
        if not parts or parts[0] != "assets" or not path.is_file():
            path = self.folder / "index.html"
        more = {"Content-Security-Policy": CSP}
        if path.name != "index.html":
            more["Cache-Control"] = "public, max-age=31536000, immutable"
        self.bytes(path.read_bytes(), TYPES[path.suffix], more)

    def json(self, body: Any, status: int = 200) -> None:
        self.bytes(json.dumps(body).encode(), "application/json", {}, status)

    def problem(self, status: int, detail: str, code: str) -> None:
        body = {"type": "about:blank", "title": detail, "status": status, "detail": detail}
        content = json.dumps(body | {"code": code}).encode()
        self.bytes(content, "application/problem+json", {}, status)

    def bytes(self, body: bytes, kind: str, more: dict[str, Any], status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for key, value in more.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves is no error."""


@dataclass(slots=True)
class Double:
    """A running stand-in; a context manager."""

    yard: Yard
    port: int = 0
    folder: Path = PAGE
    server: Server = field(init=False)
    line: Line = field(init=False)

    def __enter__(self) -> "Double":
        self.line = Line(self.yard)
        bound = {"yard": self.yard, "folder": self.folder, "line": self.line}
        handler = type("BoundHandler", (Handler,), bound)
        self.server = Server(("127.0.0.1", self.port), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def stop_streams(self) -> None:
        """Cut every stream and line, as a daemon that is killed does."""
        with self.yard.news:
            self.yard.cut += 1
            self.yard.news.notify_all()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


def main() -> None:
    """Serve a yard until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=1024)
    parser.add_argument("--port", type=int, default=7171)
    parser.add_argument("--turn", type=float, default=4.0, help="seconds between changes")
    parser.add_argument("--slots", action="store_true", help="one machine without GPUs")
    parser.add_argument("--calm", action="store_true", help="no jobs at all")
    words = parser.parse_args()
    with Double(Yard(words.gpus, slots=words.slots, calm=words.calm), words.port) as double:
        print(double.url)
        while True:
            time.sleep(words.turn)
            if not words.calm:
                double.yard.turn()


if __name__ == "__main__":
    main()
