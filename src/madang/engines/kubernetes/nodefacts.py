"""What is told of nodes: seen, changed, cordoned, suspected, lost or gone; and their tree.

Works out anew only nodes that changed or whose pods did. Promises: nothing is told twice while it
stays the same; a node that is not ready takes nothing new at once, and is lost after `LOST_S`, for
a kubelet that restarts is away for seconds; a node that was deleted is lost at once, and leaves the
yard when nothing is held there any more. A tree that operators declare goes before the cluster's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from madang.core.events import (
    Fact,
    NodeCordoned,
    NodeFlagged,
    NodeLost,
    NodeRemoved,
    NodeSeen,
    TopologySet,
)
from madang.core.model import Node
from madang.engines.kubernetes.cache import Cache
from madang.engines.kubernetes.devices import Devices
from madang.engines.kubernetes.nodes import Around, core_node
from madang.engines.kubernetes.stays import Stays
from madang.engines.kubernetes.topology import NO_TREE, Layout, layout_of
from madang.engines.kubernetes.values import PodFacts

BY = "kubernetes"
LOST_S = 40.0  # as long as the node lifecycle controller waits for a heartbeat


@dataclass(slots=True)
class _Told:
    """What is known of one node by those who were told."""

    node: Node | None = None
    cordoned: bool = False
    suspicion: int = 0
    away_s: float = 0.0  # since when it cannot be reached
    lost: bool = False
    deleted: bool = False


@dataclass(slots=True)
class NodeTeller:
    """`is_ours` says of a pod that the core counts it by its allocation."""

    cache: Cache
    stays: Stays
    is_ours: Callable[[PodFacts], bool]
    tell: Callable[[Fact], None]
    now_s: Callable[[], float]
    devices: Devices
    declared: bool = False  # operators have a tree of their own
    layout: Layout = NO_TREE
    _told: dict[str, _Told] = field(default_factory=dict)
    _asked: frozenset[str] = frozenset()

    def recall(self, nodes: Iterable[str]) -> None:
        """Those that the yard has from before; what is not there any more is told as lost."""
        for name in nodes:
            self._told.setdefault(name, _Told())

    def asked_for(self, resources: Iterable[str]) -> None:
        """Some pod asks for these, too."""
        wanted = self._asked.union(resources)
        if wanted != self._asked:
            self._asked = wanted
            self.look_at_all()

    def look_at_all(self) -> None:
        """Something changed that concerns all nodes."""
        for name in (*self.cache.nodes.objects, *self._told):
            self.cache.mark_node(name)

    def look(self, names: Iterable[str]) -> None:
        """Tell what is news of these."""
        names = list(names)
        if any(self._is_new(name) for name in names):
            self._arrange()
            names = list(dict.fromkeys((*names, *self.cache.take_nodes())))
        for name in names:
            self._look(name)

    def tick(self) -> None:
        """Time makes lost what is away, and removed what nobody holds any more."""
        now_s = self.now_s()
        for name, told in list(self._told.items()):
            if told.away_s and not told.lost and now_s - told.away_s >= LOST_S:
                self._lose(name, told)
            if told.deleted and told.lost and not self.stays.on_node.get(name):
                self.tell(NodeRemoved(name, BY))
                del self._told[name]

    def _is_new(self, name: str) -> bool:
        """True if the tree may be another one by it: it came, or it went."""
        told = self._told.get(name)
        here = name in self.cache.nodes.objects
        return here != (told is not None and told.node is not None)

    def _arrange(self) -> None:
        if self.declared:
            return
        hypers = self.cache.tops.get("HyperNode")
        found = layout_of(
            self.cache.nodes.objects.values(), list(hypers.objects.values()) if hypers else ()
        )
        if found == self.layout:
            return
        self.layout = found
        if found.topology is not None:
            self.tell(TopologySet(found.topology))
        self.look_at_all()

    def _look(self, name: str) -> None:
        facts = self.cache.nodes.objects.get(name)
        told = self._told.get(name)
        if facts is None:
            if told is not None and not told.deleted:
                told.deleted, told.node = True, None
                self._lose(name, told)
            return
        if told is None:
            told = self._told[name] = _Told()
        told.deleted = False
        pods = self.cache.on_node.get(name, {}).values()
        ours = [pod for pod in pods if self.is_ours(pod)]
        others = [pod for pod in pods if not self.is_ours(pod)]
        before = told.node
        held = self.stays.held_on(name)
        offered = self.devices.offered(facts, held)
        around = Around(
            layout=self.layout,
            held=held,
            taken=before.taken if before else 0,
            healthy=before.healthy if before else -1,
            asked=self._asked,
            ill=offered.ill,
            claimed=offered.claimed,
        )
        seen = core_node(offered.facts, others, ours, around)
        if not seen.is_there:
            told.away_s = told.away_s or self.now_s()
            if before is not None:
                self._cordon(name, told, True)
            return
        told.away_s = 0.0
        if seen.node != before or told.lost:
            told.node, told.lost = seen.node, False
            self.tell(NodeSeen(seen.node, self.stays.holds_on(name)))
        self._cordon(name, told, seen.cordoned)
        if seen.suspicion != told.suspicion:
            told.suspicion = seen.suspicion
            self.tell(NodeFlagged(name, seen.suspicion, BY))

    def _cordon(self, name: str, told: _Told, cordoned: bool) -> None:
        if told.cordoned != cordoned:
            told.cordoned = cordoned
            self.tell(NodeCordoned(name, cordoned, BY))

    def _lose(self, name: str, told: _Told) -> None:
        if not told.lost:
            told.lost = True
            self.tell(NodeLost(name))
