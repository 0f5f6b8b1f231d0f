"""What a job says and asks from inside: `report`, `checkpoint_dir`, `checkpoint_saved`,
`should_stop`, `warning`.

Promises: no call raises into a training for trouble with files, it warns once; a report is one
`write` of one whole line, so that threads, forks and ranks never mix theirs; outside a job `report`
does nothing and `checkpoint_dir` is ./checkpoints.
"""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import sys
import threading
import time
import warnings
from pathlib import Path

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

LINE_BYTES_MAX = 65_536
MARK = b"\x1e"  # RFC 7464: before a report that goes where other output goes, too
TEXT_CHARS_MAX = 4_096
_RESERVED = ("t_ms", "step")
SAVED_MARK = ".madang-saved"  # in the checkpoint directory: its time is that of the newest one

_guard = threading.Lock()
_files: dict[str, int] = {}  # path → descriptor, opened for appending
_torn: set[int] = set()  # descriptors whose last line is not whole (a full disk)
_shared: set[int] = set()  # descriptors of what is no file of its own: a container's output
_warned: set[str] = set()
_stop_seen = False
_stop_watched = False


def _unlock_after_fork() -> None:
    global _guard  # noqa: PLW0603 — a lock held by another thread at fork would never be freed
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)


def report(step: Any = None, **values: Any) -> None:
    """Report numbers (or short texts) of a step: `report(step=10, loss=0.31, accuracy=0.9)`.

    NumPy and PyTorch scalars are taken by `.item()`. NaN and infinities are kept, as the texts
    "NaN", "Infinity" and "-Infinity": a loss that became NaN is worth seeing. Every rank may
    report, from any thread. Outside a job nothing happens.
    """
    path = os.environ.get("MADANG_REPORT_FILE")
    if not path:
        return
    line: dict[str, Any] = {"t_ms": time.time_ns() // 1_000_000}
    if step is not None:
        _put(line, "step", step)
    for name, value in values.items():
        if name in _RESERVED:
            _warn_once(name, f"report: {name!r} is a name of Madang's own; it was left out")
            continue
        _put(line, name, value)
    text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    encoded = text.encode("utf-8", "backslashreplace") + b"\n"
    if len(encoded) > LINE_BYTES_MAX:
        text = f"report: {len(encoded)} bytes in one report, {LINE_BYTES_MAX} are allowed"
        _warn_once("length", text)
        return
    try:
        _append(path, encoded)
    except OSError as error:
        text = f"report: {path} cannot be written ({error.strerror}); training goes on"
        _warn_once("write", text)


def _put(line: dict[str, Any], name: str, value: Any) -> None:
    try:
        line[name] = _plain(value)
    except Exception as error:  # whatever a user's tensor raises must not end the training
        text = f"report: {name} is not a number or a short text ({error}); it was left out"
        _warn_once(name, text)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, str):
        return str(value)[:TEXT_CHARS_MAX]
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} has no .item()")
    found = item()
    if not isinstance(found, (bool, int, float, str)):
        raise TypeError(f".item() of {type(value).__name__} gave {type(found).__name__}")
    return _plain(found)


def _append(path: str, line: bytes) -> None:
    descriptor = _files.get(path)
    if descriptor is None:
        with _guard:
            descriptor = _files.get(path)
            if descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
                descriptor = _files[path] = os.open(path, flags, 0o600)
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                if path.startswith("/dev/") or not is_file:
                    _shared.add(descriptor)
    if descriptor in _shared:
        line = MARK + line
    if descriptor in _torn:
        line = b"\n" + line
    written = os.write(descriptor, line)
    if written < len(line):
        _torn.add(descriptor)
        raise OSError(28, "no space left")
    _torn.discard(descriptor)


def _warn_once(about: str, text: str) -> None:
    if about in _warned:
        return
    _warned.add(about)
    try:
        warnings.warn(f"madang.{text}", RuntimeWarning, stacklevel=3)
    except Warning:  # a program that makes warnings errors still must not end here
        print(f"madang.{text}", file=sys.stderr)


def checkpoint_dir() -> Path:
    """A directory that survives retries of this job; ./checkpoints outside one. It exists.

    Ranks of a gang share it.
    """
    path = Path(os.environ.get("MADANG_CHECKPOINT_DIR") or "checkpoints")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _warn_once("checkpoint_dir", f"checkpoint_dir: {path} cannot be made ({error.strerror})")
    return path


def checkpoint_saved(step: Any = None) -> None:
    """Say that a checkpoint is whole: what was done until now would survive a stop.

    Madang would see it by the files too, a little later; who says it is never taken to be still
    writing. It weighs when somebody must be moved aside: who has just saved loses least. Outside a
    job nothing happens.
    """
    directory = os.environ.get("MADANG_CHECKPOINT_DIR")
    if not directory:
        return
    said: dict[str, Any] = {"t_ms": time.time_ns() // 1_000_000}
    if step is not None:
        _put(said, "step", step)
    path = os.path.join(directory, SAVED_MARK)
    beside = f"{path}.{os.getpid()}"
    try:
        with open(beside, "w", encoding="utf-8") as mark:
            mark.write(json.dumps(said) + "\n")
        os.replace(beside, path)
    except OSError as error:
        text = f"checkpoint_saved: {path} cannot be written ({error.strerror}); training goes on"
        _warn_once("checkpoint_saved", text)


def should_stop() -> bool:
    """True as soon as this job has been asked to stop: save, and leave.

    The first call in the main thread also begins to catch SIGTERM, unless the program catches it
    itself; from then on SIGTERM only sets this flag, and what stays past the grace is killed.
    """
    if not _stop_watched:
        _watch_sigterm()
    if _stop_seen:
        return True
    path = os.environ.get("MADANG_STOP_FILE")
    return bool(path) and os.path.exists(path or "")


def warning() -> str:
    """What Madang last warned this job of, "" if nothing: that its GPUs are idle, and until when
    it may keep them. It stays after the reason has gone."""
    path = os.environ.get("MADANG_WARNING_FILE")
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(TEXT_CHARS_MAX)
    except OSError:
        return ""


def _watch_sigterm() -> None:
    global _stop_watched  # noqa: PLW0603 — a process has one SIGTERM
    if threading.current_thread() is not threading.main_thread():
        return  # Python lets only the main thread install handlers; its first call will
    _stop_watched = True
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _saw_sigterm)


def _saw_sigterm(_signal: int, _frame: object) -> None:
    global _stop_seen  # noqa: PLW0603
    _stop_seen = True
