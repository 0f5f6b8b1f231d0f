"""What stands in for hardware and for the daemon: never for our own code.

A tree of sysfs, a module with NVML's functions and errors, and an HTTP server that answers what it
is told to, and keeps what it was sent.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from madang.agent._base import Reading


def values(reading: Reading) -> dict[str, dict[str, float]]:
    """Metric → key → value; NaN are left out."""
    return {
        column.metric: {
            key: value
            for key, value in zip(column.keys, column.values.tolist(), strict=True)
            if value == value  # noqa: PLR0124 - NaN
        }
        for column in reading.columns
    }


def write_tree(root: Path, files: dict[str, str]) -> None:
    """Path below `root` → content."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


class Served:
    """A server on the loopback: `answers` are used up one by one, the last is kept."""

    def __init__(self, answers: list[tuple[int, dict[str, str], bytes]]) -> None:
        self.answers = answers
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.on_request: Callable[[], None] = lambda: None
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                served.requests.append((self.path, headers, body))
                served.on_request()
                answers = served.answers
                status, extra, content = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _answer

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that was killed: quiet."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def serving(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Served]:
    """A server with these answers, as long as the block lasts."""
    served = Served(list(answers) or [(200, {}, b"{}")])
    thread = threading.Thread(target=served.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        served.server.shutdown()
        thread.join()
        served.server.server_close()
