"""Nodes and what they do: devices, cordons, sensors."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from madang.api import views
from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.problems import Problem
from madang.core.events import NodeCordoned
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

    def _check(self, id: str) -> None:
        nodes = self._yard.snapshot().nodes
        if id not in nodes:
            known = list(nodes)[:KNOWN_SHOWN_MAX]
            more = ["…"] if len(nodes) > len(known) else []
            raise Problem(
                404, "no_such_node", "no node has this id", given=id[:128], allowed=known + more
            )
        if nodes[id].state is NodeState.LOST:
            raise Problem(
                409,
                "conflict",
                f"{id} is out of sight; it takes no members anyway",
                given="lost",
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
            Route("GET", "/v1/top", nodes.top, wire.TopView),
        ],
    )
