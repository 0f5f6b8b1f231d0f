"""A daemon to which browsers come by https, through a proxy that ends TLS."""

import pytest

from tests.api.serving import serving

NAME = "yard.example"
PROXIED = {"host": NAME}
TUNNEL = {"host": "127.0.0.1:8888"}


@pytest.fixture(scope="module", params=[True, False], ids=["behind-tls", "plain"])
def behind_tls(request):
    return request.param


@pytest.fixture(scope="module")
def served(behind_tls, tmp_path_factory):
    place = tmp_path_factory.mktemp("yard")
    with serving(place, names=(NAME,), behind_tls=behind_tls) as it:
        yield it


def logged_in(served, headers):
    """(the link, the answer of a browser that used it), both as asked by these headers."""
    link = served.client.post("/v1/login-links", headers=headers).json()["url"]
    with served.stranger() as browser:
        return link, browser.get("/login?" + link.partition("?")[2], headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        PROXIED,
        {**PROXIED, "x-forwarded-proto": "http"},
        {**PROXIED, "x-forwarded-proto": "https", "forwarded": "proto=https"},
        TUNNEL,
        {**TUNNEL, "x-forwarded-proto": "https"},
    ],
)
def test_the_cookie_is_secure_where_the_operator_said_so_whatever_a_header_says(
    served, behind_tls, headers
):
    link, answer = logged_in(served, headers)
    secure = behind_tls and headers["host"] == NAME

    assert answer.status_code == 303
    assert ("Secure" in answer.headers["set-cookie"]) is secure
    assert link.startswith(f"https://{NAME}/login?" if secure else f"{served.url}/login?")


def test_logging_out_ends_the_cookie_as_it_was_set(served, behind_tls):
    cookie = logged_in(served, PROXIED)[1].headers["set-cookie"].partition(";")[0]
    own = {**PROXIED, "cookie": cookie, "origin": f"https://{NAME}"}
    with served.stranger() as browser:
        answer = browser.post("/v1/logout", headers=own)

    assert answer.status_code == 204
    assert ("Secure" in answer.headers["set-cookie"]) is behind_tls


@pytest.mark.parametrize(
    ("host", "origin", "plain", "over_tls"),
    [
        (NAME, f"https://{NAME}", 202, 202),
        (NAME, f"http://{NAME}", 202, 403),
        (NAME, f"https://{NAME}.evil.example", 403, 403),
        ("localhost:8888", "http://localhost:8888", 202, 202),
        ("localhost:8888", "http://localhost:8889", 403, 403),
    ],
)
def test_pages_of_plain_http_change_nothing(served, behind_tls, host, origin, plain, over_tls):
    """Whoever sits between could write such a page, and have it sent with the cookie."""
    cookie = logged_in(served, {"host": host})[1].headers["set-cookie"].partition(";")[0]
    job = served.submit(command=["true"])["id"]
    with served.stranger() as browser:
        answer = browser.post(
            f"/v1/jobs/{job}/stop", headers={"host": host, "cookie": cookie, "origin": origin}
        )

    assert answer.status_code == (over_tls if behind_tls else plain), answer.text
