"""Nobody gets in who should not: other sites, other names, other bodies."""

import re
import socket
import threading
import time

import pytest

from madang.api.gate import Hosts
from madang.api.identity import digest_of
from madang.api.settings import ApiSettings
from tests.api.serving import OWNER, TOKEN

JSON = {"content-type": "application/json"}


# -- the name we are called by ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "names", "host", "server", "allowed"),
    [
        ("127.0.0.1", (), "127.0.0.1:7070", "127.0.0.1", True),
        ("127.0.0.1", (), "localhost:7070", "127.0.0.1", True),
        ("127.0.0.1", (), "LOCALHOST:7070", "127.0.0.1", True),
        ("127.0.0.1", (), "localhost:8888", "127.0.0.1", True),  # ssh -L 8888:localhost:7070
        ("127.0.0.1", (), "[::1]:7070", "::1", True),
        ("127.0.0.1", (), "evil.example:7070", "127.0.0.1", False),
        ("127.0.0.1", (), "127.0.0.1.evil.example", "127.0.0.1", False),
        ("127.0.0.1", (), "localhost.evil.example:7070", "127.0.0.1", False),
        ("127.0.0.1", (), "", "127.0.0.1", False),
        ("127.0.0.1", (), "10.0.0.5:7070", "127.0.0.1", False),
        ("10.0.0.5", (), "10.0.0.5:7070", "10.0.0.5", True),
        ("10.0.0.5", (), "10.0.0.5:80", "10.0.0.5", False),
        ("0.0.0.0", (), "10.0.0.5:7070", "10.0.0.5", True),
        ("0.0.0.0", (), "10.0.0.6:7070", "10.0.0.5", False),
        ("0.0.0.0", (), "evil.example:7070", "10.0.0.5", False),
        ("0.0.0.0", ("gpu1.example",), "gpu1.example", "10.0.0.5", True),
        ("0.0.0.0", ("gpu1.example",), "gpu1.example:8443", "10.0.0.5", True),
        ("0.0.0.0", ("gpu1.example:8443",), "gpu1.example:9999", "10.0.0.5", False),
        ("::", (), "[fd00::5]:7070", "fd00::5", True),
    ],
)
def test_which_host_names_are_ours(bound, names, host, server, allowed):
    hosts = Hosts(ApiSettings(host=bound, names=names))

    assert hosts.allow(host, (server, 7070)) is allowed


def test_a_rebound_name_is_refused_even_with_a_token_and_on_every_path(served):
    for path in ("/v1/jobs", "/v1/health", "/", "/docs", "/login?once=x"):
        answer = served.client.get(path, headers={"host": "evil.example"})

        assert answer.status_code == 421, path
        assert answer.json()["code"] == "wrong_host"
        assert f"127.0.0.1:{served.port}" in answer.json()["allowed"]


# -- the page that asks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://"],
)
def test_another_sites_origin_is_refused_also_with_a_token(served, origin):
    answer = served.client.post("/v1/jobs", json={"command": ["true"]}, headers={"origin": origin})

    assert answer.status_code == 403
    assert answer.json()["code"] == "cross_site"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_that_a_browser_marks_as_foreign_is_refused(served, site):
    answer = served.client.get("/v1/jobs", headers={"sec-fetch-site": site})

    assert answer.status_code == 403


def test_no_answer_ever_allows_another_site(served):
    answer = served.client.options(
        "/v1/jobs",
        headers={
            "origin": served.url,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        },
    )

    assert not [name for name in answer.headers if name.startswith("access-control")]


# -- browsers --------------------------------------------------------------------------------------


def logged_in(served) -> dict[str, str]:
    """The cookie header of a browser that has used a login link."""
    link = served.client.post("/v1/login-links").json()["url"]
    with served.stranger() as browser:
        answer = browser.get(link)
    assert answer.status_code == 303, answer.text
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


def test_a_login_link_sets_a_strict_cookie_once(served):
    link = served.client.post("/v1/login-links").json()["url"]
    with served.stranger() as browser:
        first = browser.get(link)
        second = browser.get(link)
    cookie = first.headers["set-cookie"]

    assert first.headers["location"] == "/"
    assert cookie.startswith(f"madang-{served.port}=")
    for flag in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert flag in cookie
    assert second.status_code == 403
    assert "set-cookie" not in second.headers
    assert "madang web" in second.text


def test_a_login_link_is_void_after_its_minute(served, monkeypatch):
    link = served.client.post("/v1/login-links").json()["url"]
    with served.stranger() as browser, monkeypatch.context() as later:
        later.setattr("madang.api.identity.now_ms", lambda: int(time.time() * 1000) + 60_001)
        too_late = browser.get(link)

    assert too_late.status_code == 403


def test_the_cookie_opens_for_reading_and_its_job_belongs_to_who_made_the_link(served):
    cookie = logged_in(served)
    own = {**cookie, "origin": served.url}
    with served.stranger() as browser:
        read = browser.get("/v1/jobs", headers=cookie)
        made = browser.post("/v1/jobs", json={"command": ["true"]}, headers=own)

    assert read.status_code == 200
    assert made.status_code == 201
    assert made.json()["owner"] == OWNER


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 202),
    ],
)
def test_with_a_cookie_only_our_own_page_may_change_things(served, headers, status):
    made = served.submit()
    cookie = logged_in(served)
    with served.stranger() as browser:
        answer = browser.post(f"/v1/jobs/{made['id']}/stop", headers={**cookie, **headers})

    assert answer.status_code == status
    phase = served.client.get(f"/v1/jobs/{made['id']}").json()["phase"]
    assert (phase in ("stopping", "stopped")) is (status == 202)


def test_a_session_is_no_token_and_a_token_no_session(served):
    secret = logged_in(served)["cookie"].partition("=")[2]
    with served.stranger() as stranger:
        as_token = stranger.get("/v1/jobs", headers={"authorization": f"Bearer {secret}"})
        as_cookie = stranger.get("/v1/jobs", headers={"cookie": f"madang-{served.port}={TOKEN}"})

    assert as_token.status_code == 401
    assert as_cookie.status_code == 401


def test_logging_out_ends_the_session(served):
    cookie = logged_in(served)
    with served.stranger() as browser:
        out = browser.post("/v1/logout", headers={**cookie, "origin": served.url})
        after = browser.get("/v1/jobs", headers=cookie)

    assert out.status_code == 204
    assert after.status_code == 401


def test_a_session_ends_by_itself(served, monkeypatch):
    cookie = logged_in(served)
    month_ms = 31 * 86_400_000
    monkeypatch.setattr("madang.api.identity.now_ms", lambda: int(time.time() * 1000) + month_ms)
    with served.stranger() as browser:
        answer = browser.get("/v1/jobs", headers=cookie)

    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


def test_only_digests_are_kept(served):
    cookie = logged_in(served)["cookie"].partition("=")[2]
    kept = served.yard.ledger.tokens()

    assert digest_of(TOKEN) in [token.digest for token in kept]
    assert digest_of(cookie) in [token.digest for token in kept]
    assert TOKEN not in str(kept)
    assert cookie not in str(kept)


def test_every_answer_carries_the_safety_headers(served):
    for path in ("/v1/jobs", "/v1/none", "/docs", "/", "/login"):
        headers = served.client.get(path).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        if path.startswith("/v1"):
            assert headers["cache-control"] == "no-store"


def test_the_reference_needs_no_script_and_nothing_from_elsewhere(served):
    page = served.client.get("/docs").text

    assert "<script" not in page
    assert "style=" not in page
    assert not re.search(r"(src|href)=.(https?:)?//", page)
    assert "/v1/jobs/{id}/log" in page
    assert 'id="' in page or "id='" in page


# -- bodies ----------------------------------------------------------------------------------------


def raw(served, head: str, *pieces: bytes) -> tuple[int, bytes, int]:
    """(status, body, bytes that could be sent) of a hand-made request."""
    text = (
        f"{head}\r\nhost: 127.0.0.1:{served.port}\r\nauthorization: Bearer {TOKEN}\r\n"
        "content-type: application/json\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as wire:
        wire.sendall(text.encode())
        sent = 0
        for piece in pieces:
            try:
                wire.sendall(piece)
            except (ConnectionError, TimeoutError):
                break
            sent += len(piece)
        answer = wire.recv(65_536)
        while b"\r\n\r\n" not in answer and (more := wire.recv(65_536)):
            answer += more
    return int(answer.split()[1]), answer, sent


def test_a_body_of_100_mb_is_refused_by_its_length_before_it_is_read(served):
    status, answer, _ = raw(served, "POST /v1/jobs HTTP/1.1", b"content-length: 100000000\r\n\r\n")

    assert status == 413
    assert b'"allowed":2097152' in answer


def test_a_client_that_sends_100_mb_all_the_same_sees_the_answer(served):
    body = b"[" + b" " * 100_000_000 + b"]"

    answer = served.client.post("/v1/jobs", content=body, headers=JSON)

    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"
    assert served.client.get("/v1/health").status_code == 200


def test_a_body_without_a_length_is_cut_at_the_limit(served):
    def endless():
        for _ in range(100):
            yield b" " * 100_000

    answer = served.client.post("/v1/jobs", content=endless(), headers=JSON)

    assert answer.status_code == 413


def test_a_refused_body_without_end_is_not_read_for_ever(served, monkeypatch):
    """After 256 MiB the connection is cut, however willing the client."""
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    pieces = [b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 400]

    try:
        status, _, sent = raw(served, "POST /v1/jobs HTTP/1.1", *pieces)
    except ConnectionError:
        status, sent = 413, 0  # the answer was lost with the connection

    assert status == 413
    assert sent < 300 << 20


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 415, "wrong_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "wrong_media_type"),
        ({"content-type": "text/plain"}, 415, "wrong_media_type"),
        ({"content-type": "application/json; charset=utf-8"}, 201, None),
    ],
)
def test_a_body_must_say_that_it_is_json(served, headers, status, code):
    answer = served.client.post("/v1/jobs", content=b'{"command":["true"]}', headers=headers)

    assert answer.status_code == status, answer.text
    assert answer.json().get("code") == (code or "")


def test_two_authorizations_are_none(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as wire:
        wire.sendall(
            f"GET /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1:{served.port}\r\n"
            f"authorization: Bearer {TOKEN}\r\nauthorization: Bearer other\r\n\r\n".encode()
        )
        answer = wire.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_login_links_do_not_pile_up(served):
    first = served.client.post("/v1/login-links").json()["url"]
    for _ in range(64):
        served.client.post("/v1/login-links")
    with served.stranger() as browser:
        answer = browser.get(first)

    assert answer.status_code == 403


def test_wrong_tokens_in_a_crowd_do_no_harm(served):
    def guess() -> None:
        with served.stranger(authorization="Bearer wrong") as stranger:
            statuses.extend(stranger.get("/v1/jobs").status_code for _ in range(20))

    statuses: list[int] = []
    crowd = [threading.Thread(target=guess) for _ in range(8)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()

    assert set(statuses) == {401}
    assert served.client.get("/v1/jobs").status_code == 200
