"""Every page looks as it did when somebody last looked: see `python -m tests.browser.golden`."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser import golden
from tests.browser.double import Double

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def doubles() -> Iterator[dict[str, Double]]:
    """A frozen yard of each kind, made when it is first asked for."""
    with ExitStack() as open_ones:

        class Frozen(dict[str, Double]):
            def __missing__(self, yard: str) -> Double:
                self[yard] = open_ones.enter_context(golden.frozen(yard))
                return self[yard]

        yield Frozen()


@pytest.mark.parametrize("shot", golden.SHOTS, ids=lambda shot: shot.name)
def test_a_page_looks_as_it_did(
    browser: Browser, doubles: dict[str, Double], shot: golden.Shot, tmp_path: Path
) -> None:
    now = golden.take(browser, doubles[shot.yard], shot)
    before = golden.kept(shot.name)
    share = golden.differing(before, now)
    if share > golden.SHARE_MAX:
        golden.beside(before, now, tmp_path / f"{shot.name}.png")

    assert share <= golden.SHARE_MAX, f"{share:.2%} differ: look at {tmp_path / shot.name}.png"


def test_pictures_are_small_and_each_is_of_a_page() -> None:
    wanted = {f"{shot.name}.webp" for shot in golden.SHOTS}
    found = {path.name: path.stat().st_size for path in golden.FOLDER.iterdir()}

    assert set(found) == wanted
    assert {f"{name}-ko" for name in golden.NAMES} <= {one.rsplit("-", 1)[0] for one in found}
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
