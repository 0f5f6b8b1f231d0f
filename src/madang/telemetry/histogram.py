"""A histogram to count durations in: fixed bounds, a microsecond an entry, any thread."""

import threading
from bisect import bisect_left


class Histogram:
    """`bounds_s`: upper bounds in seconds, rising; a bound belongs to the bucket that it ends."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        assert list(bounds_s) == sorted(set(bounds_s)), f"not rising: {bounds_s}"
        self.bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """One more of so many seconds."""
        with self._lock:
            self._counts[bisect_left(self.bounds_s, seconds)] += 1
            self._sum_s += seconds

    def taken(self) -> tuple[list[int], float]:
        """(how many in each bucket, the last is beyond all bounds; the sum of seconds)."""
        with self._lock:
            return list(self._counts), self._sum_s
