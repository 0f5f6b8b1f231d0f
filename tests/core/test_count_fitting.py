"""Jobs that are counted together, as `madang why` does with those ahead."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.model import Job, Node, Project, Shape
from madang.core.seating import count_fitting, fits_when_empty
from madang.core.settings import Zone
from madang.core.state import State

HOSTS = st.tuples(st.integers(0, 9), st.integers(0, 9))


@st.composite
def asked_jobs(draw: st.DrawFn) -> list[tuple[Job, int]]:
    jobs = []
    for n in range(draw(st.integers(0, 24))):
        cpu, memory = draw(HOSTS)
        models = ("L4",) if draw(st.integers(0, 4)) == 0 else ()
        shape = Shape(draw(st.integers(0, 2)), 1000, cpu, memory, models)
        job = Job(
            f"j{n}",
            n,
            draw(st.sampled_from("pq")),
            shape,
            draw(st.integers(1, 4)),
            within=draw(st.sampled_from(["", "any", "block"])),
            zone=draw(st.sampled_from(["", "", "z"])),
        )
        if draw(st.integers(0, 5)) == 0:
            job = replace(job, fallbacks=(replace(shape, models=("T4",)),))
        jobs.append((job, draw(st.integers(1, 3))))
    return jobs


@settings(max_examples=300, deadline=None)
@given(
    nodes=st.lists(st.tuples(HOSTS, st.sampled_from(["L4", "T4"]), st.integers(0, 2)), max_size=7),
    private=st.booleans(),
    asked=asked_jobs(),
)
def test_jobs_counted_together_are_as_many_as_fit_one_by_one(nodes, private, asked):
    state = State()
    for project in "pq":
        state.apply(ev.ProjectSet(Project(project)), 0)
    if private:
        state.apply(ev.ZoneSet(Zone("z", ("project:p",))), 0)
    for at, ((cpu, memory), model, block) in enumerate(nodes):
        node = Node(f"n{at}", 2, cpu, memory, model, zone="z" if block == 2 else "")
        state.apply(ev.NodeSeen(replace(node, domains=(f"b{block}",) if block else ())), 0)
    snapshot = state.snapshot(1)

    one_by_one = sum(count for job, count in asked if fits_when_empty(snapshot, job))
    assert count_fitting(snapshot, asked) == one_by_one
