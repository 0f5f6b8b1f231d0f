"""Who asks: tokens of programs, sessions of browsers, and the links that make sessions.

- A token and a session are 256 random bits; the ledger keeps their SHA-256 only. They are looked up
  by digest, so a comparison's time tells nothing that helps to guess the secret.
- A session is a token whose name says so (`browser:OWNER:EXPIRES_MS:TAG`); it opens the API only
  as a cookie, a token only as a Bearer: neither does in the other's place.
- A login link lives for a minute, in memory, and works once.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import quote

from madang.api.readers import Readers
from madang.ledger import Ledger

SECRET_BYTES = 32
LINK_LIVES_MS = 60_000
SESSION_LIVES_MS = 30 * 86_400_000
KNOWN_LIVES_MS = 5_000  # a token revoked in the ledger by another program works this much longer
KNOWN_MAX = 1_024
SESSIONS_MAX = 256  # more logins void the oldest
SESSION_PREFIX = "browser:"


@dataclass(frozen=True, slots=True)
class Identity:
    """`name` becomes the owner of what is submitted. `via` is `token` or `cookie`."""

    name: str
    via: str


def new_secret() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> str:
    """What the ledger keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Identities:
    """Checks credentials, and makes and revokes them. Used on the event loop only."""

    def __init__(self, ledger: Ledger, readers: Readers, links_max: int) -> None:
        self._ledger = ledger
        self._readers = readers
        self._links_max = links_max
        self._links: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._drops = 0

    async def of_token(self, secret: str) -> Identity | None:
        """The owner of a Bearer token, or None for a wrong one."""
        name = await self._name(digest_of(secret))
        if not name or name.startswith(SESSION_PREFIX):
            return None
        return Identity(name, "token")

    async def of_cookie(self, secret: str) -> Identity | None:
        """The owner of a browser's session, or None for a wrong or an old one."""
        name = await self._name(digest_of(secret))
        session = parsed_session(name or "")
        if session is None or session[1] <= now_ms():
            return None
        return Identity(session[0], "cookie")

    async def _name(self, digest: str) -> str:
        now = now_ms()
        known = self._known.get(digest)
        if known is not None and now - known[1] < KNOWN_LIVES_MS:
            return known[0]
        drops = self._drops
        name = await self._readers.read(self._ledger.token_name, digest)
        if drops != self._drops:
            return await self._name(digest)  # something was revoked while this was read
        if name is None:
            self._known.pop(digest, None)
            return ""  # a wrong one is not remembered: guesses must not push out what is right
        self._known[digest] = (name, now)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return name

    # -- links and sessions ------------------------------------------------------------------------

    def new_link(self, owner: str) -> tuple[str, int]:
        """(path and query of a one-time link, when it expires)."""
        once = new_secret()
        expires_ms = now_ms() + LINK_LIVES_MS
        self._links[digest_of(once)] = (owner, expires_ms)
        if len(self._links) > self._links_max:
            self._links.popitem(last=False)
        return f"/login?once={quote(once)}", expires_ms

    async def open_session(self, once: str) -> str | None:
        """The secret of a new session for a link's `once`, or None if that is void."""
        owner, expires_ms = self._links.pop(digest_of(once), ("", 0))
        now = now_ms()
        if expires_ms <= now:
            return None
        await self._readers.read(self._drop_old_sessions, now)
        secret = new_secret()
        name = f"{SESSION_PREFIX}{owner}:{now + SESSION_LIVES_MS}:{secrets.token_hex(4)}"
        await self._readers.read(self._ledger.add_token, name, digest_of(secret), now)
        return secret

    def _drop_old_sessions(self, now: int) -> None:
        sessions = sorted(
            (session[1], token.name)
            for token in self._ledger.tokens()
            if (session := parsed_session(token.name)) is not None
        )
        too_many = len(sessions) - SESSIONS_MAX + 1
        for at, (expires_ms, name) in enumerate(sessions):
            if expires_ms <= now or at < too_many:
                self._ledger.drop_token(name)

    async def drop(self, name: str) -> None:
        """Revoke a token or a session, from this moment on."""
        await self._readers.read(self._ledger.drop_token, name)
        self._drops += 1
        self._known.clear()

    async def drop_session(self, secret: str) -> None:
        """Log one browser out."""
        name = await self._name(digest_of(secret))
        if name.startswith(SESSION_PREFIX):
            await self.drop(name)


def parsed_session(name: str) -> tuple[str, int] | None:
    """(owner, expires_ms) of a session's name; None for any other token."""
    parts = name.split(":")
    if len(parts) != 4 or parts[0] != "browser" or not parts[2].isdigit():
        return None
    return parts[1], int(parts[2])
