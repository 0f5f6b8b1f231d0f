"""The shim: one tiny process per member, which outlives the daemon and sees the member to its end.

Its promises, in the order in which it keeps them:

- One shim per member: it holds an exclusive lock on the `state` file for as long as it lives, and
  runs nothing when a start was recorded, or a stop was asked, before.
- The start is recorded before the exec (how durably: records.py).
- The member has its own session, dies with its shim, and reads /dev/null. Its output goes to the
  log through a pipe, so that a full disk or a full log costs lines and never the job.
- A stop is SIGTERM to the member's group and to all that it left behind elsewhere, then SIGKILL
  after the grace. The shim owns that timer: nobody else needs to live for it.
- It is the subreaper of all below it. The end is recorded when the last descendant is gone, and
  not before: until then a device may still be in use.

`run` is called in a fresh fork of the keeper, single-threaded.
"""

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import time
from typing import Any, NoReturn

from madang.engines.local import proc, records

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_DUMPABLE = 3

_raw_prctl = ctypes.CDLL(None, use_errno=True).prctl
_raw_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

CHUNK_BYTES = 65536  # what a pipe holds
LOOK_MS = 30_000  # a stop file is found at the latest after this, were its signal lost
KILL_AGAIN_MS = 100  # something may fork faster than one round of SIGKILL; doubles each round
KILL_AGAIN_MS_MAX = 5_000  # what sleeps in a driver dies when it wakes, asked often or not
LEFTOVER_GRACE_MS = 2_000  # what a member leaves behind gets this long after SIGTERM
DEFAULT_GRACE_MS = 10_000  # when a stop file is damaged, or someone sends the shim a SIGTERM
CLEANUP_S = 30  # for removing a container
RECORD_TRIES = 600  # one a second, when the exit cannot be written
# The kernel's out-of-memory killer shall take the member, not the shim or the daemon.
OOM_SCORE = b"300"


class Call:
    """What the keeper hands to a shim."""

    __slots__ = ("boot_id", "directory", "notify_fd", "null_fd", "rank")

    def __init__(
        self, directory: str, rank: int, boot_id: str, notify_fd: int, null_fd: int
    ) -> None:
        self.directory = directory
        self.rank = rank
        self.boot_id = boot_id
        self.notify_fd = notify_fd
        self.null_fd = null_fd

    def path(self, name: str) -> str:
        """A file of this member."""
        return f"{self.directory}/{self.rank}/{name}"

    def tell(self, verb: str, *words: int) -> bool:
        """One line to the daemon; False when it is not there or does not keep up."""
        allocation = self.directory[self.directory.rindex("/") + 1 :]
        line = " ".join([verb, allocation, str(self.rank), *map(str, words)])
        try:
            os.write(self.notify_fd, line.encode() + b"\n")
        except OSError:
            return False
        return True


def warm_up() -> None:
    """Do once, in the keeper, what is dear the first time: every fork then has it done."""
    _prctl(_PR_GET_DUMPABLE, 0)
    json.loads(b'{"a": ["b"]}')
    proc.stat("self")
    records.start_block(records.StartRecord("", 1, 1, 1, now_ms()))
    records.exit_bytes(records.ExitRecord(0, 0, False, 0))
    os.path.exists("/nonexistent")
    Log(os.devnull, 1).close()


def run(call: Call) -> None:
    """See one member through. Returns when its end is recorded, or at once if it must not run."""
    os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        os.mkdir(f"{call.directory}/{call.rank}", 0o700)
    except FileExistsError:
        pass
    state_fd = os.open(call.path(records.STATE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(state_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another shim has it
    if os.read(state_fd, 1):
        return  # it was started before
    if os.path.exists(f"{call.directory}/{records.STOP}"):
        _overtaken(call, state_fd)
        return
    launch = json.loads(_read(f"{call.directory}/{records.LAUNCH}"))
    log = Log(call.path(records.LOG), launch["log_bytes_max"])
    exit = Watch(call, state_fd, launch, log).see_through()
    log.close()
    _record(call, state_fd, exit)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 20):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _overtaken(call: Call, state_fd: int) -> None:
    """The stop came first: nothing runs, and the end says so."""
    exit = records.ExitRecord(128 + signal.SIGTERM, signal.SIGTERM, False, now_ms())
    os.pwrite(state_fd, records.never_block(exit), 0)
    call.tell("ended", exit.code, exit.signal, exit.at_ms)


def _record(call: Call, state_fd: int, exit: records.ExitRecord) -> None:
    """Write the exit, tell it, and make it durable if nobody heard."""
    for attempt in range(RECORD_TRIES):
        try:
            if os.fstat(state_fd).st_size:
                os.pwrite(state_fd, records.exit_bytes(exit), records.EXIT_AT)
            break  # or it never got as far as a start record: there is nothing to complete
        except OSError:
            if attempt == 0:
                call.tell("ended", exit.code, exit.signal, exit.at_ms)
            time.sleep(1)
    if not call.tell("ended", exit.code, exit.signal, exit.at_ms):
        os.fsync(state_fd)


class Log:
    """The member's output: its first `bytes_max` bytes, and of the rest the last TAIL_BYTES.

    The end of a log is where the traceback is, so it is kept in memory and written at the end.
    """

    TAIL_BYTES = 262_144

    def __init__(self, path: str, bytes_max: int) -> None:
        self._path = path
        self._fd = -1
        self._room = bytes_max
        self._bytes_max = bytes_max
        self._tail = bytearray()
        self._dropped = 0  # behind the bound, and not in the tail
        self._lost = 0  # the disk did not take them

    def write(self, text: bytes) -> None:
        """Take all of it, whatever becomes of the disk."""
        if self._room > 0:
            kept, text = text[: self._room], text[self._room :]
            self._room -= len(kept)
            self._put(kept)
            if self._room == 0:
                self._put(
                    f"\n[madang] the log has reached {self._bytes_max} bytes; of what follows only "
                    f"the last {self.TAIL_BYTES} are kept, and written at the end\n".encode()
                )
        if text:
            self._tail += text
            over = len(self._tail) - self.TAIL_BYTES
            if over > self.TAIL_BYTES:  # not on every line: cutting costs a copy
                del self._tail[:over]
                self._dropped += over

    def close(self) -> None:
        """Write what was held back."""
        over = max(0, len(self._tail) - self.TAIL_BYTES)
        dropped = self._dropped + over
        if dropped:
            self._put(f"[madang] {dropped} bytes are left out here\n".encode())
        self._put(bytes(self._tail[over:]))
        self._say_lost()

    def _put(self, text: bytes) -> None:
        if self._lost and text:
            self._say_lost()
        while text:
            try:
                if self._fd < 0:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                    self._fd = os.open(self._path, flags, 0o600)
                text = text[os.write(self._fd, text) :]
            except OSError:
                self._lost += len(text)
                return

    def _say_lost(self) -> None:
        lost, self._lost = self._lost, 0
        if not lost:
            return
        note = f"\n[madang] {lost} bytes of output are missing here: the disk did not take them\n"
        try:
            os.write(self._fd, note.encode())
        except OSError:
            self._lost = lost  # said later, if ever


class Watch:
    """One member from fork to end. `see_through` is its only verb."""

    def __init__(self, call: Call, state_fd: int, launch: dict[str, Any], log: Log) -> None:
        self._call = call
        self._state_fd = state_fd
        self._launch = launch
        self._own = launch["ranks"][str(call.rank)]
        self._log = log
        self._status: int | None = None  # of the leader, as waitpid gives it
        self._kill_at_ms = -1  # monotonic; -1: nothing was asked to end
        self._kill_again_ms = KILL_AGAIN_MS
        self._asked = False  # by a stop, not by the leader's own end
        self._asked_by_signal = False

    def see_through(self) -> records.ExitRecord:
        """Start it, pump its log, end it when asked, and wait until nothing of it is left."""
        wake_out, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._listen(wake_in)
        log_out, log_in = os.pipe2(os.O_CLOEXEC)
        self._pid = self._fork(log_in)
        os.close(log_in)
        os.set_blocking(log_out, False)
        poll = select.poll()
        poll.register(log_out, select.POLLIN)
        poll.register(wake_out, select.POLLIN)
        self._look_for_stop()
        while not self._all_gone():
            ready = poll.poll(self._wait_ms())
            for fd, _ in ready:
                if fd == wake_out:
                    os.read(wake_out, 4096)
                    self._look_for_stop()
                elif not self._pump(log_out):
                    poll.unregister(log_out)
            if not ready and self._kill_at_ms < 0:
                self._look_for_stop()
            self._kill_when_due()
        while self._pump(log_out, at_the_end=True):
            pass
        self._clean_up()
        assert self._status is not None, "all children are gone, and the leader was never reaped"
        return _exit_of(self._status)

    # -- start --------------------------------------------------------------------------------

    def _listen(self, wake_fd: int) -> None:
        signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noop)
        signal.signal(signal.SIGUSR1, _noop)  # the daemon's: look at the stop file
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._asked_by_signal = True

    def _fork(self, log_fd: int) -> int:
        shim_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(log_fd, shim_pid)
            finally:
                os._exit(records.ENGINE_FAILED)
        return pid

    def _become(self, log_fd: int, shim_pid: int) -> NoReturn:
        """Turn this fork into the member. Writes and exits where that cannot be done."""
        signal.set_wakeup_fd(-1)
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim_pid:
            os._exit(records.ENGINE_FAILED)  # the shim died before it could take us along
        for number in _TO_DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(self._call.null_fd, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        _yield_to_oom_killer()
        launch = self._launch
        env = {**launch["env"], **self._own["env"]}
        command = self._own["command"]
        try:
            os.chdir(launch["directory"])
            me = proc.stat("self")
            assert me is not None, "/proc is not mounted"
            start = records.StartRecord(
                self._call.boot_id, shim_pid, os.getpid(), me.ticks, now_ms()
            )
            # One short write: the disk takes it whole or not at all.
            os.pwrite(self._state_fd, records.start_block(start), 0)
        except OSError as error:
            self._give_up(f"the start could not be recorded: {error}", records.ENGINE_FAILED)
        # The daemon may be away: a told start must not end the member, so SIGPIPE comes after it.
        self._call.tell("started", shim_pid, start.at_ms)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        why = _exec(command, env)
        missing = why.errno in (errno.ENOENT, errno.ENOTDIR)
        code = records.NOT_FOUND if missing else records.NOT_EXECUTABLE
        self._give_up(f"cannot run {command[0]!r}: {why.strerror}", code)

    def _give_up(self, why: str, code: int) -> NoReturn:
        os.write(2, f"[madang] {why}\n".encode())
        os._exit(code)

    # -- run ----------------------------------------------------------------------------------

    def _pump(self, fd: int, at_the_end: bool = False) -> bool:
        """Move what is there into the log. False once there is no more to come."""
        try:
            text = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return not at_the_end
        self._log.write(text)
        return bool(text)

    def _all_gone(self) -> bool:
        """Reap what has ended. True when neither the leader nor anything below it is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                break
            if pid == self._pid:
                self._status = status
        if self._status is not None and self._kill_at_ms < 0:
            self._end(LEFTOVER_GRACE_MS)  # the leader left something behind
        return False

    def _wait_ms(self) -> int:
        if self._kill_at_ms < 0:
            return LOOK_MS
        return max(1, min(LOOK_MS, self._kill_at_ms - _monotonic_ms()))

    # -- end ----------------------------------------------------------------------------------

    def _stop_path(self) -> str:
        return f"{self._call.directory}/{records.STOP}"

    def _look_for_stop(self) -> None:
        """Read the stop file; a second stop can only shorten the grace."""
        try:
            grace_ms = _grace_left_ms(_read(self._stop_path()))
        except OSError:
            if not self._asked_by_signal:
                return
            grace_ms = DEFAULT_GRACE_MS
        if self._asked:
            self._kill_at_ms = min(self._kill_at_ms, _monotonic_ms() + grace_ms)
        else:
            self._asked = True
            self._end(grace_ms)

    def _end(self, grace_ms: int) -> None:
        """SIGTERM to the group and to every descendant outside it; SIGKILL follows."""
        kill_at_ms = _monotonic_ms() + grace_ms
        self._kill_at_ms = (
            min(self._kill_at_ms, kill_at_ms) if self._kill_at_ms >= 0 else kill_at_ms
        )
        in_group_too = self._status is not None
        if not in_group_too:
            # Unreaped, so its id is still its own, and the signal is atomic over the group.
            _signal_group(self._pid, signal.SIGTERM)
        for one in proc.descendants(os.getpid(), proc.all_stats()):
            if in_group_too or one.group != self._pid:
                proc.send(one, signal.SIGTERM)

    def _kill_when_due(self) -> None:
        if self._kill_at_ms < 0 or _monotonic_ms() < self._kill_at_ms:
            return
        if self._status is None:
            _signal_group(self._pid, signal.SIGKILL)
        for one in proc.descendants(os.getpid(), proc.all_stats()):
            if not one.is_zombie:
                proc.send(one, signal.SIGKILL)
        self._kill_at_ms = _monotonic_ms() + self._kill_again_ms
        self._kill_again_ms = min(2 * self._kill_again_ms, KILL_AGAIN_MS_MAX)

    def _clean_up(self) -> None:
        """Run the launch's last command: it removes a container that outlived its client."""
        command = self._own["cleanup"]
        if not command:
            return
        try:
            null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
            pid = os.posix_spawnp(command[0], command, self._launch["env"], file_actions=null)
        except OSError as error:
            self._log.write(f"[madang] cannot run {command[0]!r}: {error.strerror}\n".encode())
            return
        end_s = time.monotonic() + CLEANUP_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end_s:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self._log.write(f"[madang] {command[0]!r} took over {CLEANUP_S} s\n".encode())
                return
            time.sleep(0.02)


# Ignored by Python, by `nohup`, or by the keeper: a member begins as from a shell.
_TO_DEFAULT = (
    signal.SIGXFSZ,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
)


def _exec(command: list[str], env: dict[str, str]) -> OSError:
    """Become the command; comes back with the reason why not.

    As execvpe(3), which Python's own resembles at the price of an import in every member.
    """
    name = command[0]
    folders = [""] if "/" in name else env["PATH"].split(":")
    why = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in folders:
        try:
            os.execve(f"{folder}/{name}" if folder else name, command, env)
        except OSError as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                why = error  # it is there, but
    return why


def now_ms() -> int:
    """Wall clock."""
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _noop(number: int, frame: object) -> None:
    """A handler that is there so that the wakeup descriptor is written."""


def _prctl(option: int, value: int) -> None:
    if _raw_prctl(option, value, 0, 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _yield_to_oom_killer() -> None:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, OOM_SCORE)
        os.close(fd)
    except OSError:
        pass  # a hardened container; it is a preference, not a promise


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has not come to its setsid yet, or is another user's: the sweep gets it


def _grace_left_ms(text: bytes) -> int:
    """Of the grace that was given: less what has passed since, in case the shim hears late."""
    try:
        asked = json.loads(text)
        left_ms = int(asked["deadline_ms"]) - now_ms()
        return max(0, min(left_ms, int(asked["grace_ms"])))
    except (ValueError, KeyError, TypeError):
        return DEFAULT_GRACE_MS


def _exit_of(status: int) -> records.ExitRecord:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return records.ExitRecord(128 + number, number, False, now_ms())
    return records.ExitRecord(os.WEXITSTATUS(status), 0, False, now_ms())
