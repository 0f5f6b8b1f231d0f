"""Asks all readers at once, and waits for none of them too long.

Each reader has a thread of its own: a driver that hangs costs the columns of its reader, not the
frame. What comes too late is in the next frame; a reader that is still busy is not asked again.
"""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from madang.agent._base import Reader, Reading

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Desk:
    """A reader and its thread. `asked`: it has not answered yet."""

    reader: Reader
    questions: "queue.SimpleQueue[int | None]" = field(default_factory=queue.SimpleQueue)
    answers: "queue.SimpleQueue[Reading]" = field(default_factory=queue.SimpleQueue)
    asked: bool = False
    is_slow: bool = False


class Gather:
    """`close` it; threads of readers that hang are left to die with the program."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._desks = [_Desk(reader) for reader in readers]
        for desk in self._desks:
            name = f"agent-{desk.reader.name}"
            threading.Thread(target=_serve, args=(desk,), name=name, daemon=True).start()

    def read(self, now_ms: int, wait_s: float) -> Reading:
        """What all readers that answer within `wait_s` say, in their order."""
        until_s = time.monotonic() + wait_s
        for desk in self._desks:
            if not desk.asked:
                desk.asked = True
                desk.questions.put(now_ms)
        found = [self._answer(desk, until_s) for desk in self._desks]
        return Reading(
            tuple(column for one in found for column in one.columns),
            tuple(signal for one in found for signal in one.signals),
        )

    def _answer(self, desk: _Desk, until_s: float) -> Reading:
        try:
            answer = desk.answers.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            if not desk.is_slow:
                _log.warning(
                    "the reader %s does not answer; its values are missing", desk.reader.name
                )
            desk.is_slow = True
            return Reading()
        if desk.is_slow:
            _log.warning("the reader %s answers again", desk.reader.name)
        desk.asked = desk.is_slow = False
        return answer

    def close(self) -> None:
        """Let every reader that is not busy give back what it holds."""
        for desk in self._desks:
            desk.questions.put(None)


def _serve(desk: _Desk) -> None:
    while (now_ms := desk.questions.get()) is not None:
        try:
            answer = desk.reader.read(now_ms)
        except Exception:
            # A reader is ours and should not: but half a frame is better than no agent.
            _log.exception("the reader %s failed", desk.reader.name)
            answer = Reading()
        desk.answers.put(answer)
    desk.reader.close()
