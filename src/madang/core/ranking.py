"""Which node is the best for one member: scores of a pool's rows, kept from one choice to the next.

A score depends on its row alone and on the policy's tables (scoring/), so what is kept of a shape
is mended by scoring the rows that were written since. A what-if begins with what its base has kept.
Keeping changes no answer, only its cost: a pool that nobody follows is scored anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.placement import room_for_one, seats_on
from madang.core.pool import SOLE, Bools, Changes, Ints, Place, Pool
from madang.core.scoring import ANY_MODEL, MODELS_MAX, NEVER, Policy
from madang.core.scoring._base import Scores, scores_for

UNTRUE_SHAPES_MAX = 8  # looked at by `untrue`: it scores every row
KEPT_MAX = 256  # shapes kept for a pool, the longest unused goes first; 10 bytes a node each


@dataclass(slots=True)
class _Kept:
    """The scores of one shape on all rows, as of `rows[:read]` of a round and of these tables."""

    vector: Ints
    scores: Scores
    round: int
    read: int
    truth: tuple[str, int, int]


def best(
    pool: Pool,
    policy: Policy,
    models: Mapping[str, int],
    shape: Shape,
    rows: Bools | None = None,
    turns: Ints | None = None,
) -> Place | None:
    """Where one member goes, None if no node takes it. Takes nothing.

    Args:
        models: codes of the names of models.
        rows: (N,) that may be used at all; None means every row. Where the shape names models it
            says which rows have them.
        turns: (N,) rows of a smaller turn go first; None if no row is better than another.
    """
    if not pool.nodes:
        return None
    changes = pool.changes
    if changes is None:
        able = np.flatnonzero(room_for_one(pool, shape, rows))
        fresh = scores_for(len(able))
        _score(pool, policy, shape, _vector(shape, models), able, fresh)
        value, device = np.full(pool.nodes, NEVER), np.full(pool.nodes, -1, np.int16)
        value[able], device[able] = fresh.value, fresh.device
    else:
        kept = _kept(pool, changes, policy, models, shape)
        value, device = kept.scores.value, kept.scores.device
        if pool.open_to_all is not None:
            rows = pool.open if rows is None else rows & pool.open
        if rows is not None:
            value = np.where(rows, value, NEVER)
    if turns is not None:
        there = value != NEVER
        least = turns.min(where=there, initial=np.iinfo(np.int64).max)
        value = np.where(there & (turns == least), value, NEVER)
    row = int(value.argmax())
    if value.item(row) == NEVER:
        return None
    if shape.gpus == 1 and shape.gpu_milli < WHOLE_GPU_MILLI:
        return (row, (device.item(row),))
    return seats_on(pool, row, 1, shape)[0]


def untrue(pool: Pool, policy: Policy, models: Mapping[str, int]) -> list[tuple[Shape, int]]:
    """Kept scores that are not what they would be if made anew: (shape, row); always a bug of ours.

    Of the shapes used last; rows that were written since a shape was asked for are not due yet.
    """
    changes, found = pool.changes, []
    if changes is None:
        return []
    for shape, kept in list(changes.kept.items())[-UNTRUE_SHAPES_MAX:]:
        if kept.truth != (policy.name, policy.epoch, len(models)) or kept.round != changes.round:
            continue
        fresh = scores_for(pool.nodes)
        _score(_own(pool), policy, shape, kept.vector, np.arange(pool.nodes), fresh)
        wrong = (fresh.value != kept.scores.value) | (fresh.device != kept.scores.device)
        wrong[changes.rows[kept.read :]] = False
        found += [(shape, row) for row in np.flatnonzero(wrong).tolist()]
    return found


def _kept(
    pool: Pool, changes: Changes, policy: Policy, models: Mapping[str, int], shape: Shape
) -> _Kept:
    """What is kept of the shape, mended up to now."""
    truth = (policy.name, policy.epoch, len(models))
    kept: _Kept | None = changes.kept.pop(shape, None)
    if kept is None or kept.truth != truth:
        kept = _inherited(changes, policy, models, shape, truth)
    if kept is None or kept.round != changes.round:
        everywhere = np.arange(pool.nodes)
        vector = _vector(shape, models)
        kept = _Kept(vector, scores_for(pool.nodes), changes.round, 0, truth)
        _score(_own(pool), policy, shape, vector, everywhere, kept.scores)
    elif kept.read < len(changes.rows):
        _mend(pool, changes, policy, shape, kept, changes.rows[kept.read :])
    kept.read = len(changes.rows)
    if len(changes.kept) >= KEPT_MAX:
        del changes.kept[next(iter(changes.kept))]
    changes.kept[shape] = kept  # last: the one used last
    return kept


def _inherited(
    changes: Changes,
    policy: Policy,
    models: Mapping[str, int],
    shape: Shape,
    truth: tuple[str, int, int],
) -> _Kept | None:
    """What the base keeps of the shape, to be mended by all that differs from it by now."""
    base = changes.base
    if base is None or base.changes is None:
        return None
    round_, read = changes.base_at
    theirs = _kept(base, base.changes, policy, models, shape)
    if base.changes.round != round_ or changes.round:
        return None
    scores = Scores(theirs.scores.value.copy(), theirs.scores.device.copy())
    if read < len(base.changes.rows):
        # The base has gone on since: its new rows are not ours.
        changes.rows.extend(base.changes.rows[read:])
        changes.base_at = (round_, len(base.changes.rows))
    return _Kept(theirs.vector, scores, changes.round, 0, truth)


def _mend(
    pool: Pool, changes: Changes, policy: Policy, shape: Shape, kept: _Kept, written: list[int]
) -> None:
    rows = np.fromiter(dict.fromkeys(written), np.int64)
    fresh = scores_for(len(rows))
    _score(_own(pool), policy, shape, kept.vector, rows, fresh)
    kept.scores.value[rows] = fresh.value
    kept.scores.device[rows] = fresh.device


def _own(pool: Pool) -> Pool:
    """The pool with all its rows open that are: what is kept is kept for all who look at it."""
    return pool if pool.open_to_all is None else replace(pool, open=pool.open_to_all)


def _score(pool: Pool, policy: Policy, shape: Shape, vector: Ints, rows: Ints, out: Scores) -> None:
    policy.score_rows(pool, vector, rows, 0, out)
    out.value[pool.tenants[rows] >= (1 if shape.exclusive else SOLE)] = NEVER


def _vector(shape: Shape, models: Mapping[str, int]) -> Ints:
    """(5,) as the kernels of scoring/ read a shape: gpus, gpu_milli, cpu, memory, model mask."""
    milli = shape.gpu_milli if shape.gpus else 0
    asked = (shape.gpus, milli, shape.cpu_milli, shape.memory_mib, mask_of(shape.models, models))
    return np.array(asked, dtype=np.int64)


def mask_of(names: tuple[str, ...], models: Mapping[str, int]) -> int:
    """The bits of the models' codes. Codes beyond a mask's bits count as any model."""
    if not names:
        return ANY_MODEL
    codes = [models[name] for name in names if name in models]
    if any(code >= MODELS_MAX for code in codes):
        return ANY_MODEL
    return sum(1 << code for code in set(codes))
