"""What is thrown away, and when: working directories first, logs much later, checkpoints never.

A directory is only touched when its allocation ended some time ago: what the ledger may still ask
about stays. Whole allocations go when their logs are too old; working directories go when they are
old, or, oldest first, when all of them together are too large.
"""

import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from madang.engines.local import records
from madang.engines.local.places import Places

_log = logging.getLogger(__name__)
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Rules:
    """Ages count from the last sign of life. Both size and age are upper bounds."""

    work_days: int = 7
    work_mib: int = 50 << 10
    log_days: int = 90
    settle_s: int = 3_600  # younger than this is never touched


DEFAULT = Rules()


@dataclass(frozen=True, slots=True)
class _Old:
    path: Path
    ended_s: float


def prune(places: Places, live: Collection[str], rules: Rules, now_s: float | None = None) -> int:
    """Remove what the rules give up; returns how many directories went."""
    now_s = time.time() if now_s is None else now_s
    ended = sorted(_ended(places, live, now_s - rules.settle_s), key=lambda old: old.ended_s)
    removed = 0
    room_bytes = rules.work_mib << 20
    for old in reversed(ended):  # newest first: they have the first claim to the room
        if old.ended_s < now_s - rules.log_days * DAY_S:
            removed += _remove(old.path)
            continue
        work = old.path / records.WORK
        if not work.is_dir():
            continue
        room_bytes -= _bytes_in(work)
        if room_bytes < 0 or old.ended_s < now_s - rules.work_days * DAY_S:
            removed += _remove(work)
    return removed


def _ended(places: Places, live: Collection[str], before_s: float) -> list[_Old]:
    found = []
    for entry in os.scandir(places.allocations):
        if entry.name in live or places.live_mark(entry.name).exists():
            continue
        if not entry.is_dir(follow_symlinks=False):
            continue
        ended_s = _last_sign_s(Path(entry.path))
        if ended_s < before_s:
            found.append(_Old(Path(entry.path), ended_s))
    return found


def _last_sign_s(directory: Path) -> float:
    times = [directory.lstat().st_mtime]
    for rank in directory.iterdir():
        if rank.name.isdigit():
            times += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(rank)]
    return max(times)


def _bytes_in(directory: Path) -> int:
    """Blocks on disk; a hard link counts each time, which errs on the safe side."""
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _remove(path: Path) -> int:
    """Also what a job made read-only. Returns how many directories went: 1, or 0 if some stayed."""

    def open_up(function: Callable[..., object], name: str, trouble: object) -> None:
        parent = os.path.dirname(name)
        os.chmod(parent, stat.S_IRWXU)
        if not os.path.islink(name):
            os.chmod(name, stat.S_IRWXU)
        function(name)

    try:
        shutil.rmtree(path, onerror=open_up)
    except OSError as error:
        _log.warning("cannot remove %s: %s", path, error)
        return 0
    return 1
