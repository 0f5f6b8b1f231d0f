"""Zones, and the machine profiles that a job may ask for."""

import numpy as np
from fastapi import APIRouter
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.nouns import Asked, Family, Noun, check_owner
from madang.core.events import ZoneSet
from madang.core.model import WHOLE_GPU_MILLI
from madang.core.placement import eligible_rows
from madang.core.profiles import MachineProfile, derived_profiles
from madang.core.settings import Zone
from madang.core.snapshot import Snapshot
from madang.core.zones import PUBLIC, zones_of
from madang.wire import zones as wire


def _setting(snapshot: Snapshot, asked: Asked) -> Zone:
    """Raises:
    Problem: no such owner.
    """
    body = asked.body
    for owner in body.owners:
        check_owner(snapshot, owner)
    return Zone(asked.id, tuple(sorted(set(body.owners))), body.gpus_min, body.gpus_max)


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


ZONES = Noun(
    kind="zones",
    one="zone",
    ls="madang zone ls",
    asked=wire.ZoneRequest,
    view=wire.ZoneView,
    listed=wire.ZoneListView,
    setting=_setting,
    fact=ZoneSet,
    views=lambda snapshot: [_view(snapshot, one) for one in zones_of(snapshot)],
    view_of=_view,
    most=1_000,
    docs=(
        "Zones, whom and what they take, and what is free in them.",
        """Make or change a zone. Nodes name their zone themselves; `public` is of those who do not.

        What runs stays where it is; what waits goes by the new rules.
        """,
        "Take a zone's rules away: nodes that name it take everyone.",
    ),
)


class Profiles:
    """The one handler of profiles, which nobody sets: they are what the nodes are."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def list_profiles(self) -> Response:
        """Machine profiles, what comes with a GPU of each, and what is free."""
        snapshot = await self._desk.rows.read(self._desk.yard.snapshot)
        return answer(
            wire.ProfileListView(
                profiles=[
                    _profile_view(snapshot, profile)
                    for profile in derived_profiles(live.node for live in snapshot.nodes.values())
                ]
            )
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
    of = Family(desk, ZONES)
    profiles = Profiles(desk).list_profiles
    return router_of(
        "zones",
        [
            of.list_route(),
            of.set_route(),
            of.drop_route(),
            Route("GET", "/v1/profiles", profiles, wire.ProfileListView),
        ],
    )
