"""The virtual engine keeps the contract of every engine, and its own promises."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from madang.core.events import CheckpointSaved, Fact, MemberEnded, MemberStarted, NodeLost, NodeSeen
from madang.core.model import Allocation, AllocationState, Exit, Node, Seat, Shape
from madang.engines.base import Launch, Start, Stop
from madang.engines.virtual import Faults, Fleet, FleetModel, Times, VirtualEngine, fleet_of, sample
from madang.engines.virtual.script import temper_of
from madang.engines.virtual.story import log_of, reports_of
from madang.testing.engine import FAIL_CODE, WORD, Behaviour, EngineContract, World
from madang.wire.fleet import FleetFile

EXAMPLES = Path(__file__).parents[2] / "examples" / "fleets"
QUICK = Times(start_ms=(1, 5), stop_ms=(1, 5))


def nodes(count: int = 2, gpus: int = 4) -> tuple[Node, ...]:
    return tuple(
        Node(f"n{index}", gpus, 32_000, 64_000, "H100", gpu_memory_mib=81_559)
        for index in range(count)
    )


class VirtualWorld(World):
    node, gpus = "n0", 4
    runs_commands = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engine(self) -> VirtualEngine:
        return VirtualEngine(Fleet(nodes(), seed=3, times=QUICK), self.folder)

    def command(self, behaviour: Behaviour) -> tuple[str, ...]:
        match behaviour:
            case Behaviour.SUCCEED:
                return ("sleep", "0.01")
            case Behaviour.FAIL:
                return ("env", f"MADANG_VIRTUAL_EXIT={FAIL_CODE}", "sleep", "0.01")
            case Behaviour.RUN_ON:
                return ("sleep", "1h")
            case Behaviour.DEFY:
                return ("env", "MADANG_VIRTUAL_DEFY=1", "sleep", "1h")
            case Behaviour.TALK:
                quick = ("MADANG_VIRTUAL_SECONDS=0.02", "MADANG_VIRTUAL_STEPS=2")
                return ("env", *quick, "echo", WORD.decode())
            case Behaviour.IMPOSSIBLE:
                return ("env", "MADANG_VIRTUAL_SECONDS=soon", "train")

    def close(self) -> None:
        """Nothing runs: there is nothing to end."""

    def starts(self, allocation: str, rank: int) -> int:
        lines = (self.folder / "actions.ndjson").read_text().splitlines()
        begun = [line for line in lines if json.loads(line).get("start", [""])[0] == allocation]
        with closing(self.engine()) as looker:
            stay = looker.model.stays.get(allocation)
        return 0 if stay is None else stay.members[rank].starts * len(begun)


class TestVirtualEngine(EngineContract):
    @pytest.fixture
    def world(self, tmp_path):
        with closing(VirtualWorld(tmp_path)) as world:
            yield world


# -- the model, by a clock of our own --------------------------------------------------------------


def launch(job: str = "a", *command: str, members: int = 1, node: str = "n0", **env: str) -> Launch:
    allocation = Allocation(
        id=f"{job}.1",
        job=job,
        project="default",
        attempt=1,
        shape=Shape(1, cpu_milli=4_000, memory_mib=8_000),
        seats=tuple(Seat(node, (rank,)) for rank in range(members)),
        state=AllocationState.BOUND,
        bound_ms=0,
    )
    env = {"saves": "0", **env}
    named = tuple((f"MADANG_VIRTUAL_{name.upper()}", value) for name, value in env.items())
    return Launch(allocation, job, "ada", command or ("train",), named)


def model(**fleet: object) -> FleetModel:
    values = {"seed": 1, "times": Times(start_ms=(10, 10), stop_ms=(20, 20)), **fleet}
    made = FleetModel(Fleet(nodes(), **values), 0)  # type: ignore[arg-type]
    assert made.advance(0) == []
    return made


def test_time_passes_for_members_as_their_environment_says():
    fleet = model()
    fleet.start(launch(seconds="2", members=2))

    assert fleet.next_ms() == 10
    assert fleet.advance(9) == []
    assert fleet.advance(10) == [MemberStarted("a.1", 0, 10), MemberStarted("a.1", 1, 10)]
    assert fleet.advance(2009) == []
    assert fleet.advance(5000) == [
        MemberEnded("a.1", 0, Exit(0), 2010),
        MemberEnded("a.1", 1, Exit(0), 2010),
    ]
    assert fleet.next_ms() is None


def test_a_fast_fleet_is_that_much_faster():
    fleet = model(speed=10.0)
    fleet.start(launch(seconds="2"))

    assert fleet.advance(10_000) == [
        MemberStarted("a.1", 0, 1),
        MemberEnded("a.1", 0, Exit(0), 201),
    ]


@pytest.mark.parametrize(
    ("command", "env", "run_ms", "end"),
    [
        (("sleep", "3"), {}, 3_000, Exit(0)),
        (("/bin/sleep", "0.5", "1m"), {}, 60_500, Exit(0)),
        (("sleep", "3"), {"seconds": "4"}, 4_000, Exit(0)),
        (("true",), {}, 0, Exit(0)),
        (("false",), {}, 0, Exit(1)),
        (("false",), {"exit": "0"}, 0, Exit(0)),
        (("sleep", "1"), {"exit": "-9"}, 1_000, Exit(0, signal=9)),
        (("env", "MADANG_VIRTUAL_SECONDS=7", "train"), {}, 7_000, Exit(0)),
    ],
)
def test_a_script_is_read_from_command_and_environment(command, env, run_ms, end):
    fleet = model()
    fleet.start(launch("a", *command, **env))
    facts = fleet.advance(10_000_000)

    assert facts == [MemberStarted("a.1", 0, 10), MemberEnded("a.1", 0, end, 10 + run_ms)]


@pytest.mark.parametrize(
    "env",
    [
        {"seconds": "soon"},
        {"seconds": "-1"},
        {"seconds": "9999999d"},
        {"exit": "x"},
        {"exit": "256"},
        {"steps": "-1"},
        {"steps": "1000000"},
    ],
)
def test_a_wrong_script_cannot_start_and_says_why_in_its_log(env):
    fleet = model()
    fleet.start(launch("a", **env))

    assert fleet.advance(10_000) == [MemberEnded("a.1", 0, Exit(127), 10)]
    log = log_of(fleet.stays["a.1"], fleet.stays["a.1"].members[0], 1, 10_000).decode()
    assert "cannot start" in log
    assert next(iter(env.values())) in log


def test_jobs_that_do_not_say_run_as_long_as_their_name_decides():
    ends: dict[str, int] = {}
    for _ in range(2):
        fleet = model(times=Times(start_ms=(1, 1), run_ms=60_000, run_sigma=1.0))
        for job in "abcdefgh":
            fleet.start(launch(job))
        fleet.advance(10**9)
        for id, stay in fleet.stays.items():
            assert ends.setdefault(id, stay.members[0].ended_ms) == stay.members[0].ended_ms

    assert len(set(ends.values())) == 8
    assert 10_000 < sorted(ends.values())[4] < 360_000


def test_a_rebooted_node_loses_its_members_and_says_so_when_it_is_back():
    fleet = model(faults=Faults(detect_ms=100))
    fleet.start(launch(seconds="60"))
    fleet.advance(50)
    fleet.take_down("n0", 1_000, cut_off=False)

    assert fleet.advance(149) == []
    assert fleet.advance(150) == [NodeLost("n0")]
    assert fleet.advance(1_050) == [
        MemberEnded("a.1", 0, Exit(0, lost=True), 50),
        NodeSeen(nodes()[0], (), 1_050),
    ]


def test_a_node_that_was_cut_off_comes_back_with_what_runs_and_tells_what_ended():
    fleet = model(faults=Faults(detect_ms=100))
    fleet.start(launch("a", seconds="60"))
    fleet.start(launch("b", seconds="0.5"))
    fleet.advance(50)
    fleet.take_down("n0", 1_000, cut_off=True)
    fleet.start(launch("c", seconds="1"))  # never gets there
    fleet.stop("a.1", 0)  # gets there late

    assert fleet.advance(1_049) == [NodeLost("n0")]
    assert fleet.advance(1_050) == [
        MemberEnded("b.1", 0, Exit(0), 510),
        MemberEnded("c.1", 0, Exit(0, lost=True), 1_050),
        NodeSeen(nodes()[0], (("a.1", 0),), 1_050),
        MemberEnded("a.1", 0, Exit(0, signal=9), 1_050),
    ]


def test_a_short_silence_is_not_a_loss():
    fleet = model(faults=Faults(detect_ms=100))
    fleet.take_down("n0", 50, cut_off=True)

    assert fleet.advance(1_000) == [NodeSeen(nodes()[0], (), 50)]


def test_an_ill_device_takes_its_member_down_and_is_told():
    fleet = model()
    fleet.start(launch("a", seconds="60", members=2))
    fleet.advance(50)
    fleet.set_health("n0", 1, healthy=False)
    ill, end = fleet.advance(60)

    assert isinstance(ill, NodeSeen)
    assert ill.node.usable == 0b1101
    assert end == MemberEnded("a.1", 1, Exit(0, signal=6), 50)
    fleet.set_health("n0", 1, healthy=True)
    (well,) = fleet.advance(70)
    assert isinstance(well, NodeSeen)
    assert well.node.usable == 0b1111


def test_faults_strike_by_seed_and_the_same_seed_strikes_the_same():
    def told(seed: int) -> list[Fact]:
        faults = Faults(
            node_mtbf_ms=3_600_000,
            node_mttr_ms=60_000,
            detect_ms=1_000,
            gpu_mtbf_ms=7_200_000,
            gpu_mttr_ms=60_000,
            crash_share=0.5,
        )
        fleet = FleetModel(Fleet(nodes(), seed=seed, faults=faults), 0)
        for index in range(20):
            fleet.start(launch(f"j{index}", seconds="600"))
        return fleet.advance(6 * 3_600_000)

    first = told(1)
    assert first == told(1)
    assert first != told(2)
    assert any(isinstance(fact, NodeLost) for fact in first)
    assert any(isinstance(fact, MemberEnded) and fact.exit == Exit(1) for fact in first)
    assert any(isinstance(f, NodeSeen) and f.node.usable != 0b1111 for f in first)


def test_slow_starts_are_much_slower():
    fleet = model(times=Times(start_ms=(10, 10), slow_share=1.0))
    fleet.start(launch(seconds="1"))

    assert fleet.next_ms() == 100


# -- what members write ----------------------------------------------------------------------------


def test_reports_are_a_falling_loss_that_only_grows_longer():
    fleet = model()
    fleet.start(launch(seconds="100", steps="50"))
    fleet.advance(60_000)
    stay = fleet.stays["a.1"]
    half = reports_of(stay, stay.members[0], 1, 50_010)
    fleet.advance(200_000)
    whole = reports_of(stay, stay.members[0], 1, 200_000)

    assert whole.startswith(half)
    values = [json.loads(line) for line in whole.splitlines()]
    assert [value["step"] for value in values] == list(range(1, 51))
    assert len(half.splitlines()) == 25
    assert values[0]["t_ms"] == 2_010
    losses = [value["loss"] for value in values]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert min(losses) > 0


def test_only_rank_0_reports_and_every_rank_logs():
    fleet = model()
    fleet.start(launch(seconds="10", members=2))
    fleet.advance(5_000)
    stay = fleet.stays["a.1"]

    assert reports_of(stay, stay.members[1], 1, 5_000) == b""
    for member in stay.members:
        log = log_of(stay, member, 1, 5_000).decode()
        assert f"member {member.rank} of 2" in log
        assert "loss" in log


@pytest.mark.parametrize("cut", ["stop", "node", "gpu", "exit"])
def test_a_log_tells_its_end_and_never_shrinks(cut):
    fleet = model(faults=Faults(detect_ms=1))
    fleet.start(launch(seconds="10", exit="3"))
    seen = b""
    words = {
        "stop": "ended by signal 15",
        "node": "went away",
        "gpu": "device fell ill",
        "exit": "exited with 3",
    }
    for at_ms in range(100, 12_000, 300):
        fleet.advance(at_ms)
        if 4_800 < at_ms < 5_100:
            if cut == "stop":
                fleet.stop("a.1", 1_000)
            elif cut == "node":
                fleet.take_down("n0", 100, cut_off=False)
            elif cut == "gpu":
                fleet.set_health("n0", 0, healthy=False)
        stay = fleet.stays["a.1"]
        log = log_of(stay, stay.members[0], 1, fleet.now_ms)
        assert log.startswith(seen)
        seen = log

    assert words[cut] in seen.decode().splitlines()[-1]


# -- sensors ---------------------------------------------------------------------------------------


def test_sensors_show_busy_and_idle_devices():
    fleet = model()
    jobs = [f"job-{index}" for index in range(400)]
    tempers = {temper_of(1, job) for job in jobs}
    assert tempers == {"steady", "bubbly", "checkpointing", "idle", "faulty"}
    steady = next(job for job in jobs if temper_of(1, job) == "steady")
    idle = next(job for job in jobs if temper_of(1, job) == "idle")
    fleet.start(launch(steady, seconds="600", members=2))
    fleet.start(launch(idle, seconds="600", members=1, node="n1"))
    fleet.advance(30_000)

    shown = sample(fleet, 30_000)
    assert shown == sample(fleet, 30_000)
    first, second = shown.nodes
    busy, free = first.gpus[:2], first.gpus[2:]
    idle_one = second.gpus[0]
    assert all(number(gpu.util_percent) > 85 for gpu in busy)
    assert all(number(gpu.power_w) > 500 for gpu in busy)
    assert all(number(gpu.memory_used_mib) > 40_000 for gpu in (*busy, idle_one))
    assert all(number(gpu.util_percent) < 5 for gpu in (*free, idle_one))
    assert all(number(gpu.power_w) < 100 for gpu in free)
    assert all(number(gpu.memory_used_mib) < 10 for gpu in free)
    assert all(30 < number(g.temperature_c) < 90 for node in shown.nodes for g in node.gpus)
    assert {(one.allocation, one.rank) for one in shown.members} == {
        (f"{steady}.1", 0),
        (f"{steady}.1", 1),
        (f"{idle}.1", 0),
    }


def number(value: float | None) -> float:
    assert value is not None
    return value


def test_a_node_that_cannot_be_heard_shows_nothing():
    fleet = model()
    fleet.take_down("n0", 1_000, cut_off=True)

    assert [node.node for node in sample(fleet, 0).nodes] == ["n1"]


# -- the record ------------------------------------------------------------------------------------


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def test_members_go_on_where_they_would_be_while_the_daemon_was_away(tmp_path):
    clock = Clock()
    fleet = Fleet(nodes(), seed=5, times=Times(start_ms=(10, 10), stop_ms=(5, 5)))
    with closing(VirtualEngine(fleet, tmp_path, clock)) as first:
        first.act([Start(launch("a", seconds="60")), Start(launch("b", seconds="600"))])
        clock.now_ms += 30_000
        first.observe(100)
        log = first.read_log("b.1", 0, 0, 1 << 20)
    clock.now_ms += 60_000
    with closing(VirtualEngine(fleet, tmp_path, clock)) as second:
        second.adopt([launch("a").allocation, launch("b").allocation])
        facts = second.observe(100)
        again = second.read_log("b.1", 0, 0, 1 << 20)

    assert MemberStarted("b.1", 0, 1_000_010) in facts
    assert MemberEnded("a.1", 0, Exit(0), 1_060_010) in facts
    assert not any(isinstance(fact, MemberEnded) and fact.allocation == "b.1" for fact in facts)
    assert again.startswith(log)
    assert len(again) > len(log)


def test_a_stop_is_remembered(tmp_path):
    clock = Clock()
    fleet = Fleet(nodes(), times=Times(start_ms=(10, 10), stop_ms=(500, 500)))
    with closing(VirtualEngine(fleet, tmp_path, clock)) as first:
        first.act([Start(launch("a", seconds="600"))])
        clock.now_ms += 1_000
        first.act([Stop("a.1", 30_000)])
    clock.now_ms += 1_000
    with closing(VirtualEngine(fleet, tmp_path, clock)) as second:
        second.adopt([launch("a").allocation])

        assert MemberEnded("a.1", 0, Exit(0, signal=15), 1_001_500) in second.observe(100)


def test_a_torn_last_line_is_dropped(tmp_path):
    fleet = Fleet(nodes())
    with closing(VirtualEngine(fleet, tmp_path)) as first:
        first.act([Start(launch("a", seconds="600"))])
    path = tmp_path / "actions.ndjson"
    path.write_bytes(path.read_bytes() + b'{"at_ms": 17, "sto')
    with closing(VirtualEngine(fleet, tmp_path)) as second:
        assert list(second.model.stays) == ["a.1"]


def test_the_record_keeps_the_newest_and_what_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("madang.engines.virtual.record.ENDED_KEPT_MAX", 2)
    clock = Clock()
    fleet = Fleet(nodes(), times=QUICK)
    with closing(VirtualEngine(fleet, tmp_path, clock)) as first:
        first.act([Start(launch("long", seconds="9999"))])
        for job in "abcd":
            first.act([Start(launch(job, seconds="1"))])
            clock.now_ms += 10_000
    for _ in range(2):
        with closing(VirtualEngine(fleet, tmp_path, clock)) as later:
            later.adopt([launch("long").allocation, launch("a").allocation])
            assert list(later.model.stays) == ["long.1", "a.1", "c.1", "d.1"]


def test_a_member_of_a_node_that_is_no_more_is_lost(tmp_path):
    clock = Clock()
    with closing(VirtualEngine(Fleet(nodes(2)), tmp_path, clock)) as first:
        first.act([Start(launch("a", seconds="600", node="n1"))])
    with closing(VirtualEngine(Fleet(nodes(1)), tmp_path, clock)) as second:
        second.adopt([launch("a", node="n1").allocation])
        facts = second.observe(100)

    assert any(isinstance(fact, MemberEnded) and fact.exit.lost for fact in facts)


# -- fleet files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "gpus"),
    [("small", 4, 32), ("h100-1024", 128, 1024), ("mixed-5120", 896, 5120)],
)
def test_the_example_fleets_are_what_they_are_called(name, count, gpus):
    text = (EXAMPLES / f"{name}.yaml").read_text()
    fleet = fleet_of(FleetFile.model_validate(yaml.safe_load(text)).model_dump())

    assert len(fleet.nodes) == count == len({node.id for node in fleet.nodes})
    assert sum(node.gpus for node in fleet.nodes) == gpus


def test_nodes_sit_in_blocks_and_leaves():
    file = FleetFile.model_validate({"nodes": [{"count": 8, "blocks": 2, "nodes_per_leaf": 2}]})
    made = fleet_of(file.model_dump()).nodes

    assert [node.domains for node in made[:5]] == [
        ("block-0", "leaf-0"),
        ("block-0", "leaf-0"),
        ("block-0", "leaf-1"),
        ("block-0", "leaf-1"),
        ("block-1", "leaf-2"),
    ]
    assert made[7].id == "node-7"


def test_nodes_carry_the_labels_of_their_entry():
    file = FleetFile.model_validate({"nodes": [{"count": 1, "labels": {"rack": "r1", "row": "b"}}]})

    assert fleet_of(file.model_dump()).nodes[0].labels == (("rack", "r1"), ("row", "b"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "nodes"),
        ({"nodes": []}, "at least 1"),
        ({"nodes": [{}], "sped": 3}, "sped"),
        ({"nodes": [{"gpu": 3}]}, "gpu"),
        ({"nodes": [{"gpus": 65}]}, "64"),
        ({"nodes": [{}], "speed": 0}, "0.001"),
        ({"nodes": [{}], "times": {"start": ["3s", "1s"]}}, "ends before it begins"),
        ({"nodes": [{}], "times": {"start": ["3s"]}}, "not a span"),
        ({"nodes": [{}], "faults": {"node_mtbf": "often"}}, "not a duration"),
        ({"nodes": [{}, {}]}, "names two entries"),
        ({"nodes": [{"count": 60_000}, {"count": 60_000, "name": "b"}]}, "at most 100000"),
    ],
)
def test_a_wrong_fleet_file_is_told_what_is_wrong(values, words):
    with pytest.raises(ValidationError, match=words):
        FleetFile.model_validate(values)


def test_a_job_may_say_what_temper_it_has():
    fleet = model()
    fleet.start(launch("lazy", seconds="600", temper="idle"))
    fleet.start(launch("odd", seconds="600", temper="furious", node="n1"))
    fleet.advance(10_000)

    busy = {node.node: node.gpus[0].util_percent for node in sample(fleet, 10_000).nodes}
    assert busy["n0"] is not None
    assert busy["n0"] < 5
    assert "one of steady, bubbly" in fleet.stays["odd.1"].script.error


# -- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints_are_told_as_they_are_saved_and_no_longer_once_it_has_ended():
    fleet = model()
    fleet.start(launch("a", seconds="10", steps="10", saves="5"))
    saved = [fact.at_ms for fact in fleet.advance(5_000) if isinstance(fact, CheckpointSaved)]
    fleet.stop("a.1", 0)

    assert saved == [2_010, 4_010]
    assert not any(isinstance(fact, CheckpointSaved) for fact in fleet.advance(20_000))


def test_who_resumes_goes_on_from_its_last_checkpoint():
    fleet = model()
    fleet.start(launch("a", seconds="10", steps="10", saves="5", resume="1"))
    fleet.advance(5_000)
    fleet.stop("a.1", 0)
    fleet.advance(6_000)
    again = launch("a", seconds="10", steps="10", saves="5", resume="1")
    fleet.start(replace(again, allocation=replace(again.allocation, id="a.2", attempt=2)))
    facts = fleet.advance(60_000)

    # Four of ten seconds were saved, so six are left.
    assert MemberStarted("a.2", 0, 6_010) in facts
    assert MemberEnded("a.2", 0, Exit(0), 12_010) in facts
    assert [fact.at_ms for fact in facts if isinstance(fact, CheckpointSaved)] == [8_010, 10_010]


def test_an_adopted_job_tells_its_newest_checkpoint_again():
    fleet = model()
    started = launch("a", seconds="10", steps="10", saves="5")
    fleet.start(started)
    fleet.advance(5_000)
    fleet.adopt([started.allocation])

    assert CheckpointSaved("a", 4_010) in fleet.advance(5_000)
