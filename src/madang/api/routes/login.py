"""Letting in: tokens for programs, one-time links and sessions for browsers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.gate import cookie_name, cookie_of
from madang.api.identity import (
    SESSION_LIVES_MS,
    SESSION_PREFIX,
    digest_of,
    new_secret,
    now_ms,
    parsed_session,
)
from madang.api.pages import simple_page
from madang.api.problems import Problem
from madang.ledger import CommitFailed, LedgerError
from madang.wire import views as wire

TOKENS_MAX = 1_000


class Login:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._identities = desk.identities
        self._ledger = desk.yard.ledger
        self._cookie = cookie_name(desk.settings.port)

    async def make_link(self, request: Request) -> Response:
        """A link that logs one browser in, once, within a minute."""
        path, expires_ms = self._identities.new_link(who(request).name)
        return answer(
            wire.LoginLinkView(url=self._desk.yard.url.rstrip("/") + path, expires_ms=expires_ms),
            201,
        )

    async def use_link(self, once: str = "") -> Response:
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
            secure=self._desk.settings.secure_cookie,
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """End this browser's session."""
        secret = cookie_of(request.headers.getlist("cookie"), self._cookie)
        if secret:
            await self._identities.drop_session(secret)
        response = Response(status_code=204)
        response.delete_cookie(self._cookie, httponly=True, samesite="strict")
        return response

    async def make_token(self, request: Request, body: wire.TokenRequest) -> Response:
        """A new token. It is shown this once; only its digest is kept."""
        count = len(await self._desk.rows.read(self._ledger.tokens))
        if count >= TOKENS_MAX:
            raise Problem(
                409, "conflict", "there are too many tokens", given=count, allowed=TOKENS_MAX
            )
        token = new_secret()
        try:
            await self._desk.rows.read(
                self._ledger.add_token, body.name, digest_of(token), now_ms()
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
        return answer(wire.TokenView(name=body.name, token=token), 201)

    async def list_tokens(self) -> Response:
        """Who has access: tokens and browsers, without their secrets."""
        tokens = await self._desk.rows.read(self._ledger.tokens)
        return answer(
            wire.TokenListView(
                tokens=[
                    wire.TokenEntryView(
                        name=token.name,
                        kind="browser" if parsed_session(token.name) else "token",
                        made_ms=token.made_ms,
                    )
                    for token in tokens
                ]
            )
        )

    async def drop_token(self, name: str) -> Response:
        """Revoke a token, or log a browser out, from this moment on."""
        tokens = await self._desk.rows.read(self._ledger.tokens)
        if name not in {token.name for token in tokens}:
            known = [t.name for t in tokens if not t.name.startswith(SESSION_PREFIX)][:20]
            raise Problem(
                404, "no_such_token", "no token has this name", given=name[:128], allowed=known
            )
        await self._identities.drop(name)
        return Response(status_code=204)


def login_router(desk: Desk) -> APIRouter:
    """The table of how one is let in."""
    login = Login(desk)
    one = "/v1/tokens/{name}"
    return router_of(
        "access",
        [
            Route("POST", "/v1/login-links", login.make_link, wire.LoginLinkView, 201),
            Route("GET", "/login", login.use_link, None, 303, (), "text/html"),
            Route("POST", "/v1/logout", login.log_out, None, 204),
            Route("POST", "/v1/tokens", login.make_token, wire.TokenView, 201, (409, 422)),
            Route("GET", "/v1/tokens", login.list_tokens, wire.TokenListView),
            Route("DELETE", one, login.drop_token, None, 204, (404,)),
        ],
    )
