"""Live data for pages: what every device of the yard does, as columns of bytes over a WebSocket.

- `schema.py`: which columns there are, and what a byte of each stands for.
- `frames.py`: how columns and their changes are written; a ring of the newest ticks.
- `board.py`: the columns at one moment, from the yard's snapshot and its sensors.
- `sensors.py`: where readings come from.
- `hub.py`: one clock and one encoding for everyone who watches.
"""

from madang.api.live.hub import Hub

__all__ = ["Hub"]
