"""Times of rules that go on (`for` half an hour, ten minutes of it over), kept for a restart.

In a file beside the telemetry, not in the ledger: a time that begins or ends is no news, a number
that flickers would write rows with each tick, and a file that is lost or cannot be read costs no
more than that the times begin anew. What has come of a time (a rule is broken) is in the ledger.
"""

import hashlib
import json
import logging
from dataclasses import astuple, dataclass
from pathlib import Path

from madang.core.rules import Rule
from madang.telemetry import keeping

log = logging.getLogger("madang.telemetry")

TIMES_MAX = 100_000  # some 10 MB; of more the oldest are kept
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Time:
    """Of one rule (by its mark) and allocation: it differs from what was told since a tick."""

    rule: str
    allocation: str
    since: int
    is_broken: bool  # as it was told


@dataclass(frozen=True, slots=True)
class Times:
    """All that go on, by the look at `tick`."""

    tick_ms: int
    tick: int
    going: tuple[Time, ...]


def mark_of(rule: Rule) -> str:
    """Names a rule as it is: one that was changed has another."""
    return hashlib.blake2b(repr(rule).encode(), digest_size=12).hexdigest()


def write(path: Path, times: Times) -> None:
    """Raises:
    OSError: it can't be written; what was written before is left.
    """
    going = sorted(times.going, key=lambda one: one.since)[:TIMES_MAX]
    stated = {
        "version": _VERSION,
        "tick_ms": times.tick_ms,
        "tick": times.tick,
        "going": [astuple(one) for one in going],
    }
    keeping.write_whole(path, json.dumps(stated, separators=(",", ":")))


def read(path: Path) -> Times | None:
    """What was kept; None where nothing was, or nothing that can be read."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated["version"] != _VERSION:
            raise ValueError(f"version {stated['version']}")
        going = tuple(
            Time(str(rule), str(allocation), int(since), bool(is_broken))
            for rule, allocation, since, is_broken in stated["going"]
        )
        return Times(int(stated["tick_ms"]), int(stated["tick"]), going)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("times of rules cannot be read, they begin anew: %s: %s", path, error)
        return None
