"""Each mutant of the core must be killed: by the seeds, or by the tables and stories.

A mutant is one change to a copy of the sources that somebody could make by mistake. The list grows
with every bug that got past the tests. What survives says which test is missing.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SEEDS = 120
PLAYS = 600
PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `file` of the core, `old` becomes `new`. `by` must notice: seeds, plays, tables, or
    hashes."""

    name: str
    file: str
    old: str
    new: str
    by: str = "seeds"


MUTANTS = [
    Mutant(
        "devices are free when their release is asked",
        "state.py",
        "        self._put(\n            replace(\n                allocation,\n"
        "                release_reason=event.reason,\n",
        "        for seat in allocation.seats:\n"
        "            self.pool.give(self._place(seat), allocation.shape)\n"
        "        self._put(\n            replace(\n                allocation,\n"
        "                release_reason=event.reason,\n",
    ),
    Mutant(
        "a late end is counted again",
        "state.py",
        "        if not allocation.holds(event.rank):\n            return False\n",
        "",
    ),
    Mutant(
        "a plan does not see what it has just given away",
        "draft.py",
        "        self.pool.take(places, shape)\n",
        "",
    ),
    Mutant(
        "a node that reports again forgets what it holds",
        "state_nodes.py",
        "        if known.node == event.node and not was_lost:\n            return False\n",
        "        self.on_node[event.node.id].clear()\n",
    ),
    Mutant(
        "a lost node's devices are offered",
        "state_rows.py",
        "        pool.open[row] = live.state is NodeState.READY\n",
        "        pool.open[row] = live.state is not NodeState.CORDONED\n",
    ),
    Mutant(
        "a cordoned node's devices are offered",
        "state_rows.py",
        "        pool.open[row] = live.state is NodeState.READY\n",
        "        pool.open[row] = live.state is not NodeState.LOST\n",
    ),
    Mutant(
        "a loss is enough to free what was there",
        "state_nodes.py",
        "        for id in self.on_node[event.node]:\n"
        "            if self.allocations[id].state not in LIVELY:\n",
        "        for id in list(self.on_node[event.node]):\n"
        "            for rank in range(len(self.allocations[id].seats)):\n"
        "                self._member_ended(ev.MemberEnded(id, rank, LOST_EXIT, now_ms), now_ms)\n"
        "        for id in self.on_node[event.node]:\n"
        "            if self.allocations[id].state not in LIVELY:\n",
    ),
    Mutant(
        "a stale report denies members that are younger",
        "state_nodes.py",
        "            if allocation.state in LIVELY or made_ms < allocation.releasing_ms:\n",
        "            if made_ms < 0:\n",
        by="tables",
    ),
    Mutant(
        "a job starts beside its older attempt",
        "draft.py",
        "        if self.snapshot.still_runs(job_id):\n            return False\n",
        "",
        by="tables",
    ),
    Mutant(
        "what a returned node must not run is not stopped",
        "state_nodes.py",
        "                self.strays[id] = None  # it was asked to end while nobody could hear\n",
        "",
        by="tables",
    ),
    Mutant(
        "what nobody knows runs on",
        "state_nodes.py",
        "            self.strays[allocation] = None\n",
        "            pass\n",
        by="tables",
    ),
    Mutant(
        "a returned node is not waited for",
        "state.py",
        "        else:\n            self.unsettled.pop(allocation.job, None)\n",
        "",
        by="tables",
    ),
    Mutant(
        "a gang is placed though one member does not fit",
        "placement.py",
        "    if total < members:\n",
        "    if total < members - 1:\n",
    ),
    Mutant(
        "ill devices are given",
        "pool.py",
        "            self.gpu_free[row, gpu] = left if there else 0\n",
        "            self.gpu_free[row, gpu] = left\n",
    ),
    Mutant(
        "quota is not looked at",
        "draft.py",
        "        if room_milli is not None and milli > max(0, room_milli):\n"
        "            return False\n",
        "",
    ),
    Mutant(
        "a plan does not count what it has just spent of a quota",
        "draft.py",
        "        self._charge(job, places, shape.milli)\n"
        "        self.decisions.append(\n            AllocationBound(",
        "        self.decisions.append(\n            AllocationBound(",
    ),
    Mutant(
        "a dead node eats the quota",
        "state.py",
        "        self.charge(live.job, allocation, _held(allocation), -1)\n",
        "",
    ),
    Mutant(
        "a repeated submission is a second job",
        "state.py",
        "        if self.knows_job(job.id):\n            return False\n",
        "",
    ),
    Mutant(
        "one start is enough for a gang to run",
        "state.py",
        "        if allocation.started | allocation.ended != allocation.all_ranks:\n",
        "        if not allocation.started | allocation.ended:\n",
        by="tables",
    ),
    Mutant(
        "a failed member does not end its gang",
        "state.py",
        "            self.troubled.setdefault(allocation.id, ReleaseReason.MEMBER_FAILED)\n",
        "            pass\n",
        by="tables",
    ),
    Mutant(
        "any bad end is a success",
        "passes/settle.py",
        "    return allocation.release_reason is ReleaseReason.NONE "
        "and not _first_broken(allocation)\n",
        "    return allocation.release_reason is ReleaseReason.NONE\n",
    ),
    Mutant(
        "a stop undoes a success",
        "passes/settle.py",
        "        if allocation is not None and _succeeded(allocation):\n",
        "        if not live.standing.stop_asked and "
        "allocation is not None and _succeeded(allocation):\n",
        by="tables",
    ),
    Mutant(
        "losses use up retries",
        "lifecycle.py",
        "        ReleaseReason.REQUEUE,\n        ReleaseReason.NODE_LOST,\n",
        "        ReleaseReason.REQUEUE,\n",
        by="tables",
    ),
    Mutant(
        "retries have no bound",
        "passes/settle.py",
        "    if failures > job.retries_max:\n",
        "    if False:\n",
    ),
    Mutant(
        "the back-off is forgotten",
        "passes/settle.py",
        "failures, now_ms + backoff_ms)",
        "failures, 0)",
        by="tables",
    ),
    Mutant(
        "nobody wakes for the end of a back-off",
        "controller.py",
        "            due.append(state.backoffs[after][0])\n",
        "            pass\n",
        by="tables",
    ),
    Mutant(
        "nobody wakes for a time limit",
        "controller.py",
        "        due = [state.deadlines[0][0]] if state.deadlines else []\n",
        "        due = []\n",
        by="tables",
    ),
    Mutant(
        "freed devices wake nobody",
        "state.py",
        "        self.pool.give(self._place(seat), allocation.shape)\n        self.stirs += 1\n",
        "        self.pool.give(self._place(seat), allocation.shape)\n",
        by="tables",
    ),
    Mutant(
        "a deadline outlives its allocation",
        "state.py",
        "        self._put(allocation)\n        self._drop_deadline(allocation)\n",
        "        self._put(allocation)\n",
    ),
    Mutant(
        "a cordon is forgotten with the node",
        "state_nodes.py",
        "        state = NodeState.CORDONED if known.cordoned else NodeState.READY\n",
        "        state = NodeState.READY\n",
    ),
    Mutant(
        "small jobs overtake the gang that waits for the same devices",
        "passes/start.py",
        "        if not competes_for & so_far.held_back:\n",
        "        if True:\n",
        by="tables",
    ),
    Mutant(
        "jobs are settled in the order of a set",
        "passes/settle.py",
        "sorted(snapshot.unsettled, key=lambda id: snapshot.jobs[id].job.seq)",
        "set(snapshot.unsettled)",
        by="hashes",
    ),
    Mutant(
        "an exclusive node is shared",
        "placement.py",
        "    fits &= pool.tenants < (1 if shape.exclusive else SOLE)\n",
        "",
    ),
    Mutant(
        "a workspace's or project's limit is not looked at",
        "draft.py",
        "        return self.book.short_of(job, milli) is None\n",
        "        return True\n",
    ),
    Mutant(
        "an elastic gang asks for more than its quotas leave",
        "asks.py",
        "    most = min([job.members, *[milli // each for milli in anywhere]])\n",
        "    most = job.members\n",
        by="plays",
    ),
    Mutant(
        "the least run time is not looked at",
        "impact.py",
        "    return snapshot.now_ms - allocation.running_ms >= least_ms\n",
        "    return True\n",
        by="tables",
    ),
    Mutant(
        "who is moved aside again and again is never safe for longer",
        "keys.py",
        "    return least_ms << min(often, DOUBLINGS_MAX)\n",
        "    return least_ms\n",
        by="tables",
    ),
    Mutant(
        "a disruption budget that is used up lets one more go",
        "impact.py",
        "[max(0, left[key]) for key in self._keys]",
        "[max(1, left[key]) for key in self._keys]",
        by="tables",
    ),
    Mutant(
        "who keeps a window short is not asked for one at a time",
        "passes/calendar.py",
        "                if sparing.stays(victim.places, victim.allocation.shape):\n",
        "                if False:\n",
        by="plays",
    ),
    Mutant(
        "sums are believed where they tell nothing",
        "sparing.py",
        "                last = at\n                break\n",
        "                pass\n",
        by="tables",
    ),
    Mutant(
        "a window is where it was although it may go to an earlier place",
        "filling.py",
        "            return np.array_equal(now, room)\n        return all(\n",
        "            return np.array_equal(now, room)\n        return True or all(\n",
        by="tables",
    ),
    Mutant(
        "a window goes where a job would, by price and fill, so that starts elsewhere move it",
        "windows.py",
        "        places = self._first(pool, want)\n",
        "        from madang.core.seating import seat_anywhere\n"
        "        asked = replace(stand_in(want.window), shape=want.shape, members=want.members)\n"
        "        asked = replace(asked, members_min=min(1, want.members - 1), within_soft=True)\n"
        "        places = getattr(seat_anywhere(self.snapshot, pool, asked), 'places', ())\n",
        by="tables",
    ),
    Mutant(
        "an open window takes what is free, whatever others lack then",
        "passes/calendar.py",
        "            if best > _counts(self.found):\n",
        "            if best > _counts(self.found) and not any(self.found):\n",
        by="plays",
    ),
    Mutant(
        "who steps aside moves windows as he starts",
        "passes/calendar.py",
        "    return asked_ms if job.checkpoints else end_ms, asked_ms\n",
        "    return end_ms, asked_ms\n",
        by="tables",
    ),
    Mutant(
        "a guarantee goes before windows",
        "passes/start.py",
        "            if _bound(draft, job, Walk(), entitled=True):\n",
        "            seated = draft.seated(job, entitled=True)\n"
        "            if not isinstance(seated, Unplaced):\n"
        "                draft.bind(job, seated)\n",
        by="tables",
    ),
    Mutant(
        "whoever could leave does, needed or not",
        "impact.py",
        "            if isinstance(beside, Unplaced):\n                self.field.give",
        "            if True:\n                self.field.give",
        by="tables",
    ),
    Mutant(
        "who stays beyond a window's beginning starts on its devices",
        "timeline.py",
        "                if kept.begin_ms < end_ms\n",
        "                if kept.begin_ms < end_ms and not kept.calendar\n",
        by="plays",
    ),
    Mutant(
        "backfill looks at no reservation",
        "timeline.py",
        "        if not held:\n            return pool\n        kept =",
        "        if True:\n            return pool\n        kept =",
        by="plays",
    ),
    Mutant(
        "firm work takes promised cells",
        "seating.py",
        "    if book is None or not is_firm(job) or isinstance(seated, Unplaced):\n",
        "    if True:\n",
        by="plays",
    ),
    Mutant(
        "disruption budgets bind nobody",
        "budgets.py",
        "        return tuple(key for key, up in self.counts(allocation) if up > self.left[key])\n",
        "        return ()\n",
        by="plays",
    ),
    Mutant(
        "what others allow is taken by each turn anew while victims leave",
        "budgets.py",
        "            self.left[SHIELDS, id] = shield.allowed - leaving[id]\n",
        "            self.left[SHIELDS, id] = shield.allowed\n",
        by="tables",
    ),
    Mutant(
        "a promise outlives that nobody was let end for it",
        "passes/honour.py",
        "    return not draft.is_taken(places, shape) and any(\n",
        "    return any(\n",
        by="tables",
    ),
    Mutant(
        "who was not let end runs without its time limit",
        "state_shields.py",
        "            self.begin_running(allocation)\n",
        "            pass\n",
        by="tables",
    ),
    Mutant(
        "who makes nobody leave keeps others like it from doing so",
        "passes/rebalance.py",
        "        if job.preempts and draft.may_start(job_id)",
        "        if draft.may_start(job_id)",
        by="tables",
    ),
    Mutant(
        "who is within a guarantee takes nothing back",
        "rights.py",
        "            return Cause.GUARANTEE\n",
        "            return Cause.NONE\n",
        by="tables",
    ),
    Mutant(
        "who has lost patience holds nobody back",
        "passes/start.py",
        "    holds = policy.misfit is Misfit.HOLD or lost\n",
        "    holds = policy.misfit is Misfit.HOLD\n",
        by="plays",
    ),
    Mutant(
        "rows do not say what lingers",
        "restore.py",
        "            state.lingering.setdefault(allocation.job, {})[allocation.id] = None\n",
        "            pass\n",
    ),
]

# The quick tables: a mutant may have to wait for the last of them.
TABLES = [
    f"tests/core/test_{name}.py"
    for name in (
        *("fold", "start", "honour", "honour_stopped", "lifecycle", "admission", "placement"),
        *("explain", "stop_grace", "undisturbed", "check", "classes_profiles", "rebalance"),
        *("preempt", "quotas", "windows", "calendar", "sparing", "shields"),
    )
]
RUN = {
    "plays": [sys.executable, "-m", "madang.sim.plays", "--plays", str(PLAYS), "--stop"],
    "seeds": [sys.executable, "-m", "madang.sim.run", "--seeds", str(SEEDS), "--stop"],
    "tables": [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TABLES],
}
HASHED = "from madang.sim.run import run\nprint(*[run(seed).digest for seed in range(20)])"


@pytest.fixture
def copy(tmp_path):
    """A copy of what a mutant and its judges need."""
    ignored = shutil.ignore_patterns("__pycache__", "_web")
    for name in ("src/madang", "tests/core"):
        shutil.copytree(TOP / name, tmp_path / name, ignore=ignored)
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    return tmp_path


def notices(folder: Path, by: str) -> tuple[bool, str]:
    """Whether this judge finds anything wrong with the sources, and what it says."""
    if by == "hashes":
        told = {_run(folder, [sys.executable, "-c", HASHED], seed).stdout for seed in "012"}
        return len(told) > 1, "\n".join(sorted(told))
    ran = _run(folder, RUN[by])
    return ran.returncode != 0, ran.stdout[-2000:] + ran.stderr[-2000:]


def _run(
    folder: Path, command: list[str], hash_seed: str = "0"
) -> "subprocess.CompletedProcess[str]":
    paths = f"{folder / 'src'}:{folder}"
    return subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(mutant, copy):
    path = copy / "src/madang/core" / mutant.file
    source = path.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file} has changed: write the mutant anew"
    path.write_text(source.replace(mutant.old, mutant.new))

    noticed, told = notices(copy, mutant.by)

    assert noticed, f"survived: {told}"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["seeds", "plays", "tables", "hashes"])
def test_no_judge_condemns_the_innocent(by, copy):
    noticed, told = notices(copy, by)

    assert not noticed, told


def test_every_mutant_still_fits_the_sources():
    core = TOP / "src/madang/core"
    stale = [m.name for m in MUTANTS if (core / m.file).read_text().count(m.old) != 1]

    assert not stale
