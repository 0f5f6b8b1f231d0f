"""What a submission costs the API: CPU of the thread that serves HTTP, and the time of an answer.

The turn loop, the ledger (SQLite, durable) and HTTP are real; the engine is the tests' puppet, so
that what is measured is the way of a request and nothing a job does.

    python -m benchmarks.api_cost [JOBS]
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.api.serving import TOKEN, serving

JOBS = 1_000
BODY = json.dumps({"command": ["true"], "gpus": 0.001, "name": "bench"})
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


def submit(port: int, jobs: int) -> None:
    """The client, in a process of its own; prints the times of the answers in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took_ms = []
    for _ in range(jobs):
        began = time.perf_counter()
        connection.request("POST", "/v1/jobs", BODY, HEADERS)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
        took_ms.append((time.perf_counter() - began) * 1000)
    print(json.dumps(took_ms))


def thread_cpu_s() -> dict[str, float]:
    """CPU seconds of this process's threads, by name."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    return {
        names.get(one.id, "other"): one.user_time + one.system_time
        for one in psutil.Process().threads()
    }


def main() -> None:
    """Measure twice (the first warms up) and print the second."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    with tempfile.TemporaryDirectory() as place, serving(Path(place)) as served:
        served.engine.quick = True
        for _ in range(2):
            before = thread_cpu_s()
            client = f"from benchmarks.api_cost import submit; submit({served.port}, {jobs})"
            told = subprocess.run(
                [sys.executable, "-c", client], check=True, capture_output=True, text=True
            )
            after = thread_cpu_s()
        took_ms = sorted(json.loads(told.stdout))
        memory_mb = psutil.Process().memory_info().rss / 1e6
    print(f"{jobs} submissions, one after the other: {jobs / sum(took_ms) * 1000:.0f}/s")
    quantiles = statistics.quantiles(took_ms, n=100)
    print(f"answered in p50 {quantiles[49]:.2f} ms, p99 {quantiles[98]:.2f} ms")
    for name, cpu_s in sorted(after.items()):
        used_ms = (cpu_s - before.get(name, 0.0)) / jobs * 1000
        if used_ms >= 0.01:
            print(f"  CPU of thread {name}: {used_ms:.2f} ms a submission")
    print(f"resident memory afterwards: {memory_mb:.0f} MB")


if __name__ == "__main__":
    main()
