"""The half of the fold that is about nodes: seen, lost, back, cordoned, gone. See state.py."""

from dataclasses import replace

from madang.core import events as ev
from madang.core.cells.promises import serve
from madang.core.lifecycle import LIVELY
from madang.core.live import LiveNode
from madang.core.model import (
    AllocationState,
    Exit,
    Node,
    NodeState,
    ReleaseReason,
    Shape,
)
from madang.core.pool import Taken
from madang.core.state_rows import StateRows

LOST_EXIT = Exit(code=0, lost=True)


def _grows(before: LiveNode, after: LiveNode) -> bool:
    """True iff the trees of cells are other trees now."""
    old, new = before.node, after.node
    removed = NodeState.REMOVED in (before.state, after.state) and before.state is not after.state
    return removed or any(
        getattr(old, name) != getattr(new, name)
        for name in ("gpus", "model", "group", "domains", "zone", "cpu_milli", "memory_mib")
    )


class NodeFold(StateRows):
    """See the module's docstring."""

    def _member_ended(self, event: ev.MemberEnded, now_ms: int) -> bool:
        raise NotImplementedError

    def look_for_settling(self, allocation_id: str) -> None:
        """Mark the job iff all that its allocation still holds is out of sight, or nothing."""
        raise NotImplementedError

    def _node_seen(self, event: ev.NodeSeen, now_ms: int) -> bool:
        known = self.nodes.get(event.node.id)
        self._note_strays(event)
        if known is None:
            self._admit_node(event.node, NodeState.READY)
            return True
        was_lost = known.state in (NodeState.LOST, NodeState.REMOVED)
        if known.node == event.node and not was_lost:
            return False
        state = NodeState.CORDONED if known.cordoned else NodeState.READY
        self._set_node(replace(known, node=event.node, state=state))
        if was_lost:
            self._reconcile(event, now_ms)
        return True

    def _note_strays(self, event: ev.NodeSeen) -> None:
        for allocation, _ in event.holds:
            if allocation in self.allocations or allocation in self.ended_allocations:
                continue
            self.strays[allocation] = None

    def _reconcile(self, event: ev.NodeSeen, now_ms: int) -> None:
        """A lost node is back: what it no longer runs has ended, what it must not is a stray."""
        runs = dict.fromkeys(event.holds)
        made_ms = event.at_ms or now_ms
        for id in list(self.on_node[event.node.id]):
            allocation = self.allocations[id]
            if allocation.state in LIVELY or made_ms < allocation.releasing_ms:
                continue  # its Start may be younger than the report; its Stop will bring the end
            for rank, seat in enumerate(allocation.seats):
                if seat.node != event.node.id or not allocation.holds(rank):
                    continue
                if (id, rank) not in runs:
                    self._member_ended(ev.MemberEnded(id, rank, LOST_EXIT, now_ms), now_ms)
        for id in self.on_node[event.node.id]:
            if self.allocations[id].state is AllocationState.RELEASING:
                self.strays[id] = None  # it was asked to end while nobody could hear
                self.look_for_settling(id)  # what it holds is in sight again: wait for its end

    def _node_lost(self, event: ev.NodeLost, now_ms: int) -> bool:
        known = self.nodes.get(event.node)
        if known is None or known.state in (NodeState.LOST, NodeState.REMOVED):
            return False
        self._set_node(replace(known, state=NodeState.LOST))
        for id in self.on_node[event.node]:
            if self.allocations[id].state not in LIVELY:
                self.look_for_settling(id)
            else:
                self.troubled.setdefault(id, ReleaseReason.NODE_LOST)
        return True

    def _node_cordoned(self, event: ev.NodeCordoned, now_ms: int) -> bool:
        known = self.nodes.get(event.node)
        if known is None or known.cordoned is event.cordoned:
            return False
        state = NodeState.CORDONED if event.cordoned else NodeState.READY
        if known.state in (NodeState.LOST, NodeState.REMOVED):
            state = known.state
        self._set_node(replace(known, state=state, cordoned=event.cordoned))
        return True

    def _node_removed(self, event: ev.NodeRemoved, now_ms: int) -> bool:
        known = self.nodes.get(event.node)
        if known is None or known.state is not NodeState.LOST or self.on_node[event.node]:
            return False
        self._set_node(replace(known, state=NodeState.REMOVED))
        return True

    def _node_flagged(self, event: ev.NodeFlagged, now_ms: int) -> bool:
        known = self.nodes.get(event.node)
        if known is None or known.suspicion == event.suspicion:
            return False
        self._set_node(replace(known, suspicion=event.suspicion))
        return True

    def _admit_node(self, node: Node, state: NodeState) -> None:
        row = len(self.node_ids)
        self.grow(nodes=row + 1, gpus=node.gpus)
        self.node_ids.append(node.id)
        self.on_node[node.id] = {}
        self._set_node(LiveNode(node, state, row))

    def _set_node(self, live: LiveNode) -> None:
        """Store the node and write its row: capacity less what its members hold."""
        id, node = live.node.id, live.node
        self.grow(nodes=self.pool.nodes, gpus=node.gpus, levels=len(self.domains_of(node)))
        before = self.nodes.get(id)
        moves = before is not None and before.node.group != node.group
        if moves:
            self._charge_on(id, -1)
        self.nodes[id] = live
        if moves:
            self._charge_on(id, 1)
        self.changed.nodes[id] = None
        self.stirs += 1
        if before is None or _grows(before, live):
            self._book_is_stale = self._book is not None or self._book_is_stale
        taken = Taken()
        for shape, gpus in self._held_on(id):
            taken.add(shape, gpus)
        self.write_row(live, taken)
        if self._kept_book is not None:
            serve(self._kept_book, live)
        same_node = before is not None and before.node == node  # labels may place it, too
        suspicion = before.suspicion if before is not None else 0
        if suspicion != live.suspicion or (self.suspects and not same_node):
            self.weigh_suspects()

    def _charge_on(self, node: str, sign: int) -> None:
        """Count, or count no longer, what is held on one node."""
        for id in self.on_node[node]:
            allocation = self.allocations[id]
            if self.is_newest(allocation):
                here = [r for r, seat in enumerate(allocation.seats) if seat.node == node]
                held = [rank for rank in here if allocation.holds(rank)]
                self.charge(self.jobs[allocation.job].job, allocation, held, sign)

    def _held_on(self, node: str) -> list[tuple[Shape, tuple[int, ...]]]:
        return [
            (allocation.shape, seat.gpus)
            for allocation in (self.allocations[id] for id in self.on_node[node])
            for rank, seat in enumerate(allocation.seats)
            if seat.node == node and allocation.holds(rank)
        ]
