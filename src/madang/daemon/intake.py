"""Intake: a user's request becomes the scheduler's job, and later the engine's launch."""

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from madang.core.classes import ClassRow, Preemptible, class_of
from madang.core.model import (
    WHOLE_GPU_MILLI,
    Allocation,
    Category,
    Job,
    Need,
    Node,
    Provisioning,
    Purpose,
    Segment,
    Shape,
    Toleration,
)
from madang.core.profiles import MachineProfile, derived_profiles
from madang.engines.base import Arrival, Launch
from madang.wire.jobs import JobRequest
from madang.wire.terms import need_of, toleration_of

CPU_ONLY_CPU_MILLI = 1_000  # what a job without GPUs gets unless it says more
_RUNTIMES = re.compile(r"^(python|pypy|bash|sh|node|perl|ruby|torchrun)[0-9.]*$")
NAME_LENGTH_MAX = 48
ARRIVED_RETRIES = 1_000  # its maker decides when to give up, and then takes its members away


class Profiles:
    """The machine profiles of the nodes there are, made again when the nodes change."""

    def __init__(self) -> None:
        self._by_name: dict[str, MachineProfile] = {}

    def refresh(self, nodes: Iterable[Node]) -> None:
        self._by_name = {profile.name: profile for profile in derived_profiles(nodes)}

    def shapes(self, request: JobRequest) -> tuple[Shape, ...]:
        """One member's shape on each profile asked for, in order of preference; at least one."""
        names = [name.strip() for name in request.profile.split(",")]
        return tuple(self._shape(request, name) for name in dict.fromkeys(names))

    def _shape(self, request: JobRequest, asked: str) -> Shape:
        """GPUs as asked, CPU and memory in proportion or as asked."""
        named = asked or "any"
        profile = self._by_name.get(named)
        if profile is None:
            # Admission words the guide: it knows which models there are.
            profile = MachineProfile(named, 0, 0, (asked,) if asked else ())
        if request.gpus == 0:
            shape = Shape(gpus=0, cpu_milli=CPU_ONLY_CPU_MILLI, models=profile.models)
        elif request.gpus < 1:
            shape = profile.shape(1, round(request.gpus * WHOLE_GPU_MILLI))
        else:
            shape = profile.shape(int(request.gpus))
        cpu_milli = shape.cpu_milli if request.cpus is None else round(request.cpus * 1000)
        memory_mib = shape.memory_mib if request.memory_mib is None else request.memory_mib
        return Shape(shape.gpus, shape.gpu_milli, cpu_milli, memory_mib, shape.models)


def job_from(
    request: JobRequest,
    *,
    n: int,
    shapes: tuple[Shape, ...],
    now_ms: int,
    owner: str = "",
    classes: Sequence[ClassRow] = (),
) -> Job:
    """The scheduler's view of a request, acknowledged as number `n`.

    What the request does not say is as the table says of its class, `classes` being the policy's.
    """
    provisioning = Provisioning(request.provisioning)
    category = Category(request.category)
    purpose = Purpose(request.purpose)
    of_class = class_of(classes, provisioning, category, purpose)
    said = request.model_fields_set
    preemptible = of_class.preemptible is Preemptible.ALWAYS or (
        of_class.preemptible is Preemptible.CHECKPOINTED and request.checkpoints
    )
    return Job(
        id=f"{request.name or default_name(request.command)}-{n}",
        seq=n,
        project=request.project,
        shape=shapes[0],
        members=request.members,
        provisioning=provisioning,
        category=category,
        purpose=purpose,
        priority=of_class.priority,
        submitted_ms=now_ms,
        time_limit_ms=request.time if "time" in said else of_class.time_limit_ms,
        grace_ms=request.grace if "grace" in said else of_class.grace_ms,
        retries_max=request.retries if "retries" in said else of_class.retries_max,
        estimate_ms=request.estimate,
        checkpoints=request.checkpoints,
        fallbacks=shapes[1:],
        members_min=request.members_min,
        segments=tuple(Segment(one.level, one.members) for one in request.segments),
        within=request.within,
        within_soft=request.within_soft,
        switches=request.switches,
        switches_wait_ms=request.switches_wait,
        data=tuple(request.data.items()),
        spread_nodes=request.spread_nodes,
        exclusive=request.exclusive,
        zone=request.zone,
        preemptible=preemptible,
        head_start_ms=of_class.head_start_ms,
        run_ms_min=of_class.run_ms_min,
        nice=request.nice,
        owner=owner,
        image=request.image,
        reservation=request.reservation,
        budget=request.budget,
        idle_ok=request.idle_ok,
        needs=(needs,) if (needs := _needs_of(request)) else (),
        tolerates=tuple(Toleration(*toleration_of(one)) for one in request.tolerates),
    )


def request_of(arrival: Arrival) -> JobRequest:
    """What the ledger keeps of it for people; nobody ever executes it."""
    name = _plain_name(arrival.name)
    like = _request_like(
        arrival.kind, arrival.project, arrival.members, arrival.members_min, arrival.shape
    )
    command = [*like.command, f"{arrival.project}/{arrival.name}"]
    return like.model_copy(update={"command": command, "name": name})


@lru_cache(maxsize=256)
def _request_like(
    kind: str, project: str, members: int, members_min: int, shape: Shape
) -> JobRequest:
    """Checked once for all that are alike but for their names; not to be changed."""
    return JobRequest(
        command=["kubernetes", kind],
        name="job",
        project=project,
        members=members,
        members_min=members_min,
        gpus=shape.milli / WHOLE_GPU_MILLI,
        profile=",".join(shape.models),
        cpus=shape.cpu_milli / 1000 or None,
        memory_mib=shape.memory_mib or None,
    )


def job_of(
    arrival: Arrival, *, n: int, now_ms: int, owner: str, classes: Sequence[ClassRow] = ()
) -> Job:
    """The scheduler's view of what arrived, acknowledged as number `n`; of the class that jobs are
    which say nothing."""
    category, purpose = Category.TRAINING, Purpose.PRODUCE
    of_class = class_of(classes, Provisioning.ON_DEMAND, category, purpose)
    return Job(
        id=f"{_plain_name(arrival.name)}-{n}",
        seq=n,
        project=arrival.project,
        shape=arrival.shape,
        members=arrival.members,
        members_min=arrival.members_min,
        category=category,
        purpose=purpose,
        priority=of_class.priority + arrival.priority,
        preemptible=arrival.preemptible,
        preempts=arrival.preempts,
        submitted_ms=now_ms,
        grace_ms=arrival.grace_ms,
        retries_max=ARRIVED_RETRIES,
        within=arrival.within,
        within_soft=arrival.within_soft,
        spread_nodes=arrival.spread_nodes,
        head_start_ms=of_class.head_start_ms,
        run_ms_min=of_class.run_ms_min,
        owner=owner,
        needs=arrival.needs,
        tolerates=arrival.tolerates,
    )


def _plain_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:NAME_LENGTH_MAX].strip("-")
    return name or "job"


def _needs_of(request: JobRequest) -> tuple[Need, ...]:
    return tuple(Need(*need_of(one)) for one in request.needs)


def default_name(command: list[str]) -> str:
    """A name from the program, or from the script or module that an interpreter runs."""
    words = [os.path.basename(command[0])]
    if _RUNTIMES.match(words[0]):
        script = next((word for word in command[1:] if not word.startswith("-")), "")
        if re.fullmatch(r"[\w./-]+", script):
            words.insert(0, os.path.basename(script))
    for word in words:
        stem = os.path.splitext(word)[0].lower()
        name = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:NAME_LENGTH_MAX].strip("-")
        if name:
            return name
    return "job"


def launch_of(
    allocation: Allocation, job: Job, owner: str, request: JobRequest, arrival: str = ""
) -> Launch:
    """What the engine needs to start the allocation."""
    return Launch(
        allocation=allocation,
        name=request.name or default_name(request.command),
        owner=owner,
        command=tuple(request.command),
        env=tuple(request.env.items()),
        image=request.image,
        code=request.code,
        checkpoint_key=job.id,
        arrival=arrival,
        needs=job.needs,
        tolerates=job.tolerates,
        grace_ms=job.grace_ms,
    )
