"""Bid prices: their arithmetic, their twins, and what they say of small cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core.scoring import _prices
from madang.core.scoring._prices import SPREAD, UNIT, Holes, Kinds, balance
from madang.core.scoring._scarcity import LOAD_BITS, class_loads, premium

COUNT_ONE = 1 << _prices.COUNT_BITS


def kinds_of(*kinds: tuple[int, int, int], classes: int = 1) -> Kinds:
    """(gpus, milli, expected requests) each, usable everywhere."""
    gpus, milli, demand = (np.array(column, dtype=np.int64) for column in zip(*kinds, strict=True))
    return Kinds(gpus, milli, demand * COUNT_ONE, np.ones((len(kinds), classes), dtype=np.bool_))


def holes_with(slices: dict[int, int], groups: dict[int, int], width: int = 4) -> Holes:
    found = Holes(np.zeros((1, 1001), dtype=np.int64), np.zeros((1, width + 1), dtype=np.int64))
    for level, count in slices.items():
        found.slices[0, level] = count
    for idle, count in groups.items():
        found.groups[0, idle] = count
    return found


def no_rent(kinds: Kinds) -> np.ndarray:
    return np.zeros(len(kinds.gpus), dtype=np.int64)


@given(st.integers(1, 2**50))
def test_log2_is_right_to_a_step(value: int):
    exact = math.log2(value) * SPREAD

    assert exact - 3 <= _prices._log2(value) <= exact + 1e-6
    assert _prices._log2(value) == _prices.log2_numpy(np.array([value], dtype=np.int64))[0]


@given(st.integers(0, 40 * SPREAD))
def test_power_is_right_to_a_step(below: int):
    exact = 2**30 * 2 ** (-below / SPREAD)

    assert exact - 2 <= _prices._power(below) <= exact + 1e-6
    assert _prices._power(below) == _prices.power_numpy(np.array([below], dtype=np.int64))[0]


one_kind = st.tuples(
    st.sampled_from([1, 1, 1, 2, 4]), st.sampled_from([1000, 810, 470, 300, 7]), st.integers(0, 500)
)


@given(
    st.lists(one_kind, min_size=1, max_size=6, unique_by=lambda kind: kind[:2]),
    st.dictionaries(st.integers(1, 999), st.integers(1, 50), max_size=4),
    st.dictionaries(st.integers(0, 4), st.integers(1, 50), max_size=3),
    st.integers(0, 12),
)
@settings(max_examples=40, deadline=None)
def test_the_twins_agree_bit_for_bit(chosen, slices, groups, rounds):
    kinds, holes = kinds_of(*chosen), holes_with(slices, groups)
    reached = _prices._reached(kinds, holes)
    arrays = (kinds.gpus, kinds.milli, kinds.demand, kinds.usable, holes.slices, holes.groups)
    found = []
    for solve in (_prices._solve, _prices.solve_numpy):
        rent = no_rent(kinds)
        value, group = np.zeros((1, 1001), np.int64), np.zeros((1, 5), np.int64)
        solve(arrays, reached, rounds, rent, value, group)
        found.append((rent.tolist(), value.tolist(), group.tolist()))

    assert found[0] == found[1]


@given(st.lists(one_kind, min_size=1, max_size=6, unique_by=lambda kind: kind[:2]))
@settings(max_examples=30, deadline=None)
def test_a_larger_slice_is_never_worth_less(chosen):
    prices = balance(kinds_of(*chosen), holes_with({500: 3}, {4: 10}), no_rent(kinds_of(*chosen)))

    assert np.diff(prices.slice[0]).min() >= -4, "below the rounding of one step"
    assert prices.slice[0, 0] == 0
    assert (prices.rent >= 0).all()


@pytest.mark.parametrize("slice_milli", [190, 299])
def test_a_slice_that_no_kind_fits_is_worth_nothing(slice_milli: int):
    kinds = kinds_of((1, 810, 500), (1, 300, 500))

    prices = balance(kinds, holes_with({}, {4: 200}), no_rent(kinds))

    assert prices.slice[0, slice_milli] == 0


def test_the_two_halves_of_a_gpu_are_worth_a_gpu_where_only_halves_are_asked():
    kinds = kinds_of((1, 500, 1000))

    value = balance(kinds, holes_with({}, {4: 100}), no_rent(kinds)).slice[0]

    assert abs(2 * value[500] - value[1000]) <= 16 * UNIT
    assert abs(value[999] - value[500]) <= 16 * UNIT


def test_a_model_is_scarce_when_those_who_need_it_would_fill_it():
    usable = np.array([[True, True], [True, False]])
    demand = np.array([900, 100], dtype=np.int64)
    supply = np.array([100, 900], dtype=np.int64)

    loads = class_loads(demand, usable, supply)

    assert abs(loads[0] - (1 << LOAD_BITS)) < 100
    assert loads[1] == 0
    assert premium(loads)[0] == pytest.approx(1 << LOAD_BITS, rel=0.01)


def test_constrained_demand_moves_to_the_class_with_more_to_spare():
    usable = np.array([[True, True, False], [True, False, False], [True, True, True]])
    demand = np.array([100, 80, 0], dtype=np.int64)
    supply = np.array([100, 200, 500], dtype=np.int64)

    loads = class_loads(demand, usable, supply) / (1 << LOAD_BITS)

    assert loads[0] == pytest.approx(0.8, abs=0.1)
    assert loads[1] == pytest.approx(0.5, abs=0.1)
    assert loads[2] == 0
