"""`EngineContract`: every promise of `madang.engines.base` as a test.

Whoever writes an engine writes a `World` (how to make one, and how to make its members succeed,
fail or run on) and subclasses the suite:

    class TestMyEngine(EngineContract):
        @pytest.fixture
        def world(self, tmp_path):
            with closing(MyWorld(tmp_path)) as world:
                yield world

The suite needs pytest and nothing else. It never sleeps for a result: it waits for `wake`.
"""

import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import pytest

from madang.core.events import Fact, MemberEnded, MemberStarted, NodeSeen
from madang.core.model import Allocation, AllocationState, Exit, Seat, Shape
from madang.engines.base import Engine, EngineError, Launch, Readings, Start, Stop

PATIENCE_S = 30.0  # only a broken engine makes the suite wait this long
FAIL_CODE = 3
WORD = b"hello from the member"


class Behaviour(StrEnum):
    """What a member of the suite does."""

    SUCCEED = "succeed"  # ends by itself, soon, with 0
    FAIL = "fail"  # ends by itself, soon, with FAIL_CODE
    RUN_ON = "run_on"  # runs until it is asked to end, then ends soon
    DEFY = "defy"  # runs on, and takes no notice of SIGTERM
    TALK = "talk"  # writes WORD to its log, reports {"step": 1} and {"step": 2}, succeeds
    IMPOSSIBLE = "impossible"  # cannot even start


class World(ABC):
    """Where engines under test live. One per test; it outlasts the engines made from it."""

    node: str  # the node that members of the suite sit on
    gpus: int  # its devices; the suite needs at least 2
    runs_commands = True  # False: `exec_command` has nothing to run, and says so by EngineError
    reads_members = True  # False: the agents on its nodes do, and the engine itself tells nothing

    @abstractmethod
    def engine(self) -> Engine:
        """A new engine over this world, not yet open; at most one is open at a time."""

    @abstractmethod
    def command(self, behaviour: Behaviour) -> tuple[str, ...]:
        """A command that behaves so."""

    @abstractmethod
    def starts(self, allocation: str, rank: int) -> int:
        """How often this member really began to run."""

    def settled(self, allocation: str, rank: int) -> bool:
        """True once a started member has taken its behaviour on (DEFY: ignores SIGTERM)."""
        return True

    def let_pass(self, woken: threading.Event) -> None:
        """Let time go on a little; return early when the engine called `wake`."""
        woken.wait(0.05)

    def close(self) -> None:  # noqa: B027 - not every world has something to end
        """End what is left."""


@dataclass(slots=True)
class Watch:
    """An open engine and all it has told so far."""

    world: World
    engine: Engine
    woken: threading.Event = field(default_factory=threading.Event)
    facts: list[Fact] = field(default_factory=list)

    def until(self, told: Callable[[], object], what: str) -> None:
        """Observe until `told()`; fails after PATIENCE_S with all that was seen."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            self.woken.clear()
            self.facts.extend(self.engine.observe(1000))
            if told():
                return
            assert time.monotonic() < end_s, f"not seen: {what}; seen: {self.facts}"
            self.world.let_pass(self.woken)

    def until_started(self, allocation: Allocation) -> None:
        ranks = set(range(len(allocation.seats)))
        self.until(lambda: self.started(allocation.id) == ranks, f"all of {allocation.id} start")
        self.until(
            lambda: all(self.world.settled(allocation.id, rank) for rank in ranks),
            f"all of {allocation.id} settle",
        )

    def until_ended(self, allocation: Allocation) -> dict[int, Exit]:
        """How each rank ended."""
        count = len(allocation.seats)
        self.until(lambda: len(self.ended(allocation.id)) == count, f"all of {allocation.id} end")
        return self.ended(allocation.id)

    def started(self, allocation: str) -> set[int]:
        return {
            fact.rank
            for fact in self.facts
            if isinstance(fact, MemberStarted) and fact.allocation == allocation
        }

    def ended(self, allocation: str) -> dict[int, Exit]:
        found: dict[int, Exit] = {}
        for fact in self.facts:
            if isinstance(fact, MemberEnded) and fact.allocation == allocation:
                assert found.setdefault(fact.rank, fact.exit) == fact.exit, f"two ends: {fact}"
        return found


def _member_keys(readings: Sequence[Readings]) -> set[str]:
    return {
        key
        for one in readings
        for column in one.columns
        if column.subject == "member"
        for key in column.keys
    }


class EngineContract:
    """Subclass it and give it a `world`."""

    @pytest.fixture
    def world(self) -> Iterator[World]:
        raise NotImplementedError("a subclass says which engine is tested")

    @pytest.fixture
    def opened(self, world: World) -> Iterator[Callable[[], Watch]]:
        """Opens a new engine each time it is called; the one before is closed."""
        watches: list[Watch] = []

        def open_one() -> Watch:
            if watches:
                watches[-1].engine.close()
            watch = Watch(world, world.engine())
            watch.engine.open(watch.woken.set)
            watches.append(watch)
            return watch

        yield open_one
        if watches:
            watches[-1].engine.close()

    @pytest.fixture
    def watch(self, opened: Callable[[], Watch]) -> Watch:
        """An engine that has just been opened and had nothing to adopt."""
        watch = opened()
        watch.engine.adopt(())
        return watch

    # -- nodes --------------------------------------------------------------------------------

    def test_its_node_is_seen_without_being_asked_for(self, world: World, watch: Watch) -> None:
        def seen() -> bool:
            return any(isinstance(f, NodeSeen) and f.node.id == world.node for f in watch.facts)

        watch.until(seen, f"node {world.node}")

        nodes = [f.node for f in watch.facts if isinstance(f, NodeSeen) and f.node.id == world.node]
        assert nodes[-1].gpus == world.gpus
        assert nodes[-1].cpu_milli > 0
        assert nodes[-1].memory_mib > 0

    # -- sensors ------------------------------------------------------------------------------

    def test_readings_tell_of_a_member_while_it_runs(self, world: World, watch: Watch) -> None:
        job = allocation(world, "sensed-1")
        watch.engine.act([start(world, job, Behaviour.RUN_ON)])
        watch.until_started(job)
        watch.engine.readings()
        while_it_ran = watch.engine.readings()
        watch.engine.act([Stop(job.id, 0)])
        watch.until_ended(job)

        assert (f"{job.id}/0" in _member_keys(while_it_ran)) is world.reads_members
        assert f"{job.id}/0" not in _member_keys(watch.engine.readings())

    def test_readings_have_a_value_for_each_metric_and_key(
        self, world: World, watch: Watch
    ) -> None:
        job = allocation(world, "sensed-2")
        watch.engine.act([start(world, job, Behaviour.RUN_ON)])
        watch.until_started(job)
        found = [*watch.engine.readings(), *watch.engine.readings()]
        watch.engine.act([Stop(job.id, 0)])
        watch.until_ended(job)

        for one in found:
            assert one.at_ms > 0
            told: set[tuple[str, str]] = set()
            for block in one.blocks:
                assert block.values.shape == (len(block.metrics), len(block.keys))
                assert block.values.dtype.name == "float32"
                for metric in block.metrics:
                    assert told.isdisjoint((metric, key) for key in block.keys), "told twice"
                    told.update((metric, key) for key in block.keys)

    # -- act ----------------------------------------------------------------------------------

    def test_every_member_of_a_gang_starts_and_ends(self, world: World, watch: Watch) -> None:
        gang = allocation(world, "gang-1", members=2)
        watch.engine.act([start(world, gang, Behaviour.SUCCEED)])

        assert watch.until_ended(gang) == {0: Exit(0), 1: Exit(0)}
        assert watch.started(gang.id) == {0, 1}
        assert [world.starts(gang.id, rank) for rank in (0, 1)] == [1, 1]

    def test_a_member_is_seen_to_start_before_it_is_seen_to_end(
        self, world: World, watch: Watch
    ) -> None:
        job = allocation(world, "order-1")
        watch.engine.act([start(world, job, Behaviour.SUCCEED)])
        watch.until_ended(job)

        kinds = [type(f) for f in watch.facts if isinstance(f, MemberStarted | MemberEnded)]
        assert kinds[0] is MemberStarted
        assert kinds[-1] is MemberEnded

    def test_the_exit_code_of_a_member_is_kept(self, world: World, watch: Watch) -> None:
        job = allocation(world, "fail-1")
        watch.engine.act([start(world, job, Behaviour.FAIL)])

        assert watch.until_ended(job) == {0: Exit(FAIL_CODE)}

    def test_a_member_that_cannot_start_ends_badly(self, world: World, watch: Watch) -> None:
        job = allocation(world, "impossible-1")
        watch.engine.act([start(world, job, Behaviour.IMPOSSIBLE)])

        assert not watch.until_ended(job)[0].ok

    def test_the_same_start_twice_starts_once(self, world: World, watch: Watch) -> None:
        job = allocation(world, "twice-1")
        again = start(world, job, Behaviour.RUN_ON)
        watch.engine.act([again, again])
        watch.until_started(job)
        watch.engine.act([again])
        watch.engine.act([Stop(job.id, 10_000)])
        watch.until_ended(job)

        assert world.starts(job.id, 0) == 1

    def test_a_start_of_what_has_ended_starts_nothing(self, world: World, watch: Watch) -> None:
        job, other = allocation(world, "past-1"), allocation(world, "past-2")
        watch.engine.act([start(world, job, Behaviour.SUCCEED)])
        watch.until_ended(job)
        watch.engine.act([start(world, job, Behaviour.SUCCEED)])
        watch.engine.act([start(world, other, Behaviour.SUCCEED)])
        watch.until_ended(other)

        assert world.starts(job.id, 0) == 1

    def test_stop_ends_every_member(self, world: World, watch: Watch) -> None:
        gang = allocation(world, "stop-1", members=2)
        watch.engine.act([start(world, gang, Behaviour.RUN_ON)])
        watch.until_started(gang)
        watch.engine.act([Stop(gang.id, 20_000, "stop")])

        assert set(watch.until_ended(gang)) == {0, 1}

    def test_what_defies_stop_is_killed_after_its_grace(self, world: World, watch: Watch) -> None:
        job = allocation(world, "defy-1")
        watch.engine.act([start(world, job, Behaviour.DEFY)])
        watch.until_started(job)
        watch.engine.act([Stop(job.id, 200)])

        assert watch.until_ended(job)[0].signal == 9

    def test_a_second_stop_shortens_the_grace(self, world: World, watch: Watch) -> None:
        job = allocation(world, "shorten-1")
        watch.engine.act([start(world, job, Behaviour.DEFY)])
        watch.until_started(job)
        watch.engine.act([Stop(job.id, 3_600_000)])
        watch.engine.act([Stop(job.id, 100)])

        assert watch.until_ended(job)[0].signal == 9

    def test_a_second_stop_never_lengthens_the_grace(self, world: World, watch: Watch) -> None:
        job = allocation(world, "lengthen-1")
        watch.engine.act([start(world, job, Behaviour.DEFY)])
        watch.until_started(job)
        watch.engine.act([Stop(job.id, 300)])
        watch.engine.act([Stop(job.id, 3_600_000)])

        assert watch.until_ended(job)[0].signal == 9

    def test_stop_of_an_unknown_allocation_tells_nothing(self, world: World, watch: Watch) -> None:
        job = allocation(world, "after-1")
        watch.engine.act([Stop("unknown-1.1", 0)])
        watch.engine.act([start(world, job, Behaviour.SUCCEED)])
        watch.until_ended(job)

        assert watch.started("unknown-1.1") == set()
        assert watch.ended("unknown-1.1") == {}

    def test_stop_of_what_has_ended_changes_nothing(self, world: World, watch: Watch) -> None:
        job, other = allocation(world, "ended-1"), allocation(world, "after-2")
        watch.engine.act([start(world, job, Behaviour.SUCCEED)])
        watch.until_ended(job)
        watch.engine.act([Stop(job.id, 0)])
        watch.engine.act([start(world, other, Behaviour.SUCCEED)])
        watch.until_ended(other)

        assert watch.ended(job.id) == {0: Exit(0)}

    def test_a_start_after_its_stop_starts_nothing_and_ends(
        self, world: World, watch: Watch
    ) -> None:
        """It must be told as ended, or its devices would be held for ever."""
        gang = allocation(world, "overtaken-1", members=2)
        watch.engine.act([Stop(gang.id, 0), start(world, gang, Behaviour.RUN_ON)])
        exits = watch.until_ended(gang)

        assert not any(exit.ok for exit in exits.values())
        assert [world.starts(gang.id, rank) for rank in (0, 1)] == [0, 0]

    def test_a_stop_right_behind_its_start_leaves_nothing_running(
        self, world: World, watch: Watch
    ) -> None:
        gang = allocation(world, "behind-1", members=2)
        watch.engine.act([start(world, gang, Behaviour.RUN_ON), Stop(gang.id, 0)])

        assert set(watch.until_ended(gang)) == {0, 1}

    # -- observe ------------------------------------------------------------------------------

    def test_observe_gives_no_more_than_asked_and_loses_nothing(
        self, world: World, watch: Watch
    ) -> None:
        gang = allocation(world, "bounded-1", members=2)
        watch.engine.act([start(world, gang, Behaviour.SUCCEED)])
        end_s = time.monotonic() + PATIENCE_S
        while len(watch.ended(gang.id)) < 2:
            assert time.monotonic() < end_s, f"seen so far: {watch.facts}"
            few = watch.engine.observe(1)
            assert len(few) <= 1
            watch.facts.extend(few)
            if not few:
                watch.world.let_pass(watch.woken)

        assert watch.started(gang.id) == {0, 1}

    def test_wake_is_called_for_news(self, world: World, watch: Watch) -> None:
        watch.until(lambda: bool(watch.facts), "the node")
        while watch.engine.observe(1000):
            pass
        watch.woken.clear()
        job = allocation(world, "wake-1")
        watch.engine.act([start(world, job, Behaviour.SUCCEED)])
        end_s = time.monotonic() + PATIENCE_S
        while not watch.woken.is_set():
            assert time.monotonic() < end_s, "never woken"
            world.let_pass(watch.woken)

        watch.facts = watch.engine.observe(1000)
        assert watch.facts
        watch.until_ended(job)

    # -- adopt --------------------------------------------------------------------------------

    def test_members_outlive_a_closed_engine_and_are_adopted(
        self, world: World, opened: Callable[[], Watch]
    ) -> None:
        first = opened()
        first.engine.adopt(())
        gang = allocation(world, "outlive-1", members=2)
        first.engine.act([start(world, gang, Behaviour.RUN_ON)])
        first.until_started(gang)

        second = opened()
        second.engine.adopt([replace(gang, started=gang.all_ranks)])
        second.until_started(gang)
        second.engine.act([start(world, gang, Behaviour.RUN_ON)])
        second.engine.act([Stop(gang.id, 20_000)])
        second.until_ended(gang)

        assert [world.starts(gang.id, rank) for rank in (0, 1)] == [1, 1]

    def test_an_end_that_nobody_watched_is_told_as_it_was(
        self, world: World, opened: Callable[[], Watch]
    ) -> None:
        first = opened()
        first.engine.adopt(())
        job = allocation(world, "unwatched-1")
        first.engine.act([start(world, job, Behaviour.FAIL)])
        first.until_ended(job)

        second = opened()  # the first one's facts were never committed
        second.engine.adopt([job])

        assert second.until_ended(job) == {0: Exit(FAIL_CODE)}
        assert world.starts(job.id, 0) == 1

    def test_what_was_never_started_is_left_for_its_start(
        self, world: World, opened: Callable[[], Watch]
    ) -> None:
        first = opened()
        first.engine.adopt(())
        job = allocation(world, "never-1")

        second = opened()
        second.engine.adopt([job])
        second.until(lambda: bool(second.facts), "the node")
        assert second.ended(job.id) == {}
        second.engine.act([start(world, job, Behaviour.SUCCEED)])

        assert second.until_ended(job) == {0: Exit(0)}
        assert world.starts(job.id, 0) == 1

    def test_what_was_never_started_and_is_stopped_ends(
        self, world: World, opened: Callable[[], Watch]
    ) -> None:
        """Its Start was lost between commit and act; the Stop must still free its devices."""
        watch = opened()
        job = allocation(world, "never-2")
        watch.engine.adopt([job])
        watch.engine.act([Stop(job.id, 0)])

        assert not watch.until_ended(job)[0].ok
        assert world.starts(job.id, 0) == 0

    def test_what_was_started_and_left_no_trace_is_lost(
        self, world: World, opened: Callable[[], Watch]
    ) -> None:
        watch = opened()
        gang = replace(allocation(world, "traceless-1", members=2), started=0b11)
        watch.engine.adopt([gang])

        assert all(exit.lost for exit in watch.until_ended(gang).values())

    # -- people's view ------------------------------------------------------------------------

    def test_a_log_is_read_from_any_offset_also_after_the_end(
        self, world: World, watch: Watch
    ) -> None:
        job = allocation(world, "talk-1")
        watch.engine.act([start(world, job, Behaviour.TALK)])
        watch.until_ended(job)

        whole = watch.engine.read_log(job.id, 0, 0, 1 << 20)
        assert WORD in whole
        assert watch.engine.read_log(job.id, 0, 6, 5) == whole[6:11]
        assert watch.engine.read_log(job.id, 0, len(whole), 100) == b""

    def test_reports_come_in_whole_lines(self, world: World, watch: Watch) -> None:
        job = allocation(world, "talk-2")
        watch.engine.act([start(world, job, Behaviour.TALK)])
        watch.until_ended(job)

        whole = watch.engine.read_reports(job.id, 0, 0, 1 << 20)
        first = whole.index(b"\n") + 1
        assert whole.count(b"\n") == 2
        assert whole.endswith(b"\n")
        assert watch.engine.read_reports(job.id, 0, 0, first + 3) == whole[:first]
        assert watch.engine.read_reports(job.id, 0, first, 1 << 20) == whole[first:]

    def test_what_is_not_here_is_an_engine_error(self, watch: Watch) -> None:
        with pytest.raises(EngineError):
            watch.engine.read_log("nowhere-1.1", 0, 0, 100)
        with pytest.raises(EngineError):
            watch.engine.read_reports("nowhere-1.1", 0, 0, 100)
        with pytest.raises(EngineError):
            watch.engine.exec_command("nowhere-1.1", 0, ["true"])

    def test_a_command_runs_beside_a_running_member_only(self, world: World, watch: Watch) -> None:
        job = allocation(world, "beside-1")
        watch.engine.act([start(world, job, Behaviour.RUN_ON)])
        watch.until_started(job)
        if world.runs_commands:
            argv, env, directory = watch.engine.exec_command(job.id, 0, ["printenv", "RANK"])
            ran = subprocess.run(argv, env=env, cwd=directory, capture_output=True, check=True)
            assert ran.stdout == b"0\n"
        watch.engine.act([Stop(job.id, 20_000)])
        watch.until_ended(job)

        with pytest.raises(EngineError):
            watch.engine.exec_command(job.id, 0, ["true"])


# -- little makers ------------------------------------------------------------------------------


def allocation(world: World, job: str, *, members: int = 1) -> Allocation:
    """The first allocation of a job: one device of the world's node for each member."""
    assert members <= world.gpus, f"the suite needs {members} devices, the world has {world.gpus}"
    return Allocation(
        id=f"{job}.1",
        job=job,
        project="default",
        attempt=1,
        shape=Shape(gpus=1, cpu_milli=500, memory_mib=64),
        seats=tuple(Seat(world.node, (rank,)) for rank in range(members)),
        state=AllocationState.BOUND,
        bound_ms=0,
    )


def start(world: World, where: Allocation, behaviour: Behaviour) -> Start:
    """The Start that a daemon would send for it."""
    return Start(
        Launch(
            allocation=where,
            name=where.job,
            owner="tester",
            command=world.command(behaviour),
            checkpoint_key=where.job,
        )
    )
