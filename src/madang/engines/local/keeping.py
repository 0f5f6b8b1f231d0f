"""The daemon's end of the keeper: start it, ask it, start another one when it is gone."""

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import madang
from madang.engines.local.places import Places

ASK_S = 5.0  # a keeper that takes no line for this long is stuck, and replaced
LOG_BYTES_MAX = 1 << 20
RESPAWN_S = 1.0  # between keepers, when they die young

_log = logging.getLogger(__name__)
# Without `site`, nothing is importable but Python itself and what is told here.
_CODE = """
import importlib, sys
sys.path.append(sys.argv[1])
importlib.import_module(sys.argv[2]).main(int(sys.argv[3]), sys.argv[4])
"""


class KeeperLink:
    """Used from one thread, but for `close`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._keeper: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._born_s = 0.0

    @property
    def socket(self) -> socket.socket | None:
        """Readable (end of file) when the keeper is gone; None while there is no keeper."""
        return self._socket

    @property
    def pid(self) -> int:
        """The keeper's process id, 0 while there is none."""
        return self._keeper.pid if self._keeper is not None else 0

    def start(self) -> bool:
        """Start a keeper. False when it is too early, or impossible: try again later."""
        if time.monotonic() < self._born_s + RESPAWN_S and self._born_s:
            return False
        self._born_s = time.monotonic()
        ours, theirs = socket.socketpair()
        source = str(Path(madang.__file__).parent.parent)
        argv = [sys.executable, "-I", "-S", "-c", _CODE, source, "madang.engines.local.keeper"]
        argv += [str(theirs.fileno()), str(self._places.fifo)]
        try:
            with self._places.keeper_log.open(self._log_mode()) as log:
                self._keeper = subprocess.Popen(
                    argv,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C at the daemon's terminal is not for members
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                )
        except OSError as error:
            _log.error("cannot start the keeper, trying again: %s", error)
            ours.close()
            return False
        finally:
            theirs.close()
        ours.settimeout(ASK_S)
        self._socket = ours
        return True

    def _log_mode(self) -> str:
        """A keeper and its shims write tracebacks only; yet nothing grows for ever."""
        path = self._places.keeper_log
        return "wb" if path.exists() and path.stat().st_size > LOG_BYTES_MAX else "ab"

    def ask(self, directory: Path, rank: int) -> bool:
        """Ask for a shim. False when there is no keeper to ask."""
        if self._socket is None:
            return False
        try:
            self._socket.sendall(f"{directory}\0{rank}\n".encode())
        except OSError as error:
            _log.warning("the keeper does not listen, replacing it: %s", error)
            self.gone()
            return False
        return True

    def gone(self) -> None:
        """Let go of a keeper that died or is stuck."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None

    def close(self) -> None:
        """Let the keeper finish what it was asked, and go."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._keeper is not None:
            try:
                self._keeper.wait(ASK_S)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()
            self._keeper = None
