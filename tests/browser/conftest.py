"""The page as built, in a real headless Chromium, against the stand-in daemon.

Skips with a clear word where there is no Chromium, no Playwright or no built page.
"""

import shutil
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Browser, Page

from tests.browser.double import PAGE, Double
from tests.browser.invented import Yard
from tests.browser.look import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    if not (PAGE / "index.html").is_file():
        pytest.skip("the page is not built: npm ci && npm run build, in web/")
    with chromium() as found:
        yield found


@pytest.fixture
def double() -> Iterator[Double]:
    with Double(Yard(64)) as running:
        yield running


@pytest.fixture
def page(browser: Browser, double: Double) -> Iterator[Page]:
    """A fresh page; any error in its console, a refused resource above all, fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=double.url)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.set_default_timeout(10_000)
    page.problems = problems  # type: ignore[attr-defined]
    yield page
    context.close()

    expected = (
        "401",
        "404",
        "ERR_",
        "HTTP Authentication failed",
    )  # before the login; the cut line
    assert [p for p in problems if not any(word in p for word in expected)] == []
