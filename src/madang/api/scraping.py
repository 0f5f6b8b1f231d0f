"""Who may read /metrics without a token of the daemon: nobody, unless the operator says so.

A secret of its own opens /metrics and nothing else, so that a monitoring system's configuration
holds no key to the yard. Programs of this machine need none where the operator says that; a request
that came through a proxy is not of this machine, whatever its address is.
"""

import hmac
import ipaddress
import os
from pathlib import Path
from typing import Any

PATH = "/metrics"
FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")
SECRET_CHARS_MIN = 16  # a shorter one can be guessed


class ScrapeDoor:
    """Asked once a request; a changed secret counts at once."""

    def __init__(self, loopback_open: bool, token_file: Path | None) -> None:
        self._loopback_open = loopback_open
        self._token_file = token_file
        self._known: tuple[tuple[int, int], bytes] = ((0, 0), b"")

    def opens_to_neighbour(self, client: Any, headers: Any) -> bool:
        """True iff it is a program of this machine, and those may. `headers` are the raw pairs."""
        if not self._loopback_open or not client:
            return False
        if any(name.lower() in FORWARDED for name, _ in headers):
            return False
        try:
            return ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            return False

    def opens_to(self, secret: str) -> bool:
        """True iff it is the secret of scrapes."""
        expected = self._secret()
        given = secret.encode("utf-8", "replace")
        return len(expected) >= SECRET_CHARS_MIN and hmac.compare_digest(given, expected)

    def _secret(self) -> bytes:
        if self._token_file is None:
            return b""
        try:
            found = os.stat(self._token_file)
            version = (found.st_mtime_ns, found.st_size)
            if version != self._known[0]:
                lines = self._token_file.read_bytes().strip().splitlines()
                self._known = (version, lines[0].strip() if lines else b"")
        except OSError:
            return b""
        return self._known[1]
