"""The state directory: one daemon at a time, readable by its owner alone."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class StateDirError(Exception):
    """The user's fault or the world's, in words for the user."""


def default_state_dir() -> Path:
    """$MADANG_STATE, else $XDG_STATE_HOME/madang, else ~/.local/state/madang."""
    if named := os.environ.get("MADANG_STATE"):
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "madang"


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths under the state directory. Open it with `open_state_dir`."""

    path: Path
    lock: int

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.path / 'madang.db'}"

    def write_private(self, name: str, value: dict[str, Any]) -> None:
        """A JSON file that only its owner can read, replaced whole."""
        self.write_text(name, json.dumps(value))

    def write_text(self, name: str, text: str) -> None:
        """A file that only its owner can read, replaced whole."""
        part = self.path / f".{name}.part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)

    def read(self, name: str) -> dict[str, Any]:
        """The JSON file, or an empty mapping where there is none or a broken one."""
        try:
            value = json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def close(self) -> None:
        (self.path / "daemon.json").unlink(missing_ok=True)
        os.close(self.lock)


def open_state_dir(path: Path) -> StateDir:
    """Make the directory if needed and lock it.

    Raises:
        StateDirError: it cannot be made or written, or another daemon has it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        raise StateDirError(
            f"the state directory {path} cannot be used: {failure.strerror}; "
            "choose another with --state DIR"
        ) from failure
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failure:
        os.close(lock)
        raise StateDirError(
            f"another madang runs in {path}; stop it with `madang down`, "
            "or choose another directory with --state DIR"
        ) from failure
    return StateDir(path.resolve(), lock)
