"""Nodes and what they do: devices, cordons, sensors."""

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from madang.api import views
from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.problems import Problem
from madang.core.events import NodeCordoned, NodeRemoved
from madang.core.live import LiveNode
from madang.core.model import NodeState
from madang.wire import views as wire

KNOWN_SHOWN_MAX = 20


class Nodes:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard
        self._written: tuple[int, bytes] = (-1, b"")

    async def list_nodes(self) -> Response:
        """Every node with its devices and who holds them."""
        seq = await self._yard.wait_for_events(-1)
        body = await self._desk.rows.read(self._list, seq)
        return Response(body, media_type="application/json")

    def _list(self, seq: int) -> bytes:
        """Written once per change: 10,000 devices are a megabyte, and pages ask often."""
        if self._written[0] != seq:
            view = wire.NodeListView(nodes=views.node_views(self._yard.snapshot()))
            self._written = (seq, view.model_dump_json().encode())
        return self._written[1]

    async def cordon(self, request: Request, id: str) -> Response:
        """Give a node no new members; those it has go on."""
        return await self._set_cordoned(request, id, True)

    async def uncordon(self, request: Request, id: str) -> Response:
        """Give a cordoned node new members again."""
        return await self._set_cordoned(request, id, False)

    async def _set_cordoned(self, request: Request, id: str, cordoned: bool) -> Response:
        await self._desk.rows.read(self._check, id)
        await self._yard.ask(NodeCordoned(id, cordoned, who(request).name))
        return answer(await self._desk.rows.read(self._one, id))

    async def remove(self, request: Request, id: str) -> Response:
        """Take a lost node that holds nothing off the lists; seen again, it is back."""
        await self._desk.rows.read(self._check_removable, id)
        await self._yard.ask(NodeRemoved(id, who(request).name))
        return answer(await self._desk.rows.read(self._one, id))

    def _check_removable(self, id: str) -> None:
        snapshot = self._yard.snapshot()
        self._check_known(snapshot.nodes, id)
        state = snapshot.nodes[id].state
        if state not in (NodeState.LOST, NodeState.REMOVED):
            raise Problem(
                409,
                "conflict",
                f"{id} is in sight: it would be back at its next report",
                given=state.value,
                allowed=["lost"],
                tries=[f"madang cordon {id}      it takes no more work"],
            )
        holding = [
            allocation.id
            for allocation in snapshot.allocations.values()
            for rank, seat in enumerate(allocation.seats)
            if seat.node == id and allocation.holds(rank)
        ]
        if holding:
            names = ", ".join(dict.fromkeys(holding[:KNOWN_SHOWN_MAX]))
            raise Problem(
                409,
                "conflict",
                f"nobody has seen what {id} ran end: {names}; what it held stays held",
                given=state.value,
            )

    @staticmethod
    def _check_known(nodes: Mapping[str, LiveNode], id: str) -> None:
        if id not in nodes:
            known = list(nodes)[:KNOWN_SHOWN_MAX]
            more = ["…"] if len(nodes) > len(known) else []
            raise Problem(
                404, "no_such_node", "no node has this id", given=id[:128], allowed=known + more
            )

    def _check(self, id: str) -> None:
        nodes = self._yard.snapshot().nodes
        self._check_known(nodes, id)
        if nodes[id].state in (NodeState.LOST, NodeState.REMOVED):
            raise Problem(
                409,
                "conflict",
                f"{id} is out of sight; it takes no members anyway",
                given=nodes[id].state.value,
                allowed=["ready", "cordoned"],
            )

    def _one(self, id: str) -> wire.NodeView:
        return views.node_views(self._yard.snapshot(), only=id)[0]

    async def top(self) -> Response:
        """What nodes, devices and members use now; null where there is no sensor."""
        return answer(views.top_view(await self._desk.rows.read(self._yard.top)))


def nodes_router(desk: Desk) -> APIRouter:
    """The table of what one can do with nodes."""
    nodes = Nodes(desk)
    problems = (404, 409, 503)
    return router_of(
        "nodes",
        [
            Route("GET", "/v1/nodes", nodes.list_nodes, wire.NodeListView),
            Route("POST", "/v1/nodes/{id}/cordon", nodes.cordon, wire.NodeView, 200, problems),
            Route("POST", "/v1/nodes/{id}/uncordon", nodes.uncordon, wire.NodeView, 200, problems),
            Route("DELETE", "/v1/nodes/{id}", nodes.remove, wire.NodeView, 200, problems),
            Route("GET", "/v1/top", nodes.top, wire.TopView),
        ],
    )
