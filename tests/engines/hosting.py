"""A daemon for tests to kill: a local engine in a process of its own.

    python -m tests.engines.hosting STATE

Reads one JSON line per order: {"start": job, "command": [...], "members": 1} or {"stop": id,
"grace_ms": 0}; writes one line for each fact that it observes.
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from madang.engines.base import Start, Stop
from madang.testing.engine import PATIENCE_S
from tests.engines.local_world import LocalWorld, launch

TOP = Path(__file__).parent.parent.parent


class Host:
    """The parent's side."""

    def __init__(self, root: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.engines.hosting", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TOP,
            env={"PYTHONPATH": f"{TOP / 'src'}:{TOP}", "PATH": "/usr/local/bin:/usr/bin:/bin"},
            text=True,
        )
        self.keeper_pid = int(self.heard("keeper ").removeprefix("keeper "))

    def order(self, **order: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()

    def heard(self, beginning: str) -> str:
        """The next line that begins so."""
        assert self._child.stdout is not None
        watchdog = threading.Timer(PATIENCE_S, self._child.kill)
        watchdog.start()
        try:
            for line in self._child.stdout:
                if line.startswith(beginning):
                    return line.rstrip()
        finally:
            watchdog.cancel()
        raise AssertionError(f"never told: {beginning}")

    def kill(self) -> None:
        """As `kill -9` does."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()


def start_of(order: dict[str, Any]) -> Start:
    return launch(order["start"], tuple(order["command"]), order.get("members", 1))


def main(root: Path) -> None:
    woken = threading.Event()
    engine = LocalWorld(root).engine()
    engine.open(woken.set)
    engine.adopt(())
    print("keeper", engine.keeper_pid, flush=True)

    def tell() -> None:
        while True:
            woken.wait()
            woken.clear()
            for fact in engine.observe(1000):
                print(fact, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            engine.act([start_of(order)])
        else:
            engine.act([Stop(order["stop"], order["grace_ms"])])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
