"""Nights and idle rules in the policy file."""

import pytest

from madang.core.idle_rule import IDLE_RULES, IdleRule
from madang.core.policies import MADANG, policy_of, stated_of
from madang.wire.policy import PolicyError, PolicyFile, read_policy, toml_of

HOUR_MS = 3_600_000
TEXT = """
utc_offset = "+09:00"
night_begin = "22:30"
night_end = "05:00"
night_gpu = "40h"
moves_at_once = 3

[[idle]]
category = "interactive"
idle = "3h"
takes = true

[[idle]]
util_pct = 2
"""


def test_a_night_and_idle_rules_are_read():
    policy = policy_of(read_policy(TEXT).stated())

    assert policy.utc_offset_ms == 9 * HOUR_MS
    assert (policy.night_begin_ms, policy.night_end_ms) == (22 * HOUR_MS + 1_800_000, 5 * HOUR_MS)
    assert (policy.night_gpu_ms, policy.moves_at_once) == (40 * HOUR_MS, 3)
    assert policy.idle_rules == (
        IdleRule("interactive", idle_ms=3 * HOUR_MS, takes=True),
        IdleRule(util_pct=2),
    )


@pytest.mark.parametrize("text", ["", "idle = []", TEXT, 'utc_offset = "-03:30"'])
def test_what_was_read_is_written_back_and_read_the_same(text):
    policy = policy_of(read_policy(text).stated())
    stated = PolicyFile.model_validate(stated_of(policy))
    again = read_policy(toml_of(stated))

    assert policy_of(again.stated()) == policy


def test_nothing_said_is_the_default():
    policy = policy_of(read_policy("").stated())

    assert policy.idle_rules == IDLE_RULES == MADANG.idle_rules
    assert policy.night_begin_ms == policy.night_end_ms
    assert policy_of(read_policy("idle = []").stated()).idle_rules == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('night_begin = "2:75"', "night_begin: '2:75' is not a time of day; write 02:30"),
        ('night_begin = "soon"', "night_begin: 'soon' is not a duration"),
        ("moves_at_once = 0", "moves_at_once: "),
        ("[[idle]]\nutil = 3", "idle 1, util: there is no such key; there are: category, grace"),
        ('[[idle]]\ncategory = "games"', "idle 1, category: "),
    ],
)
def test_a_mistake_is_said_with_its_place(text, words):
    with pytest.raises(PolicyError, match=words.replace("(", r"\(")):
        read_policy(text)
