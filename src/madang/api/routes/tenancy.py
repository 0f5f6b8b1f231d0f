"""Who may have what: the policy, quotas, workspaces."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.problems import Problem
from madang.core.cells.promises import judge_quota
from madang.core.cells.standing import Standing, standings
from madang.core.classes import class_of
from madang.core.events import Fact, PolicySet, QuotaSet, SettingDropped, WorkspaceSet
from madang.core.explain_cells import quota_guide, standing_words
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI, Category, Provisioning, Purpose
from madang.core.policies import policy_of, stated_of
from madang.core.policy import Policy
from madang.core.quotas import Book
from madang.core.settings import ANY, Quota, Workspace
from madang.core.snapshot import Snapshot
from madang.wire import policy as wire
from madang.wire.jobs import NAME_PATTERN

QUOTAS_MAX = 10_000
WORKSPACES_MAX = 10_000
KNOWN_SHOWN_MAX = 20
WorkspaceId = Annotated[str, Path(pattern=NAME_PATTERN)]
Word = Annotated[str, Query(min_length=1, max_length=64)]


class Tenancy:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    # -- policy ------------------------------------------------------------------------------

    async def show_policy(self) -> Response:
        """The policy in force: whole, as TOML, and what its table says of each class."""
        return answer(policy_view((await self._snapshot()).policy))

    async def set_policy(self, body: wire.PolicyFile) -> Response:
        """Put a policy in force from the next turn on, and for every start to come.

        What is left out is as in its `base`. Jobs that were submitted keep the class they got.
        """
        policy = policy_of(body.stated())
        await self._yard.ask(PolicySet(policy))
        await self._desk.rows.read(self._yard.keep_policy, wire.toml_of(body))
        return answer(policy_view(policy))

    # -- quotas ------------------------------------------------------------------------------

    async def list_quotas(self) -> Response:
        """What owners may hold, what they can always have back, and what they hold."""
        snapshot = await self._snapshot()
        return answer(wire.QuotaListView(quotas=await self._desk.rows.read(_quotas, snapshot)))

    async def set_quota(self, body: wire.QuotaRequest) -> Response:
        """Make or change the quota of an owner in a machine group under a provisioning.

        Guarantees and cells that the machines cannot keep all at once are refused.
        """
        quota = Quota(
            owner=body.owner,
            group=body.group,
            provisioning=body.provisioning,
            guaranteed_milli=round(body.guaranteed_gpus * WHOLE_GPU_MILLI),
            limit_milli=(
                UNLIMITED if body.limit_gpus is None else round(body.limit_gpus * WHOLE_GPU_MILLI)
            ),
            weight=body.weight,
            cells=tuple(sorted(body.cells.items())),
        )
        _check_quota(await self._snapshot(), quota)
        await self._yard.ask(QuotaSet(quota))
        snapshot = await self._snapshot()
        return answer(_quota_view(Book(snapshot), quota, standings(snapshot)))

    async def drop_quota(
        self, owner: Word, group: Word = ANY, provisioning: Word = ANY
    ) -> Response:
        """Take a quota away: no limit, no guarantee."""
        quota = Quota(owner, group, provisioning)
        snapshot = await self._snapshot()
        if quota.key not in snapshot.settings.quotas:
            raise Problem(
                404,
                "not_found",
                f"there is no quota of {owner} for group {group} and provisioning {provisioning}",
                given=quota.key,
                allowed=_shown(snapshot.settings.quotas),
                tries=["see what there is: `madang quota ls`, GET /v1/quotas"],
            )
        await self._yard.ask(SettingDropped("quotas", quota.key))
        return answer(wire.QuotaListView(quotas=_quotas(await self._snapshot())))

    # -- workspaces --------------------------------------------------------------------------

    async def list_workspaces(self) -> Response:
        """Workspaces, their projects and what these hold together."""
        snapshot = await self._snapshot()
        names = {*snapshot.settings.workspaces}
        names |= {project.workspace for project in snapshot.projects.values()}
        views = [_workspace_view(snapshot, name) for name in sorted(names)]
        return answer(wire.WorkspaceListView(workspaces=views))

    async def set_workspace(self, id: WorkspaceId) -> Response:
        """Make a workspace. A project is put into it with `PUT /v1/projects/{id}`."""
        known = (await self._snapshot()).settings.workspaces
        if id not in known and len(known) >= WORKSPACES_MAX:
            raise Problem(
                409, "conflict", "there are too many workspaces", given=id, allowed=WORKSPACES_MAX
            )
        fact: Fact = WorkspaceSet(Workspace(id))
        await self._yard.ask(fact)
        return answer(_workspace_view(await self._snapshot(), id))

    async def _snapshot(self) -> Snapshot:
        return await self._desk.rows.read(self._yard.snapshot)


def policy_view(policy: Policy) -> wire.PolicyView:
    """A policy as it is shown."""
    file = wire.PolicyFile.model_validate(stated_of(policy))
    classes = []
    for axes in product(Provisioning, Category, Purpose):
        found = class_of(policy.classes, *axes)
        classes.append(
            wire.ClassView(
                provisioning=axes[0],
                category=axes[1],
                purpose=axes[2],
                priority=found.priority,
                preemptible=found.preemptible,
                head_start=f"{found.head_start_ms}ms",
                run_min=f"{found.run_ms_min}ms",
                grace=f"{found.grace_ms}ms",
                retries=found.retries_max,
                time=f"{found.time_limit_ms}ms",
            )
        )
    return wire.PolicyView(name=policy.name, policy=file, toml=wire.toml_of(file), classes=classes)


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


def _check_cells(snapshot: Snapshot, quota: Quota) -> None:
    """Cells that the yard could never keep together promise nothing."""
    rejected = judge_quota(snapshot, quota)
    if rejected is not None:
        text, tries = quota_guide(rejected)
        given = " ".join(f"{level}={count}" for level, count in quota.cells)
        raise Problem(409, "conflict", text, given=given, tries=list(tries))


def _check_quota(snapshot: Snapshot, quota: Quota) -> None:
    """Raises:
    Problem: 404, no such owner or group; 409, too many, or more guaranteed than there is.
    """
    kind, _, name = quota.owner.partition(":")
    known: Mapping[str, object] = snapshot.projects
    if kind == "workspace":
        known = dict.fromkeys(project.workspace for project in snapshot.projects.values())
        known = {**known, **snapshot.settings.workspaces}
    if name not in known:
        raise Problem(
            404,
            "not_found",
            f"there is no {kind} {name}",
            given=quota.owner,
            allowed=_shown(known),
            tries=[f"madang {kind} set {name}"],
        )
    if quota.group != ANY and quota.group not in snapshot.groups:
        raise Problem(
            404,
            "not_found",
            f"no node is of machine group {quota.group}",
            given=quota.group,
            allowed=_shown({ANY: None, **snapshot.groups}),
            tries=["see what there is: `madang nodes`, GET /v1/nodes"],
        )
    quotas = snapshot.settings.quotas
    if quota.key not in quotas and len(quotas) >= QUOTAS_MAX:
        raise Problem(
            409, "conflict", "there are too many quotas", given=quota.key, allowed=QUOTAS_MAX
        )
    _check_capacity(snapshot, quota)
    _check_cells(snapshot, quota)


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


def _workspace_view(snapshot: Snapshot, name: str) -> wire.WorkspaceView:
    inside = sorted(id for id, one in snapshot.projects.items() if one.workspace == name)
    held_milli = sum(snapshot.usage_milli.get(id, 0) for id in inside)
    return wire.WorkspaceView(id=name, projects=inside, held_gpus=held_milli / WHOLE_GPU_MILLI)


def _shown(known: Mapping[str, object]) -> str:
    names = sorted(known)
    more = len(names) - KNOWN_SHOWN_MAX
    shown = ", ".join(names[:KNOWN_SHOWN_MAX]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def tenancy_router(desk: Desk) -> APIRouter:
    """The table of what concerns owners and the rules between them."""
    of = Tenancy(desk)
    one = "/v1/workspaces/{id}"
    return router_of(
        "tenancy",
        [
            Route("GET", "/v1/policy", of.show_policy, wire.PolicyView),
            Route("PUT", "/v1/policy", of.set_policy, wire.PolicyView, 200, (422, 503)),
            Route("GET", "/v1/quotas", of.list_quotas, wire.QuotaListView),
            Route("PUT", "/v1/quotas", of.set_quota, wire.QuotaView, 200, (404, 409, 422, 503)),
            Route("DELETE", "/v1/quotas", of.drop_quota, wire.QuotaListView, 200, (404, 422, 503)),
            Route("GET", "/v1/workspaces", of.list_workspaces, wire.WorkspaceListView),
            Route("PUT", one, of.set_workspace, wire.WorkspaceView, 200, (409, 422, 503)),
        ],
    )
