"""The file of rules: what is read, what is refused, and with which words."""

import pytest

from madang.core.rules import SHIPPED, Rule
from madang.telemetry.rules.flaws import flaw_of
from madang.wire.rules import RulesError, read_rules, toml_of

WHOLE = """
[[rule]]
name = "slow"
metric = "report_tokens_per_s"
value = "mean"
window = "10m"
below = 900.5
for = "5m"
after = "1h"
severity = "critical"
text = "Look \\"here\\"."
scope = {category = "training", project = ["vision"], job = ["train", "x-4"], group = ["H100"]}
"""


def named(**changes):
    known = {"metric": '"gpu_util_percent"', "quantile": '"p25"', "below": "5", **changes}
    lines = [f"{key} = {value}" for key, value in known.items() if value]
    return "\n".join(["[[rule]]", 'name = "low"', *lines])


def test_a_whole_rule_is_read_and_written_as_it_was():
    rule = read_rules(WHOLE)[0]

    assert Rule(**rule.stated("slow", "ada")) == Rule(
        "slow",
        "report_tokens_per_s",
        "mean",
        600_000,
        is_above=False,
        threshold="900.5",
        hold_ms=300_000,
        after_ms=3_600_000,
        severity="critical",
        text='Look "here".',
        categories=("training",),
        projects=("vision",),
        jobs=("train", "x-4"),
        groups=("H100",),
        by="ada",
    )
    assert read_rules(toml_of("slow", rule)) == [rule]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no [[rule]]"),
        ("[[rule]", "it is not TOML"),
        (named(quantil='"p5"'), "rule 1 (low): quantil: there is no such key; there are above,"),
        (named(quantile='"p30"'), "rule 1 (low): quantile: Input should be 'p5', 'p25'"),
        (named(quantile=""), "rule 1 (low): a rule has a quantile"),
        (
            named(value='"max"'),
            "a rule has a quantile (p5, p25, p50, p95, p99) or a value, not both",
        ),
        (named(quantile="", value='"max"'), 'value = "max" needs a window'),
        (named(above="7"), "a rule has a threshold: above or below, not both"),
        (named(below="nan"), "a threshold is a finite number"),
        (named(**{"for": '"soon"'}), "rule 1 (low): for: 'soon' is not a duration"),
        (named(severity='"dire"'), "rule 1 (low): severity: Input should be 'info', 'warning'"),
        (
            named(scope='{colour = "red"}'),
            "scope: colour: there is no such key; there are category",
        ),
        (named() + "\n" + named(), "two rules have the name low"),
        ("# " + "x" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(text, says):
    with pytest.raises(RulesError) as wrong:
        read_rules(text)

    assert says in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (named(metric='"gpu_utl_percent"'), "did you mean gpu_util_percent?"),
        (named(metric='"report_"'), "there is no metric 'report_'"),
        (named(metric='"port_rx_bytes"'), "give the rule a window"),
        (named(window='"61m"'), "at most an hour"),
        (named(metric='"report_loss"'), ""),
        (named(window='"1h"', metric='"port_rx_bytes"'), ""),
    ],
)
def test_what_nobody_measures_is_no_rule(text, says):
    rule = read_rules(text)[0]
    flaw = flaw_of(Rule(**rule.stated(rule.name)))

    assert says in flaw
    assert bool(says) == bool(flaw)


def test_shipped_rules_can_be():
    assert [flaw_of(rule) for rule in SHIPPED.values()] == [""] * len(SHIPPED)
