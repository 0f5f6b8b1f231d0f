"""What placement learns of the requests that come: the recent mix, and prices made from it.

Part of the fold: every submission is observed, and after enough of them prices are made anew from
the mix and from what is left of the yard at that moment. Mix and prices are then a setting of their
own (`Learned`), a row like the others. A state that is read again observes the jobs submitted since
that row, so it places the next job exactly as the one that wrote it would have.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.pool import Pool
from madang.core.ranking import mask_of
from madang.core.scoring import (
    BestFit,
    DotProduct,
    Fullest,
    Madang,
    MostAllocated,
    Packing,
    Policy,
    Shape,
    fgd_of,
    typical_of,
)
from madang.core.scoring._base import MODELS_MAX, Int64s
from madang.core.scoring._mix import Appetite, Asked, Kind, Mix, Models, Seen
from madang.core.scoring.madang import Tables, unpriced
from madang.core.settings import Learned

LEAN_BITS = 6  # of what an idle GPU leans, in price units: half a milli-GPU
TIMES_MAX = 64  # members of one gang that count: it is one habit, not a thousand
REFRESH_LEAST = 64  # requests between two refreshes, as long as the mix is young
REFRESH_PART = 4  # and then whenever 1/4 of the remembered requests is new
GPUS_MAX = 64  # devices of a member that the mix takes notice of

SIMPLE: dict[str, type[Any]] = {
    "best-fit": BestFit,
    "dot-product": DotProduct,
    "fullest": Fullest,
    "most-allocated": MostAllocated,
    "packing": Packing,
}
LEARNING = ("fgd", "madang")
PLACEMENTS = tuple(sorted((*SIMPLE, *LEARNING)))


class Learner:
    """The mix, the prices, and what was submitted since they were made. `observe` changes it."""

    def __init__(self) -> None:
        self.madang = Madang()
        self.since: list[Job] = []
        self.seq = 0  # of the last job that the prices know
        self.seen = 0  # of the last job that came at all
        self._left = REFRESH_LEAST
        self._kinds: Seen = {}  # of the mix when prices were made
        self._fgd: Policy | None = None
        self._simple: dict[str, Policy] = {}

    def observe(self, job: Job) -> bool:
        """A job was submitted. True iff prices should be made anew now."""
        self.since.append(job)
        self.seen = job.seq
        shape, times = job.shape, min(job.members, TIMES_MAX)
        if shape.gpus <= GPUS_MAX:
            milli = shape.gpu_milli if shape.gpus else 0
            asked = Shape(shape.gpus, milli, shape.cpu_milli, shape.memory_mib)
            self.madang.mix.observe(asked, _models_of(job), times)
        self._left -= times
        return self._left <= 0

    def refresh(self, pool: Pool, models: Mapping[str, int]) -> Learned:
        """New prices, as the setting that holds all that was learned.

        Of the models that some node has: what other names and codes there were is in no row.
        """
        self.seq = self.since[-1].seq
        self.since.clear()
        self._left = max(REFRESH_LEAST, self.madang.mix.requests // REFRESH_PART)
        # Also of a state that nobody has looked at: where nothing can be priced, these are written.
        self._fit(pool, models)
        here = set(pool.model.tolist())
        models = {name: code for name, code in models.items() if code in here}
        if self.madang.refresh(pool, lambda names: _mask(names, models)):
            self.madang.tables = leaning(self.madang.tables)
        gone = [code for code in range(len(self.madang.tables.class_of) - 1) if code not in here]
        self.madang.tables.class_of[gone] = self.madang.tables.class_of[-1]
        self._kinds, self._fgd = dict(self.madang.mix.kinds), None
        return self._learned(models)

    def restart(self) -> Learned:
        """Forget the mix: from here on another one is learned."""
        madang = self.madang
        self.madang = Madang(epoch=madang.epoch + 1)
        self.seq, self._left, self._kinds, self._fgd = self.seen, REFRESH_LEAST, {}, None
        self.since.clear()
        return self._learned({})

    def _learned(self, models: Mapping[str, int]) -> Learned:
        text = _tables_to(self.madang.tables, models)
        return Learned("placement", self.seq, _mix_to(self), text)

    def restore(self, learned: Learned, models: Mapping[str, int]) -> None:
        """What the setting holds. The jobs since are observed next, by the caller."""
        self.seq = learned.seq
        _mix_from(self, learned.mix)
        self.madang.tables = _tables_from(learned.tables, models)
        self.madang.epoch += 1
        self.seen = learned.seq
        self._kinds, self._fgd = dict(self.madang.mix.kinds), None

    def policy(self, name: str, pool: Pool, models: Mapping[str, int]) -> Policy:
        """The placement policy of a name, ready for this pool."""
        if name == "madang":
            self._fit(pool, models)
            return self.madang
        if name == "fgd":
            if self._fgd is None:
                self._fgd = _fgd_from(self._kinds, models, self.madang.epoch)
            return self._fgd
        if name not in self._simple:
            self._simple[name] = SIMPLE[name]()
        return self._simple[name]

    def _fit(self, pool: Pool, models: Mapping[str, int]) -> None:
        """Prices for models and widths of nodes that have come since: the same ones, carried on."""
        width, tables = pool.gpu_free.shape[1], self.madang.tables
        if tables.group.shape[1] > width and len(tables.class_of) > len(models):
            return
        self.madang.tables = _fitted(tables, width, len(models))
        self.madang.epoch += 1


def _models_of(job: Job) -> tuple[str, ...]:
    """The models that some shape of the job takes; () is any."""
    if not all(shape.models for shape in job.shapes):
        return ()
    return tuple(sorted({model for shape in job.shapes for model in shape.models}))


def _mask(names: Models, models: Mapping[str, int]) -> int:
    assert isinstance(names, tuple), f"this mix knows models by name: {names}"
    return mask_of(names, models)


def _fgd_from(kinds: Seen, models: Mapping[str, int], epoch: int) -> Policy:
    """fgd whose typical requests are those of the mix. It learns with every refresh of prices."""
    counted = []
    for (gpus, milli, names), asked in kinds.items():
        assert isinstance(names, tuple), f"this mix knows models by name: {names}"
        codes = frozenset(models[name] for name in names if name in models) if names else None
        shape = Shape(gpus, milli, asked.cpu_milli // asked.count, 0, codes)
        counted.append((shape, asked.count))
    return replace(fgd_of(typical_of(counted)), epoch=epoch)


def _fitted(tables: Tables, width: int, models: int) -> Tables:
    if tables.group.shape[1] < 2:
        tables = leaning(unpriced(max(width, 1)))
    class_of, group = tables.class_of, tables.group
    if len(class_of) <= models:
        wider = np.full(models + 1, class_of[-1])
        wider[: len(class_of) - 1] = class_of[:-1]
        class_of = wider
    while group.shape[1] <= width:
        more = 2 * group[:, -1] - group[:, -2] + 2  # the lean goes on, too
        group = np.concatenate((group, more[:, None]), axis=1)
    return replace(tables, class_of=class_of, group=group)


def leaning(tables: Tables) -> Tables:
    """The prices with a lean towards the fullest node and GPU, where nothing else tells them apart.

    It decides between equals, and where nothing has been learned: milli-GPUs at most. An idle GPU
    leans by more than all of a slice, or shares would open one rather than join others.
    """
    groups = np.arange(tables.group.shape[1], dtype=np.int64)
    parts = np.arange(tables.slice.shape[1], dtype=np.int64)
    group = tables.group + groups**2 + (groups << LEAN_BITS)
    return replace(tables, group=group, slice=tables.slice + (parts**2 >> 20 - LEAN_BITS))


# -- as text, for the row -------------------------------------------------------------------------


def _mix_to(learner: Learner) -> str:
    mix, left = learner.madang.mix, learner._left
    seen = [
        [
            [*kind, asked.gpu_milli, asked.cpu_milli, asked.memory_mib, asked.count]
            for kind, asked in sorted(of.items())
        ]
        for of in (mix.kinds, mix.gangs)
    ]
    bands = [
        [[band, *pair] for band, pair in sorted(of.bands.items())] for of in (mix.cpu, mix.memory)
    ]
    rents = [[*kind, rent] for kind, rent in sorted(learner.madang.rents.items())]
    return json.dumps([mix.requests, left, *seen, *bands, rents], separators=(",", ":"))


def _mix_from(learner: Learner, text: str) -> None:
    requests, left, kinds, gangs, cpu, memory, rents = json.loads(text)
    learner._left = left
    learner.madang.mix = Mix(
        requests,
        {_kind(row): Asked(*row[3:]) for row in kinds},
        {_kind(row): Asked(*row[3:]) for row in gangs},
        Appetite({band: (milli, amount) for band, milli, amount in cpu}),
        Appetite({band: (milli, amount) for band, milli, amount in memory}),
    )
    learner.madang.rents = {_kind(row): row[3] for row in rents}


def _kind(row: list[Any]) -> Kind:
    return (row[0], row[1], tuple(row[2]))


def _tables_to(tables: Tables, models: Mapping[str, int]) -> str:
    """Classes by the names of models, since codes are of one state; arrays as compressed bytes."""
    known = len(tables.class_of) - 1
    classes = {name: int(tables.class_of[code]) for name, code in models.items() if code < known}
    arrays = {
        name: [list(array.shape), base64.b85encode(zlib.compress(array.tobytes())).decode()]
        for name, array in zip(_ARRAYS, tables.values()[1:], strict=True)
    }
    return json.dumps([classes, int(tables.class_of[-1]), arrays], separators=(",", ":"))


def _tables_from(text: str, models: Mapping[str, int]) -> Tables:
    classes, none, arrays = json.loads(text)
    class_of = np.full(max(len(models), MODELS_MAX) + 1, none, np.int64)
    for name, code in models.items():
        class_of[code] = classes.get(name, none)
    return Tables(class_of, *(_array(*arrays[name]) for name in _ARRAYS))


def _array(shape: list[int], text: str) -> Int64s:
    flat = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.int64)
    return flat.reshape(shape).copy()


_ARRAYS = ("slice", "group", "gang_need", "gang_worth", "per_gpu", "share")
assert len(unpriced(1).slice[0]) - 1 == WHOLE_GPU_MILLI, "both count a GPU in as many parts"
