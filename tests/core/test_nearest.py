"""The submit guide: what it says would start now does, and nothing nearer was passed over."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from madang.core import events as ev
from madang.core.explain import tries_now
from madang.core.nearest import Turn, nearest
from tests.core.yard import Yard

TABLE = [
    # what there is, who waits before, the job, what would start now
    ("n1: AAA.\nn2: BBBB", (), "j: 4x1", ("--members 1 would start now",)),
    ("n1: AA..\nn2: BB..", (), "j: 4", (
        "--members 2 --gpus 2 would start now: as many GPUs, other members",
        "--gpus 2 would start now",
    )),
    ("n1: .... model=L4\nn2: AAAA model=H100", (), "j: 4 model=H100", (
        "--profile L4 would start now",
    )),
    ("n1: AAAA at=b0\nn2: .... at=b0\nn3: .... at=b1", (), "j: 2x4 within=block", (
        "--within any would start now",
        "--members 1 would start now",
        "--gpus 2 would start now",
    )),
    ("n1: A...\nn2: BB..", (), "j: 3x1 exclusive=1", (
        "without --exclusive it would start now",
    )),
    # Those before it hold the devices back: nothing of it would start, whatever it asks for.
    ("n1: A.", ("k: 2",), "j: 2", ()),
]  # fmt: skip


@pytest.mark.parametrize(("picture", "before", "line", "words"), TABLE)
def test_the_nearest_that_would_start(picture, before, line, words):
    yard = Yard(picture).submit(*before, line).turn()
    snapshot = yard.state.snapshot(yard.now_ms)

    found = tries_now(snapshot, "j")

    assert found[: len(words)] == words
    assert bool(found) == bool(words)


def test_what_runs_gets_no_advice():
    yard = Yard("n1: AA..")

    assert tries_now(yard.state.snapshot(yard.now_ms), "a") == ()


CELLS = st.text("A..", min_size=2, max_size=8)  # A: somebody of this node's own
JOBS = st.builds(
    "{}x{}{}{}".format,
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from(["", " model=H100", " model=L4"]),
    st.sampled_from(["", "", " exclusive=1", " within=block"]),
)


@given(
    rows=st.lists(
        st.tuples(CELLS, st.sampled_from(["H100", "L4"]), st.sampled_from("01")), max_size=6
    ),
    before=st.lists(JOBS, max_size=3),
    line=JOBS,
)
def test_every_advice_starts_in_the_next_turn(rows, before, line):
    assume(rows)
    picture = "\n".join(
        f"n{at}: {cells.replace('A', chr(65 + at))} model={model} at=b{block}"
        for at, (cells, model, block) in enumerate(rows)
    )
    ahead = [f"w{at}: {words}" for at, words in enumerate(before)]
    yard = Yard(picture).submit(*ahead).turn()
    job = replace(yard.job(f"j: {line}"), submitted_ms=yard.now_ms)
    snapshot = yard.state.snapshot(yard.now_ms).joined(job)
    turn = Turn(snapshot, job.id)
    assume(not turn.starts(job))

    for change in nearest(turn, job):
        twin = Yard(picture).submit(*ahead).turn()
        step = twin.controller.step([ev.JobSubmitted(change.job)], twin.now_ms)

        bound = [e.allocation for e in step.decisions if isinstance(e, ev.AllocationBound)]
        assert [one.job for one in bound if one.job == job.id] == [job.id], change
