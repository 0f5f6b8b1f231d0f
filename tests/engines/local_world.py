"""The world of the local engine for the contract suite, and little makers for its own tests."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from madang.core.model import Allocation, AllocationState, Seat, Shape
from madang.engines.base import Launch, Start
from madang.engines.code_store import CodeStore
from madang.engines.local import LocalEngine, proc, records
from madang.testing.engine import FAIL_CODE, PATIENCE_S, Behaviour, World

NODE = "here"

BEGUN = "echo begun; "
COMMANDS = {
    Behaviour.SUCCEED: f"{BEGUN}exit 0",
    Behaviour.FAIL: f"{BEGUN}exit {FAIL_CODE}",
    Behaviour.RUN_ON: f"{BEGUN}exec sleep 3600",
    Behaviour.DEFY: f"trap '' TERM; {BEGUN}while :; do sleep 3600; done",
    Behaviour.TALK: (
        f"{BEGUN}echo hello from the member; "
        """printf '{"step": 1}\\n{"step": 2}\\n' >> "$MADANG_REPORT_FILE" """
    ),
}


class LocalWorld(World):
    """A state directory with two CPU slots."""

    node = NODE
    gpus = 2

    def __init__(self, root: Path) -> None:
        self.root = root

    def engine(self) -> LocalEngine:
        return LocalEngine(self.root, CodeStore(self.root / "code"), node=NODE, devices=self.gpus)

    def command(self, behaviour: Behaviour) -> tuple[str, ...]:
        if behaviour is Behaviour.IMPOSSIBLE:
            return ("a-program-that-is-nowhere",)
        return ("sh", "-c", COMMANDS[behaviour])

    def log(self, allocation: str, rank: int) -> str:
        path = self.root / "allocations" / allocation / str(rank) / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def starts(self, allocation: str, rank: int) -> int:
        return self.log(allocation, rank).splitlines().count("begun")

    def settled(self, allocation: str, rank: int) -> bool:
        return self.starts(allocation, rank) > 0

    def left(self) -> list[proc.Stat]:
        """Every living process that some member of this world left."""
        mark = f"MADANG_STOP_FILE={self.root}/".encode()
        found = []
        for one in proc.all_stats().values():
            try:
                environ = Path(f"/proc/{one.pid}/environ").read_bytes()
            except OSError:
                continue
            if mark in environ and not one.is_zombie:
                found.append(one)
        return found

    def close(self) -> None:
        for one in self.left():
            os.kill(one.pid, signal.SIGKILL)


def python(text: str) -> tuple[str, ...]:
    """A member that runs this text."""
    return (sys.executable, "-I", "-S", "-c", text)


def launch(job: str, command: tuple[str, ...], members: int = 1, **more: Any) -> Start:
    """A Start of the first allocation of `job` on the CPU slots; `more` are fields of Launch."""
    where = Allocation(
        id=f"{job}.1",
        job=job,
        project="vision",
        attempt=1,
        shape=Shape(gpus=1, cpu_milli=2_000),
        seats=tuple(Seat(NODE, (rank % LocalWorld.gpus,)) for rank in range(members)),
        state=AllocationState.BOUND,
        bound_ms=0,
    )
    fields = {"checkpoint_key": job, **more}
    return Start(Launch(where, job, "ada", command, **fields))


def state_file(world: LocalWorld, allocation: str, rank: int = 0) -> Path:
    return world.root / "allocations" / allocation / str(rank) / "state"


def started(world: LocalWorld, allocation: str, rank: int = 0) -> records.StartRecord:
    """The start record of a member that runs or ran."""
    start = records.read(str(state_file(world, allocation, rank))).start
    assert start is not None, f"{allocation}/{rank} has no start record"
    return start


def is_alive(pid: int) -> bool:
    stat = proc.stat(pid)
    return stat is not None and not stat.is_zombie


def wait_until(holds: Callable[[], object], what: str) -> None:
    """For what no event tells: another process's own doing."""
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s, f"never came: {what}"
        time.sleep(0.01)
