"""Properties of the whole family: over random pools and requests."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core.scoring import (
    NEVER,
    BestFit,
    Board,
    DotProduct,
    Madang,
    MostAllocated,
    Packing,
    Place,
    Policy,
    Pool,
    Random,
    Shape,
    fgd_of,
    fragmentation,
    typical_of,
)
from madang.core.scoring import fgd as fgd_module
from madang.core.scoring._base import fits, scores_for
from madang.core.scoring._worth import score_nodes_jit, score_nodes_numpy
from madang.core.scoring.fragmentation import fragmentation_of

MILLIS = (1000, 1000, 810, 470, 320, 100, 1)
LISTS = ("random", "best-fit", "dot-product", "most-allocated", "packing", "fgd", "madang")


@st.composite
def pools(draw) -> Pool:
    nodes = draw(st.integers(1, 6))
    width = draw(st.sampled_from([1, 2, 4, 8]))
    count = np.array(draw(st.lists(st.integers(0, width), min_size=nodes, max_size=nodes)))
    free = draw(
        st.lists(st.sampled_from([1000, 1000, 530, 190, 0]), min_size=nodes * 8, max_size=nodes * 8)
    )
    free = np.array(free[: nodes * width]).reshape(nodes, width)
    cpu = np.array(draw(st.lists(st.integers(0, 64), min_size=nodes, max_size=nodes))) * 1000
    memory = np.array(draw(st.lists(st.integers(0, 256), min_size=nodes, max_size=nodes))) * 1024
    model = draw(st.lists(st.integers(0, 2), min_size=nodes, max_size=nodes))
    return Pool(
        gpu_free=np.where(np.arange(width) < count[:, None], free, 0).astype(np.int32),
        gpu_count=count.astype(np.int32),
        cpu_free=cpu.astype(np.int64),
        cpu_total=cpu.astype(np.int64),
        memory_free=memory.astype(np.int64),
        memory_total=memory.astype(np.int64),
        model=np.where(count > 0, model, -1).astype(np.int16),
        open=np.array(draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes))) | (count > 2),
    )


@st.composite
def shapes(draw) -> Shape:
    gpus = draw(st.sampled_from([0, 1, 1, 1, 2, 4, 8]))
    models = draw(st.sampled_from([None, None, frozenset({0}), frozenset({1, 2}), frozenset()]))
    return Shape(
        gpus=gpus,
        gpu_milli=draw(st.sampled_from(MILLIS)) if gpus else 0,
        cpu_milli=draw(st.integers(0, 20)) * 1000,
        memory_mib=draw(st.integers(0, 64)) * 1024,
        models=models if gpus else None,
    )


requests = st.lists(shapes(), min_size=1, max_size=60)


def policy_named(name: str, seen: list[Shape]) -> Policy:
    made = (BestFit(), DotProduct(), MostAllocated(), Packing(), Random(key=1), Madang())
    typical = fgd_of(typical_of((shape, 1) for shape in seen))
    return {policy.name: policy for policy in (*made, typical)}[name]


def placed(pool: Pool, policy: Policy, asked: list[Shape]) -> list[object]:
    """Every answer in turn; what is placed is taken."""
    board = Board(pool, policy)
    answers: list[object] = []
    for shape in asked:
        place = board.choose(shape)
        answers.append(place)
        if isinstance(place, Place):
            board.take(shape, place)
    return answers


@given(pools(), requests, st.sampled_from(LISTS))
@settings(max_examples=150, deadline=None)
def test_nothing_is_ever_given_twice_and_nothing_that_fits_is_refused(pool, asked, name):
    board = Board(pool.copied(), policy_named(name, asked))
    given_milli = np.zeros_like(pool.gpu_free)
    for shape in asked:
        before = board.pool.gpu_free.copy()
        place = board.choose(shape)
        assert (board.pool.gpu_free == before).all(), "choosing took something"
        able = fits(board.pool, shape.vector(), np.arange(pool.nodes))
        assert isinstance(place, Place) == bool(able.any())
        if isinstance(place, Place):
            assert len(set(place.devices)) == shape.gpus
            board.take(shape, place)
            given_milli[place.row, list(place.devices)] += shape.gpu_milli
    assert (given_milli + board.pool.gpu_free == pool.gpu_free).all()
    assert (board.pool.cpu_free >= 0).all()
    assert (board.pool.memory_free >= 0).all()


@given(pools(), requests, st.sampled_from(LISTS))
@settings(max_examples=60, deadline=None)
def test_equal_inputs_give_equal_placements(pool, asked, name):
    twice = [placed(pool.copied(), policy_named(name, asked), asked) for _ in range(2)]

    assert twice[0] == twice[1]


@given(pools(), requests, st.sampled_from(LISTS))
@settings(max_examples=100, deadline=None)
def test_kept_scores_are_the_scores(pool, asked, name):
    board = Board(pool.copied(), policy_named(name, asked))
    for shape in asked:
        place = board.choose(shape)
        fresh = scores_for(pool.nodes)
        rows = np.arange(pool.nodes, dtype=np.int64)
        board.policy.score_rows(board.pool, shape.vector(), rows, board.turn, fresh)
        if isinstance(place, Place):
            assert place.row == int(fresh.value.argmax())
            board.take(shape, place)
        else:
            assert (fresh.value == NEVER).all()


@given(pools(), requests)
@settings(max_examples=100, deadline=None)
def test_madang_scores_the_same_with_and_without_numba(pool, asked):
    policy = Madang()
    board = Board(pool, policy)
    for shape in asked:
        place = board.choose(shape)
        if isinstance(place, Place):
            board.take(shape, place)
    policy.refresh(pool)
    node = (pool.gpu_free, pool.cpu_free, pool.memory_free, pool.model, pool.open)
    rows = np.arange(pool.nodes, dtype=np.int64)
    for shape in asked:
        fast, plain = scores_for(pool.nodes), scores_for(pool.nodes)
        values = policy.tables.values()
        score_nodes_jit(node, values, shape.vector(), rows, fast.value, fast.device)
        score_nodes_numpy(node, values, shape.vector(), rows, plain.value, plain.device)
        assert fast.value.tolist() == plain.value.tolist()
        assert fast.device.tolist() == plain.device.tolist()


@given(pools(), requests)
@settings(max_examples=60, deadline=None)
def test_fgd_scores_the_same_with_and_without_numba(pool, asked):
    typical = typical_of((shape, index + 1) for index, shape in enumerate(asked))
    policy = fgd_of(typical)
    rows = np.arange(pool.nodes, dtype=np.int64)
    free, cpu, model = pool.gpu_free, pool.cpu_free, pool.model
    assert (
        fragmentation(pool, rows, typical).tolist()
        == fragmentation_of(free, cpu, model, typical.table).tolist()
    )
    for shape in asked:
        hits = np.flatnonzero(fits(pool, shape.vector(), rows))
        nodes = (free[hits], cpu[hits], model[hits])
        fast, plain = scores_for(len(hits)), scores_for(len(hits))
        for score, out in ((fgd_module._score_nodes, fast), (fgd_module.score_nodes_numpy, plain)):
            score(nodes, shape.vector(), typical.table, policy.steps, out.value, out.device)
        assert fast.value.tolist() == plain.value.tolist()
        assert fast.device.tolist() == plain.device.tolist()
