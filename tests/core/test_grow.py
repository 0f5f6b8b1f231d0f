"""An elastic gang that runs short starts anew with more members, when that is worth it."""

from dataclasses import replace

from madang.core import events as ev
from madang.core.check import check
from madang.core.passes.grow import GAIN_FACTOR, worth_from_ms
from madang.core.restore import restored
from madang.core.settings import DisruptionBudget
from tests.core.yard import Yard, text

RESTART_S = 10
SHORT = """n1: AA.. at=b0/l0
           n2: CCCC at=b0/l0"""
# Four members, room for two: it is worth a new start once it has run 4 · 10 s · 4 / (4 - 2).
GAIN_S = GAIN_FACTOR * RESTART_S * 2


def short_yard(options: str = "checkpoints=1") -> Yard:
    """A gang of four that runs with two, beside jobs that have n2 and half of n1."""
    yard = Yard(SHORT).quota("vision", 4).turn()
    yard.submit(f"b: 4x1 min=1 restart_s={RESTART_S} {options}").turn()
    return yard.started("b.1").turn()


def grown(yard: Yard) -> list[str]:
    return [word for word in yard.decisions() if word.startswith("release")]


def test_it_grows_when_others_have_left_and_it_has_run_long_enough():
    yard = short_yard()
    began_ms = yard.state.allocations["b.1"].running_ms
    yard.ended("c.1").turn()
    assert not grown(yard)

    assert yard.controller.due_ms(yard.now_ms) == began_ms + GAIN_S * 1000
    yard.turn(wait_ms=began_ms + GAIN_S * 1000 - 1 - yard.now_ms)
    assert not grown(yard)
    yard.turn(wait_ms=1)
    assert grown(yard) == ["release b.1 moved 30000"]
    asked = yard.last.decisions[-1]
    assert isinstance(asked, ev.ReleaseAsked)
    assert asked.by == "it grows from 2 to 4 members"
    assert asked.bill_gpu_ms == 2 * RESTART_S * 1000
    yard.ended("b.1", code=1).settled()

    assert yard.picture() == text(
        """n1: AA..
           n2: BBBB"""
    )
    assert yard.controller.due_ms(yard.now_ms) is None


def test_it_does_not_start_anew_where_nothing_more_is_free():
    yard = short_yard()

    yard.turn(wait_ms=3_600_000)

    assert not grown(yard)


def test_what_does_not_checkpoint_does_not_grow():
    yard = short_yard("").ended("c.1").turn()

    yard.turn(wait_ms=3_600_000)

    assert not grown(yard)
    assert not yard.state.short


def test_it_takes_nothing_that_somebody_waits_for():
    yard = short_yard().submit("d: 1x4").turn()
    assert yard.picture().endswith("waiting: d")
    yard.ended("a.1").turn(wait_ms=3_600_000)  # room for two more members, none for d

    assert not grown(yard)


def test_it_does_not_grow_above_its_quota():
    yard = short_yard("checkpoints=1 project=vision").quota("vision", 2).ended("c.1").turn()

    yard.turn(wait_ms=3_600_000)

    assert not grown(yard)


def test_it_grows_as_far_as_its_quota_allows_when_that_is_worth_it():
    yard = short_yard("checkpoints=1 project=vision").quota("vision", 3).ended("c.1").turn()
    begun = yard.state.allocations["b.1"]
    # One member more in three: 4 · 10 s · 3 / (3 - 2).
    worth_ms = begun.running_ms + GAIN_FACTOR * RESTART_S * 3 * 1000
    yard.turn(wait_ms=begun.running_ms + GAIN_S * 1000 - yard.now_ms)  # worth it for four
    assert not grown(yard)
    assert yard.controller.due_ms(yard.now_ms) == worth_ms

    yard.turn(wait_ms=worth_ms - yard.now_ms)
    assert grown(yard) == ["release b.1 moved 30000"]
    asked = yard.last.decisions[-1]
    assert isinstance(asked, ev.ReleaseAsked)
    assert asked.by == "it grows from 2 to 3 members"
    yard.ended("b.1", code=1).settled()

    assert yard.picture() == text(
        """n1: AA..
           n2: BBB."""
    )


def test_it_grows_when_its_quota_does():
    yard = Yard("n1: ....").quota("vision", 2).turn()
    yard.submit(f"b: 4x1 min=1 restart_s={RESTART_S} checkpoints=1 project=vision").turn()
    yard.started("b.1").turn(wait_ms=3_600_000)
    assert yard.picture() == "n1: BB.."

    yard.quota("vision", 4).turn()
    assert grown(yard)
    yard.ended("b.1", code=1).settled()

    assert yard.picture() == "n1: BBBB"


def test_it_breaks_no_disruption_budget():
    yard = Yard(SHORT)
    job = replace(yard.job(f"b: 4x1 min=1 restart_s={RESTART_S} checkpoints=1"), budget="few")
    yard.fact(ev.BudgetSet(DisruptionBudget("few", "default", 1)))
    yard.fact(ev.JobSubmitted(job)).turn().started("b.1").turn().ended("c.1").turn()

    yard.turn(wait_ms=3_600_000)
    assert not grown(yard)  # its two members would be down at once
    yard.fact(ev.BudgetSet(DisruptionBudget("few", "default", 2))).turn()

    assert grown(yard)


def test_a_gang_that_comes_to_its_end_does_not_start_anew():
    yard = short_yard().ended("c.1").turn().ended("b.1", 0).turn()

    yard.turn(wait_ms=3_600_000)

    assert not grown(yard)


def test_with_an_estimate_it_grows_early_or_not_at_all():
    # It has cost 40 s by then; of what is left half is gained.
    for estimate_s, grows in ((119, False), (120, True)):
        yard = Yard(SHORT)
        job = yard.job(f"b: 4x1 min=1 restart_s={RESTART_S} checkpoints=1")
        yard.fact(ev.JobSubmitted(replace(job, estimate_ms=estimate_s * 1000)))
        yard.turn().started("b.1").turn().ended("c.1").turn()
        begun = yard.state.allocations["b.1"]
        first_ms = worth_from_ms(yard.state.jobs["b"].job, begun)
        assert first_ms == begun.running_ms + GAIN_FACTOR * RESTART_S * 1000

        yard.turn(wait_ms=first_ms - yard.now_ms)

        assert bool(grown(yard)) is grows


def test_a_restart_of_the_daemon_remembers_who_runs_short():
    state = short_yard().state

    again = restored(
        list(state.nodes.values()),
        state.projects.values(),
        state.jobs.values(),
        state.allocations.values(),
        (),
    )

    check(again)
    assert list(again.short) == ["b.1"]
