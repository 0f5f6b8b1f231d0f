"""What every request passes before any handler sees it, and every answer on its way out.

In this order: the Host is ours (421: DNS rebinding), the page that asks is ours (403: cross-site),
the caller is known (401; open are only the health check, the login and the static pages; a member's
pass opens its own code snapshot), the body is within bounds (413, 415, 408). Whatever a handler
raises leaves as a problem. A WebSocket ends (1008) when what opened it is revoked; who answers
without an end asks `scope[VOID]` for that.
"""

import asyncio
import ipaddress
import re
from collections.abc import Iterable
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from madang.api.identity import Identities, Identity, digest_of
from madang.api.problems import Problem, from_exception
from madang.api.scraping import PATH as SCRAPE_PATH
from madang.api.scraping import ScrapeDoor
from madang.api.settings import ApiSettings, Limits
from madang.wire.access import Role

WHO = "madang.who"  # the scope's key for the Identity
VOID = "madang.void"  # the scope's key for a coroutine that returns when the caller is revoked
CUT = "madang.cut"  # the scope's key for a function that cuts the connection off
REVOKED = 1008  # close code: policy
CLOSE_WAIT_S = 1.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
PASS_PREFIX = "pass-"  # of a member, for its own code snapshot; spares all others the question
_CODE = re.compile(r"/v1/code/([0-9a-f]{64})")
WILDCARDS = frozenset({"0.0.0.0", "::", ""})

# No inline script, nothing from elsewhere, in no frame: the page cannot be made to act for others.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SAFETY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", PAGE_POLICY.encode()),
    (b"x-frame-options", b"DENY"),
]
NO_STORE = (b"cache-control", b"no-store")


def comes_by_tls(settings: ApiSettings, host: str) -> bool:
    """Whether who asked for this Host has come by https. That is said by who runs us, never by a
    header like X-Forwarded-Proto: whoever reaches our port can send one."""
    return settings.behind_tls and _split_port(host.lower())[0] not in LOOPBACK_NAMES


def cookie_name(port: int) -> str:
    """Cookies know no ports; two daemons on a machine must not log each other out."""
    return f"madang-{port}"


class Hosts:
    """The names by which this daemon may be asked for."""

    def __init__(self, settings: ApiSettings) -> None:
        bound = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._wildcard = settings.host in WILDCARDS
        self._port = settings.port
        self._names = {name.lower() for name in settings.names}
        if not self._wildcard:
            self._names.add(f"{bound}:{settings.port}".lower())
        self.said = sorted({*self._names, f"localhost:{settings.port}"})

    def allow(self, host: str, server: Any) -> bool:
        """True iff the Host header names us.

        Loopback names pass with any port: that is what `ssh -L` makes, and a page of another site
        can't have them. A daemon bound to every address also takes the address it is reached at.
        """
        host = host.lower()
        name, port = _split_port(host)
        if name in LOOPBACK_NAMES or host in self._names or name in self._names:
            return True
        if not self._wildcard or not server or port != str(self._port):
            return False
        try:
            return ipaddress.ip_address(name.strip("[]")) == ipaddress.ip_address(server[0])
        except ValueError:
            return False


def _split_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, ""
    return name, port


class Gate:
    """ASGI middleware; see the module's docstring."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, identities: Identities) -> None:
        self.app = app
        self._settings = settings
        self._hosts = Hosts(settings)
        self._limits = settings.limits
        self._cookie = cookie_name(settings.port)
        self._identities = identities
        self._may_fetch = settings.may_fetch
        self._scrapes = ScrapeDoor(settings.metrics_on_loopback, settings.metrics_token_file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        is_api = scope["path"].startswith("/v1/") or scope["path"] in ("/v1", SCRAPE_PATH)
        answering = _Answering(send, is_api)
        try:
            headers = _Headers(scope["headers"])
            await self._admit(scope, headers, is_api)
            if scope["type"] == "http":
                receive = self._bounded(scope, headers, receive)
                await self.app(scope, receive, answering.send)
            else:
                await _while_known(self.app, scope, receive, answering.send)
        except Exception as error:
            problem = from_exception(error)
            if answering.started:
                _cut(scope)
            elif scope["type"] == "http":
                await problem.response()(scope, receive, answering.send)
            else:
                await refuse_websocket(problem, scope, receive, send)

    async def _admit(self, scope: Scope, headers: "_Headers", is_api: bool) -> None:
        host = headers.one(b"host")
        if not self._hosts.allow(host, scope.get("server")):
            raise Problem(
                421,
                "wrong_host",
                f"this daemon does not answer to the host name {host!r}",
                given=host[:200],
                allowed=self._hosts.said,
                tries=["use one of the allowed names"],
            )
        schemes = ("https",) if comes_by_tls(self._settings, host) else ("http", "https")
        _check_site(headers, [f"{scheme}://{host.lower()}" for scheme in schemes], is_api)
        if not is_api or scope["path"] == "/v1/health":
            return
        if scope["path"] == SCRAPE_PATH and self._may_scrape(scope, headers):
            return
        who = scope[WHO] = await self._who(scope, headers)
        scope[VOID] = partial(self._identities.until_void, who)

    def _may_scrape(self, scope: Scope, headers: "_Headers") -> bool:
        """Whether /metrics is open to this request without a token of ours."""
        scheme, _, secret = headers.one(b"authorization").partition(" ")
        if scheme:
            return scheme.lower() == "bearer" and self._scrapes.opens_to(secret.strip())
        return self._scrapes.opens_to_neighbour(scope.get("client"), scope["headers"])

    async def _who(self, scope: Scope, headers: "_Headers") -> Identity:
        given = headers.one(b"authorization")
        if given:
            scheme, _, secret = given.partition(" ")
            who = None
            if scheme.lower() == "bearer":
                who = await self._identities.of_token(secret.strip())
                who = who or self._of_pass(scope, secret.strip())
            if who is None:
                raise _unauthorized("the token is not one of this daemon's")
            return who
        secret = cookie_of(headers.all(b"cookie"), self._cookie)
        who = await self._identities.of_cookie(secret) if secret else None
        if who is None:
            what = "the login has expired" if secret else "no token was sent"
            raise _unauthorized(what)
        if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
            _check_own_page(headers)
        return who

    def _of_pass(self, scope: Scope, secret: str) -> Identity | None:
        """A member that fetches its own code, and nothing else."""
        path = _CODE.fullmatch(scope["path"])
        if path is None or scope.get("method") not in SAFE_METHODS:
            return None
        if not secret.startswith(PASS_PREFIX) or not self._may_fetch(path[1], digest_of(secret)):
            return None
        return Identity("a member", Role.VIEWER, "token")

    def _bounded(self, scope: Scope, headers: "_Headers", receive: Receive) -> Receive:
        limit = _body_limit(scope["path"], self._limits)
        length = headers.one(b"content-length")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit, int(length))
        has_body = length not in ("", "0") or headers.one(b"transfer-encoding") != ""
        if has_body and not scope["path"].startswith(("/v1/code/", "/v1/frames")):
            _check_media_type(headers.one(b"content-type"))
        return _counted(receive, limit, self._limits.body_wait_s) if has_body else receive


class _Headers:
    """A request's headers by name."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = list(raw)

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self._raw if key == name]

    def one(self, name: bytes) -> str:
        """The only value; "" if there is none. Two different ones are an attack or a mistake."""
        found = self.all(name)
        if len(found) > 1 and any(value != found[0] for value in found):
            raise Problem(400, "bad_request", f"the header {name.decode()} came twice")
        return found[0].strip() if found else ""


class _Answering:
    """Puts the safety headers on an answer and knows whether it has begun."""

    __slots__ = ("_is_api", "_send", "started")

    def __init__(self, send: Send, is_api: bool) -> None:
        self._send = send
        self._is_api = is_api
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.started = True
            headers = [*message.get("headers", ()), *SAFETY_HEADERS]
            if self._is_api and not any(key == b"cache-control" for key, _ in headers):
                headers.append(NO_STORE)
            message = {**message, "headers": headers}
        elif message["type"] == "websocket.accept":
            self.started = True
        await self._send(message)


async def _while_known(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that ends when its caller is revoked: the handler hears that the client left."""
    if VOID not in scope:
        await app(scope, receive, send)
        return
    void = asyncio.create_task(scope[VOID]())

    async def heard() -> Message:
        taking = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((taking, void), return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                return taking.result()
        finally:
            taking.cancel()
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):  # one that stalls would not take this either
                await send({"type": "websocket.close", "code": REVOKED, "reason": "revoked"})
        except (OSError, RuntimeError, TimeoutError):
            pass
        return {"type": "websocket.disconnect", "code": REVOKED}

    try:
        await app(scope, heard, send)
    finally:
        void.cancel()


def _cut(scope: Scope) -> None:
    cut = scope.get(CUT)
    if cut is not None:
        cut()


async def refuse_websocket(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """The problem as the HTTP answer to the upgrade, where the server can; else a plain refusal."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    response = problem.response()
    headers = [*response.raw_headers, *SAFETY_HEADERS, NO_STORE]
    await send(
        {
            "type": "websocket.http.response.start",
            "status": response.status_code,
            "headers": headers,
        }
    )
    await send({"type": "websocket.http.response.body", "body": response.body})


# -- which page asks ---------------------------------------------------------------------------


def _check_site(headers: _Headers, ours: list[str], is_api: bool) -> None:
    """No other site may drive us: neither with our user's cookie nor without."""
    origin = headers.one(b"origin").lower()
    if origin and origin not in ours:
        raise _cross_site(origin, ours)
    site = headers.one(b"sec-fetch-site")
    if is_api and site not in ("", "same-origin", "none"):
        raise _cross_site(origin or f"a page ({site})", ours)


def _check_own_page(headers: _Headers) -> None:
    """With a cookie only our own page may change things; the Origin was compared already."""
    if headers.one(b"origin") or headers.one(b"sec-fetch-site") == "same-origin":
        return
    raise Problem(
        403,
        "cross_site",
        "a request with the login cookie that changes something must say which page it comes from",
        given="neither Origin nor Sec-Fetch-Site",
        tries=["programs send a token: `Authorization: Bearer TOKEN`"],
    )


def _cross_site(given: str, ours: list[str]) -> Problem:
    return Problem(
        403,
        "cross_site",
        "pages of other sites may not use this daemon",
        given=given[:200],
        allowed=ours[:1],
        tries=["programs send a token and no Origin header"],
    )


def _unauthorized(what: str) -> Problem:
    return Problem(
        401,
        "unauthorized",
        what,
        allowed=["Authorization: Bearer TOKEN", "the cookie of a logged-in browser"],
        tries=[
            "in a terminal of the daemon's machine: `madang web` opens a logged-in page",
            "the token is in client.json in the daemon's state directory",
        ],
        headers={"www-authenticate": 'Bearer realm="madang"'},
    )


def cookie_of(headers: list[str], name: str) -> str:
    """A cookie's value; "" if there is none."""
    for header in headers:
        try:
            found = SimpleCookie(header).get(name)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""


# -- bodies ----------------------------------------------------------------------------------------


def _body_limit(path: str, limits: Limits) -> int:
    if path.startswith("/v1/code/"):
        return limits.code_bytes_max
    if path == "/v1/frames":
        return limits.frames_bytes_max
    return limits.batch_bytes_max if path == "/v1/jobs:batch" else limits.json_bytes_max


def _too_large(limit: int, given: int | None) -> Problem:
    return Problem(
        413,
        "too_large",
        f"the body is larger than {limit:,} bytes",
        given=given,
        allowed=limit,
        tries=["put large inputs into files, or into the code snapshot"],
    )


def _check_media_type(given: str) -> None:
    kind = given.partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    raise Problem(
        415,
        "wrong_media_type",
        f"the body is {kind or 'of no said type'}, but must be JSON",
        given=given[:200],
        allowed=["application/json"],
        tries=["send the header `Content-Type: application/json`"],
    )


def _counted(receive: Receive, limit: int, wait_s: float) -> Receive:
    """`receive` that ends in 413 beyond the limit and in 408 when nothing comes."""
    count = 0
    whole = False

    async def receive_counted() -> Message:
        nonlocal count, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(wait_s):
                message = await receive()
        except TimeoutError:
            raise Problem(
                408,
                "slow_body",
                f"nothing came of the body for {wait_s:g} s",
                headers={"connection": "close"},
            ) from None
        count += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if count > limit:
            raise _too_large(limit, None)
        return message

    return receive_counted
