"""Quantiles against numpy's, merged in any way, kept and read again."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.telemetry.quantiles import Histogram, Sketch, from_bytes, merged

PS = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
PERCENTS = st.lists(st.integers(0, 100), max_size=200)
RANK_ERROR = 0.01


def histogram(values):
    made = Histogram()
    made.add(np.array(values, np.float32))
    return made


def sketch(values, seed=0, pieces=1):
    made = Sketch(seed)
    for piece in np.array_split(np.array(values, np.float32), pieces):
        made.add(piece)
    return made


def rank_error(found, values, p):
    """How far the rank of what was found is from p, as a share of all; 0 if any of its ranks is."""
    ordered = np.sort(np.array(values, np.float32))
    value = np.float32(found.at(p))
    low = np.searchsorted(ordered, value, "left") / len(ordered)
    high = np.searchsorted(ordered, value, "right") / len(ordered)
    return max(0.0, low - p, p - high)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=300))
def test_of_integer_percents_they_are_exact(values):
    found = histogram(values)

    assert found.count == len(values)
    for p in PS:
        assert found.at(p) == np.quantile(values, p, method="inverted_cdf")


@given(PERCENTS, PERCENTS, PERCENTS)
def test_histograms_merge_in_any_order(one, two, three):
    a, b, c = map(histogram, (one, two, three))

    assert (a.merged(b).merged(c).bins == a.merged(b.merged(c)).bins).all()
    assert (a.merged(b).bins == b.merged(a).bins).all()
    whole = merged([a, b, c])
    assert isinstance(whole, Histogram)
    assert (whole.bins == histogram([*one, *two, *three]).bins).all()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300))
def test_a_sketch_of_few_values_is_exact(values):
    found = sketch(values, pieces=3)

    assert found.count == len(values)
    for p in PS:
        expected = np.quantile(np.array(values, np.float32), p, method="inverted_cdf")
        assert found.at(p) == expected


SHAPES = {
    "uniform": lambda rng, n: rng.random(n),
    "sorted": lambda rng, n: np.arange(n),
    "falling": lambda rng, n: -np.arange(n),
    "heavy": lambda rng, n: rng.pareto(0.5, n),
    "two values": lambda rng, n: rng.integers(0, 2, n),
    "a wave": lambda rng, n: np.sin(np.arange(n) / 50),
    "mostly one": lambda rng, n: np.where(rng.random(n) < 0.97, 5.0, rng.random(n)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pieces", [7, 400])
def test_a_sketch_is_within_one_percent_of_the_rank(shape, pieces):
    rng = np.random.default_rng(5)
    values = SHAPES[shape](rng, 60_000).astype(np.float32)
    found = sketch(values, seed=3, pieces=pieces)

    assert found.count == len(values)
    assert found.size_bytes < 8_192
    for p in np.linspace(0, 1, 101):
        assert rank_error(found, values, p) <= RANK_ERROR


def test_sketches_merged_as_a_tree_or_a_chain_are_within_one_percent():
    rng = np.random.default_rng(6)
    parts = [rng.gamma(2, at + 1, 1_500).astype(np.float32) for at in range(40)]
    sketches = [sketch(part, seed=at) for at, part in enumerate(parts)]
    chain = merged(sketches)
    tree: list[Any] = list(sketches)
    while len(tree) > 1:
        tree = [merged(tree[at : at + 2]) for at in range(0, len(tree), 2)]
    values = np.concatenate(parts)

    for found in (chain, tree[0]):
        assert found is not None
        assert found.count == len(values)
        for p in np.linspace(0, 1, 41):
            assert rank_error(found, values, p) <= RANK_ERROR


def test_the_spread_of_errors_is_what_the_module_says():
    """200 sketches of the same: the standard error at the middle is about 0.2 % of the count."""
    values = np.random.default_rng(7).random(20_000).astype(np.float32)
    errors = [
        float((values <= sketch(values, seed, 20).at(0.5)).mean()) - 0.5 for seed in range(200)
    ]

    assert 0.0005 < np.std(errors) < 0.0025
    assert abs(np.mean(errors)) < 0.0006


@given(PERCENTS)
def test_a_histogram_is_read_as_it_was_kept(values):
    made = histogram(values)
    again = from_bytes(made.to_bytes())

    assert isinstance(again, Histogram)
    assert (again.bins == made.bins).all()


def test_a_sketch_goes_on_after_a_restart_as_if_there_had_been_none():
    rng = np.random.default_rng(8)
    before, after = rng.random(9_000).astype(np.float32), rng.random(9_000).astype(np.float32)
    whole = sketch(before)
    whole.add(after)
    again = from_bytes(sketch(before).to_bytes())
    assert isinstance(again, Sketch)
    again.add(after)

    assert again.count == whole.count
    assert [again.at(p) for p in PS] == [whole.at(p) for p in PS]


@pytest.mark.parametrize("packed", [b"", b"H", b"K", b"K" + bytes(40), b"X" * 900])
def test_what_was_not_kept_by_us_is_refused(packed):
    with pytest.raises(ValueError, match=r"not a|breaks off"):
        from_bytes(packed[:30] if packed[:1] == b"K" else packed)


def test_nothing_has_no_quantiles():
    assert np.isnan(Histogram().at(0.5))
    assert np.isnan(Sketch().at(0.5))
    assert merged([]) is None
    assert sketch([np.nan, 3.0]).count == 1
