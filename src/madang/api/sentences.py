"""One sentence for people per kind of event in the journal."""

import re
from collections.abc import Callable
from typing import Any

from madang.core import events as ev
from madang.core.codec import decode_event
from madang.core.explain import how_it_ended, size
from madang.core.explain_preempt import bill
from madang.core.explain_upkeep import hole_size
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI, Node, ReleaseReason, Seat

NODES_NAMED_MAX = 4

_RELEASE_WORDS: dict[ReleaseReason, str] = {
    ReleaseReason.NONE: "",
    ReleaseReason.STOP: "somebody stopped it",
    ReleaseReason.REQUEUE: "it goes back to the queue",
    ReleaseReason.TIME_LIMIT: "its time is up",
    ReleaseReason.MEMBER_FAILED: "a member failed",
    ReleaseReason.NODE_LOST: "a node is out of sight",
    ReleaseReason.PREEMPTED: "a job of a higher class needs the GPUs",
    ReleaseReason.STRAY: "it should have ended before",
    ReleaseReason.RECLAIMED: "its GPUs were idle",
    ReleaseReason.MOVED: "it moves to make room",
}
_REASON_WORDS = {
    **{reason.value: words for reason, words in _RELEASE_WORDS.items()},
    "attempts": "its attempts are used up",
}


def reason_words(reason: str) -> str:
    """Why a job ended, in words; a reason that is in words already as it is."""
    return _REASON_WORDS.get(reason, reason)


def sentence(line: str) -> str:
    """The event of a journal line in words; a kind of a newer version by its name."""
    try:
        event = decode_event(line)
        return WORDS[type(event)](event)
    except (KeyError, ValueError, TypeError):
        kind = line.split('"', 2)[1] if line.count('"') >= 2 else "event"
        return re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()


def job_of(allocation: str) -> str:
    """`digits-42` of `digits-42.1`."""
    return allocation.rpartition(".")[0]


def project_of(line: str) -> str:
    """The project of a ProjectSet's line; "" for any other."""
    try:
        event = decode_event(line)
    except (KeyError, ValueError, TypeError):
        return ""
    return event.project.id if isinstance(event, ev.ProjectSet) else ""


def _gpus(milli: int) -> str:
    count = f"{milli / WHOLE_GPU_MILLI:g}"
    return f"{count} GPU" if count in ("1",) or milli < WHOLE_GPU_MILLI else f"{count} GPUs"


def _by(name: str) -> str:
    return name or "somebody"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:NODES_NAMED_MAX])
    more = len(names) - NODES_NAMED_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _submitted(event: ev.JobSubmitted) -> str:
    job = event.job
    return f"{job.id} asks for {size(job.members, job.shape)} in project {job.project}"


def _project_set(event: ev.ProjectSet) -> str:
    project = event.project
    if project.quota_milli == UNLIMITED:
        return f"project {project.id} may hold GPUs without limit"
    return f"project {project.id} may hold {_gpus(project.quota_milli)} at once"


def _devices(node: Node) -> str:
    if not node.gpus:
        return f"{node.cpu_milli / 1000:g} CPUs"
    bad = node.gpus - node.well.bit_count()
    kind = f" {node.model}" if node.model else ""
    return f"{node.gpus} ×{kind or ' device'}" + (f", {bad} of them unhealthy" if bad else "")


def _cordoned(event: ev.NodeCordoned) -> str:
    if event.cordoned:
        return f"{_by(event.by)} cordoned {event.node}: it takes no new members"
    return f"{_by(event.by)} opened {event.node} again"


def _ended(event: ev.MemberEnded) -> str:
    of = f"of {event.allocation}"
    if event.exit.ok:
        return f"member {event.rank} {of} ended well"
    words = how_it_ended(event.rank, event.exit)
    return words.replace(f"member {event.rank}", f"member {event.rank} {of}", 1)


def _seats(seats: tuple[Seat, ...]) -> str:
    count = sum(len(seat.gpus) for seat in seats)
    nodes = list(dict.fromkeys(seat.node for seat in seats))
    return f"{_gpus(count * WHOLE_GPU_MILLI)} on {_names(nodes)}"


def _bound(event: ev.AllocationBound) -> str:
    allocation = event.allocation
    nodes = list(dict.fromkeys(seat.node for seat in allocation.seats))
    milli = allocation.shape.milli * len(allocation.seats)
    what = _gpus(milli) if milli else "CPUs"
    return f"{allocation.job} got {what} on {_names(nodes)} (attempt {allocation.attempt})"


def _release(event: ev.ReleaseAsked) -> str:
    why = _RELEASE_WORDS[event.reason]
    if event.by and event.reason is ReleaseReason.PREEMPTED:
        why = f"{event.by} needs its GPUs, {bill(event.bill_gpu_ms)} of work at most is lost"
    grace = f"{event.grace_ms / 1000:g} s"
    return f"{event.allocation} was asked to end{f': {why}' if why else ''} ({grace} of grace)"


def _warned(event: ev.JobWarned) -> str:
    loses = " and loses them unless it uses them" if event.until_ms else ""
    return f"{event.job} was warned: it holds idle GPUs{loses}"


_DROPPED_WORDS = {
    "expired": "its time is over",
    "broken": "a device of it is gone",
    "claimed": "who was promised these cells claims them",
    "no_level": "there is no such level of the network",
    "too_large": "the yard is not as large",
    "held": "those who are there must not be moved",
    "crowded": "those who are there have nowhere to go",
}


def _shielded(event: ev.ShieldSet) -> str:
    """A PodDisruptionBudget, as the engine sees it."""
    one = event.shield
    if one.why:
        return one.why
    allowed = one.allowed or "no"
    return f"budget {one.id} allows {allowed} more disruption{'s' * (one.allowed != 1)}"


def _hole_dropped(event: ev.HoleDropped) -> str:
    if event.job:
        return f"{event.hole} is given to {event.job}"
    return f"{event.hole} is given up: {_DROPPED_WORDS.get(event.code, event.code)}"


def _requeued(event: ev.JobRequeued) -> str:
    reason = f": {event.reason}" if event.reason else ""
    return f"{event.job} waits again{reason}"


def _job_ended(event: ev.JobEnded) -> str:
    verb = {"stopped": "was stopped"}.get(event.phase, str(event.phase.value))
    return f"{event.job} {verb}" + (f": {reason_words(event.reason)}" if event.reason else "")


def _rejected(event: ev.JobRejected) -> str:
    return f"{event.job} can never run here ({event.code.replace('_', ' ')})"


def _flagged(event: ev.NodeFlagged) -> str:
    if event.suspicion:
        return f"{_by(event.by)} flagged {event.node}: it is used last ({event.suspicion})"
    return f"{_by(event.by)} cleared {event.node} of suspicion"


def _set(kind: str, key: str) -> str:
    return f"{kind} {key} was set"


WORDS: dict[type, Callable[[Any], str]] = {
    ev.JobSubmitted: _submitted,
    ev.JobStopAsked: lambda e: f"{_by(e.by)} asked {e.job} to stop",
    ev.JobRequeueAsked: lambda e: f"{_by(e.by)} sent {e.job} back to the queue",
    ev.ProjectSet: _project_set,
    ev.NodeSeen: lambda e: f"{e.node.id} offers {_devices(e.node)}",
    ev.NodeLost: lambda e: f"{e.node} is out of sight; what it holds stays held",
    ev.NodeCordoned: _cordoned,
    ev.MemberStarted: lambda e: f"member {e.rank} of {e.allocation} started",
    ev.MemberEnded: _ended,
    ev.WorkspaceSet: lambda e: _set("workspace", e.workspace.key),
    ev.QuotaSet: lambda e: _set("quota", e.quota.key),
    ev.ZoneSet: lambda e: _set("zone", e.zone.key),
    ev.ReservationSet: lambda e: _set("reservation", e.reservation.key),
    ev.BudgetSet: lambda e: _set("disruption budget", e.budget.key),
    ev.TopologySet: lambda e: _set("network", " > ".join(e.topology.levels)),
    ev.PolicySet: lambda e: f"the policy is {e.policy.name}",
    ev.SettingDropped: lambda e: f"{_by(e.by)} dropped {e.key} of the {e.kind}",
    ev.NodeFlagged: _flagged,
    ev.NodeRemoved: lambda e: f"{_by(e.by)} removed {e.node} from the yard",
    ev.CheckpointSaved: lambda e: f"{e.job} saved a checkpoint",
    ev.JobMeasured: lambda e: f"{e.job} used {e.util_pct} % of its GPUs",
    ev.ProjectMeasured: lambda e: f"what {e.project} consumed was measured",
    ev.JobRejected: _rejected,
    ev.AllocationBound: _bound,
    ev.JobNominated: lambda e: f"{e.job} is promised {_seats(e.seats)} once free",
    ev.NominationDropped: lambda e: f"{e.job} must look again: what it was promised is gone",
    ev.ReleaseAsked: _release,
    ev.JobWarned: _warned,
    ev.HoleAsked: lambda e: f"{_by(e.hole.by)} wants room: {hole_size(e.hole)} ({e.hole.id})",
    ev.RuleSet: lambda e: _set("rule", e.rule.key),
    ev.RuleBroken: lambda e: f"{job_of(e.allocation)} breaks the rule {e.rule}: {e.text}",
    ev.RuleKept: lambda e: (
        f"{job_of(e.allocation)} keeps the rule {e.rule} again: what it measures is {e.value}"
    ),
    ev.ShieldSet: _shielded,
    ev.JobShielded: lambda e: (
        f"{e.job} is under {_names([id for id, _ in e.by])}"
        if e.by
        else f"no budget covers {e.job}"
    ),
    ev.ReleaseHeld: lambda e: f"{e.allocation} goes on: {e.text}",
    ev.HoleMade: lambda e: f"{e.hole} is {_seats(e.seats)} once free",
    ev.HoleDropped: _hole_dropped,
    ev.JobRequeued: _requeued,
    ev.JobEnded: _job_ended,
}
