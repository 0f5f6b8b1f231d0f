"""The submit guide: what is nearest to a request and would start now.

Each change is tried against the plan that is made up to the job's own turn, with the same `seat`
and the same quotas as the start pass: what is advised here does start, unless somebody is quicker.
Changes come in order of how little they take away: first wishes about the place, then the model,
then the layout, then the size. Words are made in explain.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from madang.core.draft import Draft
from madang.core.gangs import segments_nest
from madang.core.hypernodes import ANYWHERE
from madang.core.lanes import Lanes
from madang.core.model import Job, Provisioning, Shape
from madang.core.passes.start import walk
from madang.core.placement import Unplaced
from madang.core.snapshot import Snapshot

CHANGES_SHOWN_MAX = 4
MODELS_TRIED_MAX = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a request, by the option that makes it, after which it would start now."""

    option: str
    value: str
    job: Job


class Turn:
    """The moment of a job's own turn: what those before it leave, and whom they hold back."""

    def __init__(self, snapshot: Snapshot, job_id: str) -> None:
        self.snapshot = snapshot
        self.draft = Draft(snapshot)
        self.holders = walk(self.draft, until=job_id).holders
        self.lanes = Lanes(snapshot)

    def starts(self, job: Job) -> bool:
        """True iff the job, if it were this one, would be given its place."""
        mine = self.lanes.of(job)
        if any(bits & mine for bits, _ in self.holders):
            return False
        return not isinstance(self.draft.seated(job), Unplaced)


def nearest(turn: Turn, job: Job) -> tuple[Change, ...]:
    """Up to four changes that would let the job start now, the smallest first. It does not now."""
    found: list[Change] = []
    for changes in (_of_place, _of_model, _of_layout, _of_size, _of_right):
        for change in changes(turn, job):
            found.append(change)
            if len(found) == CHANGES_SHOWN_MAX:
                return tuple(found)
    return tuple(found)


def _if_starts(turn: Turn, option: str, value: str, job: Job) -> Iterator[Change]:
    if turn.starts(job):
        yield Change(option, value, job)


def _of_place(turn: Turn, job: Job) -> Iterator[Change]:
    """Without one of its wishes about where to be; without all of them if one is not enough."""
    wishes: dict[str, dict[str, Any]] = {
        "--within any": {"within": ANYWHERE, "within_soft": False},
        "--switches": {"switches": 0, "switches_wait_ms": 0},
        "segments": {"segments": ()},
        "--spread": {"spread_nodes": 1},
        "--exclusive": {"exclusive": False},
        "--zone": {"zone": ""},
        "--need": {"needs": ()},
    }
    has = {
        "--within any": job.members > 1 and job.within != ANYWHERE and bool(turn.snapshot.domains),
        "--switches": job.switches > 0,
        "segments": bool(job.segments),
        "--spread": job.spread_nodes > 1,
        "--exclusive": job.exclusive,
        "--zone": bool(job.zone),
        "--need": bool(job.needs),
    }
    asked = [option for option in wishes if has[option]]
    any_found = False
    for option in asked:
        for change in _if_starts(turn, option, "", replace(job, **wishes[option])):
            any_found = True
            yield change
    if len(asked) > 1 and not any_found:
        bare = job
        for option in asked:
            bare = replace(bare, **wishes[option])
        yield from _if_starts(turn, "all", ", ".join(asked), bare)


def _of_model(turn: Turn, job: Job) -> Iterator[Change]:
    """On another GPU model, as far as one is enough for all members."""
    if not job.shape.gpus or not job.shape.models:
        return
    taken = {model for shape in job.shapes for model in shape.models}
    others = sorted(model for model in turn.snapshot.models if model and model not in taken)
    for model in others[:MODELS_TRIED_MAX]:
        shape = replace(job.shape, models=(model,))
        yield from _if_starts(turn, "--profile", model, replace(job, shape=shape, fallbacks=()))


def _of_layout(turn: Turn, job: Job) -> Iterator[Change]:
    """As many GPUs in more and smaller members."""
    gpus = job.shape.gpus
    if gpus < 2 or job.segments:
        return
    for fewer in (gpus // 2, gpus // 4, 1):
        if not fewer or gpus % fewer or fewer == gpus:
            continue
        members = job.members * (gpus // fewer)
        smaller = replace(_with_gpus(job, fewer), members=members, members_min=0)
        if turn.starts(smaller):
            yield Change("--members --gpus", f"{members} {fewer}", smaller)
            return


def _of_size(turn: Turn, job: Job) -> Iterator[Change]:
    """With as many members as would start, or as many GPUs in each."""
    step = max((segment.members for segment in job.segments), default=1)
    members = _most(
        lambda count: turn.starts(_with_members(job, count * step)), (job.members - 1) // step
    )
    if members:
        yield Change("--members", str(members * step), _with_members(job, members * step))
    gpus = _most(lambda count: turn.starts(_with_gpus(job, count)), job.shape.gpus - 1)
    if gpus:
        yield Change("--gpus", str(gpus), _with_gpus(job, gpus))


def _of_right(turn: Turn, job: Job) -> Iterator[Change]:
    """Under another provisioning: a quota may bind one and leave another open."""
    for provisioning in (Provisioning.ON_DEMAND, Provisioning.SPOT):
        if provisioning is not job.provisioning:
            option = f"--{provisioning.value.replace('_', '-')}"
            other = replace(job, provisioning=provisioning)
            yield from _if_starts(turn, option, "", other)


def _with_members(job: Job, members: int) -> Job:
    fewer = replace(job, members=members, members_min=0)
    return fewer if segments_nest(fewer) else replace(fewer, segments=())


def _with_gpus(job: Job, gpus: int) -> Job:
    """CPU and memory in proportion: they came with the GPUs."""

    def smaller(shape: Shape) -> Shape:
        return replace(
            shape,
            gpus=gpus,
            cpu_milli=shape.cpu_milli * gpus // shape.gpus,
            memory_mib=shape.memory_mib * gpus // shape.gpus,
        )

    return replace(
        job, shape=smaller(job.shape), fallbacks=tuple(smaller(shape) for shape in job.fallbacks)
    )


def _most(fits: Callable[[int], bool], most: int) -> int:
    """The largest count up to `most` that fits, found by halving; 0 if not even one does."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    return least
