"""Who reports: per node, which frames came already, whose clock is off, and what was wrong.

Promises: a frame is taken once, also when it comes late, again, or after a restart. Of two agents
by one name the newer one is heard; of the older one only what it said before the newer began. A
clock that is more than a minute off is noticed and its frames are stamped with ours: when the
sender tells its clock, when it is ahead, or when frames that come in real time stay behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from madang.telemetry.frames import Frame

CLOCK_OFF_MS = 60_000
STEADY_MIN = 3  # fewer frames may be of a buffer, with pauses of ours between them
SEQS_KEPT = 4_096  # eleven hours of frames of 10 s: what is older can't be told from what is new
BOOTS_KEPT = 4
OLD_MS = 7 * 86_400_000  # an agent's buffer holds hours; a week is a broken clock
TICKS_KEPT = 512
MARKS_TEXT_CHARS_MAX = 300


class Refused(Exception):
    """The frame is not taken; the text says why. What is `quiet` is no fault of anyone."""

    def __init__(self, reason: str, *, quiet: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.quiet = quiet


@dataclass(slots=True)
class Mark:
    """Something that was wrong: how often, when last, and in which words then."""

    count: int
    at_ms: int
    text: str


@dataclass(slots=True)
class Boot:
    """One start of an agent. `seen` is a bit set: bit i says that `high - i` came."""

    boot: int
    began_ms: int
    high: int = -1
    seen: int = 0
    tick: int = -1  # of the frame `high`
    offset_ms: int = 0
    arrived_ms: int = 0
    behind_ms: int = 0  # how far behind ours its newest frame was, if that came in real time
    steady: int = 0  # so many of the newest came in real time, each as far behind as the one before

    def take(self, seq: int) -> bool:
        """False if it came before. Raises Refused where that can't be told any more."""
        if seq > self.high:
            step = seq - self.high
            self.seen = ((self.seen << step) | 1) & _SEQS if step < SEQS_KEPT else 1
            self.high = seq
            return True
        age = self.high - seq
        if age >= SEQS_KEPT:
            raise Refused(f"seq {seq} is {age} behind the newest: too old to tell if it came")
        if self.seen >> age & 1:
            return False
        self.seen |= 1 << age
        return True


_SEQS = (1 << SEQS_KEPT) - 1
_TICKS = (1 << TICKS_KEPT) - 1


@dataclass(slots=True)
class Reporter:
    """One node's agent, or agents."""

    node: str
    boots: dict[int, Boot] = field(default_factory=dict)
    current: int = -1
    seen_ms: int = 0  # by our clock
    at_ms: int = 0  # the newest frame's, corrected
    taken: int = 0
    refused: int = 0
    dropped: int = 0  # by the agent, as it said
    tick: int = -1
    ticks: int = 0  # bit i: something of tick `tick - i` is here
    marks: dict[str, Mark] = field(default_factory=dict)

    def mark(self, kind: str, text: str, now_ms: int, count: int = 1) -> None:
        known = self.marks.get(kind)
        if known is None:
            known = self.marks[kind] = Mark(0, 0, "")
        known.count += count
        known.at_ms = now_ms
        known.text = text[:MARKS_TEXT_CHARS_MAX]

    def admit(self, frame: Frame, now_ms: int, offset_ms: int | None, *, alone: bool) -> int:
        """The frame's time by our clock, if it is taken. `offset_ms` is how far the sender's clock
        is behind ours, as it told; `alone`: it came without others of its node.

        Raises:
            Refused: it came before, is too old, or is of an agent that another has replaced.
        """
        boot = self.boots.get(frame.boot)
        if boot is None:
            boot = self._first_of(frame, now_ms)
        elif frame.boot != self.current:
            newer = self.boots[self.current]
            began_ms = newer.began_ms + newer.offset_ms
            if frame.at_ms + boot.offset_ms > began_ms + frame.interval_ms:
                text = (
                    f"another agent, started later, reports as {self.node}: "
                    "stop one, or give it a name of its own"
                )
                self.mark("two_agents", text, now_ms)
                raise Refused(text)
        if frame.seq == boot.high + 1 or boot.high < 0:
            paced = now_ms - boot.arrived_ms >= frame.interval_ms / 2 and boot.high >= 0 and alone
        else:
            paced = False
        if not boot.take(frame.seq):
            raise Refused("it came before", quiet=True)
        boot.offset_ms = _offset_ms(boot, frame, now_ms, offset_ms, paced=paced)
        boot.arrived_ms = now_ms
        at_ms = frame.at_ms + boot.offset_ms
        if at_ms < now_ms - OLD_MS:
            raise Refused(f"its time is {(now_ms - at_ms) // 3_600_000} hours ago")
        if boot.offset_ms:
            ahead = "behind" if boot.offset_ms > 0 else "ahead"
            text = f"its clock is {abs(boot.offset_ms) // 1000} s {ahead}: stamped with ours"
            self.mark("clock", text, now_ms)
        self.at_ms = max(self.at_ms, at_ms)
        return at_ms

    def _first_of(self, frame: Frame, now_ms: int) -> Boot:
        boot = Boot(frame.boot, frame.at_ms)
        while len(self.boots) >= BOOTS_KEPT:
            self.boots.pop(next(one for one in self.boots if one != self.current))
        current = self.boots.get(self.current)
        # What an agent left in its buffer before it was replaced may come under its old boot.
        if current is None or frame.at_ms >= current.began_ms or _is_alive(current, now_ms, frame):
            self.current = frame.boot
        self.boots[frame.boot] = boot
        return boot

    def tick_for(self, frame: Frame, at_ms: int, tick_ms: int) -> int:
        """The tick of a frame that was admitted.

        Frames that follow each other get ticks that follow each other, although a little jitter at
        a tick's edge would put two in one and none in the next.
        """
        boot = self.boots[frame.boot]
        tick = (at_ms + tick_ms // 2) // tick_ms
        follows = boot.tick + 1
        is_next = boot.tick >= 0 and frame.seq == boot.high and frame.interval_ms == tick_ms
        if is_next and abs(at_ms - follows * tick_ms) < 0.9 * tick_ms:
            tick = follows
        if frame.seq == boot.high:
            boot.tick = tick
        return tick

    def is_first_of(self, tick: int) -> bool:
        """True the first time that this tick is told."""
        if tick > self.tick:
            step = tick - self.tick
            self.ticks = ((self.ticks << step) | 1) & _TICKS if step < TICKS_KEPT else 1
            self.tick = tick
            return True
        age = self.tick - tick
        if age >= TICKS_KEPT or not self.ticks >> age & 1:
            self.ticks |= 1 << age if age < TICKS_KEPT else 0
            return True
        return False

    # -- keeping -----------------------------------------------------------------------------------

    def kept(self) -> dict[str, Any]:
        """As JSON, for a restart."""
        boots = [
            [b.boot, b.began_ms, b.high, hex(b.seen), b.tick, b.offset_ms, b.arrived_ms]
            for b in self.boots.values()
        ]
        marks = {kind: [mark.count, mark.at_ms, mark.text] for kind, mark in self.marks.items()}
        own = [self.current, self.seen_ms, self.at_ms, self.taken, self.refused, self.dropped]
        return {"own": [*own, self.tick, hex(self.ticks)], "boots": boots, "marks": marks}

    @classmethod
    def restored(cls, node: str, kept: Mapping[str, Any]) -> "Reporter":
        """What `kept` told. Raises (KeyError, TypeError, ValueError) if it is something else."""
        *own, ticks = kept["own"]
        boots = {}
        for boot, began_ms, high, seen, *rest in kept["boots"]:
            boots[boot] = Boot(boot, began_ms, high, int(seen, 16), *rest)
        marks = {kind: Mark(*mark) for kind, mark in kept["marks"].items()}
        current, seen_ms, at_ms, taken, refused, dropped, tick = own
        return cls(
            node,
            boots,
            current,
            seen_ms,
            at_ms,
            taken,
            refused,
            dropped,
            tick,
            int(ticks, 16),
            marks,
        )


def _is_alive(boot: Boot, now_ms: int, frame: Frame) -> bool:
    """Its clock may be wrong: who spoke a moment ago and is replaced now was ahead of time."""
    return boot.offset_ms != 0 and now_ms - boot.arrived_ms < 3 * frame.interval_ms


def _offset_ms(boot: Boot, frame: Frame, now_ms: int, told_ms: int | None, *, paced: bool) -> int:
    """What to add to the agent's times; 0 while its clock is right within a minute."""
    if told_ms is not None:
        return told_ms if abs(told_ms) > CLOCK_OFF_MS else 0
    behind_ms = now_ms - frame.at_ms
    # What a buffer held comes faster than in real time: it falls behind less and less.
    steady = paced and abs(behind_ms - boot.behind_ms) < frame.interval_ms
    boot.steady = boot.steady + 1 if steady else 0
    boot.behind_ms = behind_ms if paced else 0
    if paced and abs(behind_ms) <= CLOCK_OFF_MS:
        return 0
    if behind_ms < -CLOCK_OFF_MS or (boot.steady >= STEADY_MIN and behind_ms > CLOCK_OFF_MS):
        # As it is already known, within the jitter of its way here.
        near = boot.offset_ms and abs(behind_ms - boot.offset_ms) < CLOCK_OFF_MS
        return boot.offset_ms if near else behind_ms
    return boot.offset_ms
