"""The keeper: a small interpreter that stays warm, so that a member costs a fork, not a start-up.

It reads lines `<allocation directory>\\0<rank>\\n` from a socket pair shared with the daemon and
forks a shim for each. It keeps no state: whoever asks twice is sorted out by the shim's lock. End
of file means that the daemon is gone, and the keeper goes as well; its shims do not care.

Started with `python -I -S`; imports nothing that a shim does not need (every page is copied).
"""

import gc
import os
import signal
import socket
import sys
from typing import NoReturn

from madang.engines.local import proc, shim

READ_BYTES = 65536


def main(socket_fd: int, notify_path: str) -> None:
    """Serve until the daemon is gone."""
    os.chdir("/")
    daemon = socket.socket(fileno=socket_fd)
    boot_id = proc.boot_id()
    # The daemon reads the other end, so this does not wait; shims share the descriptor.
    notify_fd = os.open(notify_path, os.O_WRONLY | os.O_NONBLOCK)
    null_fd = os.open(os.devnull, os.O_RDWR)
    # The kernel reaps shims; what a shim itself awaits is its own affair (it undoes this).
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    shim.warm_up()
    gc.disable()
    gc.freeze()
    rest = b""
    while chunk := daemon.recv(READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            directory, _, rank = line.decode().partition("\0")
            try:
                pid = os.fork()
            except OSError as error:
                # Too many processes: the engine asks again for what it does not see starting.
                print(f"madang keeper: cannot fork: {error}", file=sys.stderr, flush=True)
                continue
            if pid == 0:
                daemon.close()
                _shim(shim.Call(directory, int(rank), boot_id, notify_fd, null_fd))


def _shim(call: shim.Call) -> NoReturn:
    code = 1
    try:
        shim.run(call)
        code = 0
    except BaseException:
        # The last place that sees it: the record stays without an exit, so the member is lost.
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)
