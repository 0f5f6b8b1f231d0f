"""Random stories for a yard: what users ask and engines see, good and bad, in any order.

A story is a list of turns; a turn is a pause and some moves; a move is a kind and three numbers,
which choose among what there is at that moment. So a story shrinks well, and tells the same again.
"""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.hypernodes import Domain, Members, Topology
from madang.core.model import Exit, Job, Node, Project, Shape
from madang.core.settings import DisruptionBudget, Quota, Reservation, Workspace, Zone
from madang.core.state import State

SHAPES = (
    Shape(1),
    Shape(2),
    Shape(4, cpu_milli=8_000, memory_mib=1_000),
    Shape(1, 500),
    Shape(1, 300, cpu_milli=100),
    Shape(0, cpu_milli=4_000),
    Shape(1, models=("H100",)),
    Shape(2, models=("A100", "H100")),
    Shape(1, models=("B200",)),
)
EXITS = (Exit(0), Exit(0), Exit(1), Exit(0, signal=9), Exit(0, lost=True))
NODES = ("n0", "n1", "n2")
PROJECTS = ("vision", "speech")
REST = Members("node", "regex", "n[12]"), Members("node", "exact", "n2")

Number = st.integers(0, 63)


@dataclass(frozen=True)
class Move:
    kind: str
    a: int
    b: int
    c: int


KINDS = (
    *("submit", "start", "end") * 3,
    *("submit", "gang") * 3,
    *("stop", "requeue", "lost", "seen", "cordon", "project", "again"),
    *("set", "watch"),
)
MOVES = st.builds(Move, st.sampled_from(KINDS), Number, Number, Number)
TURNS = st.tuples(st.sampled_from((0, 5, 60, 2_000)), st.lists(MOVES, max_size=6))
STORIES = st.lists(TURNS, min_size=1, max_size=25)

FIRST: tuple[ev.Fact, ...] = (
    *(ev.ProjectSet(Project(id)) for id in PROJECTS),
    ev.NodeSeen(Node("n0", 4, 32_000, 64_000, "H100")),
    ev.NodeSeen(Node("n1", 8, 64_000, 64_000, "A100", group="old")),
)


def tree(b: int) -> Topology:
    """One of a few little trees over the nodes."""
    leaves = Domain("l0", 1, (Members("node", "exact", "n0"),)), Domain("l1", 1, (REST[b % 2],))
    block = Domain("b0", 2, (Members("domain", "regex", "l[01]"),))
    return Topology(("block", "leaf"), domains=(*leaves, *(block,) * (b % 3 > 0)))


# A full yard of jobs that may be moved aside, for policies that do so.
FULL = [
    (0, [Move("submit", 4, 1, 1)] * 3),
    (5, [Move("gang", 63, 0, 0)]),
    (60, []),
]


class Teller:
    """Turns moves into facts about the yard as it is."""

    def __init__(self) -> None:
        self.n = 0
        self.told: list[ev.Fact] = []

    def facts(self, state: State, moves: list[Move], now_ms: int) -> list[ev.Fact]:
        facts = [fact for move in moves for fact in self._facts(state, move, now_ms)]
        self.told += facts
        return facts

    def _facts(self, state: State, move: Move, now_ms: int) -> list[ev.Fact]:
        if move.kind == "gang":
            return self._gang(state, move, now_ms)
        fact = self._fact(state, move, now_ms)
        return [] if fact is None else [fact]

    def _fact(self, state: State, move: Move, now_ms: int) -> ev.Fact | None:
        match move.kind:
            case "submit":
                return self._submit(move, now_ms)
            case "start" | "end":
                return self._member(state, move, now_ms)
            case "stop" | "requeue":
                jobs = list(state.jobs)
                if not jobs:
                    return None
                job = jobs[move.a % len(jobs)]
                return ev.JobStopAsked(job) if move.kind == "stop" else ev.JobRequeueAsked(job)
            case "lost":
                return ev.NodeLost(NODES[move.a % 3])
            case "seen":
                return self._seen(state, move)
            case "cordon":
                return ev.NodeCordoned(NODES[move.a % 3], bool(move.b % 2))
            case "project":
                quota_milli = (-1, 2_000, 6_000)[move.b % 3]
                return ev.ProjectSet(Project(PROJECTS[move.a % 2], quota_milli=quota_milli))
            case "set":
                return (
                    ev.QuotaSet(Quota(f"project:{PROJECTS[move.a % 2]}", weight=1 + move.b)),
                    ev.ZoneSet(Zone(f"z{move.a % 2}", gpus_max=move.b)),
                    ev.WorkspaceSet(Workspace("lab")),
                    ev.BudgetSet(DisruptionBudget("search", PROJECTS[0], move.b)),
                    ev.ReservationSet(Reservation("r", PROJECTS[1], Shape(8), 1, 1, 2 + move.b)),
                    ev.SettingDropped(
                        ("zones", "budgets")[move.a % 2], ("z0", "search")[move.a % 2]
                    ),
                    ev.TopologySet(tree(move.b)),
                    ev.SettingDropped("topologies", "tree"),
                )[move.c % 8]
            case "watch":
                return self._watched(state, move, now_ms)
            case _:  # an engine says something twice, late; a number is given to one job only
                told = [fact for fact in self.told if not isinstance(fact, ev.JobSubmitted)]
                return told[move.a % len(told)] if told else None

    @staticmethod
    def _watched(state: State, move: Move, now_ms: int) -> ev.Fact:
        """What sensors and operators say of nodes and jobs."""
        job = [*state.jobs, "nobody-0"][move.a % (len(state.jobs) + 1)]
        return (
            ev.NodeFlagged(NODES[move.a % 3], move.b % 3),
            ev.NodeRemoved(NODES[move.a % 3]),
            ev.CheckpointSaved(job, now_ms - move.b),
            ev.JobMeasured(job, move.b, 60_000, now_ms),
            ev.ProjectMeasured(PROJECTS[move.a % 2], move.b, 50),
        )[move.c % 5]

    def _submit(self, move: Move, now_ms: int) -> ev.Fact:
        self.n += 1
        return ev.JobSubmitted(
            Job(
                f"job-{self.n}",
                self.n,
                PROJECTS[move.a % 2],
                SHAPES[move.b % len(SHAPES)],
                members=1 + move.c % 4,
                priority=move.a // 2 % 2,
                submitted_ms=now_ms,
                time_limit_ms=(0, 50, 5_000)[move.c // 4 % 3],
                retries_max=move.b // 16,
                estimate_ms=move.c * 10,
                checkpoints=bool(move.a // 4 % 2),
            )
        )

    @staticmethod
    def _gang(state: State, move: Move, now_ms: int) -> list[ev.Fact]:
        """All members of some allocations start, and of some that were asked to leave end."""
        facts: list[ev.Fact] = []
        for number, allocation in enumerate(state.allocations.values()):
            ranks = range(len(allocation.seats))
            if allocation.releasing_ms and move.b >> number % 6 & 1:
                facts += [ev.MemberEnded(allocation.id, r, Exit(0), now_ms) for r in ranks]
            elif move.a >> number % 6 & 1:
                facts += [ev.MemberStarted(allocation.id, r, now_ms) for r in ranks]
        return facts

    @staticmethod
    def _member(state: State, move: Move, now_ms: int) -> ev.Fact | None:
        allocations = list(state.allocations.values())
        if not allocations:
            return None
        allocation = allocations[move.a % len(allocations)]
        rank = move.b % len(allocation.seats)
        if move.kind == "start":
            return ev.MemberStarted(allocation.id, rank, now_ms - move.c % 3)
        return ev.MemberEnded(allocation.id, rank, EXITS[move.c % len(EXITS)], now_ms)

    @staticmethod
    def _seen(state: State, move: Move) -> ev.Fact:
        """A node reports itself: as it was, ill, changed in its hardware, or back from a loss."""
        id = NODES[move.a % 3]
        live = state.nodes.get(id)
        node = live.node if live else Node(id, 8, 64_000, 64_000, "H100")
        changes: dict[str, object] = {}
        match move.b % 8:
            case 1:
                changes = {"healthy": move.c}
            case 2:
                changes = {"healthy": -1}
            case 3:
                changes = {"gpus": (2, 4, 8, 16)[move.c % 4]}
            case 4:
                changes = {"model": ("H100", "A100", "B200", "")[move.c % 4]}
            case 5:
                changes = {"cpu_milli": 16_000 + move.c, "group": "new"}
        held = [
            (allocation.id, rank)
            for allocation in state.allocations.values()
            for rank, seat in enumerate(allocation.seats)
            if seat.node == id and allocation.holds(rank)
        ]
        kept = [pair for i, pair in enumerate(held) if not move.c >> i & 1]
        if move.c % 7 == 6:
            kept.append(("stranger-1.1", 0))
        return ev.NodeSeen(replace(node, **changes), tuple(kept))  # type: ignore[arg-type]
