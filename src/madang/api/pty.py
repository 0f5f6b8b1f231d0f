"""A process on a terminal of its own, in a session of its own, that ends with its owner.

The command is a list that goes to exec as it is. Between the fork and the exec stands a small
interpreter that makes the terminal the session's own: that must happen in the child, and running
code in a fork of a process with threads is not safe.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import Iterator

from madang.api.yard import Spawn

BLOCK_BYTES = 64 * 1024
HANG_UP_WAIT_S = 1.0  # between "the terminal is gone" and SIGKILL
OUTPUT_WAIT_S = 0.2  # for what was written just before the command ended

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as failure:
    sys.stderr.write(f"{sys.argv[1]}: {failure.strerror}\\n")
    sys.exit(127)
"""


class Terminal:
    """The near end. Used on the event loop by one reader and one writer."""

    def __init__(self, fd: int, child: asyncio.subprocess.Process) -> None:
        self._fd = fd
        self._child = child
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, spawn: Spawn, size: tuple[int, int]) -> "Terminal":
        """Start the command; `size` is (rows, columns).

        Raises:
            OSError: no more terminals or processes can be had.
        """
        near, far = os.openpty()
        try:
            _set_size(near, *size)
            os.set_blocking(near, False)
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                "-c",
                _TAKE_TERMINAL,
                *spawn.argv,
                stdin=far,
                stdout=far,
                stderr=far,
                env=spawn.env,
                cwd=spawn.directory or None,
                start_new_session=True,
            )
        except BaseException:
            os.close(near)
            raise
        finally:
            os.close(far)
        return cls(near, child)

    async def read(self) -> bytes:
        """What the terminal shows next; empty when the command has ended and all was shown."""
        while True:
            try:
                return os.read(self._fd, BLOCK_BYTES)
            except BlockingIOError:
                if not await self._readable():
                    return b""
            except OSError as error:
                if error.errno == errno.EIO:  # nobody has the far end open any more
                    return b""
                raise

    async def _readable(self) -> bool:
        """Wait for output. False: the command has ended, and what it left behind holds the
        terminal open but shows nothing more.
        """
        ready = asyncio.create_task(self._until(self._loop.add_reader, self._loop.remove_reader))
        ended = asyncio.create_task(self._child.wait())
        try:
            done, _ = await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ready in done:
                return True
            done, _ = await asyncio.wait({ready}, timeout=OUTPUT_WAIT_S)
            return bool(done)
        finally:
            ready.cancel()
            ended.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    async def write(self, typed: bytes) -> None:
        """Type; waits while the command does not read."""
        view = memoryview(typed)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
            except OSError:
                return  # it has ended; reading says so

    async def _until(self, add: object, remove: object) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add(self._fd, wake)  # type: ignore[operator]
        try:
            await ready
        finally:
            remove(self._fd)  # type: ignore[operator]

    def resize(self, rows: int, cols: int) -> None:
        """Tell the command that its window has another size."""
        with contextlib.suppress(OSError):
            _set_size(self._fd, rows, cols)

    async def exit_code(self) -> int:
        """Of the ended command; 128 + signal for signals."""
        code = await self._child.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        """Hang up, and end whatever of the session still runs after a moment."""
        session = self._child.pid
        os.close(self._fd)  # the kernel sends SIGHUP to the session's foreground
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGHUP)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANG_UP_WAIT_S):
                await self._child.wait()
        for pid in await asyncio.to_thread(lambda: list(_of_session(session))):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await self._child.wait()


def _of_session(session: int) -> Iterator[int]:
    """The processes of a session: a shell's jobs have groups of their own, but its session."""
    import psutil

    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                yield pid


def _set_size(fd: int, rows: int, cols: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
