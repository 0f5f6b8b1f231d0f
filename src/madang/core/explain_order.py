"""The words about order and tenancy: which quota binds and who holds it, whose turn it is and why.

Called from explain.py, which says everything else; here is what needs shares, quotas and turns.
"""

from madang.core.admission import Numbers, Rejected
from madang.core.explain_upkeep import span
from madang.core.fair import Shares
from madang.core.gangs import is_elastic, least_members
from madang.core.keys import overdue_ms
from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.ordering import Turns
from madang.core.quotas import Book, limit_of
from madang.core.settings import ANY, Quota
from madang.core.snapshot import Snapshot

HOLDERS_SHOWN_MAX = 3


def gpus_word(milli: int | str) -> str:
    """`2.5` of 2500."""
    return f"{int(milli) / WHOLE_GPU_MILLI:g}"


def holders_word(snapshot: Snapshot, project: str) -> str:
    """The jobs of a project that hold most, in brackets, or nothing."""
    held: list[tuple[int, str]] = []
    for allocation in snapshot.allocations.values():
        if allocation.project == project:
            members = sum(allocation.holds(r) for r in range(len(allocation.seats)))
            held.append((-members * allocation.shape.milli, allocation.job))
    held.sort()
    shown = ", ".join(f"{job} {gpus_word(-milli)}" for milli, job in held[:HOLDERS_SHOWN_MAX])
    return f" (held by {shown}{', …' if len(held) > HOLDERS_SHOWN_MAX else ''})" if held else ""


def limit_words(snapshot: Snapshot, job: Job) -> tuple[str, Numbers] | None:
    """The limit of its project or workspace that keeps the job, and who holds what it counts."""
    book, milli = Book(snapshot), least_members(job) * job.shape.milli
    full = book.full_groups(job, milli)
    usable = [group for group in snapshot.groups if group not in full]
    short = book.short_of(job, milli)
    if short is None and full and not usable:
        short = next(iter(full.values()))
    if short is None:
        return None
    quota, limit_milli = short.quota, limit_of(short.quota)
    borrows = " and borrows nothing" if quota.weight == 0 else ""
    what = _what(quota.group, quota.provisioning)
    words = (
        f"{_owner(quota)} holds {gpus_word(short.held_milli)} of the {gpus_word(limit_milli)} "
        f"GPUs that {what} may hold{borrows}; this job needs {needs_word(job)} more"
        f"{_holders_of(snapshot, book, quota)}"
    )
    numbers: Numbers = (
        ("quota", quota.key),
        ("used_milli", short.held_milli),
        ("quota_milli", limit_milli),
        ("asked_milli", milli),
    )
    return words, numbers


def needs_word(job: Job) -> str:
    """`4`, or `at least 2` of an elastic gang: the GPUs without which it does not start."""
    least = "at least " if is_elastic(job) else ""
    return f"{least}{gpus_word(least_members(job) * job.shape.milli)}"


def _gpus_word(milli: int | str) -> str:
    return f"{gpus_word(milli)} GPU{'' if int(milli) == WHOLE_GPU_MILLI else 's'}"


def above_words(rejected: Rejected) -> str:
    """`project vision may hold 2 GPUs at most with its spot jobs in group h100`."""
    n = dict(rejected.numbers)
    if rejected.code == "over_quota":
        return f"project {n['project']} may hold {_gpus_word(n['quota_milli'])} at most"
    what = _what(str(n["group"]), str(n["provisioning"]))
    owner, limit = str(n["owner"]).replace(":", " ", 1), _gpus_word(n["quota_milli"])
    borrows = " and borrows nothing" if not n["weight"] else ""
    return f"{owner} may hold {limit} at most{'' if what == 'it' else f' with {what}'}{borrows}"


def limit_tries(job: Job, rejected: Rejected) -> tuple[str, ...]:
    """What fits under the limit, if anything does, and what raises it."""
    n = dict(rejected.numbers)
    members = int(n["quota_milli"]) // max(job.shape.milli, 1)
    least = "--members-min" if is_elastic(job) else "--members"
    tries = (f"{least} {members}",) if 1 <= members < least_members(job) else ()
    if rejected.code == "over_quota":
        return tries or (f"raise it: madang project set {job.project} --quota GPUS",)
    options = "".join(
        f" --{name} {n[name]}" for name in ("group", "provisioning") if n[name] != ANY
    )
    weight = " --weight 1" if not n["weight"] else ""
    return (*tries, f"raise it: madang quota set {n['owner']}{options} --limit GPUS{weight}")


def never_words(job: Job, rejected: Rejected) -> str:
    """Why a job that was admitted never can start under the limits of today."""
    return (
        f"never starts under today's limit: it needs {needs_word(job)} GPUs, "
        f"and {above_words(rejected)}"
    )


def _owner(quota: Quota) -> str:
    return quota.owner.replace(":", " ", 1)


def _what(group: str, provisioning: str) -> str:
    """`it`, or `its spot jobs in group h100`."""
    if provisioning == ANY and group == ANY:
        return "it"
    jobs = "jobs" if provisioning == ANY else f"{provisioning.replace('_', '-')} jobs"
    return f"its {jobs}" + (f" in group {group}" if group != ANY else "")


def _holders_of(snapshot: Snapshot, book: Book, quota: Quota) -> str:
    """Who holds most of what the quota counts: jobs of a project, projects of a workspace."""
    if quota.owner.startswith("project:"):
        return holders_word(snapshot, quota.owner.partition(":")[2])
    held = sorted((-milli, id) for id, milli in book.holders_of(quota).items() if milli)
    shown = ", ".join(f"{id} {gpus_word(-milli)}" for milli, id in held[:HOLDERS_SHOWN_MAX])
    return f" (held by {shown}{', …' if len(held) > HOLDERS_SHOWN_MAX else ''})" if held else ""


def turn_words(snapshot: Snapshot, job: Job) -> tuple[str, Numbers]:
    """Its guarantee, if it is within one, and its place in turn and what put it there.

    The place is told where others wait too, under a policy in which turns are more than submission.
    """
    words, numbers = _guarantee_words(snapshot, job)
    total, policy = len(snapshot.queue), snapshot.policy
    if total < 2 or not policy.patience_ms:
        return words, numbers
    place = next(at for at, id in enumerate(Turns(snapshot), start=1) if id == job.id)
    reasons = [f"priority {job.priority}"] if "priority" in policy.order else []
    if job.head_start_ms:
        reasons.append(f"a head start of {span(job.head_start_ms)}")
    if job.nice:
        reasons.append(f"nice {job.nice} among its project's")
    share, figures = _share_words(snapshot, job.project)
    reasons += share
    first_ms = overdue_ms(policy, snapshot.jobs[job.id]) - snapshot.now_ms
    if first_ms <= 0:
        reasons = [f"it has waited for more than {span(policy.patience_ms)}: nobody passes it"]
    else:
        reasons.append(f"goes first in {span(first_ms)} at the latest")
    numbers += (("place", place), ("waiting", total), ("priority", job.priority))
    numbers += (*figures, ("first_in_ms", max(0, first_ms)))
    where = f"{_ordinal(place)} of the {total} that wait"
    return f"{words}; {where} ({'; '.join(reasons)})", numbers


def _share_words(snapshot: Snapshot, project: str) -> tuple[list[str], Numbers]:
    """How far its project's use puts the job back, where other projects wait too."""
    shares, held_milli = Shares(snapshot), snapshot.usage_milli.get(project, 0)
    lag_ms = shares.lag_ms(project, held_milli)
    if not lag_ms or len(snapshot.line.lots) < 2:
        return [], ()
    charged, fair = shares.charge(project, held_milli)
    percent = 100 * charged // fair if fair else 0
    words = (
        f"project {project} has used {percent} % of its share, which puts it {span(lag_ms)} back"
    )
    return [words], (("share_pct", percent), ("lag_ms", lag_ms))


def _guarantee_words(snapshot: Snapshot, job: Job) -> tuple[str, Numbers]:
    """A job within a guarantee gets back what others have borrowed, and is told so."""
    book = Book(snapshot)
    quota = book.guarantee_of(job)
    if quota is None:
        return "", ()
    words = (
        f"; it is within the guarantee of {_owner(quota)} ({gpus_word(book.held_of(quota))} of "
        f"{gpus_word(quota.guaranteed_milli)} GPUs held): what others have borrowed is given back"
    )
    return words, (("guarantee", quota.key), ("guaranteed_milli", quota.guaranteed_milli))


def _ordinal(n: int) -> str:
    """`1st`, `12th`, `23rd`."""
    tens, ones = divmod(n % 100, 10)
    return f"{n}{'th' if tens == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(ones, 'th')}"
