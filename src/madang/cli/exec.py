"""`madang exec`: a terminal beside a running member, or a command through a pipe.

Bytes go both ways in binary frames; a text frame carries the terminal's size, and the last one the
exit code. The terminal is put back as it was, whatever happens.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.client.errors import MadangError, error_of
from madang.client.writing import quoted, with_query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

READ_BYTES = 65_536
FRAME_BYTES_MAX = 4 << 20
END_OF_INPUT = b"\x04"  # what a terminal makes of Ctrl-D


def exec_verb(given: Given, desk: Desk) -> int:
    """Run a shell or command beside a member; exits as it does."""
    job = desk.job(given.text("job"))
    member = given.text("member") or "0"
    if not member.isdigit() or int(member) >= job["members"]:
        raise UsageError(
            "there is no such member",
            code="usage",
            given=member,
            allowed=f"0 to {job['members'] - 1}",
        )
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    query: dict[str, Any] = {"member": int(member)}
    if given.command:
        query["command"] = json.dumps(given.command)
    if is_terminal:
        size = os.get_terminal_size()
        query |= {"rows": size.lines, "cols": size.columns}
    with _connected(desk, with_query(f"/v1/jobs/{quoted(job['id'])}/exec", query)) as socket:
        code = _Session(socket, is_terminal).run()
    if desk.is_json:
        desk.note(json.dumps({"exit": code}))
    return code


@contextmanager
def _connected(desk: Desk, path: str) -> Iterator[ClientConnection]:
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect

    url = "ws" + desk.client.url.removeprefix("http") + path
    headers = {"Authorization": f"Bearer {desk.client.token}"}
    try:
        socket = connect(
            url, additional_headers=headers, proxy=None, max_size=FRAME_BYTES_MAX, compression=None
        )
    except InvalidStatus as error:
        try:
            document = json.loads(error.response.body or b"")
        except ValueError:
            document = {}
        status = error.response.status_code
        raise error_of(status, document if isinstance(document, dict) else {}) from None
    except (InvalidHandshake, OSError, TimeoutError) as error:
        raise MadangError(f"no terminal could be opened: {error}", code="exec") from error
    with socket:
        yield socket


class _Session:
    """One terminal session: this thread writes what comes, another sends what is typed."""

    def __init__(self, socket: ClientConnection, is_terminal: bool) -> None:
        self._socket = socket
        self._is_terminal = is_terminal
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)

    def run(self) -> int:
        """Until the command has ended; its exit code."""
        sender = threading.Thread(target=self._send, daemon=True)
        with self._raw():
            sender.start()
            try:
                return self._receive()
            finally:
                os.write(self._wake_in, b"q")
                sender.join(1.0)

    def _receive(self) -> int:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                frame = self._socket.recv()
                if isinstance(frame, bytes):
                    os.write(sys.stdout.fileno(), frame)
                    continue
                said = json.loads(frame)
                if "exit" in said:
                    return int(said["exit"])
        except (ConnectionClosed, ValueError) as error:
            reason = getattr(getattr(error, "rcvd", None), "reason", "") or str(error)
            raise MadangError(f"the terminal was closed: {reason}", code="exec") from None

    def _send(self) -> None:
        from websockets.exceptions import ConnectionClosed

        sources = [sys.stdin.fileno(), self._wake_out]
        try:
            while True:
                ready, _, _ = select.select(sources, [], [])
                if self._wake_out in ready:
                    if b"q" in os.read(self._wake_out, READ_BYTES):
                        return
                    size = os.get_terminal_size()
                    self._socket.send(json.dumps({"resize": [size.lines, size.columns]}))
                if sources[0] in ready:
                    typed = os.read(sources[0], READ_BYTES)
                    self._socket.send(typed or END_OF_INPUT)
                    if not typed:
                        sources = sources[1:] * 2  # nothing more comes; only wake-ups are left
        except (ConnectionClosed, OSError):
            return  # the receiving side says what happened

    @contextmanager
    def _raw(self) -> Iterator[None]:
        """Every key goes to the other side, Ctrl-C too; resizes wake the sender."""
        if not self._is_terminal:
            yield
            return
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin.fileno())
        old = signal.signal(signal.SIGWINCH, self._resized)
        try:
            tty.setraw(sys.stdin.fileno(), termios.TCSADRAIN)  # keep what was typed ahead
            yield
        finally:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
            signal.signal(signal.SIGWINCH, old)

    def _resized(self, _signal: int, _frame: object) -> None:
        # Only a byte into a pipe: a handler must not touch the socket's locks.
        try:
            os.write(self._wake_in, b"r")
        except BlockingIOError:
            pass  # it is awake already
