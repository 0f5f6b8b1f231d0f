"""Violations in the state: told once, ended with what broke the rule, as the rows say them."""

import pytest

from madang.core import events as ev
from madang.core.check import check
from madang.core.rules import BROKEN_MAX, SHIPPED, Rule, measured_words, rules_of
from tests.core.yard import Yard

RULE = Rule("low", "gpu_util_percent", "p25", 0, is_above=False, threshold="20")


@pytest.fixture
def yard():
    found = Yard("n1: AA..")
    found.fact(ev.RuleSet(RULE))
    found.turn()
    return found


def allocation_of(yard):
    return yard.state.jobs["a"].allocation


def broken(yard, rule="low", at_ms=5):
    return yard.state.apply(
        ev.RuleBroken(rule, allocation_of(yard), at_ms, "3", "warning", "p25 is 3"), 9
    )


def rows(yard):
    found = yard.state.settings.violations
    return {key: [one.rule for one in row.broken] for key, row in found.items()}


def test_a_rule_is_broken_once_and_kept_once(yard):
    id = allocation_of(yard)
    kept = ev.RuleKept("low", id, 9, "40")

    assert [broken(yard), broken(yard)] == [True, False]
    assert rows(yard) == {id: ["low"]}
    assert yard.state.settings.violations[id].broken[0].since_ms == 5
    assert ("violations", id) in yard.state.changed.settings
    assert [yard.state.apply(kept, 9), yard.state.apply(kept, 9)] == [True, False]
    assert rows(yard) == {}
    check(yard.state)


def test_what_is_not_there_or_not_in_force_is_not_broken(yard):
    assert not broken(yard, "nothing")
    assert not yard.state.apply(ev.RuleBroken("low", "z-9.1", 5, "3"), 9)
    assert broken(yard, "idle-held")  # it is shipped
    yard.state.apply(ev.RuleSet(Rule("idle-held", "x", "max", 9, False, "1", is_on=False)), 9)

    assert rows(yard) == {}
    assert not broken(yard, "idle-held")


@pytest.mark.parametrize(
    "fact", [ev.RuleSet(Rule("low", "x", "p5", 0, True, "1")), ev.SettingDropped("rules", "low")]
)
def test_another_rule_of_that_name_or_none_is_broken_by_nobody(yard, fact):
    broken(yard)
    broken(yard, "idle-held")
    yard.state.apply(fact, 9)

    assert rows(yard) == {allocation_of(yard): ["idle-held"]}


def test_violations_end_with_the_run(yard):
    broken(yard)
    yard.fact(ev.JobStopAsked("a"))
    yard.turn()

    assert rows(yard) == {}
    check(yard.state)


def test_one_run_breaks_so_many_rules_and_no_more(yard):
    for n in range(BROKEN_MAX + 1):
        yard.state.apply(ev.RuleSet(Rule(f"r{n}", "x", "p5", 0, True, "1")), 9)

    assert [broken(yard, f"r{n}") for n in range(BROKEN_MAX + 1)] == [True] * BROKEN_MAX + [False]


def test_what_is_told_of_rules_moves_nobody(yard):
    before = yard.state.stirs
    broken(yard)
    yard.state.apply(ev.RuleKept("low", allocation_of(yard), 9, "40"), 9)

    assert yard.state.stirs == before


def test_what_was_set_goes_before_what_is_shipped():
    mine = Rule("idle-held", "x", "max", 9, is_above=False, threshold="1")

    assert rules_of({"idle-held": mine})["idle-held"] is mine
    assert set(rules_of({"low": RULE})) == {*SHIPPED, "low"}
    assert measured_words(RULE, "3") == "p25 of gpu_util_percent since the start is 3, below 20"
