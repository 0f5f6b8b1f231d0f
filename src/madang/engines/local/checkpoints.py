"""When jobs last saved a checkpoint, as their checkpoint directories show.

A job that calls `madang.checkpoint_saved()` leaves a mark, whose time is taken at its word. Of any
other the newest file is taken, once nobody has written to it for a while: one that is being written
is no checkpoint yet. Looking costs a bounded number of entries, and no link is followed.
"""

import os
from collections.abc import Iterable, Mapping

SAVED_MARK = ".madang-saved"  # as madang.client.inside writes it
SETTLED_MS = 5_000  # not written to for so long
ENTRIES_MAX = 4_096  # looked at in one directory tree; the rest are not
DEPTH_MAX = 3


def newest_ms(directory: str, now_ms: int) -> int:
    """When the newest checkpoint of a directory was saved, 0 if none is seen."""
    try:
        return os.stat(os.path.join(directory, SAVED_MARK), follow_symlinks=False).st_mtime_ns // (
            1_000_000
        )
    except OSError:
        pass
    newest, left = 0, ENTRIES_MAX
    stack = [(directory, 0)]
    while stack and left > 0:
        folder, depth = stack.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        if depth < DEPTH_MAX:
                            stack.append((entry.path, depth + 1))
                        continue
                    at_ms = entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000
                    if at_ms <= now_ms - SETTLED_MS:
                        newest = max(newest, at_ms)
                    else:
                        return 0  # somebody writes: what is there may not be whole
        except OSError:
            continue  # it went away while it was looked at, or is not ours to read
    return newest


class Checkpoints:
    """Remembers what was told of each job. For one thread."""

    def __init__(self) -> None:
        self._told_ms: dict[str, int] = {}

    def news(self, directories: Mapping[str, str], now_ms: int) -> Iterable[tuple[str, int]]:
        """(job, when) of each job with a newer checkpoint than was told; `directories` by job.

        Jobs that are not named any more are forgotten.
        """
        self._told_ms = {job: at for job, at in self._told_ms.items() if job in directories}
        for job, directory in directories.items():
            at_ms = newest_ms(directory, now_ms)
            if at_ms > self._told_ms.get(job, 0):
                self._told_ms[job] = at_ms
                yield job, at_ms
