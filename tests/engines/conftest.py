"""An open local engine per test, and proof that it left nothing behind."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from madang.testing.engine import Watch
from tests.engines.local_world import LocalWorld


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    """Nothing of it runs on after the test."""
    with closing(LocalWorld(tmp_path)) as world:
        yield world
        assert world.left() == [], "a process outlived its allocation"


@pytest.fixture
def opened(world: LocalWorld) -> Iterator[Callable[[], Watch]]:
    """Opens an engine over the world; the one before is closed. No descriptor or thread stays."""
    fds = open_fds()
    watches: list[Watch] = []

    def open_one() -> Watch:
        if watches:
            watches[-1].engine.close()
        watch = Watch(world, world.engine())
        watch.engine.open(watch.woken.set)
        watches.append(watch)
        return watch

    yield open_one
    if watches:
        watches[-1].engine.close()
    assert [t.name for t in threading.enumerate() if t.name.startswith("madang-")] == []
    assert open_fds() == fds


@pytest.fixture
def watch(opened: Callable[[], Watch]) -> Watch:
    watch = opened()
    watch.engine.adopt(())
    return watch
