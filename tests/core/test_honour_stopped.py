"""What becomes of a promise to a waiting job."""

from dataclasses import replace

from madang.core import events as ev
from madang.core.policies import MADANG
from tests.core.yard import Yard

HASTY = replace(MADANG, name="hasty", level_ms=5, run_ms_min=1)


def promised() -> Yard:
    """`young` was promised the devices that `old` still holds."""
    yard = Yard("n1: ....")
    yard.state.policy = HASTY
    old = replace(yard.job("old: 4"), checkpoints=True)
    yard.fact(ev.JobSubmitted(old)).turn().started("old.1").turn(wait_ms=1_000)
    yard.submit("young: 4").turn()
    assert list(yard.state.nominations) == ["young"]
    return yard


def test_a_job_that_is_stopped_while_it_has_a_promise_ends_once():
    yard = promised()
    yard.stop("young").turn()

    assert yard.decisions() == ["end young stopped"]
    assert yard.state.nominations == {}
    assert yard.phase("young") == "stopped: stop"


def test_a_job_that_is_stopped_as_its_devices_come_free_is_not_started():
    yard = promised()
    yard.ended("old.1", code=143).stop("young").turn()

    assert "end young stopped" in yard.decisions()
    assert "bind young.1" not in yard.decisions()
    assert yard.state.nominations == {}
