"""How much telemetry is kept: what a file may say, and how it is told what it may not."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from madang.daemon.state_dir import StateDirError, open_state_dir
from madang.daemon.telemetry import store_settings
from madang.engines.base import Engine
from madang.telemetry.history import Retention
from madang.telemetry.ring import BYTES_MAX, TICK_MS
from madang.telemetry.store import Settings
from madang.wire import telemetry
from madang.wire.telemetry import TelemetryError, TelemetryFile, read_telemetry

DAY_MS = 86_400_000


def test_an_empty_file_is_what_holds_without_one() -> None:
    keep = read_telemetry("").keep

    assert (
        Retention(keep.minutes, keep.hours, keep.ended, keep.signals, keep.size_max) == Retention()
    )
    assert read_telemetry("").ring.size_max == BYTES_MAX


def test_the_example_in_the_modules_text_is_what_holds_without_a_file() -> None:
    assert telemetry.__doc__ is not None
    lines = telemetry.__doc__.splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))

    assert "size_max" in example
    assert read_telemetry(example) == TelemetryFile()


WRONG = [
    ("[keep", "not TOML"),
    ("[kept]", "kept: there is no such key; there are: keep, ring"),
    ('[keep]\ndays = "3d"', "keep, days: there is no such key; there are: ended, hours, minutes"),
    ('[keep]\nminutes = "soon"', "keep, minutes: "),
    ('[keep]\nminutes = "1h"', "keep, minutes: Input should be greater than or equal to 86400000"),
    ('[keep]\nminutes = "30d"\nhours = "7d"', "keep: hours are made to outlast minutes"),
    ('[ring]\nsize_max = "1MiB"', "ring, size_max: Input should be greater than"),
    ('[ring]\nsize_max = "much"', "ring, size_max: 'much' is not a size; write 512MiB"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_mistake_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(TelemetryError) as wrong:
        read_telemetry(text)

    assert said in str(wrong.value)


def test_a_file_that_is_given_once_is_kept_for_the_next_start(tmp_path: Path) -> None:
    given = tmp_path / "given.toml"
    given.write_text('[keep]\nminutes = "3d"\n[ring]\nsize_max = "6GiB"\n')
    state = open_state_dir(tmp_path / "state")
    engine = Mock(spec=Engine)

    assert store_settings("", state, engine) == Settings(TICK_MS)
    first = store_settings(str(given), state, engine)
    again = store_settings("", state, engine)

    assert first == again
    assert (first.retention.minute_ms, first.ring_bytes_max) == (3 * DAY_MS, 6 << 30)
    given.write_text('[keep]\nminutes = "soon"\n')
    with pytest.raises(StateDirError, match=r"given\.toml does not say how much telemetry is kept"):
        store_settings(str(given), state, engine)
    assert store_settings("", state, engine) == first
    state.close()
