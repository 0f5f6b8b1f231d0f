"""The world of the local engine for the contract suite, and little makers for its own tests."""

import os
import signal
import sys
from pathlib import Path

from madang.engines.code_store import CodeStore
from madang.engines.local import LocalEngine, proc, traces
from madang.testing.engine import FAIL_CODE, Behaviour, World

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
        found = []
        for member in self.root.glob("allocations/*/[0-9]*"):
            found += traces.leftovers(member, None)
        return found

    def close(self) -> None:
        for one in self.left():
            os.kill(one.pid, signal.SIGKILL)


def python(text: str) -> tuple[str, ...]:
    """A member that runs this text."""
    return (sys.executable, "-I", "-S", "-c", text)
