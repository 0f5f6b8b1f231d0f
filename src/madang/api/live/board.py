"""The columns at one moment: who holds each device, in which state it is, what its sensors say.

One thread at a time. What did not change since the last look is not looked at again: a turn that
starts one job costs a walk over ids, not over devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madang.api.live.frames import Picture, Table
from madang.api.live.schema import (
    IDLE,
    JOB,
    JOBS_TABLE,
    MISSING,
    NEWS_TABLE,
    NODES_TABLE,
    SENSORS,
    STATE,
    STATE_CODE,
    TOP,
    UTIL,
    Bytes,
    planes,
    quantised,
)
from madang.api.live.sensors import Devices, Sensors, board_w
from madang.core.live import LiveNode
from madang.core.model import Allocation, Job, NodeState, Phase, Project, Standing
from madang.core.rules import Violations
from madang.core.snapshot import Snapshot

Ints = NDArray[np.int32]

IDLE_UTIL_MAX = 2  # percent
IDLE_AFTER_MS = 60_000  # shorter pauses are checkpoints and data loading
MINUTE_MS = 60_000
GAP_MS = 45_000  # a longer one between two looks may have hidden work
NAMED_MAX = 500  # jobs of one tick; more are told as "all"
NODE_STATES = ("ready", "cordoned", "lost")
_NODE_CODE = {NodeState.READY: 0, NodeState.CORDONED: 1, NodeState.LOST: 2}
_PHASE_CODE = {
    Phase.RUNNING: STATE_CODE["running"],
    Phase.STOPPING: STATE_CODE["draining"],
}


@dataclass(frozen=True, slots=True)
class Hold:
    """What an allocation holds: rows of devices, and the slot of its job."""

    allocation: Allocation
    phase: Phase
    slot: int
    rows: Ints
    milli: int


@dataclass(slots=True)
class Places:
    """The devices of a version: rows in the order of nodes, first[n] the first of node n."""

    version: int
    live: list[LiveNode]
    row_of: dict[str, int]
    first: Ints
    devices: Devices
    healthy: NDArray[np.bool_]
    node_state: Bytes


@dataclass(slots=True)
class Slots:
    """Jobs by a small number that is theirs as long as they hold a device, and then another's."""

    of: dict[str, int] = field(default_factory=dict)
    entry: dict[int, list[Any]] = field(default_factory=dict)
    _spare: list[int] = field(default_factory=list)

    def take(self, job: Job) -> int:
        known = self.of.get(job.id)
        if known is not None:
            return known
        slot = self._spare.pop() if self._spare else len(self.entry) + 1
        self.of[job.id] = slot
        self.entry[slot] = _entry(slot, job)
        return slot

    def give(self, ids: set[str]) -> list[int]:
        dropped = [self.of.pop(id) for id in sorted(ids)]
        for slot in dropped:
            self.entry[slot] = []
        self._spare += dropped
        return dropped


def _entry(slot: int, job: Job) -> list[Any]:
    """See JOB_COLUMNS."""
    return [slot, job.id, job.project, job.owner, job.seq, job.members, str(job.category)]


JOB_COLUMNS = ("slot", "id", "project", "owner", "n", "members", "category")


class Board:
    """See the module's docstring."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._places: Places | None = None
        self._version = 0
        self._holds: dict[str, Hold] = {}
        self._slots = Slots()
        self._standings: Mapping[str, Standing] = {}
        self._projects: Mapping[str, Project] = {}
        self._violations: Mapping[str, Violations] = {}
        self._seq = -1
        self._reading = -1
        self._job = np.zeros(0, np.int32)
        self._base = np.zeros(0, np.uint8)
        self._columns: dict[int, Bytes] = {}
        self._idle_since_ms = np.zeros(0, np.int64)
        self._marked_ms = 0

    def look(self, snapshot: Callable[[], Snapshot], seq: int, now_ms: int) -> Picture | None:
        """The moment; None if nothing has changed since the last one.

        Args:
            snapshot: asked only if the journal has grown: a copy of the state is not free.
            seq: the journal's last sequence, read before the snapshot.
        """
        reading = self._sensors.look(now_ms)
        if seq == self._seq and reading == self._reading:
            return None
        patches: dict[int, Table] = {}
        if seq != self._seq:
            patches = self._follow(snapshot())
            self._seq = seq
        assert self._places is not None, "followed a snapshot first"
        if reading != self._reading or UTIL.id not in self._columns:
            self._read(self._places.devices)
            self._reading = reading
        self._mark_idle(now_ms)
        return self._picture(now_ms, patches)

    @property
    def count(self) -> int:
        """How many devices there are; 0 before the first look."""
        return len(self._job)

    def again(self, now_ms: int) -> Picture:
        """The last moment once more, to say that it still is so."""
        return self._picture(now_ms, {})

    def _picture(self, now_ms: int, patches: dict[int, Table]) -> Picture:
        places = self._places
        assert places is not None, "looked first"
        return Picture(
            places.version,
            now_ms,
            self._seq,
            dict(self._columns),
            {NODES_TABLE: partial(_nodes_table, places), JOBS_TABLE: self._jobs_table},
            patches,
        )

    # -- nodes -------------------------------------------------------------------------------------

    def _follow(self, snapshot: Snapshot) -> dict[int, Table]:
        """Take over what the turns since the last look changed; the patches of the tables."""
        nodes_patch = self._follow_nodes(snapshot)
        held = dict(self._holds)
        jobs_patch = self._follow_holds(snapshot)
        self._base = self._states(snapshot)
        self._columns[JOB.id] = planes(self._job, JOB.width)
        news = self._follow_standings(snapshot, held)
        return {NODES_TABLE: nodes_patch, JOBS_TABLE: jobs_patch, NEWS_TABLE: news}

    def _follow_standings(self, snapshot: Snapshot, held: dict[str, Hold]) -> Table:
        """Which jobs a page must ask about anew; `all` where they are too many to name."""
        before, projects = self._standings, self._projects
        now = {id: live.standing for id, live in snapshot.jobs.items()}
        self._standings, self._projects = now, snapshot.projects
        changed = {id for id, standing in now.items() if before.get(id) is not standing}
        changed |= before.keys() - now.keys()
        broken, self._violations = self._violations, snapshot.settings.violations
        for row in {**broken, **self._violations}.values():
            if broken.get(row.allocation) is not self._violations.get(row.allocation):
                changed.add(row.job)
        moved = held.keys() ^ self._holds.keys()
        moved |= {id for id, hold in self._holds.items() if held.get(id) is not hold}
        for id in moved:
            hold = self._holds.get(id) or held[id]
            changed.add(hold.allocation.job)
        others = projects != snapshot.projects
        if not changed and not others:
            return {}
        if len(changed) > NAMED_MAX:
            return {"jobs": [], "all": True, "others": others}
        return {"jobs": sorted(changed), "others": others}

    def _follow_nodes(self, snapshot: Snapshot) -> Table:
        live = [one for one in snapshot.nodes.values() if one.state is not NodeState.REMOVED]
        known = self._places
        if known is None or not _same_devices(known.live, live):
            self._version += 1
            self._places = _places(self._version, live)
            self._holds.clear()  # rows mean something else now
            self._columns.clear()
            count = len(self._places.devices.index)
            self._idle_since_ms = np.zeros(count, np.int64)
            self._marked_ms = 0
            return {}
        changed = [row for row, one in enumerate(live) if one is not known.live[row]]
        moved = []
        for row in changed:
            one = live[row]
            start, end = int(known.first[row]), int(known.first[row + 1])
            known.healthy[start:end] = _healthy(one)
            if known.node_state[row] != _NODE_CODE[one.state]:
                known.node_state[row] = _NODE_CODE[one.state]
                moved.append([row, int(known.node_state[row])])
        known.live = live
        return {"state": moved} if moved else {}

    # -- who holds what ----------------------------------------------------------------------------

    def _follow_holds(self, snapshot: Snapshot) -> Table:
        assert self._places is not None, "nodes come first"
        places, slots, before = self._places, self._slots, self._holds
        holds: dict[str, Hold] = {}
        for id, allocation in snapshot.allocations.items():
            live = snapshot.jobs.get(allocation.job)
            phase = live.standing.phase if live is not None else Phase.STOPPING
            known = before.get(id)
            if known is not None and known.allocation is allocation and known.phase is phase:
                holds[id] = known
                continue
            rows = _rows(places, allocation)
            if not len(rows):
                continue
            job = live.job if live is not None else None
            slot = slots.take(job) if job is not None else slots.of.get(allocation.job, 0)
            holds[id] = Hold(allocation, phase, slot, rows, allocation.shape.gpu_milli)
        self._holds = holds
        there = {hold.allocation.job for hold in holds.values()}
        dropped = slots.give(set(slots.of) - there)
        new = {hold.slot for id, hold in holds.items() if hold is not before.get(id)}
        self._job = np.zeros(len(places.devices.index), np.int32)
        for hold in sorted(holds.values(), key=lambda one: one.milli):
            self._job[hold.rows] = hold.slot  # the largest share of a device comes last
        patch = {"set": [slots.entry[slot] for slot in sorted(new) if slot], "drop": dropped}
        return patch if patch["set"] or dropped else {}

    def _states(self, snapshot: Snapshot) -> Bytes:
        """(U,) codes, idleness aside. What is wrong with a device goes before who has it."""
        assert self._places is not None, "nodes come first"
        places = self._places
        out = np.full(len(places.devices.index), STATE_CODE["free"], np.uint8)
        row_of, first = places.row_of, places.first
        for seats in snapshot.nominations.values():
            for seat in seats:
                if seat.node in row_of:
                    out[first[row_of[seat.node]] + np.array(seat.gpus, np.int32)] = STATE_CODE[
                        "reserved"
                    ]
        by_state: dict[int, list[Ints]] = {}
        for hold in self._holds.values():
            code = _PHASE_CODE.get(hold.phase, STATE_CODE["starting"])
            by_state.setdefault(code, []).append(hold.rows)
        for name in ("starting", "draining", "running"):  # a shared device shows its busiest holder
            if rows := by_state.get(STATE_CODE[name]):
                out[np.concatenate(rows)] = STATE_CODE[name]
        node_state = places.node_state[places.devices.node_of]
        out[node_state == _NODE_CODE[NodeState.CORDONED]] = STATE_CODE["draining"]
        out[~places.healthy] = STATE_CODE["faulty"]
        out[node_state == _NODE_CODE[NodeState.LOST]] = STATE_CODE["lost"]
        return out

    # -- sensors -----------------------------------------------------------------------------------

    def _read(self, devices: Devices) -> None:
        values = self._sensors.read(devices)
        for one in SENSORS:
            known = values.get(one.metric)
            self._columns[one.id] = (
                np.full(len(devices.index), MISSING, np.uint8)
                if known is None
                else quantised(one, known)
            )

    def _mark_idle(self, now_ms: int) -> None:
        """Held, running, and doing nothing for a minute: a state of its own."""
        running = self._base == STATE_CODE["running"]
        quiet = running & (self._columns[UTIL.id] <= IDLE_UTIL_MAX)
        since = self._idle_since_ms
        if now_ms - self._marked_ms > GAP_MS and quiet.any():
            self._look_back(since)  # nobody looked for a while
        self._marked_ms = now_ms
        since[quiet & (since == 0)] = now_ms
        since[~quiet] = 0
        idle = quiet & (now_ms - since >= IDLE_AFTER_MS)
        state = self._base.copy()
        state[idle] = STATE_CODE["idle"]
        minutes = np.full(len(state), MISSING, np.uint8)
        minutes[idle] = np.minimum((now_ms - since[idle]) // MINUTE_MS, TOP).astype(np.uint8)
        self._columns[STATE.id] = state
        self._columns[IDLE.id] = minutes

    def _jobs_table(self) -> Table:
        rows = [entry for _, entry in sorted(self._slots.entry.items()) if entry]
        return {"columns": list(JOB_COLUMNS), "set": rows}

    def _look_back(self, since: NDArray[np.int64]) -> None:
        """Since when devices are quiet, by what the sensors remember; not from before their job."""
        assert self._places is not None, "followed first"
        since[:] = self._sensors.quiet_since_ms(self._places.devices, IDLE_UTIL_MAX)
        for hold in self._holds.values():
            began_ms = hold.allocation.running_ms or hold.allocation.bound_ms
            since[hold.rows] = np.where(
                since[hold.rows] > 0, np.maximum(since[hold.rows], began_ms), 0
            )


# -- places ----------------------------------------------------------------------------------------


def _same_devices(before: list[LiveNode], now: list[LiveNode]) -> bool:
    if len(before) != len(now):
        return False
    pairs = zip(before, now, strict=True)
    return all(a is b or a.node is b.node or _named(a) == _named(b) for a, b in pairs)


def _named(live: LiveNode) -> tuple[Any, ...]:
    """All of a node that a page shows and that does not move with its health."""
    node = live.node
    return (node.id, node.gpus, node.model, node.group, node.domains, node.gpu_memory_mib)


def _healthy(live: LiveNode) -> NDArray[np.bool_]:
    usable = live.node.usable
    return np.array([usable >> gpu & 1 for gpu in range(live.node.gpus)], np.bool_)


def _places(version: int, live: list[LiveNode]) -> Places:
    gpus = np.array([one.node.gpus for one in live], np.int32)
    first = np.concatenate([[0], np.cumsum(gpus)]).astype(np.int32)
    node_of = np.repeat(np.arange(len(live), dtype=np.int32), gpus)
    limits = np.array([board_w(one.node.model) for one in live], np.float32)
    memory = np.array([one.node.gpu_memory_mib for one in live], np.float32)
    devices = Devices(
        nodes=[one.node.id for one in live],
        node_of=node_of,
        index=np.arange(len(node_of), dtype=np.int32) - first[node_of],
        limit_w=limits[node_of],
        memory_mib=memory[node_of],
    )
    return Places(
        version,
        live,
        {one.node.id: row for row, one in enumerate(live)},
        first,
        devices,
        np.concatenate([np.zeros(0, np.bool_), *map(_healthy, live)]),
        np.array([_NODE_CODE[one.state] for one in live], np.uint8),
    )


def _rows(places: Places, allocation: Allocation) -> Ints:
    """The devices that members of an allocation still hold; none of nodes that are gone."""
    found: list[int] = []
    for rank, seat in enumerate(allocation.seats):
        row = places.row_of.get(seat.node)
        if row is None or not allocation.holds(rank):
            continue
        start, end = int(places.first[row]), int(places.first[row + 1])
        found += [start + gpu for gpu in seat.gpus if start + gpu < end]
    return np.array(found, np.int32)


def _nodes_table(places: Places) -> Table:
    """Columns over nodes; what many share is a code into a list of names."""
    live = places.live
    models, model = _coded([one.node.model for one in live])
    groups, group = _coded([one.node.group for one in live])
    domains, paths = _coded([list(one.node.domains) for one in live])
    return {
        "version": places.version,
        "states": list(NODE_STATES),
        "id": [one.node.id for one in live],
        "gpus": [one.node.gpus for one in live],
        "state": places.node_state.tolist(),
        "models": models,
        "model": model,
        "groups": groups,
        "group": group,
        "paths": domains,
        "path": paths,
        "cpus": [one.node.cpu_milli // 1000 for one in live],
        "memory_mib": [one.node.memory_mib for one in live],
        "gpu_memory_mib": [one.node.gpu_memory_mib for one in live],
        "limit_w": [board_w(one.node.model) for one in live],
    }


def _coded(values: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The different values in the order of their first use, and each one's place among them."""
    known: dict[str, int] = {}
    names: list[Any] = []
    codes = []
    for value in values:
        key = str(value)
        if key not in known:
            known[key] = len(names)
            names.append(value)
        codes.append(known[key])
    return names, codes
