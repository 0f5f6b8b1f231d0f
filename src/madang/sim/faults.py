"""The way from the fleet to the controller, as unreliable as a network: facts come late, twice, in
another order, or not at all until the next resync.

What an engine promises is kept unless `keeps_order` is off: what is told of one node's coming and
going stays in order. Everything is drawn from one generator, so a seed is a scenario.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from madang.core.events import Fact, NodeLost, NodeSeen


@dataclass(frozen=True, slots=True)
class Chaos:
    """Shares of facts that suffer, and by how much."""

    late: float = 0.0
    late_ms: int = 0
    doubled: float = 0.0
    missing: float = 0.0
    keeps_order: bool = True


QUIET = Chaos()


class Channel:
    """Facts on their way. What was lost comes again with the next resync, which is the caller's."""

    def __init__(self, random: Random, chaos: Chaos) -> None:
        self.chaos = chaos
        self.lost = 0
        self._random = random
        self._order = 0
        self._heap: list[tuple[int, int, Fact]] = []
        self._last_of: dict[str, int] = {}  # node → when the newest word about it arrives

    def send(self, facts: list[Fact], now_ms: int) -> None:
        """Put facts on their way."""
        for fact in facts:
            if self._random.random() < self.chaos.missing:
                self.lost += 1
                continue
            self._send_one(fact, now_ms)
            if self._random.random() < self.chaos.doubled:
                self._send_one(fact, now_ms)

    def next_ms(self) -> int | None:
        """When the next fact arrives."""
        return self._heap[0][0] if self._heap else None

    def receive(self, now_ms: int) -> list[Fact]:
        """What has arrived, in the order of arrival."""
        arrived: list[Fact] = []
        while self._heap and self._heap[0][0] <= now_ms:
            arrived.append(heappop(self._heap)[2])
        return arrived

    def cut(self) -> None:
        """Whoever listened is gone: what was on its way is lost."""
        self.lost += len(self._heap)
        self._heap.clear()
        self._last_of.clear()

    def _send_one(self, fact: Fact, now_ms: int) -> None:
        at_ms = now_ms
        if self._random.random() < self.chaos.late:
            at_ms += self._random.randint(1, self.chaos.late_ms)
        node = _node_of(fact)
        if node and self.chaos.keeps_order:
            at_ms = self._last_of[node] = max(at_ms, self._last_of.get(node, 0))
        self._order += 1
        heappush(self._heap, (at_ms, self._order, fact))


def _node_of(fact: Fact) -> str:
    match fact:
        case NodeSeen(node=node):
            return node.id
        case NodeLost(node=id):
            return id
        case _:
            return ""
