"""When a job last saved a checkpoint, as its checkpoint directory shows.

What was written to a moment ago may not be whole, so it does not count yet. A directory of any size
costs a bounded look.
"""

import os
from pathlib import Path

SETTLED_MS = 10_000  # not touched for so long: whoever wrote it has gone on
ENTRIES_MAX = 2_000  # of it and of the directories in it; more are not looked at


def saved_ms(directory: Path, now_ms: int) -> int | None:
    """Wall time of the newest file that has settled; None if there is none."""
    newest_ms, left = 0, ENTRIES_MAX
    folders = [(str(directory), 0)]
    while folders and left > 0:
        path, depth = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    left -= 1
                    if left <= 0:
                        break
                    if entry.is_dir(follow_symlinks=False):
                        folders += [(entry.path, depth + 1)] if depth < 1 else []
                        continue
                    at_ms = entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000
                    if newest_ms < at_ms <= now_ms - SETTLED_MS:
                        newest_ms = at_ms
        except OSError:
            continue  # it is being moved or removed just now
    return newest_ms or None
