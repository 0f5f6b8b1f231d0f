"""Little clusters as text, for tables of cases.

    n1: AAAA....  model=H100 cpus=64
    n2: x.......  cordoned

A capital is a whole device held by the job of that letter, a dot a free one, `x` an ill one, `#`
one that others than the yard use, and `{AB}` a device that A and B hold shares of. A job is a line:
`b: 2x4 share=500 project=vision`: two members with four devices each. With `moves=1` it checkpoints
and may be moved aside; held jobs do so under `under(policy, "a")`. `at=b0/l1` is a node's place in
the network tree. `then=L4+T4` are models that a job takes in this order where it finds none of
`model=`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from madang.core import events as ev
from madang.core.check import check
from madang.core.controller import Controller, Step
from madang.core.keys import queue_key
from madang.core.model import (
    Allocation,
    AllocationState,
    Category,
    Exit,
    Job,
    Need,
    Node,
    NodeState,
    Project,
    Provisioning,
    Seat,
    Segment,
    Shape,
    Taint,
    Toleration,
)
from madang.core.policy import Policy
from madang.core.state import State

FREE, ILL, TAKEN = ".", "x", "#"
START_MS = 1_000_000


class Yard:
    """A controller, a clock, and verbs that read like a story. Every turn is checked."""

    def __init__(self, picture: str = "") -> None:
        self.controller = Controller()
        self.now_ms = START_MS
        self.seq = 0
        self.facts: list[ev.Fact] = []
        self.last = Step((), ())
        self.controller.state.apply(ev.ProjectSet(Project("default")), self.now_ms)
        held: dict[str, list[Seat]] = {}
        for line in picture.strip().splitlines():
            self._add_node(line, held)
        for letter, seats in sorted(held.items()):
            self._hold(letter.lower(), tuple(seats))
        check(self.state)

    @property
    def state(self) -> State:
        return self.controller.state

    def under(
        self,
        policy: Policy,
        movable: str = "",
        estimates_s: Mapping[str, int] = MappingProxyType({}),
    ) -> "Yard":
        """Decide by this policy; of the jobs that run, these letters may be moved aside."""
        for id, live in self.state.jobs.items():
            live.job = replace(
                live.job,
                checkpoints=id in movable,
                estimate_ms=estimates_s.get(id, 0) * 1000,
            )
        self.state.policy = policy  # last: what the state derives of jobs is derived again
        return self

    def ran(self, job: str, attained_ms: int) -> "Yard":
        """Let the job have run so long in earlier attempts."""
        live = self.state.jobs[job]
        live.standing = replace(live.standing, attained_ms=attained_ms)
        return self

    # -- facts: kept until the next turn -----------------------------------------------------------

    def fact(self, fact: ev.Fact) -> "Yard":
        self.facts.append(fact)
        return self

    def submit(self, *lines: str) -> "Yard":
        for line in lines:
            self.fact(ev.JobSubmitted(self.job(line)))
        return self

    def started(self, allocation: str, *ranks: int) -> "Yard":
        for rank in ranks or range(len(self.state.allocations[allocation].seats)):
            self.fact(ev.MemberStarted(allocation, rank, self.now_ms))
        return self

    def ended(self, allocation: str, *ranks: int, code: int = 0, lost: bool = False) -> "Yard":
        for rank in ranks or range(len(self.state.allocations[allocation].seats)):
            self.fact(ev.MemberEnded(allocation, rank, Exit(code, lost=lost), self.now_ms))
        return self

    def stop(self, job: str) -> "Yard":
        return self.fact(ev.JobStopAsked(job))

    def requeue(self, job: str) -> "Yard":
        return self.fact(ev.JobRequeueAsked(job))

    def lost(self, node: str) -> "Yard":
        return self.fact(ev.NodeLost(node))

    def seen(self, node: str, *holds: tuple[str, int], **changes: Any) -> "Yard":
        known = self.state.nodes[node].node
        return self.fact(ev.NodeSeen(replace(known, **changes), holds))

    def cordon(self, node: str, cordoned: bool = True) -> "Yard":
        return self.fact(ev.NodeCordoned(node, cordoned))

    def quota(self, project: str, gpus: int) -> "Yard":
        return self.fact(ev.ProjectSet(Project(project, quota_milli=gpus * 1000)))

    # -- turns -------------------------------------------------------------------------------------

    def turn(self, wait_ms: int = 10) -> "Yard":
        """One turn, `wait_ms` later."""
        self.now_ms += wait_ms
        facts, self.facts = self.facts, []
        self.last = self.controller.step(facts, self.now_ms)
        check(self.state)
        return self

    def settled(self) -> "Yard":
        """Turns until none is due at once."""
        self.turn()
        for _ in range(20):
            if self.controller.due_ms(self.now_ms) != self.now_ms:
                return self
            self.turn(wait_ms=0)
        raise AssertionError(f"does not come to rest: {self.last}")

    # -- what there is -----------------------------------------------------------------------------

    def picture(self) -> str:
        """The nodes and, if any job waits, a last line `waiting: b c` in queue order."""
        lines = []
        for id, live in self.state.nodes.items():
            holders = self._holders(id)
            cells = [self._cell(live.node, gpu, holders[gpu]) for gpu in range(live.node.gpus)]
            mark = "" if live.state is NodeState.READY else f" {live.state.value}"
            lines.append(f"{id}: {''.join(cells)}{mark}".strip())
        if self.state.queue:
            lines.append("waiting: " + " ".join(id for _, id in self.state.queue))
        return "\n".join(lines)

    def phase(self, job: str) -> str:
        """`running`, or how it ended: `failed: member 0 exited with 3`."""
        state = self.state
        live = state.jobs.get(job) or state.ended_jobs[job]
        standing = live.standing
        return f"{standing.phase.value}: {standing.reason}".removesuffix(": ")

    def decisions(self) -> list[str]:
        """The last turn's decisions as short words."""
        return [_words(decision) for decision in self.last.decisions]

    def job(self, line: str) -> Job:
        """The job of a line of text."""
        id, _, text = line.partition(":")
        words = text.split()
        size = re.fullmatch(r"(?:(\d+)x)?(\d+)", words[0])
        assert size, f"not a size: {words[0]}"
        options = dict(word.split("=", 1) for word in words[1:])
        self.seq += 1
        job = Job(
            id=id.strip(),
            seq=self.seq,
            project=options.pop("project", "default"),
            members=int(size[1] or 1),
            shape=Shape(
                gpus=int(size[2]),
                gpu_milli=int(options.pop("share", 1000)),
                cpu_milli=int(float(options.pop("cpus", 0)) * 1000),
                memory_mib=int(options.pop("memory", 0)),
                models=tuple(filter(None, options.pop("model", "").split("|"))),
            ),
            priority=int(options.pop("priority", 0)),
            submitted_ms=self.now_ms,
            time_limit_ms=int(options.pop("limit_s", 0)) * 1000,
            retries_max=int(options.pop("retries", 0)),
            members_min=int(options.pop("min", 0)),
            within=options.pop("within", ""),
            within_soft=bool(options.pop("soft", "")),
            switches=int(options.pop("switches", 0)),
            switches_wait_ms=int(options.pop("wait_s", 0)) * 1000,
            segments=_segments(options.pop("segments", "")),
            category=Category(options.pop("category", "training")),
            checkpoints=bool(options.pop("checkpoints", "") or options.pop("moves", "")),
            estimate_ms=int(options.pop("estimate_s", 0)) * 1000,
            owner=options.pop("owner", ""),
            preemptible=options.pop("preemptible", "1") != "0",
            provisioning=Provisioning(options.pop("provisioning", "on_demand")),
            reservation=options.pop("reservation", ""),
            nice=int(options.pop("nice", 0)),
            head_start_ms=int(options.pop("head_start_s", 0)) * 1000,
            restart_ms=int(options.pop("restart_s", 0)) * 1000,
            zone=options.pop("zone", ""),
            exclusive=bool(options.pop("exclusive", "")),
            spread_nodes=int(options.pop("spread", 0)),
            data=_sizes(options.pop("data", "")),
            needs=_needs(options.pop("need", "")),
            tolerates=_tolerates(options.pop("tolerate", "")),
        )
        others = [replace(job.shape, models=(one,)) for one in _listed(options.pop("then", ""))]
        job = replace(job, fallbacks=tuple(others))
        assert not options, f"not an option of a job: {options}"
        return job

    # -- the text of a node ------------------------------------------------------------------------

    def _add_node(self, line: str, held: dict[str, list[Seat]]) -> None:
        id, _, text = line.strip().partition(":")
        cells, *words = text.split()
        devices = re.findall(r"\{\w+\}|.", cells)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        ill = sum(1 << gpu for gpu, cell in enumerate(devices) if cell == ILL)
        node = Node(
            id=id,
            gpus=0 if cells == "-" else len(devices),
            cpu_milli=int(options.get("cpus", 64)) * 1000,
            memory_mib=int(options.get("memory", 1024)),
            model=options.get("model", "H100"),
            healthy=~ill,
            domains=tuple(filter(None, options.get("at", "").split("/"))),
            zone=options.get("zone", ""),
            group=options.get("group", "default"),
            cached=_listed(options.get("cached", "")),
            labels=tuple(_pair(one) for one in _listed(options.get("labels", ""))),
            taints=tuple(Taint(*_pair(one)) for one in _listed(options.get("taints", ""))),
            taken=sum(1 << gpu for gpu, cell in enumerate(devices) if cell == TAKEN),
        )
        self.controller.state.apply(ev.NodeSeen(node), self.now_ms)
        if "suspicion" in options:
            flagged = ev.NodeFlagged(id, int(options["suspicion"]))
            self.controller.state.apply(flagged, self.now_ms)
        if "cordoned" in words:
            self.controller.state.apply(ev.NodeCordoned(id, True), self.now_ms)
        if "lost" in words:
            self.controller.state.apply(ev.NodeLost(id), self.now_ms)
        for letter in sorted({cell for cell in devices if cell.isupper() and len(cell) == 1}):
            gpus = tuple(gpu for gpu, cell in enumerate(devices) if cell == letter)
            held.setdefault(letter, []).append(Seat(id, gpus))
        for gpu, cell in enumerate(devices):
            for letter in cell.strip("{}") if cell.startswith("{") else "":
                held.setdefault(f"{letter}/", []).append(Seat(id, (gpu,)))

    def _hold(self, name: str, seats: tuple[Seat, ...]) -> None:
        """Let a job run there: a letter alone holds whole devices, `a/` half of each."""
        id = name.rstrip("/")
        shape = Shape(len(seats[0].gpus), 500 if name.endswith("/") else 1000)
        self.seq += 1
        job = Job(id, self.seq, "default", shape, len(seats), submitted_ms=self.now_ms - 1000)
        allocation = Allocation(
            f"{id}.1", id, "default", 1, shape, seats, AllocationState.BOUND, self.now_ms - 900
        )
        self.state.apply(ev.JobSubmitted(job), self.now_ms)
        self.state.apply(ev.AllocationBound(allocation), self.now_ms)
        for rank in range(len(seats)):
            self.state.apply(ev.MemberStarted(allocation.id, rank, self.now_ms - 800), self.now_ms)

    def _holders(self, node: str) -> dict[int, list[str]]:
        holders: dict[int, list[str]] = defaultdict(list)
        for id in self.state.on_node[node]:
            allocation = self.state.allocations[id]
            for rank, seat in enumerate(allocation.seats):
                for gpu in seat.gpus if seat.node == node and allocation.holds(rank) else ():
                    whole = allocation.shape.gpu_milli == 1000
                    letter = allocation.job[0].upper()
                    holders[gpu].append(letter if whole else f"/{letter}")
        return holders

    @staticmethod
    def _cell(node: Node, gpu: int, holders: list[str]) -> str:
        if not holders:
            if node.taken >> gpu & 1:
                return TAKEN
            return FREE if node.usable >> gpu & 1 else ILL
        if holders[0].startswith("/"):
            return "{" + "".join(sorted(holder[1:] for holder in holders)) + "}"
        return "".join(holders)


def _segments(text: str) -> tuple[Segment, ...]:
    """`leaf:8,node:2`: runs of 8 ranks in a leaf, of 2 in a node."""
    words = [word.split(":") for word in text.split(",") if word]
    return tuple(Segment(level, int(members)) for level, members in words)


def _pair(text: str) -> tuple[str, str]:
    """`rack:r1`, or `old`."""
    key, _, value = text.partition(":")
    return key, value


def _needs(text: str) -> tuple[tuple[Need, ...], ...]:
    """`rack:r1+fast/rack:r2`: alternatives between /, all of the words between +."""
    return tuple(
        tuple(
            Need(key, "in" if value else "exists", tuple(filter(None, (value,))))
            for key, value in map(_pair, _listed(one))
        )
        for one in filter(None, text.split("/"))
    )


def _tolerates(text: str) -> tuple[Toleration, ...]:
    """`gpu+team:a`: a key whatever its value, or key and value."""
    pairs = map(_pair, _listed(text))
    return tuple(Toleration(key, "equal" if value else "exists", value) for key, value in pairs)


def _listed(text: str) -> tuple[str, ...]:
    """`a+b`: two words."""
    return tuple(filter(None, text.split("+")))


def _sizes(text: str) -> tuple[tuple[str, int], ...]:
    """`imagenet:4096+torch:900`: names and MiB."""
    words = [word.split(":") for word in _listed(text)]
    return tuple((name, int(mib)) for name, mib in words)


def after(picture: str, *jobs: str) -> str:
    """The yard once the jobs were submitted, in this order, and one turn was made."""
    return Yard(picture).submit(*jobs).turn().picture()


def text(picture: str) -> str:
    """An expected picture, written as a block, in the form of `Yard.picture`."""
    return "\n".join(line.strip() for line in picture.strip().splitlines())


def queued(yard: Yard) -> list[str]:
    """The waiting jobs, sorted from scratch."""
    waiting = [live for live in yard.state.jobs.values() if live.allocation is None]
    policy = yard.state.policy
    return [one.job.id for one in sorted(waiting, key=lambda live: queue_key(policy, live))]


def _words(decision: ev.Decision) -> str:
    match decision:
        case ev.JobRejected():
            return f"reject {decision.job} {decision.code}"
        case ev.AllocationBound():
            return f"bind {decision.allocation.id}"
        case ev.JobNominated():
            return f"nominate {decision.job}"
        case ev.NominationDropped():
            return f"drop {decision.job}"
        case ev.ReleaseAsked():
            return f"release {decision.allocation} {decision.reason.value} {decision.grace_ms}"
        case ev.JobRequeued():
            return f"requeue {decision.job} {decision.not_before_ms}"
        case ev.JobEnded():
            return f"end {decision.job} {decision.phase.value}"
        case ev.JobWarned():
            return f"warn {decision.job} {decision.code} {decision.until_ms}"
        case ev.HoleMade():
            nodes = " ".join(seat.node for seat in decision.seats)
            return f"hole {decision.hole} {nodes}"
        case ev.HoleDropped():
            return f"drop hole {decision.hole} {decision.code}"
