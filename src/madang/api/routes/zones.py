"""Zones, and the machine profiles that a job may ask for."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.problems import Problem
from madang.core.events import SettingDropped, ZoneSet
from madang.core.model import WHOLE_GPU_MILLI
from madang.core.placement import eligible_rows
from madang.core.profiles import MachineProfile, derived_profiles
from madang.core.settings import Zone
from madang.core.snapshot import Snapshot
from madang.core.zones import PUBLIC, zones_of
from madang.wire import zones as wire
from madang.wire.jobs import NAME_PATTERN

ZONES_MAX = 1_000
ZoneId = Annotated[str, Path(pattern=NAME_PATTERN)]


class Zones:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def list_zones(self) -> Response:
        """Zones, whom and what they take, and what is free in them."""
        snapshot = await self._snapshot()
        return answer(wire.ZoneListView(zones=[_view(snapshot, one) for one in zones_of(snapshot)]))

    async def set_zone(self, id: ZoneId, body: wire.ZoneRequest) -> Response:
        """Make or change a zone. Nodes name their zone themselves; `public` is of those who do not.

        What runs stays where it is; what waits goes by the new rules.
        """
        snapshot = await self._snapshot()
        known = snapshot.settings.zones
        if id not in known and len(known) >= ZONES_MAX:
            raise Problem(409, "conflict", "there are too many zones", given=id, allowed=ZONES_MAX)
        for owner in body.owners:
            _check_owner(snapshot, owner)
        zone = Zone(id, tuple(sorted(set(body.owners))), body.gpus_min, body.gpus_max)
        await self._yard.ask(ZoneSet(zone))
        return answer(_view(await self._snapshot(), zone))

    async def drop_zone(self, id: ZoneId) -> Response:
        """Take a zone's rules away: nodes that name it take everyone."""
        snapshot = await self._snapshot()
        if id not in snapshot.settings.zones:
            raise Problem(
                404,
                "not_found",
                f"there is no zone {id} that anybody has set",
                given=id,
                allowed=", ".join(sorted(snapshot.settings.zones)) or "none",
                tries=["see what there is: `madang zone ls`, GET /v1/zones"],
            )
        await self._yard.ask(SettingDropped("zones", id))
        return await self.list_zones()

    async def list_profiles(self) -> Response:
        """Machine profiles, what comes with a GPU of each, and what is free."""
        snapshot = await self._snapshot()
        return answer(
            wire.ProfileListView(
                profiles=[
                    _profile_view(snapshot, profile)
                    for profile in derived_profiles(live.node for live in snapshot.nodes.values())
                ]
            )
        )

    async def _snapshot(self) -> Snapshot:
        return await self._desk.rows.read(self._yard.snapshot)


def _check_owner(snapshot: Snapshot, owner: str) -> None:
    """Raises:
    Problem: 422, not an owner's form; 404, no such owner.
    """
    kind, _, name = owner.partition(":")
    known = set(snapshot.projects)
    if kind == "workspace":
        known = {project.workspace for project in snapshot.projects.values()}
        known |= set(snapshot.settings.workspaces)
    elif kind != "project":
        raise Problem(
            422, "invalid", "this is no owner", given=owner, allowed="project:NAME, workspace:NAME"
        )
    if name not in known:
        raise Problem(
            404,
            "not_found",
            f"there is no {kind} {name}",
            given=owner,
            allowed=", ".join(sorted(known)[:20]) or "none",
            tries=[f"madang {kind} set {name}"],
        )


def _view(snapshot: Snapshot, zone: Zone) -> wire.ZoneView:
    pool = snapshot.pool
    code = snapshot.zones.get("" if zone.id == PUBLIC else zone.id, -1)
    # Rows of nodes that left the yard have no devices.
    rows = (pool.zone == code) & (pool.gpu_count > 0)
    free = int(pool.gpu_free[rows & pool.open].sum(dtype=np.int64))
    return wire.ZoneView(
        id=zone.id,
        owners=list(zone.owners),
        gpus_min=zone.gpus_min,
        gpus_max=zone.gpus_max,
        is_set=zone.id in snapshot.settings.zones,
        nodes=int(rows.sum()),
        gpus=int(pool.gpu_count[rows].sum()),
        gpus_free=free / WHOLE_GPU_MILLI,
    )


def _profile_view(snapshot: Snapshot, profile: MachineProfile) -> wire.ProfileView:
    pool = snapshot.pool
    codes = tuple(snapshot.models.get(model, -1) for model in profile.models)
    rows = eligible_rows(pool, codes)
    rows = pool.gpu_count > 0 if rows is None else rows & (pool.gpu_count > 0)
    free = pool.gpu_free[rows & pool.open]
    shared = free[free < WHOLE_GPU_MILLI]
    whole = pool.whole_free[rows & pool.open]
    nodes = [snapshot.nodes[snapshot.node_ids[row]].node for row in np.flatnonzero(rows).tolist()]
    migs = {node.mig for node in nodes}
    return wire.ProfileView(
        name=profile.name,
        models=list(profile.models),
        mig=migs.pop() if len(migs) == 1 else "",
        cpus_per_gpu=profile.cpu_milli / 1000,
        memory_mib_per_gpu=profile.memory_mib,
        gpu_memory_mib=min((node.gpu_memory_mib for node in nodes), default=0),
        nodes=len(nodes),
        gpus=int(pool.gpu_count[rows].sum()),
        gpus_free=int(whole.sum()),
        free_share=int(shared.max(initial=0)) / WHOLE_GPU_MILLI,
        most_free_on_one_node=int(whole.max(initial=0)),
    )


def zones_router(desk: Desk) -> APIRouter:
    """The table of zones and profiles."""
    of = Zones(desk)
    one = "/v1/zones/{id}"
    return router_of(
        "zones",
        [
            Route("GET", "/v1/zones", of.list_zones, wire.ZoneListView),
            Route("PUT", one, of.set_zone, wire.ZoneView, 200, (404, 409, 422, 503)),
            Route("DELETE", one, of.drop_zone, wire.ZoneListView, 200, (404, 422, 503)),
            Route("GET", "/v1/profiles", of.list_profiles, wire.ProfileListView),
        ],
    )
