"""Where the daemon's state is on this machine, and so its address and token.

Order: what is given, then MADANG_URL and MADANG_TOKEN, then `client.json` of the state directory.
A token is only ever sent to the address it was stored with.
"""

from __future__ import annotations

import json
import os

from madang.client.errors import Unreachable

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def state_dir(environ: Mapping[str, str]) -> str:
    """MADANG_STATE, else XDG_STATE_HOME/madang, else ~/.local/state/madang."""
    named = environ.get("MADANG_STATE")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    base = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "madang")


def stored(state: str) -> dict[str, str]:
    """`url` and `token` of client.json; empty where there is none to read."""
    try:
        with open(os.path.join(state, "client.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: found[key] for key in ("url", "token") if isinstance(found.get(key), str)}


def _same(a: str, b: str) -> bool:
    """True iff two addresses are one daemon: loopback has several names."""
    for name in LOOPBACK[1:]:
        a, b = a.replace(f"//{name}", "//127.0.0.1"), b.replace(f"//{name}", "//127.0.0.1")
    return a.rstrip("/") == b.rstrip("/")


def address_and_token(
    url: str | None, token: str | None, environ: Mapping[str, str]
) -> tuple[str, str]:
    """Which daemon, and with what token ("" = none).

    Raises:
        Unreachable: nothing says where a daemon is.
    """
    url = url or environ.get("MADANG_URL")
    token = token or environ.get("MADANG_TOKEN")
    if url and token:
        return url, token
    state = state_dir(environ)
    found = stored(state)
    if not url:
        url = found.get("url")
        if not url:
            raise Unreachable(
                f"no daemon has run here: {os.path.join(state, 'client.json')} is not there",
                code="unreachable",
                tries=[
                    "madang up --detach      starts one here",
                    "MADANG_URL and MADANG_TOKEN name another one",
                ],
            )
    if not token and _same(url, found.get("url", "")):
        token = found.get("token")
    return url, token or ""
