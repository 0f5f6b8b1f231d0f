"""The loop of a replay: one controller, and something that stands in for the machines.

Time jumps from one thing that happens to the next. What happens, and what becomes of a decision, is
told by who replays: a trace (`queueing.py`) or a journal (`rerun.py`). Nothing here decides.
"""

from madang.core.controller import Controller, Step
from madang.core.events import AllocationBound, Fact, ReleaseAsked
from madang.core.model import Allocation

TURNS_AT_ONCE_MAX = 10_000  # at one moment of a trace; more means that something is undone forever


class Stage:
    """See the module's docstring. `next_ms`, `happened`, `begin` and `leave` are the replay's."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.turns = 0

    def next_ms(self, now_ms: int) -> int | None:
        """When something happens next; None once there is nothing left to happen."""
        raise NotImplementedError

    def happened(self, now_ms: int) -> list[Fact]:
        """What came from outside until now."""
        raise NotImplementedError

    def begin(self, allocation: Allocation, now_ms: int) -> list[Fact]:
        """The allocation shall start: what is seen of it at once."""
        raise NotImplementedError

    def leave(self, asked: ReleaseAsked, now_ms: int) -> list[Fact]:
        """The allocation shall end: what is seen of it at once."""
        raise NotImplementedError

    def play(self, now_ms: int = 0) -> None:
        """To the end.

        Raises:
            AssertionError: turns do not come to rest: a bug of ours.
        """
        while (due_ms := self.next_ms(now_ms)) is not None:
            now_ms = due_ms
            facts = self.happened(now_ms)
            for _ in range(TURNS_AT_ONCE_MAX):
                facts = self._carried_out(self.turn(facts, now_ms), now_ms)
                if not facts and self.controller.due_ms(now_ms) != now_ms:
                    break
            else:
                raise AssertionError(f"does not come to rest at {now_ms}")

    def turn(self, facts: list[Fact], now_ms: int) -> Step:
        """One turn of the controller."""
        self.turns += 1
        step = self.controller.step(facts, now_ms)
        self.controller.state.forget_ended()
        self.controller.state.take_changed()
        return step

    def _carried_out(self, step: Step, now_ms: int) -> list[Fact]:
        """What the engine would do."""
        facts: list[Fact] = []
        for decision in step.decisions:
            match decision:
                case AllocationBound(allocation=allocation):
                    facts += self.begin(allocation, now_ms)
                case ReleaseAsked():
                    facts += self.leave(decision, now_ms)
                case _:
                    pass
        return facts
