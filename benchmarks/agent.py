"""What an agent costs its node: python -m benchmarks.agent [--seconds 60].

A real `madang agent` in a process of its own, at an interval of a second (ten times as often as
usual), pushing to a server that says yes, with a buffer on disk. Measured from /proc after it has
warmed up: CPU time per frame, resident memory, bytes on the wire. Three nodes: one without GPUs,
one with eight by NVML (a library of our own with NVML's binary interface, which answers at once:
what a real driver takes comes on top), one with the page of a dcgm-exporter with eight.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from madang.telemetry.frames import unpack

TOP = Path(__file__).parent.parent
WARM_FRAMES = 5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Sink(ThreadingHTTPServer):
    """Says yes to every body, and remembers them."""

    bodies: list[bytes]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Sink)
        self.server.bodies.append(body)
        answer = b'{"taken": 1, "pause_ms": 0}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


def cost(name: str, words: list[str], env: dict[str, str], seconds: float) -> str:
    """One line of the table."""
    sink = Sink(("127.0.0.1", 0), _Handler)
    sink.bodies = []
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "kern.log")
        log.write_text("")
        command = [sys.executable, "-m", "madang", "agent", "--interval", "1s", "--node", "n1"]
        command += ["--url", f"http://127.0.0.1:{sink.server_address[1]}", "--kernel-log", str(log)]
        command += ["--buffer", f"{folder}/ring", *words]
        agent = subprocess.Popen(command, env={**os.environ, **env, "MADANG_LOG": "warning"})
        try:
            _wait(sink, WARM_FRAMES)
            frames, began_s = len(sink.bodies), _cpu_s(agent.pid)
            time.sleep(seconds)
            took_s = _cpu_s(agent.pid) - began_s
            count = len(sink.bodies) - frames
            rss_mib = _rss_mib(agent.pid)
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait(30)
            sink.shutdown()
            sink.server_close()
    (last,) = unpack(sink.bodies[-1])
    values = sum(len(column.keys) for column in last.columns)
    per_ms = 1000 * took_s / count
    return (
        f"{name:<14} {per_ms:6.1f} ms  {per_ms / 100:7.2f} %  {rss_mib:5.0f} MiB  "
        f"{len(sink.bodies[-1]):6,} B  {values:4} values  ({count} frames)"
    )


def _wait(sink: Sink, count: int) -> None:
    until = time.monotonic() + 60
    while len(sink.bodies) < count:
        if time.monotonic() > until:
            raise SystemExit("the agent sends nothing")
        time.sleep(0.05)


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS_PER_S


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    print(f"{'node':<14} {'CPU a frame':>9} {'of a core*':>9} {'resident':>9} {'on the wire':>10}")
    print(cost("no GPU", [], {}, seconds))
    with tempfile.TemporaryDirectory() as folder:
        if compiler := shutil.which("cc"):
            source = TOP / "tests" / "agent" / "nvml_library.c"
            library = f"{folder}/libnvidia-ml.so.1"
            subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
            env = {"LD_LIBRARY_PATH": folder, "NVML_GPUS": "8"}
            print(cost("8 GPUs, NVML", [], env, seconds))
        script = [sys.executable, str(TOP / "examples/agent/scripted_node.py"), "--port", "0"]
        with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, cwd=folder) as exporter:
            assert exporter.stdout is not None
            url = exporter.stdout.readline().split()[0]
            print(cost("8 GPUs, DCGM", ["--dcgm", url], {}, seconds))
            exporter.terminate()
    print("* at the usual interval of ten seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
