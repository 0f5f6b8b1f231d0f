"""An engine on strings: nothing happens until a test says so. All around it is real: the turn loop,
the ledger on SQLite, the code store, uvicorn on a port of its own.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from madang.core.events import Fact, MemberEnded, MemberStarted, NodeSeen
from madang.core.model import Allocation, Exit, Node
from madang.daemon.clock import WallClock
from madang.engines.base import Action, EngineError, Readings, Sample, Start, Stop

NODES = (
    Node("n1", gpus=4, cpu_milli=16_000, memory_mib=65_536, model="H100", gpu_memory_mib=81_559),
    Node("n2", gpus=4, cpu_milli=16_000, memory_mib=65_536, model="H100", healthy=0b1011),
)


class Puppet:
    """An Engine whose members start at once and end when told, or when stopped."""

    def __init__(self, logs: Path, nodes: Sequence[Node] = NODES) -> None:
        self._logs = logs
        self._nodes = nodes
        self._lock = threading.Lock()
        self._facts: list[Fact] = [NodeSeen(node) for node in nodes]
        self._wake: Callable[[], None] = lambda: None
        self._clock = WallClock()
        self._live: dict[tuple[str, int], bool] = {}
        self.starts: list[Start] = []
        self.stops: list[Stop] = []
        self.quick = False  # members end well by themselves, at once

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        wake()

    def adopt(self, allocations: Sequence[Allocation]) -> None:
        pass

    def act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._start(action)
            elif isinstance(action, Stop):
                self.stops.append(action)
                self.end(action.allocation, Exit(143, signal=15))

    def _start(self, action: Start) -> None:
        self.starts.append(action)
        allocation = action.launch.allocation
        facts: list[Fact] = []
        for rank in range(len(allocation.seats)):
            self._live[allocation.id, rank] = True
            self._file(allocation.id, rank, "log").touch()
            facts.append(MemberStarted(allocation.id, rank, self._clock()))
        self._tell(facts)
        if self.quick:
            self.end(allocation.id)

    def _tell(self, facts: Sequence[Fact]) -> None:
        with self._lock:
            self._facts.extend(facts)
        self._wake()

    def observe(self, facts_max: int) -> list[Fact]:
        with self._lock:
            taken, self._facts = self._facts[:facts_max], self._facts[facts_max:]
        return taken

    def close(self) -> None:
        pass

    # -- strings -----------------------------------------------------------------------------------

    def end(self, allocation: str, end: Exit = Exit(0)) -> None:  # noqa: B008 - frozen
        """All members of an allocation end."""
        ranks = [rank for (id, rank), runs in self._live.items() if id == allocation and runs]
        for rank in ranks:
            self._live[allocation, rank] = False
        self._tell([MemberEnded(allocation, rank, end, self._clock()) for rank in ranks])

    def lose_sight_of_gpu(self, node: str, healthy: int) -> None:
        known = next(one for one in self._nodes if one.id == node)
        self._tell([NodeSeen(replace(known, healthy=healthy))])

    def write(self, allocation: str, rank: int, block: bytes, kind: str = "log") -> None:
        """The member prints (kind `log`) or reports (`reports`)."""
        with open(self._file(allocation, rank, kind), "ab") as file:
            file.write(block)

    def _file(self, allocation: str, rank: int, kind: str) -> Path:
        return self._logs / f"{allocation}.{rank}.{kind}"

    # -- people's view -----------------------------------------------------------------------------

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        return self._read(allocation, rank, "log", offset, bytes_max)

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        block = self._read(allocation, rank, "reports", offset, bytes_max)
        return block[: block.rfind(b"\n") + 1]

    def _read(self, allocation: str, rank: int, kind: str, offset: int, bytes_max: int) -> bytes:
        if (allocation, rank) not in self._live:
            raise EngineError(f"{allocation} has no member {rank} here")
        file = self._file(allocation, rank, kind)
        if not file.exists():
            return b""
        with open(file, "rb") as opened:
            opened.seek(offset)
            return opened.read(bytes_max)

    def exec_command(
        self, allocation: str, rank: int, command: Sequence[str]
    ) -> tuple[list[str], dict[str, str], str]:
        if not self._live.get((allocation, rank)):
            raise EngineError(f"member {rank} of {allocation} does not run here")
        env = {"PATH": os.environ["PATH"], "MADANG_JOB": allocation, "TERM": "xterm"}
        return list(command), env, str(self._logs)

    def sample(self) -> Sample:
        return Sample((), ())

    def readings(self) -> list[Readings]:
        return []
