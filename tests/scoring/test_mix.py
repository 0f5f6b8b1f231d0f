"""The learned mix: what it counts, forgets and concludes."""

from hypothesis import given
from hypothesis import strategies as st

from madang.core.scoring import Shape
from madang.core.scoring._mix import (
    MIX_KINDS_MAX,
    MIX_REQUESTS_MAX,
    SERVED_BITS,
    SERVED_STEPS,
    Appetite,
    Mix,
    band_of,
    most_gpu,
)


@given(st.integers(0, 2**45), st.integers(0, 2**45))
def test_bands_ascend_with_the_amount(a: int, b: int):
    low, high = sorted((a, b))

    assert band_of(low) <= band_of(high)
    assert band_of(2 * high + 16) > band_of(high)


@given(st.lists(st.tuples(st.integers(1, 8000), st.integers(0, 10**6)), min_size=1, max_size=40))
def test_the_served_share_is_concave_and_full_at_the_mean(asked):
    appetite = Appetite()
    for milli, amount in asked:
        appetite.observe(milli, amount)

    served = appetite.served()

    steps = served.share[: SERVED_STEPS + 1]
    rises = steps[1:] - steps[:-1]
    assert served.share[SERVED_STEPS] == 1 << SERVED_BITS
    assert (rises >= 0).all()
    assert served.per_gpu == 0 or (rises[1:] - rises[:-1] <= 2).all()


def test_half_the_mean_serves_more_than_half_where_appetites_differ():
    appetite = Appetite()
    appetite.observe(1000, 2_000)
    appetite.observe(1000, 18_000)

    share = appetite.served().share

    assert abs(share[SERVED_STEPS // 2] - (1 << SERVED_BITS) * (1 + 8 / 18) / 2) < 2


def test_an_old_habit_fades():
    mix = Mix()
    old, new = Shape(1, 1000, 1000, 1024), Shape(1, 500, 1000, 1024)
    for shape in (old, new):
        for _ in range(MIX_REQUESTS_MAX):
            mix.observe(shape)

    (first, first_asked), (_, second_asked) = most_gpu(mix.kinds, 2)

    assert first == (1, 500, -1)
    assert first_asked.count > 2 * second_asked.count
    assert mix.requests < MIX_REQUESTS_MAX


def test_kinds_are_bounded_whatever_is_asked():
    mix = Mix()
    for number in range(20 * MIX_KINDS_MAX):
        mix.observe(Shape(1 + number % 64, 1 + number // 64 % 1000, number * 1000, 1024))

    assert len(mix.kinds) + len(mix.gangs) <= MIX_KINDS_MAX
