"""Letting in: tokens for programs, one-time links and sessions for browsers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.gate import comes_by_tls, cookie_name, cookie_of
from madang.api.identity import (
    SESSION_LIVES_MS,
    Identity,
    digest_of,
    new_secret,
    now_ms,
    parsed_session,
    role_of,
    user_of,
)
from madang.api.pages import simple_page
from madang.api.problems import Problem
from madang.ledger import CommitFailed, LedgerError, Token
from madang.wire import access as wire
from madang.wire.access import Role

TOKENS_MAX = 1_000
KNOWN_SHOWN_MAX = 20


class Login:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._identities = desk.identities
        self._ledger = desk.yard.ledger
        self._cookie = cookie_name(desk.settings.port)

    async def me(self, request: Request) -> Response:
        """Who asks, and what they may do."""
        caller = who(request)
        return answer(wire.MeView(user=caller.name, role=caller.role, via=caller.via))

    async def make_link(
        self, request: Request, body: wire.LoginLinkRequest | None = None
    ) -> Response:
        """A link that logs one browser in, once, within a minute.

        For oneself, also with a lesser role; owners make it for any user and role.
        """
        user, role = _guest(who(request), body or wire.LoginLinkRequest())
        path, expires_ms = self._identities.new_link(user, role)
        here = self._desk.yard.url.rstrip("/")
        url = f"https://{request.headers['host']}" if self._is_secure(request) else here
        view = wire.LoginLinkView(url=url + path, user=user, role=role, expires_ms=expires_ms)
        return answer(view, 201)

    async def use_link(self, request: Request, once: str = "") -> Response:
        """Trade a link for a session cookie and go to the first page."""
        secret = await self._identities.open_session(once[:256])
        if secret is None:
            page = simple_page(
                "This login link is used up",
                "A link works once, within a minute after it was made.",
                "Type `madang web` in a terminal to get a new one.",
            )
            return HTMLResponse(page, 403, {"cache-control": "no-store"})
        response = Response(status_code=303, headers={"location": "/", "cache-control": "no-store"})
        response.set_cookie(
            self._cookie,
            secret,
            max_age=SESSION_LIVES_MS // 1000,
            httponly=True,
            samesite="strict",
            secure=self._is_secure(request),
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """End this browser's session."""
        secret = cookie_of(request.headers.getlist("cookie"), self._cookie)
        if secret:
            await self._identities.drop_session(secret)
        response = Response(status_code=204)
        secure = self._is_secure(request)
        response.delete_cookie(self._cookie, httponly=True, samesite="strict", secure=secure)
        return response

    def _is_secure(self, request: Request) -> bool:
        return comes_by_tls(self._desk.settings, request.headers.get("host", ""))

    async def make_token(self, request: Request, body: wire.TokenRequest) -> Response:
        """A new token with its role. It is shown this once; only its digest is kept."""
        count = len(await self._desk.rows.read(self._ledger.tokens))
        if count >= TOKENS_MAX:
            raise Problem(
                409, "conflict", "there are too many tokens", given=count, allowed=TOKENS_MAX
            )
        token = new_secret()
        try:
            await self._desk.rows.read(
                self._ledger.add_token, body.name, digest_of(token), now_ms(), body.role
            )
        except CommitFailed:
            raise
        except LedgerError as error:
            raise Problem(
                409,
                "name_taken",
                str(error),
                given=body.name,
                tries=[f"revoke it: DELETE /v1/tokens/{body.name}", "choose another name"],
            ) from None
        return answer(wire.TokenView(name=body.name, role=body.role, token=token), 201)

    async def list_tokens(self) -> Response:
        """Who has access: tokens and browsers, without their secrets."""
        tokens = await self._desk.rows.read(self._ledger.tokens)
        return answer(wire.TokenListView(tokens=[_entry(one) for one in tokens if role_of(one)]))

    async def drop_token(self, name: str) -> Response:
        """Revoke a user's token, browsers and login links, or log one browser out; from now on."""
        if not await self._identities.drop(name):
            tokens = await self._desk.rows.read(self._ledger.tokens)
            known = sorted({user_of(token) for token in tokens})[:KNOWN_SHOWN_MAX]
            raise Problem(
                404, "no_such_token", "no token has this name", given=name[:128], allowed=known
            )
        return Response(status_code=204)


def _entry(token: Token) -> wire.TokenEntryView:
    session = parsed_session(token.name)
    return wire.TokenEntryView(
        name=token.name,
        user=user_of(token),
        role=role_of(token) or Role.VIEWER,
        kind="token" if session is None else "browser",
        made_ms=token.made_ms,
        expires_ms=0 if session is None else session[1],
    )


def _guest(caller: Identity, asked: wire.LoginLinkRequest) -> tuple[str, Role]:
    """Whom the link lets in, and as what: never as more than who asks.

    Raises:
        Problem: 403.
    """
    user = asked.user or caller.name
    role = caller.role if user == caller.name else Role.MEMBER
    if asked.role:
        role = Role(asked.role)
    if caller.role is Role.OWNER or (user == caller.name and caller.role.covers(role)):
        return user, role
    raise Problem(
        403,
        "forbidden",
        f"{caller.name} is {caller.role.said} of this yard, and makes no login link for "
        f"{user} as {role.said}",
        given=f"{user}, {role}",
        allowed=f"{caller.name}, as {caller.role.said} at most",
        tries=["for yourself: `madang web`", "ask an owner of this yard"],
    )


def login_router(desk: Desk) -> APIRouter:
    """The table of how one is let in."""
    login = Login(desk)
    one = "/v1/tokens/{name}"
    return router_of(
        "access",
        [
            Route("GET", "/v1/me", login.me, wire.MeView),
            Route("POST", "/v1/login-links", login.make_link, wire.LoginLinkView, 201, (403, 422)),
            Route("GET", "/login", login.use_link, None, 303, (), "text/html"),
            Route("POST", "/v1/logout", login.log_out, None, 204),
            Route("POST", "/v1/tokens", login.make_token, wire.TokenView, 201, (409, 422)),
            Route("GET", "/v1/tokens", login.list_tokens, wire.TokenListView),
            Route("DELETE", one, login.drop_token, None, 204, (404,)),
        ],
    )
