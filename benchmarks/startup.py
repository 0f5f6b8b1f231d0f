"""How soon Madang answers, and how much memory it keeps while it has nothing to do.

`python -m benchmarks.startup` measures `madang --help`; the time from starting the daemon until
it answers, with 10,000 finished jobs in its ledger; and the resident memory of that daemon when
idle. The jobs are real: `true`, run by the daemon itself. Python's bytecode is there, as after any
installation: the first start, which may have to compile, is not counted.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks import measuring, yard

HELP_MS_GOAL = 150.0
READY_MS_GOAL = 1000.0
RSS_MB_GOAL = 150.0
READY_S_MAX = 60.0
IDLE_S = 5.0  # the daemon's first minute's housekeeping is over by then
POLL_S = 0.002


def main() -> int:
    """Measure, print and write the record; the exit status is 1 if Madang failed."""
    options = parsed()
    try:
        helped_ms = measure_help(options.runs)
        ready_ms, ready_cpu_ms, rss_mb = measure_daemon(options.jobs, options.runs)
    except measuring.PoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = (
        ("madang --help", "ms", helped_ms, HELP_MS_GOAL),
        (f"daemon ready, {options.jobs} jobs on record", "ms", ready_ms, READY_MS_GOAL),
        ("  of which on a core", "ms", ready_cpu_ms, READY_MS_GOAL),
        ("idle daemon, resident", "MB", rss_mb, RSS_MB_GOAL),
    )
    for what, unit, values, goal in rows:
        middle = statistics.median(values)
        met = "met" if middle <= goal else "missed"
        range_ = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{what}: {middle:.0f} {unit} ({range_}), goal {goal:.0f}: {met}", file=sys.stderr)
    figures = {
        "help_ms": helped_ms,
        "ready_ms": ready_ms,
        "ready_cpu_ms": ready_cpu_ms,
        "idle_rss_mb": rss_mb,
        "jobs_on_record": options.jobs,
    }
    measuring.write_record({"machine": measuring.machine(), **figures}, options.json)
    return 0


def measure_help(runs: int) -> list[float]:
    """Milliseconds of each `madang --help`; the first run, which fills caches, is not counted."""
    times = []
    for _ in range(runs + 1):
        before = time.monotonic()
        yard.madang("--help", state=Path("unused"))
        times.append(round((time.monotonic() - before) * 1000, 1))
    return times[1:]


def measure_daemon(jobs: int, runs: int) -> tuple[list[float], ...]:
    """Of each start: ms until ready, ms of CPU until then, resident MB when idle."""
    with yard.Yard(slots=os.cpu_count() or 1) as madang:
        pool = yard.YardByHttp(madang)
        pool.submit_batch(["true"], jobs)
        measuring.wait_for_ended(pool, jobs)
        madang.stop()
        starts = [measure_start(madang.state) for _ in range(runs)]
        madang.start()  # so that leaving the `with` stops a daemon that runs
        madang.check_all_succeeded()
    return tuple(list(column) for column in zip(*starts, strict=True))


def measure_start(state: Path) -> tuple[float, float, float]:
    """One start of the daemon: ms until ready, ms of CPU until then, resident MB when idle."""
    began = time.monotonic()
    port = yard.free_port()
    daemon = started(state, port)
    try:
        wait_until_ready(daemon, port)
        ready_ms = (time.monotonic() - began) * 1000
        cpu_ms = used_cpu_ms(daemon.pid)
        time.sleep(IDLE_S)
        return round(ready_ms, 1), round(cpu_ms, 1), round(resident_mb(daemon.pid), 1)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(READY_S_MAX)


def started(state: Path, port: int) -> subprocess.Popen[bytes]:
    """A daemon in the foreground, as a service manager starts it."""
    return subprocess.Popen(
        [*yard.program(), "up", "--state", str(state), "--port", str(port)],
        env=yard.environment(state),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until_ready(daemon: subprocess.Popen[bytes], port: int) -> None:
    """Return at the first good answer to GET /v1/health."""
    until = time.monotonic() + READY_S_MAX
    while time.monotonic() < until:
        if daemon.poll() is not None:
            raise measuring.PoolError(f"the daemon ended with {daemon.returncode} at its start")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=5) as answer:
                if json.load(answer)["status"] == "ok":
                    return
        except OSError:
            time.sleep(POLL_S)
    raise measuring.PoolError(f"the daemon was not ready after {READY_S_MAX:.0f} s")


def used_cpu_ms(pid: int) -> float:
    """User and system time of a process so far; unlike the wall's, not stretched by others."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children, in MB of 10⁶ bytes."""
    pids = [pid]
    for each in pids:
        for thread in Path(f"/proc/{each}/task").iterdir():
            pids.extend(int(child) for child in (thread / "children").read_text().split())
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="finished jobs (10,000)")
    parser.add_argument("--runs", type=int, default=7, help="starts, and calls of --help (7)")
    parser.add_argument("--json", default="-", help="file for the figures (standard output)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
