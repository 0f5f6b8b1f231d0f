"""How needs, tolerations and taints are written."""

import pytest

from madang.wire.jobs import JobRequest
from madang.wire.terms import need_of, taint_of, toleration_of


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("rack=r1", ("rack", "in", ("r1",))),
        ("rack == r1", ("rack", "in", ("r1",))),
        ("rack!=r1", ("rack", "not_in", ("r1",))),
        ("rack in (r1,r2)", ("rack", "in", ("r1", "r2"))),
        ("rack in (r1, r2)", ("rack", "in", ("r1", "r2"))),
        ("rack notin (r1)", ("rack", "not_in", ("r1",))),
        ("rack", ("rack", "exists", ())),
        ("!rack", ("rack", "absent", ())),
        ("generation>3", ("generation", "gt", ("3",))),
        ("generation < -3", ("generation", "lt", ("-3",))),
        ("nvidia.com/gpu.product=NVIDIA-H100", ("nvidia.com/gpu.product", "in", ("NVIDIA-H100",))),
        ("rack=", ("rack", "in", ("",))),
        (" in ", ("in", "exists", ())),
    ],
)
def test_a_need_is_a_label_selector(text, meaning):
    assert need_of(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "=r1", "rack in r1", "rack in (r1", "a b", "rack>fast", "rack=r1,r2", "$(rm)", "é"]
)
def test_what_is_no_need_is_refused_with_how_they_are_written(text):
    with pytest.raises(ValueError, match="they look like rack=r1"):
        need_of(text)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("*", ("", "exists", "", "")),
        ("gpu", ("gpu", "exists", "", "")),
        ("gpu:NoExecute", ("gpu", "exists", "", "NoExecute")),
        ("team=a", ("team", "equal", "a", "")),
        ("team=a:NoSchedule", ("team", "equal", "a", "NoSchedule")),
        ("*:NoSchedule", ("", "exists", "", "NoSchedule")),
    ],
)
def test_a_toleration(text, meaning):
    assert toleration_of(text) == meaning


@pytest.mark.parametrize("text", ["", "*=a", "team=a:Never", "team a"])
def test_what_is_no_toleration_is_refused(text):
    with pytest.raises(ValueError, match="they look like key"):
        toleration_of(text)


def test_a_taint_has_a_key_and_an_effect():
    assert taint_of("team=a") == ("team", "a", "NoSchedule")
    with pytest.raises(ValueError, match="a taint has a key"):
        taint_of("*")


def test_a_job_file_says_which_of_them_is_wrong():
    with pytest.raises(ValueError, match="'rack in r1' is no need"):
        JobRequest(command=["true"], needs=["rack", "rack in r1"])
    with pytest.raises(ValueError, match="is no toleration"):
        JobRequest(command=["true"], tolerates=["a b"])
