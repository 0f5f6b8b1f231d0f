"""Who may be killed at any moment: the daemon, the keeper, a shim, the machine. And a full disk."""

import ctypes
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from madang.core.events import NodeSeen
from madang.core.model import Allocation, Exit
from madang.engines.base import Stop
from madang.engines.local import crew, proc, records, traces
from madang.engines.local import engine as engine_module
from madang.testing.engine import Behaviour, Watch
from tests.engines.hosting import Host
from tests.engines.local_world import (
    COMMANDS,
    LocalWorld,
    is_alive,
    launch,
    python,
    started,
    state_file,
    wait_until,
)

SLEEP = ("sleep", "3600")
RUN_ON = ("sh", "-c", COMMANDS[Behaviour.RUN_ON])
DEFY = ("sh", "-c", COMMANDS[Behaviour.DEFY])
Opened = Callable[[], Watch]


def begin(watch: Watch, job: str, command: tuple[str, ...], members: int = 1) -> Allocation:
    """Start it and wait until it runs."""
    start = launch(job, command, members)
    allocation = start.launch.allocation
    watch.engine.act([start])
    watch.until(lambda: len(watch.started(allocation.id)) == members, f"{job} starts")
    return allocation


def run_through(watch: Watch, job: str) -> None:
    """A member of its own, from start to end: whatever was asked before it has been dealt with."""
    start = launch(job, ("true",))
    watch.engine.act([start])
    assert watch.until_ended(start.launch.allocation) == {0: Exit(0)}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# -- the daemon ---------------------------------------------------------------------------------


def test_members_outlive_a_killed_daemon_and_its_keeper_does_not(world: LocalWorld, opened: Opened):
    host = Host(world.root)
    host.order(start="alive", command=SLEEP)
    host.heard("MemberStarted")
    host.kill()
    pid = started(world, "alive.1").pid
    wait_until(lambda: not is_alive(host.keeper_pid), "the keeper of a killed daemon goes")

    assert is_alive(pid)
    watch = opened()
    allocation = launch("alive", SLEEP).launch.allocation
    watch.engine.adopt([allocation])
    watch.until(lambda: watch.started("alive.1"), "it is adopted")
    assert is_alive(pid)
    watch.engine.act([Stop("alive.1", 60_000)])
    assert watch.until_ended(allocation) == {0: Exit(143, 15)}


def test_a_stop_goes_on_when_the_daemon_is_killed(world: LocalWorld, opened: Opened):
    host = Host(world.root)
    host.order(start="late", command=DEFY)
    wait_until(lambda: world.settled("late.1", 0), "it defies")
    host.order(stop="late.1", grace_ms=700)
    wait_until((world.root / "allocations/late.1/stop").exists, "the stop is written")
    host.kill()
    wait_until(lambda: not is_alive(started(world, "late.1").pid), "it is killed all the same")

    watch = opened()
    allocation = launch("late", DEFY).launch.allocation
    watch.engine.adopt([allocation])
    assert watch.until_ended(allocation) == {0: Exit(137, 9)}


def test_an_end_that_no_daemon_saw_is_told_by_the_next(world: LocalWorld, opened: Opened):
    host = Host(world.root)
    gate = world.root / "gate"
    command = ("sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.02; done; exit 7")
    host.order(start="unseen", command=command, members=2)
    host.heard("MemberStarted")
    host.heard("MemberStarted")
    host.kill()
    gate.touch()
    wait_until(lambda: not is_alive(started(world, "unseen.1").pid), "it ends by itself")

    watch = opened()
    allocation = launch("unseen", command, 2).launch.allocation
    watch.engine.adopt([allocation])
    assert watch.until_ended(allocation) == {0: Exit(7), 1: Exit(7)}
    assert watch.started("unseen.1") == {0, 1}


def test_what_runs_and_nobody_knows_is_shown_as_held_and_can_be_stopped(
    world: LocalWorld, opened: Opened
):
    first = opened()
    first.engine.adopt(())
    begin(first, "stray", SLEEP)

    second = opened()  # its ledger was lost
    second.engine.adopt(())
    second.until(lambda: bool(second.facts), "the node")
    seen = second.facts[0]
    assert isinstance(seen, NodeSeen)
    assert seen.holds == (("stray.1", 0),)
    second.engine.act([Stop("stray.1", 0)])
    second.until(lambda: second.ended("stray.1"), "the stray ends")
    assert world.left() == []


# -- the keeper ---------------------------------------------------------------------------------


def test_a_killed_keeper_takes_no_member_along_and_is_replaced(world: LocalWorld, watch: Watch):
    allocation = begin(watch, "before", SLEEP)
    keeper_pid = watch.engine.keeper_pid  # type: ignore[attr-defined]
    kill(keeper_pid)
    begin(watch, "after", SLEEP)

    assert is_alive(started(world, "before.1").pid)
    assert watch.engine.keeper_pid != keeper_pid  # type: ignore[attr-defined]
    watch.engine.act([Stop("before.1", 0), Stop("after.1", 0)])
    watch.until_ended(allocation)
    watch.until(lambda: watch.ended("after.1"), "the other one ends")


def test_a_start_that_died_with_its_keeper_is_asked_again_and_starts_once(
    world: LocalWorld, watch: Watch
):
    run_through(watch, "warm")
    keeper_pid = watch.engine.keeper_pid  # type: ignore[attr-defined]
    os.kill(keeper_pid, signal.SIGSTOP)
    starts = [launch(f"again-{n}", ("sh", "-c", COMMANDS[Behaviour.SUCCEED])) for n in range(5)]
    watch.engine.act(starts)
    wait_until((world.root / "allocations/again-4.1/launch.json").exists, "all are asked")
    kill(keeper_pid)
    for start in starts:
        assert watch.until_ended(start.launch.allocation) == {0: Exit(0)}

    assert [world.starts(f"again-{n}.1", 0) for n in range(5)] == [1] * 5


def test_what_cannot_be_started_ends_after_some_tries(
    world: LocalWorld, watch: Watch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crew, "ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(engine_module, "SCAN_S", 0.05)
    monkeypatch.setattr(watch.engine, "ask", lambda allocation, rank: True)  # into the void
    start = launch("void", SLEEP)
    watch.engine.act([start])

    assert watch.until_ended(start.launch.allocation) == {0: Exit(125)}
    assert b"no process could be started" in watch.engine.read_log("void.1", 0, 0, 1000)


# -- a shim -------------------------------------------------------------------------------------

FAMILY = python("""
import os, sys, time
if os.fork() == 0:
    os.setsid()  # out of the group, and out of reach of the leader's death
    print("child", flush=True)
    time.sleep(3600)
time.sleep(3600)
""")


def test_a_member_whose_shim_is_killed_is_ended_and_lost(world: LocalWorld, watch: Watch):
    allocation = begin(watch, "orphan", FAMILY)
    watch.until(lambda: b"child" in watch.engine.read_log("orphan.1", 0, 0, 99), "the child runs")
    start = started(world, "orphan.1")
    kill(start.shim_pid)

    assert watch.until_ended(allocation)[0].lost
    assert not is_alive(start.pid)
    assert world.left() == []


def test_a_shim_that_is_killed_while_no_daemon_runs_is_found_by_the_next(
    world: LocalWorld, opened: Opened
):
    first = opened()
    first.engine.adopt(())
    allocation = begin(first, "orphan", FAMILY)
    first.until(lambda: b"child" in first.engine.read_log("orphan.1", 0, 0, 99), "the child runs")
    first.engine.close()
    kill(started(world, "orphan.1").shim_pid)

    second = opened()
    second.engine.adopt([replace(allocation, started=1)])
    assert second.until_ended(allocation)[0].lost
    assert world.left() == []


def test_the_member_dies_with_its_shim_also_when_nobody_watches(world: LocalWorld, opened: Opened):
    watch = opened()
    watch.engine.adopt(())
    begin(watch, "pdeathsig", SLEEP)
    watch.engine.close()
    start = started(world, "pdeathsig.1")
    kill(start.shim_pid)

    wait_until(lambda: not is_alive(start.pid), "the member dies with its shim")


def test_a_second_shim_for_the_same_member_runs_nothing(world: LocalWorld, watch: Watch):
    allocation = begin(watch, "once", RUN_ON)
    for _ in range(5):
        watch.engine.ask("once.1", 0)  # type: ignore[attr-defined]
    run_through(watch, "later")  # the keeper has dealt with them by now
    watch.engine.act([Stop("once.1", 0)])
    watch.until_ended(allocation)
    watch.engine.ask("once.1", 0)  # type: ignore[attr-defined]
    run_through(watch, "latest")

    assert world.starts("once.1", 0) == 1


# -- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [True, False])
def test_after_a_boot_all_that_was_live_is_lost_recorded_or_not(
    world: LocalWorld, opened: Opened, recorded: bool
):
    first = opened()
    first.engine.adopt(())
    first.engine.close()
    (world.root / "engine" / "boot").write_text("the-boot-before")
    allocation = launch("rebooted", SLEEP).launch.allocation
    if recorded:
        path = state_file(world, "rebooted.1")
        path.parent.mkdir(parents=True)
        me = proc.stat(os.getpid())
        assert me is not None
        # The same process id and even the same ticks mean nothing in another boot.
        start = records.StartRecord("the-boot-before", me.pid, me.pid, me.ticks, 5)
        path.write_bytes(records.start_block(start))

    second = opened()
    second.engine.adopt([allocation])
    assert second.until_ended(allocation)[0].lost
    second.engine.act([launch("rebooted", RUN_ON)])
    run_through(second, "fresh")

    assert world.starts("rebooted.1", 0) == 0
    assert (world.root / "engine" / "boot").read_text() == proc.boot_id()


def _block() -> bytes:
    return records.start_block(records.StartRecord(proc.boot_id(), 1 << 22, 1 << 22, 9, 5))


@pytest.mark.parametrize(
    "damage",
    [
        b"\0",
        b"\0" * 512,
        b"garbage",
        _block()[:40],
        _block()[:300],
        _block()[:256] + b"exit 0 0",
        b"x" * 256 + _block()[256:],
        b"\xff" * 4096,
    ],
)
def test_a_damaged_record_of_a_start_means_lost(world: LocalWorld, opened: Opened, damage: bytes):
    path = state_file(world, "damaged.1")
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)

    watch = opened()
    allocation = launch("damaged", SLEEP).launch.allocation
    watch.engine.adopt([allocation])
    assert watch.until_ended(allocation)[0].lost
    watch.engine.act([launch("damaged", RUN_ON)])
    run_through(watch, "fresh")

    assert world.starts("damaged.1", 0) == 0


def test_an_empty_record_is_no_start(world: LocalWorld, opened: Opened):
    """The shim was killed between its lock and its record: nothing ran."""
    path = state_file(world, "empty.1")
    path.parent.mkdir(parents=True)
    path.touch()

    watch = opened()
    start = launch("empty", ("true",))
    watch.engine.adopt([start.launch.allocation])
    watch.engine.act([start])
    assert watch.until_ended(start.launch.allocation) == {0: Exit(0)}


def test_a_record_says_what_was_written_into_it():
    start = records.StartRecord("b-o-o-t", 11, 22, 33, 44)
    exit = records.ExitRecord(137, 9, False, 55)
    block = records.start_block(start)
    whole = block[: records.EXIT_AT] + records.exit_bytes(exit)
    found = records.parsed(whole)

    assert len(block) == len(whole) == records.RECORD_BYTES
    assert records.parsed(block).exit is None
    assert found.start is not None
    assert found.exit is not None
    assert (found.start.boot_id, found.start.pid, found.start.ticks) == ("b-o-o-t", 22, 33)
    assert (found.exit.code, found.exit.signal, found.exit.lost) == (137, 9, False)
    assert records.parsed(records.never_block(exit)).start is None


def test_a_look_at_a_member_never_keeps_its_shim_from_starting(tmp_path: Path):
    path = tmp_path / "state"
    path.touch()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a shim does that has not recorded its start
        assert traces.look(str(path), "boot").trace is traces.Trace.NEVER


# -- the disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, for whoever may mount one."""
    path = tmp_path / "small"
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, b"size=1m"):
        pytest.skip("only root may mount a small file system to fill")
    yield path
    libc.umount2(str(path).encode(), 2)


@pytest.fixture
def on_small_disk(small_disk: Path, opened: Opened, world: LocalWorld) -> Watch:
    world.root = small_disk
    watch = opened()
    watch.engine.adopt(())
    return watch


def _fill(directory: Path) -> Path:
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_on_a_full_disk_ends_are_kept_and_starts_fail_cleanly(on_small_disk: Watch):
    watch = on_small_disk
    world = watch.world
    assert isinstance(world, LocalWorld)
    running = begin(watch, "running", SLEEP)
    ballast = _fill(world.root)

    refused = launch("refused", RUN_ON)
    watch.engine.act([refused])
    assert watch.until_ended(refused.launch.allocation) == {0: Exit(125)}
    # There is no room for a stop file: the default grace applies, SIGTERM comes all the same.
    watch.engine.act([Stop("running.1", 60_000)])
    assert watch.until_ended(running) == {0: Exit(143, 15)}
    exit = records.read(str(state_file(world, "running.1"))).exit
    assert exit is not None
    assert exit.signal == 15

    ballast.unlink()
    run_through(watch, "afterwards")


def test_an_end_is_told_when_the_state_directory_is_gone(world: LocalWorld, watch: Watch):
    """Someone removed it under a running member: the member ends, and nothing hangs."""
    allocation = begin(watch, "gone", SLEEP)
    pid = started(world, "gone.1").pid
    shutil.rmtree(world.root / "allocations" / "gone.1")

    assert not watch.until_ended(allocation)[0].ok
    assert not is_alive(pid)
