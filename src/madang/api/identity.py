"""Who asks: tokens of programs, sessions of browsers, and the links that make sessions.

- A token and a session are 256 random bits; the ledger keeps their SHA-256 only. They are looked up
  by digest, so a comparison's time tells nothing that helps to guess the secret.
- A session is a token whose name says so (`browser:OWNER:EXPIRES_MS:TAG`); it opens the API only
  as a cookie, a token only as a Bearer: neither does in the other's place.
- Both have a role, which stays: another role is another token. A name that is revoked takes its
  browsers and its unused links with it.
- A login link lives for a minute, in memory, and works once.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from madang.api.readers import Readers
from madang.ledger import Ledger, Token
from madang.wire.access import Role

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
    role: Role
    via: Literal["token", "cookie"]


@dataclass(frozen=True, slots=True)
class Guest:
    """Whom a link lets in, as what, and until when."""

    user: str
    role: Role
    expires_ms: int


NOBODY = Token("", "", 0, "")
VOID = Guest("", Role.VIEWER, 0)
ROLES = {role.value: role for role in Role}


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
        self._links: OrderedDict[str, Guest] = OrderedDict()
        self._known: OrderedDict[str, tuple[Token, int]] = OrderedDict()
        self._drops = 0

    async def of_token(self, secret: str) -> Identity | None:
        """The owner of a Bearer token, or None for a wrong one."""
        token = await self._token(digest_of(secret))
        role = role_of(token)
        if role is None or token.name.startswith(SESSION_PREFIX):
            return None
        return Identity(token.name, role, "token")

    async def of_cookie(self, secret: str) -> Identity | None:
        """The owner of a browser's session, or None for a wrong or an old one."""
        token = await self._token(digest_of(secret))
        session, role = parsed_session(token.name), role_of(token)
        if session is None or role is None or session[1] <= now_ms():
            return None
        return Identity(session[0], role, "cookie")

    async def _token(self, digest: str) -> Token:
        now = now_ms()
        known = self._known.get(digest)
        if known is not None and now - known[1] < KNOWN_LIVES_MS:
            return known[0]
        drops = self._drops
        token = await self._readers.read(self._ledger.token, digest)
        if drops != self._drops:
            return await self._token(digest)  # something was revoked while this was read
        if token is None:
            self._known.pop(digest, None)
            return NOBODY  # not remembered: guesses must not push out what is right
        self._known[digest] = (token, now)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return token

    # -- links and sessions ------------------------------------------------------------------------

    def new_link(self, user: str, role: Role) -> tuple[str, int]:
        """(path and query of a one-time link, when it expires)."""
        once = new_secret()
        expires_ms = now_ms() + LINK_LIVES_MS
        self._links[digest_of(once)] = Guest(user, role, expires_ms)
        if len(self._links) > self._links_max:
            self._links.popitem(last=False)
        return f"/login?once={quote(once)}", expires_ms

    async def open_session(self, once: str) -> str | None:
        """The secret of a new session for a link's `once`, or None if that is void."""
        guest = self._links.pop(digest_of(once), VOID)
        now, drops = now_ms(), self._drops
        if guest.expires_ms <= now:
            return None
        await self._readers.read(self._drop_old_sessions, now)
        secret = new_secret()
        name = f"{SESSION_PREFIX}{guest.user}:{now + SESSION_LIVES_MS}:{secrets.token_hex(4)}"
        await self._readers.read(self._ledger.add_token, name, digest_of(secret), now, guest.role)
        if drops != self._drops:
            await self._readers.read(self._ledger.drop_token, name)
            return None  # somebody was revoked meanwhile: perhaps this one
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

    async def drop(self, name: str) -> bool:
        """Revoke a token with the browsers and links of that user, or one browser; from this moment
        on. Whether there was anything to revoke.
        """
        void = [once for once, guest in self._links.items() if guest.user == name]
        for once in void:
            del self._links[once]
        count = await self._readers.read(self._drop_all, name)
        self._drops += 1
        self._known.clear()
        return count > 0 or bool(void)

    def _drop_all(self, name: str) -> int:
        names = [
            token.name
            for token in self._ledger.tokens()
            if token.name == name or user_of(token) == name
        ]
        return sum(self._ledger.drop_token(one) for one in names)

    async def drop_session(self, secret: str) -> None:
        """Log one browser out."""
        name = (await self._token(digest_of(secret))).name
        if name.startswith(SESSION_PREFIX):
            await self.drop(name)


def parsed_session(name: str) -> tuple[str, int] | None:
    """(owner, expires_ms) of a session's name; None for any other token."""
    parts = name.split(":")
    if len(parts) != 4 or parts[0] != "browser" or not parts[2].isdigit():
        return None
    return parts[1], int(parts[2])


def user_of(token: Token) -> str:
    """Whose it is: of a session its user, of a token its name."""
    session = parsed_session(token.name)
    return session[0] if session is not None else token.name


def role_of(token: Token) -> Role | None:
    """None for a role that this version does not know: such a token opens nothing."""
    return ROLES.get(token.role)
