"""The live columns without a server: rings of ticks, and what a board makes of a yard."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.api.live import frames
from madang.api.live.frames import Picture as Moment
from madang.api.live.frames import Ring
from madang.api.live.schema import BY_NAME, FIELDS, JOBS_TABLE, NODES_TABLE, fields_of, quantised
from tests.api.watching import Picture

UTIL = BY_NAME["util"]


def moment(values: bytes, version: int = 1, patch: dict[str, Any] | None = None) -> Moment:
    columns = {UTIL.id: np.frombuffer(values, np.uint8)}
    tables: dict[int, Any] = {NODES_TABLE: lambda: {"id": []}, JOBS_TABLE: lambda: {"set": []}}
    return Moment(version, 5, 7, columns, tables, {JOBS_TABLE: patch or {}})


@given(
    st.lists(st.binary(min_size=7, max_size=7), min_size=1, max_size=12),
    st.integers(-3, 15),
)
def test_from_any_tick_on_a_client_ends_at_the_newest_columns(columns, after):
    ring = Ring()
    at: dict[int, bytes] = {ring.take(moment(values)): values for values in columns}
    client = Picture()
    if after not in at or after == len(columns):
        after = -1
    else:
        client.columns[UTIL.id] = np.frombuffer(at[after], np.uint8)

    message, tick = ring.message((UTIL.id,), after)
    client.take(message)

    assert tick == len(columns)
    assert client.columns[UTIL.id].tobytes() == columns[-1]
    assert client.ticks[-1] == tick


def test_a_tick_without_changes_is_a_heartbeat_of_a_few_bytes():
    ring = Ring()
    ring.take(moment(b"abc"))
    ring.take(moment(b"abc"))

    message, _ = ring.message((UTIL.id,), 1)

    assert len(message) == frames.HEAD.size + frames.MOMENT.size


def test_other_devices_than_before_are_a_snapshot_for_everyone():
    ring = Ring()
    ring.take(moment(b"abc"))
    ring.take(moment(b"abcd", version=2))
    client = Picture()

    client.take(ring.message((UTIL.id,), 1)[0])

    assert client.columns[UTIL.id].tobytes() == b"abcd"


def test_the_ring_has_a_bound_and_older_clients_get_a_snapshot():
    ring = Ring()
    for n in range(frames.RING_TICKS + 10):
        ring.take(moment(bytes([n % 251] * 5)))
    client = Picture()

    client.take(ring.message((UTIL.id,), 3)[0])

    assert frames.WHOLE in client.kinds


def test_a_frame_is_written_once_however_many_ask(monkeypatch):
    ring = Ring()
    ring.take(moment(b"abc"))
    ring.take(moment(b"abd"))
    first = [ring.message((UTIL.id,), after) for after in (-1, 1)]
    monkeypatch.setattr(frames, "deflated", None)  # anything written anew would fail now

    assert [ring.message((UTIL.id,), after) for after in (-1, 1)] == first


@pytest.mark.parametrize(
    ("name", "value", "byte"),
    [
        ("util", 0, 0),
        ("util", 99.6, 100),
        ("util", 1e9, 254),
        ("util", -3, 0),
        ("util", np.nan, 255),
        ("temperature", 61.4, 61),
    ],
)
def test_a_reading_is_the_nearest_byte_and_unknown_is_not_zero(name, value, byte):
    assert quantised(BY_NAME[name], np.array([value], np.float32)).tolist() == [byte]


def test_fields_have_ids_of_their_own_and_are_asked_for_in_any_order():
    assert len({field.id for field in FIELDS}) == len(FIELDS)
    assert fields_of(["util", "state", "util"]) == fields_of(["state", "util"])
    assert not {field.id for field in FIELDS} & {NODES_TABLE, JOBS_TABLE}


def test_a_frame_that_unpacks_to_more_than_it_may_is_refused():
    body = frames.deflated(bytes(1_000))

    with pytest.raises(ValueError, match="more than 10"):
        frames.inflated(body, 10)
