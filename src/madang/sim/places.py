"""Seeds with zones, mixed profiles, exclusive jobs, data that lies somewhere, suspects, labels
that jobs need, and taints that keep some off."""

from dataclasses import dataclass, replace
from random import Random

from madang.core import events as ev
from madang.core.learning import PLACEMENTS
from madang.core.model import Job, Need, Node, Taint, Toleration
from madang.core.policy import Policy
from madang.core.settings import Zone

ZONES = ("lab", "small")
DATA = ("imagenet", "torch")
GPUS_SMALL = 2
RACKS = ("r0", "r1", "r2")
TEAM = Taint("team", "a")


@dataclass(frozen=True, slots=True)
class Places:
    """What a seed does with places; half of the seeds do nothing.

    `named` are the zones that jobs may ask for by name, `facts` (when, fact).
    """

    random: Random
    ground: Random
    active: bool
    named: tuple[str, ...]
    facts: tuple[tuple[int, ev.Fact], ...]

    def placed(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """The nodes in their zones, with what they have; the first stays public."""
        if not self.active:
            return nodes
        # Whoever asks for the lab by name must not wait for nodes that never come.
        named = ("lab", *[""] * len(nodes))
        nodes = (nodes[0], *map(self._placed, nodes[1:], named))
        return tuple(self._labelled(node, place) for place, node in enumerate(nodes))

    def _labelled(self, node: Node, place: int) -> Node:
        taints = (TEAM,) if place and self.ground.random() < 0.2 else ()
        return replace(node, labels=(("rack", RACKS[place % len(RACKS)]),), taints=taints)

    def _placed(self, node: Node, zone: str = "") -> Node:
        draw = self.random
        zone = zone or draw.choice(("", "", *ZONES))
        return replace(node, zone=zone, cached=tuple(n for n in DATA if draw.random() < 0.3))

    def wishing(self, job: Job, models: tuple[str, ...]) -> Job:
        """The job with wishes about where it sits."""
        if not self.active:
            return job
        draw = self.random
        if job.shape.models and draw.random() < 0.5:
            others = [model for model in models if model not in job.shape.models]
            cpu_milli = job.shape.cpu_milli // 2
            then = [replace(job.shape, models=(one,), cpu_milli=cpu_milli) for one in others]
            job = replace(job, fallbacks=tuple(then))
        if draw.random() < 0.3:
            job = replace(job, data=tuple((name, 4_000) for name in DATA if draw.random() < 0.7))
        return replace(
            job,
            exclusive=draw.random() < 0.15,
            zone=draw.choice(self.named) if draw.random() < 0.1 else "",
            spread_nodes=draw.choice((0, 0, 2, 3)),
            needs=self._needs(),
            tolerates=(Toleration("team", "exists"),) if self.ground.random() < 0.4 else (),
        )

    def _needs(self) -> tuple[tuple[Need, ...], ...]:
        draw = self.ground
        if draw.random() < 0.8:
            return ()
        racks = draw.sample(RACKS, draw.choice((1, 2)))
        return tuple((Need("rack", "in", (rack,)),) for rack in racks)

    def policy(self, policy: Policy) -> Policy:
        """The policy with any placement."""
        if not self.active:
            return policy
        return replace(policy, placement=self.random.choice((*PLACEMENTS, "madang")))


def places(seed: int, projects: tuple[str, ...], nodes: tuple[Node, ...], length_ms: int) -> Places:
    """The places of a seed."""
    draw = Random(f"madang/places/{seed}")
    if draw.random() < 0.5:
        return Places(draw, draw, False, (), ())
    zones = (Zone("lab", (f"project:{projects[0]}",)), Zone("small", gpus_max=GPUS_SMALL))
    facts: list[tuple[int, ev.Fact]] = []
    for zone in zones:
        if draw.random() < 0.7:
            at_ms = draw.choice((0, draw.randint(0, length_ms)))
            facts.append((at_ms, ev.ZoneSet(zone)))
            if draw.random() < 0.3:
                gone = ev.SettingDropped("zones", zone.id, "sim")
                facts.append((at_ms + draw.randint(1, length_ms), gone))
    for _ in range(draw.choice((0, 4))):
        node = draw.choice(nodes).id
        facts.append((draw.randint(0, length_ms), ev.NodeFlagged(node, draw.choice((0, 1, 3)))))
    named = ("public", "lab") if len(nodes) > 1 else ("public",)
    ground = Random(f"madang/ground/{seed}")  # its own, so that the rest of a seed stays as it was
    return Places(draw, ground, True, named, tuple(fact for fact in facts if fact[0] < length_ms))
