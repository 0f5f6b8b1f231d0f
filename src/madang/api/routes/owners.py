"""Who owns what is held: workspaces, and the projects in them."""

from operator import attrgetter

from fastapi import APIRouter

from madang.api import views
from madang.api.desk import Desk, router_of
from madang.api.nouns import Asked, Family, Noun, missing, workspaces_of
from madang.core.events import ProjectSet, WorkspaceSet
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI, Project
from madang.core.settings import Workspace
from madang.core.snapshot import Snapshot
from madang.wire import policy
from madang.wire import views as wire

# -- projects ------------------------------------------------------------------------------------


def _project(snapshot: Snapshot, asked: Asked) -> Project:
    """Raises:
    Problem: 404, no such workspace.
    """
    quota, workspace = asked.body.quota_gpus, asked.body.workspace
    known = workspaces_of(snapshot) | {Project(asked.id).workspace}
    if workspace and workspace not in known:
        text = f"there is no workspace {workspace}"
        raise missing(text, workspace, known, f"madang workspace set {workspace}")
    before = snapshot.projects.get(asked.id) or Project(asked.id)
    milli = UNLIMITED if quota is None else round(quota * WHOLE_GPU_MILLI)
    return Project(asked.id, workspace or before.workspace, milli)


def _project_view(snapshot: Snapshot, project: Project) -> wire.ProjectView:
    return views.project_view(project, snapshot.usage_milli.get(project.id, 0))


PROJECTS = Noun(
    kind="projects",
    one="project",
    ls="madang project ls",
    asked=wire.ProjectRequest,
    view=wire.ProjectView,
    listed=wire.ProjectListView,
    setting=_project,
    fact=ProjectSet,
    views=lambda snapshot: [
        _project_view(snapshot, one) for _, one in sorted(snapshot.projects.items())
    ],
    view_of=_project_view,
    most=10_000,
    known=lambda snapshot: snapshot.projects,
    key=attrgetter("id"),
    docs=(
        "All projects, what they may hold and what they hold.",
        "Make a project, or set what it may hold at once and which workspace pays.",
        "",
    ),
)

# -- workspaces ----------------------------------------------------------------------------------


def _workspace_view(snapshot: Snapshot, one: Workspace) -> policy.WorkspaceView:
    inside = sorted(id for id, project in snapshot.projects.items() if project.workspace == one.id)
    held_milli = sum(snapshot.usage_milli.get(id, 0) for id in inside)
    return policy.WorkspaceView(id=one.id, projects=inside, held_gpus=held_milli / WHOLE_GPU_MILLI)


WORKSPACES = Noun(
    kind="workspaces",
    one="workspace",
    ls="madang workspace ls",
    asked=None,
    view=policy.WorkspaceView,
    listed=policy.WorkspaceListView,
    setting=lambda _snapshot, asked: Workspace(asked.id),
    fact=WorkspaceSet,
    views=lambda snapshot: [
        _workspace_view(snapshot, Workspace(name)) for name in sorted(workspaces_of(snapshot))
    ],
    view_of=_workspace_view,
    most=10_000,
    docs=(
        "Workspaces, their projects and what these hold together.",
        "Make a workspace. A project is put into it with `PUT /v1/projects/{id}`.",
        "",
    ),
)


def projects_router(desk: Desk) -> APIRouter:
    """The table of projects, which stay: their past is in the reports."""
    of = Family(desk, PROJECTS)
    return router_of("yard", [of.list_route(), of.set_route()])


def workspaces_router(desk: Desk) -> APIRouter:
    """The table of workspaces, which stay with their projects."""
    of = Family(desk, WORKSPACES)
    return router_of("tenancy", [of.list_route(), of.set_route((409, 422, 503))])
