"""Quotas: what owners may hold, what they can always have back, which cells they were promised."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from madang.api.desk import Desk, Route, router_of, who
from madang.api.nouns import Asked, Family, Noun, check_owner, missing
from madang.api.problems import Problem
from madang.core.cells.promises import judge_quota
from madang.core.cells.standing import Standing, standings
from madang.core.events import QuotaSet
from madang.core.explain_cells import quota_guide, standing_words
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI
from madang.core.quotas import Book
from madang.core.settings import ANY, Quota
from madang.core.snapshot import Snapshot
from madang.wire import policy as wire

Word = Annotated[str, Query(min_length=1, max_length=64)]


def _setting(snapshot: Snapshot, asked: Asked) -> Quota:
    """Raises:
    Problem: 404, no such owner or group; 409, more guaranteed or promised than there is.
    """
    body: wire.QuotaRequest = asked.body
    limit = body.limit_gpus
    quota = Quota(
        owner=body.owner,
        group=body.group,
        provisioning=body.provisioning,
        guaranteed_milli=round(body.guaranteed_gpus * WHOLE_GPU_MILLI),
        limit_milli=UNLIMITED if limit is None else round(limit * WHOLE_GPU_MILLI),
        weight=body.weight,
        cells=tuple(sorted(body.cells.items())),
    )
    check_owner(snapshot, quota.owner)
    if quota.group != ANY and quota.group not in snapshot.groups:
        raise missing(
            f"no node is of machine group {quota.group}",
            quota.group,
            [ANY, *snapshot.groups],
            "see what there is: `madang nodes`, GET /v1/nodes",
        )
    _check_capacity(snapshot, quota)
    _check_cells(snapshot, quota)
    return quota


def _check_capacity(snapshot: Snapshot, quota: Quota) -> None:
    """Guarantees that the machines cannot keep all at once promise nothing."""
    pool = snapshot.pool
    if not pool.nodes or not quota.guaranteed_milli:
        return
    rows = slice(None) if quota.group == ANY else pool.group == snapshot.groups[quota.group]
    there_milli = int(pool.gpu_count[rows].sum()) * WHOLE_GPU_MILLI
    quotas = {**snapshot.settings.quotas, quota.key: quota}
    promised_milli = promised(snapshot, quotas, quota.group)
    if promised_milli > there_milli:
        others_milli = promised_milli - quota.guaranteed_milli
        raise Problem(
            409,
            "conflict",
            f"{promised_milli / WHOLE_GPU_MILLI:g} GPUs would be guaranteed, but there are "
            f"{there_milli / WHOLE_GPU_MILLI:g}",
            given=quota.guaranteed_milli / WHOLE_GPU_MILLI,
            allowed=f"at most {max(0, there_milli - others_milli) / WHOLE_GPU_MILLI:g}",
            tries=[
                "lower another guarantee: `madang quota ls`",
                "let it borrow: a higher --weight",
            ],
        )


def promised(snapshot: Snapshot, quotas: Mapping[str, Quota], group: str) -> int:
    """GPU-milli guaranteed in a machine group; a workspace's hold those of its projects."""
    of_project: dict[str, int] = {}
    for quota in quotas.values():
        if group in (ANY, quota.group) and quota.owner.startswith("project:"):
            name = quota.owner.partition(":")[2]
            of_project[name] = of_project.get(name, 0) + quota.guaranteed_milli
    total, counted = 0, set()
    of_workspace: dict[str, int] = {}
    for quota in quotas.values():
        if group in (ANY, quota.group) and quota.owner.startswith("workspace:"):
            name = quota.owner.partition(":")[2]
            of_workspace[name] = of_workspace.get(name, 0) + quota.guaranteed_milli
    for name, milli in of_workspace.items():
        inside = [id for id in of_project if snapshot.projects[id].workspace == name]
        counted.update(inside)
        total += max(milli, sum(of_project[id] for id in inside))
    return total + sum(milli for id, milli in of_project.items() if id not in counted)


def _check_cells(snapshot: Snapshot, quota: Quota) -> None:
    """Cells that the yard could never keep together promise nothing."""
    rejected = judge_quota(snapshot, quota)
    if rejected is not None:
        text, tries = quota_guide(rejected)
        given = " ".join(f"{level}={count}" for level, count in quota.cells)
        raise Problem(409, "conflict", text, given=given, tries=list(tries))


def _quotas(snapshot: Snapshot) -> list[wire.QuotaView]:
    book = Book(snapshot)
    stand = standings(snapshot)
    return [_quota_view(book, book.quotas[key], stand) for key in sorted(book.quotas)]


def _quota_view(book: Book, quota: Quota, stand: Sequence[Standing] = ()) -> wire.QuotaView:
    unlimited = quota.limit_milli == UNLIMITED
    return wire.QuotaView(
        owner=quota.owner,
        group=quota.group,
        provisioning=quota.provisioning,
        guaranteed_gpus=quota.guaranteed_milli / WHOLE_GPU_MILLI,
        limit_gpus=None if unlimited else quota.limit_milli / WHOLE_GPU_MILLI,
        weight=quota.weight,
        cells=dict(quota.cells),
        held_gpus=book.held_of(quota) / WHOLE_GPU_MILLI,
        cells_now=[
            wire.CellsView(
                level=one.level,
                group=one.group,
                model=one.model,
                gpus=one.gpus,
                promised=one.promised,
                opened=one.opened,
                ready=one.ready,
                doomed=one.doomed,
                occupied=one.occupied,
                text=standing_words(one),
            )
            for one in stand
            if quota.cells and one.owner == quota.owner and quota.group in (ANY, one.group)
        ],
    )


def _view_of(snapshot: Snapshot, quota: Quota) -> wire.QuotaView:
    return _quota_view(Book(snapshot), quota, standings(snapshot))


QUOTAS = Noun(
    kind="quotas",
    one="quota",
    ls="madang quota ls",
    asked=wire.QuotaRequest,
    view=wire.QuotaView,
    listed=wire.QuotaListView,
    setting=_setting,
    fact=QuotaSet,
    views=_quotas,
    view_of=_view_of,
    most=10_000,
    named=False,
    docs=(
        "What owners may hold, what they can always have back, and what they hold.",
        """Make or change the quota of an owner in a machine group under a provisioning.

        Guarantees and cells that the machines cannot keep all at once are refused.
        """,
        "",
    ),
)


def quotas_router(desk: Desk) -> APIRouter:
    """The table of quotas; one is named by three words, which no path would take."""
    of = Family(desk, QUOTAS)

    async def drop_quota(
        request: Request, owner: Word, group: Word = ANY, provisioning: Word = ANY
    ) -> Response:
        """Take a quota away: no limit, no guarantee."""
        return await of.drop(Quota(owner, group, provisioning).key, who(request).name)

    drop = Route("DELETE", "/v1/quotas", drop_quota, wire.QuotaListView, 200, (404, 422, 503))
    return router_of("tenancy", [of.list_route(), of.set_route(), drop])
