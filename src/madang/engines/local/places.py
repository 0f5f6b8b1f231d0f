"""Where things lie under the state directory; the one place that turns ids into paths."""

import re
from dataclasses import dataclass
from pathlib import Path

from madang.engines.base import EngineError
from madang.engines.local import records

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of one engine. Ids come from a ledger, yet are checked: a path is made of them."""

    root: Path

    def make(self) -> None:
        """Make what must be there; only the owner may look in."""
        for path in (self.allocations, self.checkpoints, self.live, self.root / "engine"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def allocations(self) -> Path:
        return self.root / "allocations"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def live(self) -> Path:
        """One empty file per allocation that may have members running: found without a ledger."""
        return self.root / "engine" / "live"

    @property
    def fifo(self) -> Path:
        return self.root / "engine" / "notify"

    @property
    def boot_mark(self) -> Path:
        """The boot in which this engine was last opened."""
        return self.root / "engine" / "boot"

    @property
    def keeper_log(self) -> Path:
        return self.root / "engine" / "keeper.log"

    @property
    def sdk(self) -> Path:
        return self.root / "engine" / "sdk"

    def allocation(self, id: str) -> Path:
        return self.allocations / _checked(id)

    def member(self, id: str, rank: int) -> Path:
        return self.allocation(id) / str(rank)

    def state(self, id: str, rank: int) -> str:
        return str(self.member(id, rank) / records.STATE)

    def stop(self, id: str) -> Path:
        return self.allocation(id) / records.STOP

    def launch(self, id: str) -> Path:
        return self.allocation(id) / records.LAUNCH

    def work(self, id: str) -> Path:
        return self.allocation(id) / records.WORK

    def checkpoint(self, key: str) -> Path:
        return self.checkpoints / _checked(key)

    def live_mark(self, id: str) -> Path:
        return self.live / _checked(id)


def _checked(id: str) -> str:
    if not _ID.fullmatch(id):
        raise EngineError(
            f"{id!r} cannot name a directory; allowed are letters, digits, '.', '_' and '-', "
            "not beginning with '.' or '-'"
        )
    return id
