"""schema and version."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.parse import Given
from madang.client.errors import MadangError


def schema_verb(_given: Given, desk: Desk) -> int:
    """JSON Schema of a job: this version's own, so no daemon is needed."""
    import json

    from madang.wire.jobs import JobRequest

    schema = JobRequest.model_json_schema()
    desk.answer(schema, json.dumps(schema, indent=2, ensure_ascii=False))
    return 0


def version_verb(_given: Given, desk: Desk) -> int:
    """This program's version, and the daemon's if one answers."""
    from madang import __version__

    try:
        daemon = desk.client.health()["version"]
        text = f"madang {__version__}, daemon {daemon} at {desk.client.url}"
    except MadangError:
        daemon, text = None, f"madang {__version__}"
    desk.answer({"version": __version__, "daemon": daemon}, text)
    return 0
