"""What arrives at an engine by itself becomes jobs: once each, whatever restarts in between."""

import time
from contextlib import contextmanager

import pytest

from madang.core.events import JobStopAsked, ProjectSet
from madang.core.model import Node, Phase, Project, Shape
from madang.daemon.arriving import BY, OWNER
from madang.daemon.clock import WallClock
from madang.daemon.inbox import Ask
from madang.daemon.loop import TurnLoop
from madang.daemon.telling import Teller
from madang.engines.base import Arrival, Start
from madang.engines.virtual import Fleet, Times, VirtualEngine
from madang.ledger import open_ledger

PATIENCE_S = 20.0
NODES = (Node("n0", 4, 32_000, 64_000, "H100"),)


class Receiver(VirtualEngine):
    """A virtual fleet at which work arrives; its members do as the name of the gang says."""

    def __init__(self, folder):
        super().__init__(Fleet(NODES, seed=1, times=Times(start_ms=(1, 2), stop_ms=(1, 2))), folder)
        self.offers = []
        self.jobs = {}
        self.told = []
        self.launched = []

    def arrivals(self, arrivals_max):
        taken, self.offers = self.offers[:arrivals_max], self.offers[arrivals_max:]
        return taken

    def act(self, actions):
        self.launched += [one.launch for one in actions if isinstance(one, Start)]
        super().act(actions)

    def recall(self, past):
        self.told.append(("recall", *past.nodes))

    def known(self, key, job):
        self.jobs[key] = job

    def refused(self, key, why):
        self.told.append(("refused", key, why))

    def parted(self, key):
        self.told.append(("parted", key))

    def explain(self, key, why):
        self.told.append(("why", key, why))


def arrival(key="uid-1", name="train", **more):
    fields = {"kind": "Job", "project": "lab", "members": 2, "shape": Shape(1, cpu_milli=100)}
    return Arrival(key=key, name=name, **{**fields, **more})


@contextmanager
def turning(folder):
    ledger = open_ledger(f"sqlite:///{folder}/madang.db")
    engine = Receiver(folder)
    failed = []
    loop = TurnLoop(ledger, engine, WallClock(), "tests", lambda: failed.append(loop.failure))
    loop.open([ProjectSet(Project("default"))])
    try:
        until(lambda: loop.snapshot().nodes)
        yield loop, engine
    finally:
        loop.close()
        ledger.close()
    assert failed == []


def until(holds):
    end_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < end_s, "never came"
        time.sleep(0.005)
    return found


def offer(loop, engine, one):
    engine.offers.append(one)
    loop.wake()


def ask(loop, fact):
    request = Ask(fact)
    loop.inbox.put([request])
    request.answer.result(PATIENCE_S)


def phase(loop, job):
    return loop.ledger.job(job).standing.phase


def test_an_arrival_becomes_a_job_of_its_project_which_is_made(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival(priority=7, grace_ms=5_000))
        job = until(lambda: engine.jobs.get("uid-1"))
        until(lambda: engine.launched)
        record = loop.ledger.job(job)
        projects = loop.snapshot().projects

    assert "lab" in projects
    assert (record.owner, record.job.project, record.job.members) == (OWNER, "lab", 2)
    assert record.job.priority == 20 + 7
    assert record.job.grace_ms == 5_000
    assert [one.arrival for one in engine.launched] == ["uid-1"]


def test_offered_again_also_after_a_restart_it_is_the_same_job(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival())
        job = until(lambda: engine.jobs.get("uid-1"))
        engine.jobs.clear()
        offer(loop, engine, arrival())
        again = until(lambda: engine.jobs.get("uid-1"))
    with turning(tmp_path) as (loop, engine):
        after = until(lambda: engine.jobs.get("uid-1"))
        offer(loop, engine, arrival())
        until(lambda: not engine.offers)
        jobs = loop.ledger.jobs()
        recalled = engine.told[0]

    assert job == again == after
    assert [one.job.id for one in jobs] == [job]
    assert recalled == ("recall", "n0")


def test_a_commit_whose_answer_was_lost_makes_no_second_job(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival())
        job = until(lambda: engine.jobs.pop("uid-1", ""))
        loop.arriving._job_of.clear()  # as it is if nobody heard that it was committed
        offer(loop, engine, arrival())
        again = until(lambda: engine.jobs.get("uid-1"))
        count = len(loop.ledger.jobs())

    assert (again, count) == (job, 1)


def test_work_that_is_made_anew_after_its_end_is_another_job(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival())
        first = until(lambda: engine.jobs.get("uid-1"))
        ask(loop, JobStopAsked(first, by=BY, grace_ms=0))
        until(lambda: ("parted", "uid-1") in engine.told)
        offer(loop, engine, arrival())
        second = until(lambda: engine.jobs["uid-1"] != first and engine.jobs["uid-1"])
        keys = [loop.ledger.job_of_key(OWNER, key) for key in ("k8s:uid-1", "k8s:uid-1:2")]

    assert keys == [first, second]


def test_what_a_person_stopped_stays_stopped(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival())
        job = until(lambda: engine.jobs.get("uid-1"))
        ask(loop, JobStopAsked(job, by="ada", grace_ms=0))
        until(lambda: ("parted", "uid-1") in engine.told)
        offer(loop, engine, arrival())
        refused = until(lambda: [one for one in engine.told if one[0] == "refused"])
        count = len(loop.ledger.jobs())

    assert job in refused[0][2]
    assert "stopped in Madang" in refused[0][2]
    assert count == 1


def test_what_can_never_run_is_refused_in_words(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival(shape=Shape(64)))
        refused = until(lambda: [one for one in engine.told if one[0] == "refused"])
        jobs = loop.ledger.jobs()

    assert refused == [("refused", "uid-1", refused[0][2])]
    assert "64" in refused[0][2]
    assert jobs == []


def test_who_waits_is_told_why_once(tmp_path):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival("uid-1", members=4, grace_ms=0))
        until(lambda: "uid-1" in engine.jobs)
        offer(loop, engine, arrival("uid-2", members=4))
        job = until(lambda: engine.jobs.get("uid-2"))
        until(lambda: phase(loop, job) is Phase.WAITING)
        teller = Teller(loop)
        teller.look()
        teller.look()

    said = [one for one in engine.told if one[0] == "why"]
    assert [one[1] for one in said] == ["uid-2"]
    assert said[0][2]


@pytest.mark.parametrize(
    ("name", "begins"), [("train", "train-"), ("Über_Job", "ber-job-"), ("___", "job-")]
)
def test_any_name_makes_a_jobs_name(tmp_path, name, begins):
    with turning(tmp_path) as (loop, engine):
        offer(loop, engine, arrival(name=name))
        job = until(lambda: engine.jobs.get("uid-1"))

    assert job.startswith(begins)
