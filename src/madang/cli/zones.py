"""zone ls, set, rm; profiles: which nodes take whom, and which GPUs there are to ask for."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.kept import Kept
from madang.cli.parse import Given, UsageError
from madang.cli.show import DIM, Column, clean, coloured, gpus, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]


def _row(zone: Document) -> list[str]:
    return [
        clean(zone["id"]),
        clean(", ".join(zone["owners"])) or coloured("everyone", DIM),
        _sizes(zone),
        str(zone["nodes"]),
        str(zone["gpus"]),
        gpus(zone["gpus_free"]),
    ]


def _sizes(zone: Document) -> str:
    least, most = zone["gpus_min"], zone["gpus_max"]
    if not least and not most:
        return coloured("any", DIM)
    return f"{least}-{most}" if most else f"{least} and more"


ZONES = Kept(
    "zones",
    [
        Column("ZONE"),
        Column("FOR", shrinks=True),
        Column("JOB GPUS", right=True),
        Column("NODES", right=True),
        Column("GPUS", right=True),
        Column("FREE", right=True),
    ],
    _row,
    "no zones yet: madang zone set NAME",
)


def zone_ls_verb(_given: Given, desk: Desk) -> int:
    """Zones, whom they take and what is free."""
    return ZONES.listed(desk)


def zone_set_verb(given: Given, desk: Desk) -> int:
    """Make or change a zone; what is not said stays as it was."""
    name, owners, sizes = given.text("zone"), given.text("owners"), given.text("sizes")
    body: Document = {"owners": [], "gpus_min": 0, "gpus_max": 0}
    for known in desk.client.zones():
        if known["id"] == name:
            body = {key: known[key] for key in body}
    if owners:
        everyone = owners.lower() in ("none", "everyone")
        body["owners"] = [] if everyone else [one.strip() for one in owners.split(",")]
    if sizes:
        body["gpus_min"], body["gpus_max"] = _parsed_sizes(sizes)
    view = desk.client.set_zone(name, body)
    if not view["nodes"] and not desk.is_json:
        desk.note(
            f"no node is in zone {clean(name)} yet: nodes say themselves which zone they are in"
        )
    return ZONES.shown(desk, view)


def _parsed_sizes(text: str) -> tuple[int, int]:
    least, dash, most = text.partition("-")
    if text.lower() == "any":
        return 0, 0
    if not least.isdecimal() or (most and not most.isdecimal()) or (not dash and most):
        raise UsageError(
            "--sizes says no sizes", code="usage", given=text, allowed="1-8, 16- or any: GPUs"
        )
    return int(least), int(most or 0) if dash else int(least)


def zone_rm_verb(given: Given, desk: Desk) -> int:
    """Take a zone's rules away."""
    view = desk.client.drop_zone(given.text("zone"))
    desk.answer(view, f"nodes of {clean(given.text('zone'))} take everyone")
    return 0


def profiles_verb(_given: Given, desk: Desk) -> int:
    """The GPUs there are to ask for, and how many are free."""
    profiles = desk.client.profiles()
    columns = [
        Column("PROFILE"),
        Column("CPUS", right=True),
        Column("MEMORY", right=True),
        Column("GPU MEMORY", right=True),
        Column("NODES", right=True),
        Column("GPUS", right=True),
        Column("FREE", right=True),
        Column("ON ONE NODE", right=True),
    ]
    rows = [
        [
            clean(each["name"]),
            f"{each['cpus_per_gpu']:g}",
            f"{each['memory_mib_per_gpu'] / 1024:.0f} GiB",
            f"{each['gpu_memory_mib'] / 1024:.0f} GiB" if each["gpu_memory_mib"] else "",
            str(each["nodes"]),
            str(each["gpus"]),
            _free(each),
            str(each["most_free_on_one_node"]),
        ]
        for each in profiles
    ]
    desk.answer({"profiles": profiles}, table(columns, rows))
    return 0


def _free(profile: Document) -> str:
    """Whole GPUs, and the largest part of one: `3 + 0.5`."""
    share = profile["free_share"]
    return f"{profile['gpus_free']} + {share:g}" if share else str(profile["gpus_free"])
