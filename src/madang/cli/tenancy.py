"""policy show, check, set; quota ls, set, rm; workspace ls, set: who may have what."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.kept import Kept
from madang.cli.parse import Given, UsageError
from madang.cli.show import DIM, Column, clean, coloured, gpus, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    from madang.wire.policy import PolicyFile

    Document = dict[str, Any]

POLICY_BYTES_MAX = 1 << 20


def policy_show_verb(given: Given, desk: Desk) -> int:
    """The policy in force."""
    view = desk.client.policy()
    if not given.flag("classes"):
        desk.answer(view, "\n".join(clean(line) for line in view["toml"].splitlines()))
        return 0
    columns = [
        Column("PROVISIONING"),
        Column("CATEGORY"),
        Column("PURPOSE"),
        Column("PRIORITY", right=True),
        Column("HEAD START", right=True),
        Column("PREEMPTIBLE"),
        Column("RUN MIN", right=True),
        Column("GRACE", right=True),
        Column("RETRIES", right=True),
        Column("TIME", right=True),
    ]
    keys = ["provisioning", "category", "purpose", "priority", "head_start", "preemptible"]
    keys += ["run_min", "grace", "retries", "time"]
    rows = [[_class_word(each[key]) for key in keys] for each in view["classes"]]
    desk.answer(view, table(columns, rows))
    return 0


def _class_word(value: object) -> str:
    return "–" if value == "0ms" else clean(str(value))


def policy_check_verb(given: Given, desk: Desk) -> int:
    """Whether a file is a policy. No daemon is asked."""
    policy = policy_file(given.text("file"))
    from madang.wire.policy import toml_of

    stated = policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = toml_of(policy).rstrip("\n")
    desk.answer({"ok": True, "policy": stated}, f"{clean(given.text('file'))} is a policy:\n{text}")
    return 0


def policy_set_verb(given: Given, desk: Desk) -> int:
    """Put a policy in force."""
    policy = policy_file(given.text("file"))
    body = policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    view = desk.client.set_policy(body)
    desk.answer(view, f"policy {clean(view['name'])} is in force from the next turn on")
    return 0


def policy_file(path: str) -> PolicyFile:
    """The policy of a file.

    Raises:
        UsageError: it cannot be read, or is none: each finding on a line.
    """
    from madang.wire.policy import PolicyError, read_policy

    try:
        with open(path, encoding="utf-8") as file:
            return read_policy(file.read(POLICY_BYTES_MAX + 1))
    except (OSError, UnicodeDecodeError) as failure:
        why = getattr(failure, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {why}", code="usage", given=path) from None
    except PolicyError as wrong:
        raise UsageError(
            f"{path} is not a policy:\n{wrong}", code="usage", tries=["madang policy show"]
        ) from None


# -- quotas -----------------------------------------------------------------------------------


def quota_ls_verb(_given: Given, desk: Desk) -> int:
    """Quotas and what is held of them."""
    return QUOTAS.listed(desk)


def _quota_row(quota: Document) -> list[str]:
    limit, cells = quota["limit_gpus"], quota["cells"]
    return [
        clean(quota["owner"]),
        clean(quota["group"]),
        clean(quota["provisioning"]),
        gpus(quota["held_gpus"]),
        gpus(quota["guaranteed_gpus"]),
        coloured("none", DIM) if limit is None else gpus(limit),
        str(quota["weight"]),
        clean(", ".join(f"{level}={count}" for level, count in cells.items())),
    ]


QUOTAS = Kept(
    "quotas",
    [
        Column("OWNER"),
        Column("GROUP"),
        Column("PROVISIONING"),
        Column("GPUS HELD", right=True),
        Column("GUARANTEED", right=True),
        Column("LIMIT", right=True),
        Column("WEIGHT", right=True),
        Column("CELLS", shrinks=True),
    ],
    _quota_row,
    "no quotas yet: madang quota set project:NAME --guaranteed GPUS --limit GPUS",
)


def quota_set_verb(given: Given, desk: Desk) -> int:
    """Make or change a quota; what is not said stays as it was."""
    owner = given.text("owner")
    group, provisioning = given.text("group") or "*", given.text("provisioning") or "*"
    body: Document = {"owner": owner, "group": group, "provisioning": provisioning}
    for known in desk.client.quotas():
        if all(known[key] == body[key] for key in ("owner", "group", "provisioning")):
            seen = ("held_gpus", "cells_now")
            body = {key: value for key, value in known.items() if key not in seen}
    cells = given.text("cells").lower()
    guaranteed, limit = given.number("guaranteed"), given.text("limit").lower()
    weight = given.count("weight")
    if guaranteed is None and not limit and weight is None and not cells:
        raise UsageError(
            "nothing to set",
            code="usage",
            allowed="--guaranteed GPUS, --limit GPUS (or none), --weight N, --cells LEVEL=N,…",
        )
    if guaranteed is not None:
        body["guaranteed_gpus"] = guaranteed
    if limit:
        body["limit_gpus"] = None if limit == "none" else _number("--limit", limit)
    if weight is not None:
        body["weight"] = weight
    if cells:
        body["cells"] = {} if cells == "none" else _cells(given.text("cells"))
    return QUOTAS.shown(desk, desk.client.set_quota(body))


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{option} is not a number", code="usage", given=text, allowed="GPUS, or none"
        ) from None


def _cells(text: str) -> dict[str, int]:
    """`node=2,leaf@H100=1` as levels and counts."""
    cells: dict[str, int] = {}
    for part in text.split(","):
        level, _, count = part.strip().rpartition("=")
        if not level or not count.isdecimal():
            raise UsageError(
                "--cells is not a list of levels and counts",
                code="usage",
                given=text,
                allowed="LEVEL=N,… as node=2,leaf@H100=1, or none",
            )
        cells[level] = int(count)
    return cells


def quota_show_verb(given: Given, desk: Desk) -> int:
    """An owner's quotas, and how the cells stand that it was promised."""
    owner = given.text("owner")
    quotas = [each for each in desk.client.quotas() if each["owner"] == owner]
    if not quotas:
        raise UsageError(
            f"{clean(owner)} has no quota", code="not_found", given=owner, tries=["madang quota ls"]
        )
    lines = [clean(cells["text"]) for each in quotas for cells in each["cells_now"]]
    desk.answer({"quotas": quotas}, "\n".join([QUOTAS.text(quotas), *lines]))
    return 0


def quota_rm_verb(given: Given, desk: Desk) -> int:
    """Take a quota away."""
    group, provisioning = given.text("group") or "*", given.text("provisioning") or "*"
    view = desk.client.drop_quota(given.text("owner"), group, provisioning)
    desk.answer(view, f"{clean(given.text('owner'))} has no quota for that any more")
    return 0


# -- workspaces -------------------------------------------------------------------------------


def workspace_ls_verb(_given: Given, desk: Desk) -> int:
    """Workspaces and their projects."""
    return WORKSPACES.listed(desk)


def _workspace_row(workspace: Document) -> list[str]:
    inside = clean(", ".join(workspace["projects"]))
    return [clean(workspace["id"]), gpus(workspace["held_gpus"]), inside]


WORKSPACES = Kept(
    "workspaces",
    [Column("WORKSPACE"), Column("GPUS HELD", right=True), Column("PROJECTS", shrinks=True)],
    _workspace_row,
    "no workspaces yet: madang workspace set NAME",
)


def workspace_set_verb(given: Given, desk: Desk) -> int:
    """Make a workspace."""
    view = desk.client.set_workspace(given.text("workspace"))
    desk.answer(view, f"{clean(view['id'])} is a workspace")
    return 0
