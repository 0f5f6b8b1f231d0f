"""Two minutes of the soak: nothing is thrown, every tick is shown, and the heap stays small.

The hour, with its flat heap, is `python -m benchmarks.soak`.
"""

import pytest
from playwright.sync_api import Browser

from benchmarks.browser import real
from benchmarks.soak import soak

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HEAP_MB_MAX = 40  # caches fill within minutes; an hour ends at about this
NODES_MAX = 6_000


def test_a_page_in_use_for_two_minutes_loses_no_tick(browser: Browser) -> None:
    with real(256, speed=10) as yard:
        result = soak(browser, yard, minutes=2, speed=10, gpus=256)

    assert result.errors == []
    assert result.ticks.received > 20
    assert result.unaccounted == 0
    assert max(result.heap_mb) < HEAP_MB_MAX
    assert max(result.nodes) < NODES_MAX
