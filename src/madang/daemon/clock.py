"""Wall time in integer ms that never goes back, so that the journal's order is the time's order."""

import time


class WallClock:
    """Follows the wall clock; where that is set back it stands still until the wall catches up."""

    def __init__(self) -> None:
        self._last_ms = 0

    def not_before(self, then_ms: int) -> None:
        """Never tell a time before `then_ms`: what the journal's last line was written at."""
        self._last_ms = max(self._last_ms, then_ms)

    def __call__(self) -> int:
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        return self._last_ms
