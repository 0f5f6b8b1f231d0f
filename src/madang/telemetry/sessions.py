"""Sessions of DuckDB for history: one for each errand that writes, one kept for those who ask.

To open and close one takes some 30 ms, and to read what 24 hourly files have in them as many again.
So who asks gets the one that is there, which remembers it; it goes when nobody has asked for a
minute, and all its memory with it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "512MB"  # beyond it DuckDB spills to disk
QUERY_THREADS = 2
IDLE_S = 60.0


class Sessions:
    """`spill` is where DuckDB puts what is more than its memory. Any thread may use it."""

    def __init__(self, spill: Path) -> None:
        self._spill = spill
        self._lock = threading.Lock()
        self._kept: DuckDBPyConnection | None = None
        self._askers = 0
        self._asked_s = 0.0

    @contextmanager
    def errand(self) -> Iterator["DuckDBPyConnection"]:
        """One of its own: all its memory is given back at the end."""
        connection = self._opened(threads=1)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def asking(self) -> Iterator["DuckDBPyConnection"]:
        """A share of the kept one. What is registered in it is nobody else's."""
        with self._lock:
            if self._kept is None:
                self._kept = self._opened(QUERY_THREADS)
                self._kept.execute("SET parquet_metadata_cache = true")
            cursor = self._kept.cursor()
            self._askers += 1
        try:
            yield cursor
        finally:
            cursor.close()
            with self._lock:
                self._askers -= 1
                self._asked_s = time.monotonic()

    def rest(self, idle_s: float = IDLE_S) -> None:
        """Close the kept one if nobody has asked for so long."""
        with self._lock:
            if self._askers or time.monotonic() - self._asked_s < idle_s:
                return
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _opened(self, threads: int) -> "DuckDBPyConnection":
        import duckdb

        self._spill.mkdir(mode=0o700, parents=True, exist_ok=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": threads,
            "memory_limit": MEMORY,
            "temp_directory": str(self._spill),
            "autoinstall_known_extensions": "false",  # nothing from the network
            "autoload_known_extensions": "false",
        }
        return duckdb.connect(":memory:", config=config)
