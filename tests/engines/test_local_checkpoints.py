"""How the local engine learns that a job saved a checkpoint."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from madang.client import inside
from madang.core.events import CheckpointSaved
from madang.engines.base import Stop
from madang.engines.local import checkpoints
from madang.engines.local import engine as engine_module
from madang.engines.local.checkpoints import SAVED_MARK, SETTLED_MS, Checkpoints, newest_ms
from madang.testing.engine import Watch
from tests.engines.local_world import launch

NOW_MS = 1_000_000_000_000


def saved(folder: Path, name: str, at_ms: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    os.utime(path, ns=(at_ms * 1_000_000, at_ms * 1_000_000))
    return path


def test_the_mark_has_one_name():
    assert SAVED_MARK == inside.SAVED_MARK


@pytest.mark.parametrize(
    ("files", "seen_ms"),
    [
        ({}, 0),
        ({"a.pt": 20_000}, 20_000),
        ({"a.pt": 90_000, "deep/er/b.pt": 20_000}, 20_000),
        ({"a.pt": SETTLED_MS - 1, "b.pt": 90_000}, 0),
        ({SAVED_MARK: 10, "a.pt": 0}, 10),
        ({SAVED_MARK: 60_000, "a.pt": 20_000}, 60_000),
        ({"1/2/3/4/far.pt": 20_000, "a.pt": 90_000}, 90_000),
    ],
    ids=[
        "nothing there",
        "one file",
        "the newest, in whatever directory",
        "somebody writes: nothing is whole",
        "who says so is believed at once",
        "and more than the files",
        "what is too deep is not looked for",
    ],
)
def test_the_newest_checkpoint_of_a_directory(tmp_path, files, seen_ms):
    """Ages in ms; 0 is "none"."""
    for name, age_ms in files.items():
        saved(tmp_path, name, NOW_MS - age_ms)

    assert newest_ms(str(tmp_path), NOW_MS) == (NOW_MS - seen_ms if seen_ms else 0)


def test_a_directory_that_is_not_there_or_too_full_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "ENTRIES_MAX", 3)
    for number in range(9):
        saved(tmp_path, f"{number}.pt", NOW_MS - 20_000)
    (tmp_path / "loop").symlink_to(tmp_path)

    assert newest_ms(str(tmp_path / "gone"), NOW_MS) == 0
    assert newest_ms(str(tmp_path), NOW_MS) == NOW_MS - 20_000


def test_a_checkpoint_is_told_once(tmp_path):
    seen, directories = Checkpoints(), {"a": str(tmp_path)}
    saved(tmp_path, "1.pt", NOW_MS - 30_000)

    assert list(seen.news(directories, NOW_MS)) == [("a", NOW_MS - 30_000)]
    assert list(seen.news(directories, NOW_MS)) == []
    saved(tmp_path, "2.pt", NOW_MS - 20_000)
    assert list(seen.news(directories, NOW_MS)) == [("a", NOW_MS - 20_000)]


SAVES = """
import time
import madang
madang.checkpoint_saved(7)
time.sleep(600)
"""


def test_a_running_job_that_says_it_saved_is_heard(
    opened: Callable[[], Watch], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_module, "CHECKPOINTS_S", 0.05)
    watch = opened()
    watch.engine.adopt(())
    start = launch("saves", (sys.executable, "-c", SAVES))
    watch.engine.act([start])
    watch.until(
        lambda: [fact for fact in watch.facts if isinstance(fact, CheckpointSaved)],
        "a checkpoint",
    )
    watch.engine.act([Stop("saves.1", 0)])
    watch.until_ended(start.launch.allocation)

    told = [fact for fact in watch.facts if isinstance(fact, CheckpointSaved)]
    assert [fact.job for fact in told] == ["saves"]
