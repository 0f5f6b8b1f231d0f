"""What a virtual fleet must remember: when it was opened, and each action since, line by line.

The model is a function of these, so a restarted daemon finds its virtual members where they would
be, and a killed one loses at most a line that was never answered for. Lines are whole or ignored.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from madang.core.codec import from_json, to_json
from madang.core.model import Allocation
from madang.engines.base import EngineError, Launch

ENDED_KEPT_MAX = 5_000  # logs of older stays are gone


class Record:
    """The file of actions. One writer.

    Raises:
        EngineError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._drop_torn_line()
            self._file = path.open("ab")
        except OSError as failure:
            raise EngineError(f"the virtual fleet cannot keep its record: {failure}") from failure

    def read(self) -> Iterator[dict[str, Any]]:
        """Every line, oldest first."""
        with self.path.open("rb") as lines:
            for line in lines:
                yield json.loads(line)

    def add(self, *entries: dict[str, Any]) -> None:
        """Append the entries; they outlive this program's end from here on."""
        try:
            self._file.write(b"".join(_line(entry) for entry in entries))
            self._file.flush()
        except OSError as failure:
            raise EngineError(f"the virtual fleet cannot keep its record: {failure}") from failure

    def replace(self, entries: Iterable[dict[str, Any]]) -> None:
        """Write the whole record anew, at once or not at all."""
        fresh = self.path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.writelines(map(_line, entries))
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        fresh.replace(self.path)
        self._file = self.path.open("ab")

    def close(self) -> None:
        self._file.close()

    def _drop_torn_line(self) -> None:
        """A line without an end was never answered for."""
        if not self.path.exists():
            return
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self.path, whole)


def opened(at_ms: int) -> dict[str, Any]:
    return {"opened_ms": at_ms}


def started(at_ms: int, launch: Launch, speed: float) -> dict[str, Any]:
    """A Start. What a virtual member never looks at (code, image) is left out."""
    return {
        "at_ms": at_ms,
        "start": to_json(launch.allocation),
        "name": launch.name,
        "owner": launch.owner,
        "command": launch.command,
        "env": [pair for pair in launch.env if pair[0].startswith("MADANG_VIRTUAL_")],
        "speed": speed,
    }


def stopped(at_ms: int, allocation: str, grace_ms: int) -> dict[str, Any]:
    return {"at_ms": at_ms, "stop": allocation, "grace_ms": grace_ms}


def launch_of(entry: dict[str, Any]) -> Launch:
    """The Launch of a start's line."""
    return Launch(
        allocation=from_json(Allocation, entry["start"]),
        name=entry["name"],
        owner=entry["owner"],
        command=tuple(entry["command"]),
        env=tuple((name, value) for name, value in entry["env"]),
    )


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
