"""The frame's form: what is written is read again, and nothing else is read at all."""

import json
import struct
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from madang.telemetry import frames
from madang.telemetry.frames import (
    Column,
    Frame,
    FrameError,
    Signal,
    Subject,
    decode,
    encode,
    pack,
    split,
    unpack,
)
from tests.telemetry.making import BEGIN_MS, column, frame, xid

WORDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)
METRICS = st.from_regex(r"[a-z][a-z0-9_]{0,20}|report_[A-Za-z0-9_.:/-]{1,20}", fullmatch=True)
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def columns(draw):
    keys = tuple(draw(st.lists(WORDS, max_size=6, unique=True)))
    values = draw(st.lists(FLOATS, min_size=len(keys), max_size=len(keys)))
    subject = draw(st.sampled_from(Subject))
    return Column(draw(METRICS), subject, keys, np.array(values, np.float32))


SIGNALS = st.builds(
    Signal,
    st.integers(0, 1 << 48),
    WORDS,
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.sampled_from(Subject),
    WORDS,
    WORDS,
)
FRAMES = st.builds(
    Frame,
    node=WORDS,
    boot=st.integers(0, (1 << 63) - 1),
    seq=st.integers(0, (1 << 63) - 1),
    at_ms=st.integers(0, 1 << 48),
    interval_ms=st.integers(100, 3_600_000),
    columns=st.lists(columns(), max_size=5, unique_by=lambda one: (one.metric, one.subject)).map(
        tuple
    ),
    signals=st.lists(SIGNALS, max_size=3).map(tuple),
    dropped=st.integers(0, (1 << 32) - 1),
    shape=st.just(b""),
    block=st.none(),
)


def assert_same(one, other):
    numbers = ("node", "boot", "seq", "at_ms", "interval_ms", "signals", "dropped")
    assert [getattr(one, name) for name in numbers] == [getattr(other, name) for name in numbers]
    assert [(c.metric, c.subject, c.keys) for c in one.columns] == [
        (c.metric, c.subject, c.keys) for c in other.columns
    ]
    for ours, theirs in zip(one.columns, other.columns, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)


@given(FRAMES)
def test_what_is_encoded_is_decoded_again(made):
    again = decode(encode(made))

    assert_same(made, again)
    assert encode(again) == encode(made)


@given(st.lists(FRAMES, max_size=4))
def test_what_is_packed_is_unpacked_in_its_order(made):
    found = list(unpack(pack(made)))

    assert len(found) == len(made)
    for one, other in zip(made, found, strict=True):
        assert_same(one, other)


def test_decoded_values_are_views_that_nobody_may_write_to():
    data = encode(frame(1, {"gpu_util_percent": [1, 2], "gpu_power_w": [3, 4]}))
    found = decode(data)

    assert all(not one.values.flags.writeable for one in found.columns)
    assert all(np.shares_memory(one.values, found.block) for one in found.columns)


@given(st.binary(max_size=300))
@example(b"")
@example(frames.MAGIC * 30)
def test_decoding_anything_fails_by_a_frame_error_or_not_at_all(data):
    for attempt in (lambda: decode(data), lambda: list(unpack(data))):
        try:
            attempt()
        except FrameError:
            pass


@given(FRAMES, st.data())
def test_a_damaged_frame_is_never_read_as_another(made, data):
    whole = bytearray(encode(made))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(whole))
    except FrameError:
        return
    raise AssertionError(f"byte {at} was changed and nobody saw")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | WORDS, st.lists))
def test_shapes_of_any_json_fail_by_a_frame_error_or_not_at_all(value):
    for shape in (value, {"node": "n", "keys": value, "columns": value}):
        try:
            decode(whole(shape=json.dumps(shape).encode()))
        except FrameError:
            pass


def whole(shape=b"", signals=b"", values=b"", **numbers):
    """A frame's bytes with whatever in them, and a checksum that is right."""
    head = {"version": 1, "flags": 0, "interval_ms": 10_000, "at_ms": BEGIN_MS, "boot": 1, "seq": 5}
    head |= numbers
    rest = (
        struct.pack(
            "<IIIIIQQq",
            numbers.get("shape_bytes", len(shape)),
            len(signals),
            numbers.get("count", len(values) // 4),
            head["interval_ms"],
            0,
            head["boot"],
            head["seq"],
            head["at_ms"],
        )
        + shape
        + signals
        + values
    )
    crc = zlib.crc32(rest)
    return struct.pack("<4sHHI", b"MDFR", head["version"], head["flags"], crc) + rest


def shaped(node="n1", keys=None, columns=None):
    return json.dumps(
        {
            "node": node,
            "keys": [["gpu", ["0", "1"]]] if keys is None else keys,
            "columns": [["gpu_util_percent", 0]] if columns is None else columns,
        }
    ).encode()


TWO = np.array([1, 2], "<f4").tobytes()
WRONG = [
    (b"MDFR", "the header alone"),
    (whole(shaped(), values=TWO).replace(b"MDFR", b"HTTP"), "begins with"),
    (whole(shaped(), values=TWO, version=2), "form 2.0"),
    (whole(shaped(), values=TWO, flags=1), "form 1.1"),
    (whole(shaped(), values=TWO) + b"x", "header tells"),
    (whole(shaped(), values=TWO)[:-1] + b"x", "checksum"),
    (whole(shaped(), values=TWO + TWO), "4 values for 2 keys"),
    (whole(shaped(), values=TWO[:4]), "1 values for 2 keys"),
    (whole(b"{", values=TWO), "not JSON"),
    (whole(b"[" * 9_999), "not JSON"),
    (whole(b"[]"), "not an object"),
    (whole(shaped(node="")), "no name"),
    (whole(shaped(node="n\n1")), "printed"),
    (whole(shaped(node="n" * 300)), "253"),
    (whole(shaped(keys=[["moon", ["0"]]])), "one of gpu"),
    (whole(shaped(keys=[["gpu", ["0", "0"]]])), "twice"),
    (whole(shaped(keys=[["gpu", [0]]])), "not a text"),
    (whole(shaped(keys=[["gpu", [str(n) for n in range(5000)]]])), "4096 are allowed"),
    (whole(shaped(columns=[["gpu_util_percent", 1]])), "row 1 of 1"),
    (whole(shaped(columns=[["gpu_util_percent", True]])), "row True"),
    (whole(shaped(columns=[["gpu_util_percent", -1]])), "row -1"),
    (whole(shaped(columns=[["GPU util", 0]])), "name of a metric"),
    (whole(shaped(columns=[["a", 0], ["a", 0]]), values=TWO * 2), "told twice"),
    (whole(shaped(), values=TWO, interval_ms=5), "interval of 5 ms"),
    (whole(shaped(), values=TWO, boot=1 << 63), "63 bits"),
    (whole(shaped(), values=TWO, at_ms=-1), "time of -1"),
    (whole(shaped(), b"[[1]]", TWO), "a signal is"),
    (whole(shaped(), b'[[1,"xid",79,"gpu","0",7]]', TWO), "a text of at most 500"),
    (whole(shaped(), b'[[1,"xid",79,"sun","0",""]]', TWO), "a signal is"),
]


@pytest.mark.parametrize(("data", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_refused_with_its_reason(data, said):
    with pytest.raises(FrameError, match=said):
        decode(data)


def test_a_frame_that_is_refused_is_named_as_far_as_it_could_be_read():
    with pytest.raises(FrameError) as wrong:
        decode(whole(shaped(node="n7", columns=[["a", 9]]), values=TWO))

    assert (wrong.value.node, wrong.value.seq) == ("n7", 5)


BODIES = [
    (b"plain", "zstandard"),
    (zstandard.compress(b"abc"), "within a length"),
    (zstandard.compress(b"\xff\xff\xff\xff"), "4294967295 bytes announced, 0 left"),
    (zstandard.compress(bytes(65 << 20)), "bytes unpacked"),
    (bytes(9 << 20), "bytes packed"),
]


@pytest.mark.parametrize(("body", "said"), BODIES, ids=[said for _, said in BODIES])
def test_what_is_no_body_is_refused_with_its_reason(body, said):
    with pytest.raises(FrameError, match=said):
        list(split(body))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (frame(0, columns=(column("gpu_util_percent", [1, 2], keys=("0",)),)), "values of 1 keys"),
        (frame(0, node=""), "no name"),
        (frame(0, boot=-1), "63 bits"),
        (frame(0, interval_ms=1), "interval"),
        (frame(0, dropped=-1), "does not fit"),
        (frame(0, signals=(xid(-1),)), "out of all bounds"),
        (frame(0, node="n\ud800"), "surrogate"),
    ],
)
def test_what_could_not_be_decoded_is_not_encoded(made, said):
    with pytest.raises(FrameError, match=said):
        encode(made)
