"""The page and its files, where there are any."""

from pathlib import Path

import pytest

from tests.api.serving import serving


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An API with a built page of three files."""
    web = tmp_path_factory.mktemp("web")
    (web / "assets").mkdir()
    (web / "index.html").write_text("<!doctype html><title>the page</title>")
    (web / "assets" / "index-BzX91kQ2.js").write_text("export {}")
    (web / "icon.svg").write_text("<svg/>")
    (web.parent / "secret.txt").write_text("secret")
    with serving(tmp_path_factory.mktemp("yard"), web=web) as one:
        yield one


@pytest.mark.parametrize(
    "path", ["/", "/jobs", "/jobs/digits-42", "/jobs/digits-42/logs", "/queue", "/usage"]
)
def test_every_address_of_the_page_gives_the_page_fresh_each_time(built, path):
    with built.stranger() as browser:
        answer = browser.get(path)

    assert answer.status_code == 200
    assert "the page" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"


def test_hashed_files_are_kept_for_ever_and_others_are_not(built):
    with built.stranger() as browser:
        hashed = browser.get("/assets/index-BzX91kQ2.js")
        plain = browser.get("/icon.svg")

    assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert hashed.headers["content-type"].startswith("text/javascript")
    assert plain.headers["cache-control"] == "no-cache"
    assert plain.headers["content-type"] == "image/svg+xml"


def test_a_file_that_did_not_change_is_not_sent_again(built):
    with built.stranger() as browser:
        first = browser.get("/")
        second = browser.get("/", headers={"if-none-match": first.headers["etag"]})

    assert second.status_code == 304


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/../../secret.txt", "/secret.txt",
             "/assets", "/assets/", "/missing-BzX91kQ2.js"]
)  # fmt: skip
def test_no_other_file_can_be_had(built, path):
    with built.stranger() as browser:
        answer = browser.get(path)

    assert answer.status_code == 404
    assert answer.json()["code"] == "no_such_path"


def test_without_a_built_page_there_are_plain_words(tmp_path: Path):
    with serving(tmp_path, web=tmp_path / "nothing") as bare, bare.stranger() as browser:
        answer = browser.get("/")
        style = browser.get("/plain.css")

    assert answer.status_code == 503
    assert "make page" in answer.text
    assert style.headers["content-type"].startswith("text/css")


def test_a_page_that_is_built_anew_is_found_by_a_daemon_that_runs(tmp_path):
    assets = tmp_path / "web" / "assets"
    assets.mkdir(parents=True)
    (tmp_path / "web" / "index.html").write_text("<!doctype html>")
    (assets / "index-BzX91kQ2.js").write_text("old")
    with serving(tmp_path, web=tmp_path / "web") as one, one.stranger() as browser:
        assert browser.get("/assets/index-BzX91kQ2.js").text == "old"
        (assets / "index-BzX91kQ2.js").unlink()
        (assets / "index-CaY02lR3.js").write_text("new")

        assert browser.get("/assets/index-CaY02lR3.js").text == "new"
        assert browser.get("/assets/index-BzX91kQ2.js").status_code == 404
