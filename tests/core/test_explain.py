"""Why a job waits, in words and numbers: each reason code has its case."""

import pytest

from madang.core.explain import Why, how_it_ended, size, try_job, why
from madang.core.model import Exit, Shape
from tests.core.yard import Yard


def told(yard: Yard, job: str) -> Why:
    return why(yard.state.snapshot(yard.now_ms), job)


WAITING = {
    "no room": (
        "n1: AAA.\nn2: CC..",
        ["b: 4"],
        "capacity",
        "needs 4 GPUs; 3 of 8 such GPUs are free",
    ),
    "no room on one node": (
        "n1: AAA.\nn2: CCC.",
        ["b: 2"],
        "capacity",
        "needs 2 GPUs; 2 of 8 such GPUs are free, at most 1 on one node",
    ),
    "no room for the gang": (
        "n1: AA..\nn2: CCC.",
        ["b: 2x2"],
        "capacity",
        (
            "needs 2 members × 2 GPUs; 3 of 8 such GPUs are free, at most 2 on one node"
            ": room for 1 of 2 members"
        ),
    ),
    "CPU slots stand in for GPUs": (
        "n1: AAA. model=cpu",
        ["b: 2"],
        "capacity",
        "needs 2 CPU slots; 1 of 4 such CPU slots are free",
    ),
    "one ahead": (
        "n1: AA..",
        ["d: 3", "b: 1"],
        "behind",
        "1 ahead of it waits for the same devices, first d (3 GPUs)",
    ),
    "only its own models count": (
        "n1: AA model=H100\nn2: .. model=L4\nn3: .. model=H100 cordoned",
        ["b: 2 model=H100"],
        "capacity",
        "needs 2 GPUs (H100); 0 of 4 such GPUs are free; 1 node takes no work",
    ),
    "CPUs are short where GPUs are not": (
        "n1: .. cpus=8",
        ["c: 1 cpus=6", "b: 1 cpus=4"],
        "capacity",
        (
            "needs 1 GPU; 1 of 2 such GPUs are free, at most 1 on one node; "
            "with 4 CPUs and 0 MiB for each member, too few of them can be used"
        ),
    ),
    "CPU-only": (
        "n1: .. cpus=8 memory=100",
        ["c: 0 cpus=6", "b: 0 cpus=4"],
        "capacity",
        "needs 4 CPUs; at most 2 CPUs and 100 MiB are free on one node",
    ),
    "behind others": (
        "n1: AA..",
        ["c: 4", "d: 3", "b: 1"],
        "behind",
        "2 ahead of it wait for the same devices, first c (4 GPUs)",
    ),
    "behind others and no room": (
        "n1: AAAA",
        ["c: 4", "b: 1"],
        "capacity",
        "needs 1 GPU; 0 of 4 such GPUs are free; 1 ahead of it",
    ),
    "quota": (
        "n1: AA..",
        ["b: 3"],
        "quota",
        "project default holds 2 of its 4 GPUs; this job needs 3 more (held by a 2)",
    ),
    "no nodes": ("", ["b: 1"], "no_nodes", "no node has reported yet"),
    "out of service": (
        "n1: ....\nn2: ..x. cordoned\nn3: .... lost",
        ["b: 2x4"],
        "out_of_service",
        (
            "needs 2 members × 4 GPUs; the nodes in service could hold 1 of 2 members even if they "
            "were empty; 2 nodes take no work; 1 GPU is unhealthy or taken by others"
        ),
    ),
}


@pytest.mark.parametrize("case", WAITING)
def test_a_waiting_job_is_told_why(case):
    before, jobs, code, words = WAITING[case]
    yard = Yard(before)
    if code == "quota":
        yard.quota("default", 4).turn()
    yard.submit(*jobs).turn()

    answer = told(yard, "b")
    assert (answer.code, answer.text) == (code, words)
    assert code == "no_nodes" or answer.numbers


def test_those_in_back_off_and_over_quota_are_not_ahead():
    yard = Yard("n1: AA.").quota("vision", 0).turn().submit("r: 1 retries=1").turn()
    yard.quota("vision", 3).turn().submit("v: 3 project=vision").turn().quota("vision", 0).turn()
    yard.ended("r.1", code=1).settled().submit("c: 2", "b: 1").turn()
    assert yard.picture() == "n1: AA.\nwaiting: r v c b"

    assert dict(told(yard, "b").numbers)["ahead"] == 1


def test_a_back_off_is_told_with_its_end():
    yard = Yard("n1: .").submit("b: 1 retries=2").turn().ended("b.1", code=1).turn()

    answer = told(yard, "b")
    assert answer.code == "backoff"
    assert answer.text == (
        "member 0 exited with 1; attempt 2 starts in 1 s (failure 1 of 2 allowed)"
    )
    assert answer.earliest_ms == yard.now_ms + 1000


def test_a_job_that_only_waits_for_the_next_turn_is_told_so():
    yard = Yard("n1: .").submit("b: 1").turn().requeue("b").turn().ended("b.1", code=1).turn()

    assert told(yard, "b").code == "next"


def test_a_job_that_does_not_wait_is_told_what_it_does():
    yard = Yard("n1: .").submit("b: 1").turn()
    assert told(yard, "b").text == "it does not wait: it is starting"

    with pytest.raises(KeyError):
        told(yard, "nobody")


def test_the_earliest_start_is_the_time_limit_that_makes_room():
    yard = Yard("n1: ....").submit(
        "c: 1 limit_s=300", "d: 1 limit_s=100", "e: 1 limit_s=200", "f: 1"
    )
    yard.turn()
    for job in "cdef":
        yard.started(f"{job}.1")
    started_ms = yard.turn().now_ms - 10
    yard.submit("g: 1", "h: 2", "i: 3", "j: 4").turn()

    earliest = {job: told(yard, job) for job in "ghij"}
    assert [earliest[job].earliest_ms - started_ms for job in "ghi"] == [100_000, 200_000, 300_000]
    assert earliest["g"].basis == "the time limit of 1 running job"
    assert earliest["i"].basis == "the time limits of 3 running jobs"
    assert earliest["j"].earliest_ms == 0
    assert "no running job" in earliest["j"].basis


def test_many_holders_are_cut_short():
    yard = Yard("n1: ACDEF.").quota("default", 5).turn().submit("b: 1").turn()

    assert told(yard, "b").text.endswith("(held by a 1, c 1, d 1, …)")


# -- dry runs --------------------------------------------------------------------------------------


def trial(yard: Yard, line: str):
    job = yard.job(line)
    snapshot = yard.state.snapshot(yard.now_ms)
    rejected = yard.controller.judge(job)
    before = yard.picture()

    answer = try_job(snapshot, job, rejected)

    assert yard.picture() == before
    return answer


def test_a_trial_that_would_start_says_where_and_it_does():
    yard = Yard("n1: AA..\nn2: ....")

    answer = trial(yard, "b: 4")
    assert (answer.code, answer.text) == ("starts_now", "starts now on n2")
    assert answer.places == (("n2", (0, 1, 2, 3)),)

    yard.submit("b: 4").turn()
    assert yard.picture() == "n1: AA..\nn2: BBBB"


def test_a_trial_on_many_nodes_names_the_first_few():
    yard = Yard("\n".join(f"n{index}: ." for index in range(10)))

    answer = trial(yard, "b: 10x1")
    assert answer.text == "starts now on n0, n1, n2, n3, n4, n5, n6, n7 and 2 more"


@pytest.mark.parametrize(
    ("line", "tries"),
    [
        ("b: 4x1", ("--members 3 would start now",)),
        ("b: 4", ("--gpus 2 would start now",)),
        ("b: 2x2 model=H100", ("--members 1 would start now", "--gpus 1 would start now")),
        ("b: 2 model=L4", ("--profile H100 would start now", "--gpus 1 would start now")),
    ],
)  # fmt: skip
def test_a_trial_that_would_wait_says_what_would_fit(line, tries):
    yard = Yard("n1: AA.. model=H100\nn2: CCC. model=L4\nn3: DD model=L4")

    answer = trial(yard, line)
    assert answer.code == "waits"
    assert answer.tries == tries


def test_a_trial_stands_behind_its_class_but_before_lower_ones():
    yard = Yard("n1: AA..").submit("c: 4").turn()

    assert trial(yard, "b: 1").code == "waits"
    assert trial(yard, "b: 1 priority=1").code == "starts_now"


def test_a_trial_of_the_impossible_is_its_guide():
    answer = trial(Yard("n1: ...."), "b: 5")

    assert answer.code == "never"
    assert answer.tries == ("--gpus 4 and more members", "--gpus 4 would start now")


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "shape", "words"),
    [
        (1, Shape(1), "1 GPU"),
        (1, Shape(8), "8 GPUs"),
        (4, Shape(2, models=("H100", "A100")), "4 members × 2 GPUs (H100 or A100)"),
        (1, Shape(1, 250), "0.25 GPU"),
        (1, Shape(0, cpu_milli=1500), "1.5 CPUs"),
    ],
)
def test_a_request_in_words(members, shape, words):
    assert size(members, shape) == words


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Exit(3), "member 1 exited with 3"),
        (Exit(0, signal=15), "member 1 was ended by signal 15"),
        (Exit(0, lost=True), "member 1 was lost with its node"),
    ],
)
def test_a_bad_end_in_words(end, words):
    assert how_it_ended(1, end) == words
