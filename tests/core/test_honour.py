"""What becomes of a promise to a waiting job."""

from dataclasses import replace

from madang.core import events as ev
from madang.core.policies import MADANG
from tests.core.yard import Yard

HASTY = replace(MADANG, name="hasty", level_ms=5, run_ms_min=1)


def test_a_job_that_is_stopped_while_it_has_a_promise_ends_once():
    yard = Yard("n1: ....")
    yard.state.policy = HASTY
    old = replace(yard.job("old: 4"), checkpoints=True)
    yard.fact(ev.JobSubmitted(old)).turn().started("old.1").turn(wait_ms=1_000)
    yard.submit("young: 4").turn()
    assert list(yard.state.nominations) == ["young"]
    yard.stop("young").turn()

    assert yard.decisions() == ["end young stopped"]
    assert yard.state.nominations == {}
    assert yard.phase("young") == "stopped: stop"
