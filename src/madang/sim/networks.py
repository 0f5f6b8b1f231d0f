"""Network trees in a scenario: labelled nodes, trees that are set anew, gangs that mind.

Two seeds of five have them. They are drawn from a stream of their own: what else a seed decides
stays as it was.
"""

from dataclasses import dataclass, replace
from random import Random

from madang.core import events as ev
from madang.core.hypernodes import Domain, Members, Topology
from madang.core.model import Job, Node, Segment

LEVELS = ("block", "leaf")


@dataclass(frozen=True, slots=True)
class Network:
    """What happens to the tree: (time, fact) in no order; and a stream for the nodes and jobs."""

    random: Random
    is_there: bool
    facts: tuple[tuple[int, ev.Fact], ...] = ()

    def placed(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """The nodes under their switches; a few under none."""
        if not self.is_there:
            return nodes
        return tuple(replace(node, domains=self._domains()) for node in nodes)

    def _domains(self) -> tuple[str, ...]:
        kind = self.random.random()
        leaf = self.random.randrange(4)
        if kind < 0.1:
            return ()
        return (f"b{leaf // 2}",) if kind < 0.2 else (f"b{leaf // 2}", f"l{leaf}")

    def near(self, job: Job) -> Job:
        """The job as one that minds where its members are, if it has several."""
        if not self.is_there or job.members == 1 or self.random.random() < 0.4:
            return job
        random = self.random
        members = job.members * random.choice((1, 1, 2))  # large enough to be torn
        sizes = [size for size in (2, 4) if members % size == 0 and random.random() < 0.4]
        segments = [Segment(random.choice(("node", "leaf")), size) for size in sizes]
        switches = random.choice((0, 0, 0, 1, 2))
        return replace(
            job,
            members=members,
            members_min=random.choice((0, 0, 1, members // 2)),
            segments=tuple(segments),
            within=random.choice(("", "", "any", "block", "leaf", "1")),
            within_soft=random.random() < 0.2,
            switches=switches,
            switches_wait_ms=random.choice((0, 10_000, 300_000)) if switches else 0,
            restart_ms=random.choice((0, 1_000)),
        )


def network(seed: int, nodes: int, length_ms: int) -> Network:
    """The network of a seed: none for three seeds of five."""
    random = Random(f"madang/network/{seed}")
    if random.random() < 0.6:
        return Network(random, False)
    facts: list[tuple[int, ev.Fact]] = []
    for _ in range(random.choice((0, 0, 1, 3))):
        at_ms = random.randint(0, length_ms)
        fact: ev.Fact = ev.TopologySet(_tree(random, nodes))
        if random.random() < 0.3:
            fact = ev.SettingDropped("topologies", "tree", "sim")
        facts.append((at_ms, fact))
    return Network(random, True, tuple(facts))


def _tree(random: Random, nodes: int) -> Topology:
    """A declared tree of two levels over nodes n0, n1, …: by name and by expression."""
    cut = random.randint(0, nodes)
    first = tuple(Members("node", "exact", f"n{at}") for at in range(cut))
    leaves = (
        Domain("s0", 1, first),
        Domain("s1", 1, (Members("node", "regex", f"n[{min(cut, 9)}-9]"),)),
    )
    spine = Domain("p0", 2, (Members("domain", "regex", "s[01]"),))
    tops = (spine,) if random.random() < 0.7 else ()
    within = random.choice(("", "", "any", "leaf"))
    return Topology(LEVELS, (), (*leaves, *tops), within)
