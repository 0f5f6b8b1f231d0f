"""The local engine keeps what every engine promises."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from madang.testing.engine import EngineContract, World
from tests.engines.local_world import LocalWorld


class TestLocalEngine(EngineContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with closing(LocalWorld(tmp_path)) as world:
            yield world
            assert world.left() == [], "a process outlived its allocation"
