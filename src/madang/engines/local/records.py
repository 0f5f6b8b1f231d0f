"""What is written about a member, where, and how durable it has to be.

    allocations/<allocation>/launch.json    all a shim needs (0600: holds the user's environment)
    allocations/<allocation>/stop           a stop was asked: {"reason", "deadline_ms", "grace_ms"}
    allocations/<allocation>/work/          the working directory, shared by the ranks on this node
    allocations/<allocation>/<rank>/state   the record below; its flock is held by the shim
    allocations/<allocation>/<rank>/log     stdout and stderr; made with the first byte
    allocations/<allocation>/<rank>/reports.ndjson

`state` is 512 bytes: a start line, and from byte 256 an exit line. The child writes the whole block
before it execs, so that the exit line later goes over blocks that are there: a disk that fills up
while a job runs cannot keep its exit from being recorded (but on a copy-on-write file system, where
the shim tries again). An empty file is no record; anything else means that a start was made.

No fsync stands before an exec, and that is safe. A record protects against two things:

- a crash of the shim, the keeper or the daemon. The page cache survives that; fsync adds nothing.
- a crash of the machine. It ends the member as well, so nothing can run twice *at once*. That
  nothing is started again *after* it is seen to by the boot: `LocalEngine.adopt` declares lost
  whatever the ledger held as live when the boot id has changed, whether a record survived or not.

An exit has to be durable from the moment when nobody else is about to store it: the shim fsyncs the
record exactly when the daemon cannot be told. When it is told, the ledger's own commit follows
within a turn; were the machine to crash in between, the member counts as lost and is retried, which
is late but never wrong.
"""

import os

VERSION = "madang1"
RECORD_BYTES = 512
EXIT_AT = 256

STATE = "state"
LOG = "log"
REPORTS = "reports.ndjson"
LAUNCH = "launch.json"
STOP = "stop"
WARNING = "warning"
WORK = "work"

ENGINE_FAILED = 125  # as docker, env and nohup do: whoever should have started it could not
NOT_EXECUTABLE = 126  # as shells do
NOT_FOUND = 127


class StartRecord:
    """Who was started: the member is `pid` of boot `boot_id`, begun `ticks` after that boot."""

    __slots__ = ("at_ms", "boot_id", "pid", "shim_pid", "ticks")

    def __init__(self, boot_id: str, shim_pid: int, pid: int, ticks: int, at_ms: int) -> None:
        self.boot_id = boot_id
        self.shim_pid = shim_pid
        self.pid = pid
        self.ticks = ticks
        self.at_ms = at_ms


class ExitRecord:
    """How it ended. `code` is 128 + signal where a signal ended it."""

    __slots__ = ("at_ms", "code", "lost", "signal")

    def __init__(self, code: int, signal: int, lost: bool, at_ms: int) -> None:
        self.code = code
        self.signal = signal
        self.lost = lost
        self.at_ms = at_ms


class Record:
    """`touched`: something was written. `start` is None where it is damaged, or nothing ran."""

    __slots__ = ("exit", "start", "touched")

    def __init__(self, touched: bool, start: StartRecord | None, exit: ExitRecord | None) -> None:
        self.touched = touched
        self.start = start
        self.exit = exit


def start_block(start: StartRecord) -> bytes:
    """The whole block, with room for the exit."""
    text = f"{VERSION} start {start.boot_id} {start.shim_pid} {start.pid} {start.ticks}"
    return _block(f"{text} {start.at_ms} .\n", "")


def never_block(exit: ExitRecord) -> bytes:
    """The whole block of a member that was given up before it ran: no shim will start it now."""
    return _block(f"{VERSION} never .\n", _exit_line(exit))


def exit_bytes(exit: ExitRecord) -> bytes:
    """What goes to byte EXIT_AT."""
    return _exit_line(exit).encode().ljust(RECORD_BYTES - EXIT_AT - 1) + b"\n"


def parsed(block: bytes) -> Record:
    """What a `state` file says; damage makes a part None, never an error."""
    if not block:
        return Record(False, None, None)
    return Record(True, _start_of(block[:EXIT_AT]), _exit_of(block[EXIT_AT:]))


def read(path: str) -> Record:
    """The record in a `state` file; a missing file is an untouched record.

    Raises:
        OSError: the disk cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return Record(False, None, None)
    try:
        return parsed(os.read(fd, RECORD_BYTES))
    finally:
        os.close(fd)


def _block(start_line: str, exit_line: str) -> bytes:
    block = start_line.encode().ljust(EXIT_AT) + exit_line.encode()
    return block.ljust(RECORD_BYTES - 1) + b"\n"


def _exit_line(exit: ExitRecord) -> str:
    return f"exit {exit.code} {exit.signal} {int(exit.lost)} {exit.at_ms} .\n"


def _words(line: bytes, head: list[str], count: int) -> list[str] | None:
    """The words behind `head`, iff the line is whole: it ends with a full stop."""
    words = line.partition(b"\n")[0].decode("ascii", "replace").split()
    behind = len(head)
    if words[:behind] != head or len(words) != behind + count + 1 or words[-1] != ".":
        return None
    return words[behind:-1]


def _start_of(line: bytes) -> StartRecord | None:
    words = _words(line, [VERSION, "start"], 5)
    if words is None or not all(word.isdigit() for word in words[1:]):
        return None
    shim_pid, pid, ticks, at_ms = map(int, words[1:])
    return StartRecord(words[0], shim_pid, pid, ticks, at_ms)


def _exit_of(line: bytes) -> ExitRecord | None:
    words = _words(line, ["exit"], 4)
    if words is None or not all(word.isdigit() for word in words):
        return None
    code, signal, lost, at_ms = map(int, words)
    return ExitRecord(code, signal, bool(lost), at_ms)
