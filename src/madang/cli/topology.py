"""topology show, check, set, rm: the network tree."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.files import text_of
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

UNPLACED_SHOWN_MAX = 8


def topology_show_verb(_given: Given, desk: Desk) -> int:
    """The tree in force."""
    view = desk.client.topology()
    desk.answer(view, _tree(view))
    return 0


def topology_check_verb(given: Given, desk: Desk) -> int:
    """Whether a file would do here; exit code 1 if it would not."""
    found = desk.client.check_topology(_topology(given.text("file")))
    lines = [f"wrong: {clean(flaw)}" for flaw in found["flaws"]]
    lines += [f"odd: {clean(finding)}" for finding in found["findings"]]
    verdict = "it can be set" if found["ok"] else "it cannot be set"
    desk.answer(found, "\n".join([*lines, verdict]))
    return 0 if found["ok"] else 1


def topology_set_verb(given: Given, desk: Desk) -> int:
    """Put a tree in force."""
    view = desk.client.set_topology(_topology(given.text("file")))
    desk.answer(view, _tree(view))
    return 0


def topology_rm_verb(_given: Given, desk: Desk) -> int:
    """Forget the file: nodes lie where they say themselves."""
    view = desk.client.drop_topology()
    desk.answer(view, _tree(view))
    return 0


def _tree(view: Document) -> str:
    columns = [
        Column("DOMAIN"),
        Column("LEVEL"),
        Column("NODES", right=True),
        Column("GPUS", right=True),
        Column("FREE", right=True),
        Column("WHOLE"),
    ]
    rows = [
        [
            "  " * (len(one["path"]) - 1) + clean(one["path"][-1]),
            clean(one["level"]),
            str(one["nodes"]),
            str(one["gpus"]),
            str(one["gpus_free"]),
            "whole" if one["whole"] else "",
        ]
        for one in view["domains"]
    ]
    whence = "from a file" if view["declared"] else "as the nodes say"
    levels, within = clean(" > ".join(view["levels"])), clean(view["within"])
    lines = [f"levels: {levels}, {whence}; training on several nodes within: {within}"]
    lines += [table(columns, rows)] if rows else ["no node is in any domain"]
    if rows and view["unplaced"]:
        shown = ", ".join(view["unplaced"][:UNPLACED_SHOWN_MAX])
        more = len(view["unplaced"]) - UNPLACED_SHOWN_MAX
        lines.append(f"in no domain: {clean(shown)}{f' and {more} more' * (more > 0)}")
    lines += [f"odd: {clean(finding)}" for finding in view["findings"]]
    return "\n".join(lines)


def _topology(path: str) -> Document:
    """The topology of a file, as the body of a request.

    Raises:
        UsageError: it cannot be read, or is none: each finding on a line.
    """
    import yaml

    from madang.wire.topology import TOPOLOGY_BYTES_MAX, TopologyError, topology_of

    try:
        read = topology_of(list(yaml.safe_load_all(text_of(path, TOPOLOGY_BYTES_MAX))))
    except (yaml.YAMLError, TopologyError) as wrong:
        raise UsageError(f"{path} is not a topology:\n{wrong}", code="usage") from None
    return read.model_dump(mode="json", exclude_defaults=True)
