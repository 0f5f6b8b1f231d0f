"""Verbs that change something: stop, requeue, memo, cordon, node rm, project set, token add, rm."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.main import exit_code, print_error
from madang.cli.parse import Given, UsageError
from madang.cli.show import clean, gpus
from madang.client.api import ENDED
from madang.client.errors import ApiError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]


def stop_verb(given: Given, desk: Desk) -> int:
    """End jobs. One that cannot be stopped does not keep the others from it."""

    def stop(named: str) -> Document:
        found = desk.client.stop(_id(named, desk), given.text("grace"))
        if given.flag("wait") and found["phase"] not in ENDED:
            found = desk.client.wait(found["id"])
        return found

    return _each(given.texts("job"), stop, "jobs", lambda job: f"{job['id']} {job['phase']}", desk)


def _id(named: str, desk: Desk) -> str:
    """An id as it is; a bare name by a question."""
    number = named.rpartition("-")[2]
    return named if number.isdigit() else str(desk.job(named)["id"])


def _each(
    names: list[str],
    act: Callable[[str], Document],
    key: str,
    words: Callable[[Document], str],
    desk: Desk,
) -> int:
    """Do it for each name; the exit code is that of the first that failed."""
    done: list[Document] = []
    code = 0
    for name in names:
        try:
            done.append(act(name))
        except ApiError as error:
            if len(names) == 1:
                raise
            done.append({"given": name, "problem": error.problem()})
            print_error(error, as_json=False)
            code = code or exit_code(error)
            continue
        if not desk.is_json:
            print(clean(words(done[-1])))
    desk.answer(done[0] if len(names) == 1 else {key: done})
    return code


def requeue_verb(given: Given, desk: Desk) -> int:
    """Let a running job wait again."""
    job = desk.client.requeue(_id(given.text("job"), desk), given.text("grace"))
    desk.answer(job, f"{job['id']} {job['phase']}")
    return 0


def memo_verb(given: Given, desk: Desk) -> int:
    """Read or write a note."""
    text = " ".join(given.texts("text"))
    if text and given.flag("clear"):
        raise UsageError("a note to write and --clear contradict each other", code="usage")
    job_id = desk.job(given.text("job"))["id"]
    job = desk.client.set_memo(job_id, text) if text or given.flag("clear") else None
    if job is None:
        job = desk.client.job(job_id)
        desk.answer({"id": job_id, "memo": job["memo"]}, clean(job["memo"]))
    else:
        desk.answer(job)
    return 0


def cordon_verb(given: Given, desk: Desk) -> int:
    """Let nodes take no more."""
    return _each(given.texts("node"), desk.client.cordon, "nodes", _node_words, desk)


def node_rm_verb(given: Given, desk: Desk) -> int:
    """Take lost nodes off the lists."""
    return _each(given.texts("node"), desk.client.remove_node, "nodes", _node_words, desk)


def uncordon_verb(given: Given, desk: Desk) -> int:
    """Let nodes take work again."""
    return _each(given.texts("node"), desk.client.uncordon, "nodes", _node_words, desk)


def _node_words(node: Document) -> str:
    return f"{node['id']} {node['state']}"


def project_set_verb(given: Given, desk: Desk) -> int:
    """Make a project or change its quota."""
    text, workspace = given.text("quota").lower(), given.text("workspace")
    quota: float | None = None
    if not text:
        known = {each["id"]: each["quota_gpus"] for each in desk.client.projects()}
        if not workspace and given.text("project") in known:
            raise UsageError(
                "nothing to set: there is such a project already",
                code="usage",
                allowed="--quota GPUS, or --quota none for no limit; --workspace NAME",
            )
        quota = known.get(given.text("project"))
    elif text != "none":
        try:
            quota = float(text)
        except ValueError:
            raise UsageError(
                "--quota is not a number", code="usage", given=text, allowed="GPUS, or none"
            ) from None
    project = desk.client.set_project(given.text("project"), quota, workspace)
    held = "has no quota" if quota is None else f"may hold {gpus(quota)} GPUs"
    desk.answer(project, f"{clean(given.text('project'))} {held}")
    return 0


def token_add_verb(given: Given, desk: Desk) -> int:
    """Make a token."""
    made = desk.client.new_token(given.text("name"), given.text("role") or "member")
    if not desk.is_json:
        desk.note(
            f"shown this once: {clean(made['name'])} is {made['role']} with this token:\n"
            f"MADANG_URL={desk.client.url} MADANG_TOKEN=… madang status"
        )
    desk.answer(made, made["token"])
    return 0


def token_rm_verb(given: Given, desk: Desk) -> int:
    """Revoke a token."""
    desk.client.drop_token(given.text("name"))
    desk.answer({"name": given.text("name")}, f"{clean(given.text('name'))} has no access any more")
    return 0
