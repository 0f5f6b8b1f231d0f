"""Every page looks as it did when somebody last looked: see `python -m tests.browser.golden`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser import golden
from tests.browser.double import Double

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module", params=golden.SIZES)
def double(request: pytest.FixtureRequest) -> Iterator[Double]:
    with golden.frozen(request.param) as running:
        yield running


@pytest.mark.parametrize("theme", golden.THEMES)
@pytest.mark.parametrize("name", golden.NAMES)
def test_a_page_looks_as_it_did(
    browser: Browser, double: Double, name: str, theme: str, tmp_path: Path
) -> None:
    full = f"{name}-{double.yard.gpus}-{theme}"
    now = golden.take(browser, double, name, theme)
    before = golden.kept(full)
    share = golden.differing(before, now)
    if share > golden.SHARE_MAX:
        golden.beside(before, now, tmp_path / f"{full}.png")

    assert share <= golden.SHARE_MAX, f"{share:.2%} differ: look at {tmp_path / full}.png"


def test_pictures_are_small_and_each_is_of_a_page() -> None:
    wanted = {
        f"{name}-{size}-{theme}.webp"
        for name in golden.NAMES
        for size in golden.SIZES
        for theme in golden.THEMES
    }
    found = {path.name: path.stat().st_size for path in golden.FOLDER.iterdir()}

    assert set(found) == wanted
    assert max(found.values()) <= golden.BYTES_MAX


def test_a_moved_word_and_another_theme_are_told_apart() -> None:
    one = golden.kept("queue-1024-dark")
    moved = one.copy()
    moved[60:200, 100:600] = np.roll(one[60:200, 100:600], 6, axis=1)

    assert golden.differing(one, one) == 0
    assert golden.differing(one, moved) > golden.SHARE_MAX
    assert golden.differing(one, golden.kept("queue-1024-light")) > 0.5
    noise = np.random.default_rng(1).integers(-8, 9, one.shape)
    faint = np.clip(one.astype(int) + noise, 0, 255).astype(np.uint8)
    assert golden.differing(one, faint) == 0
