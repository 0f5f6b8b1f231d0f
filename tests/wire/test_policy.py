"""The policy file: what is written is read back, and a mistake is told with what is allowed."""

from dataclasses import fields, replace

import pytest

from madang.core.classes import ClassRow
from madang.core.policies import MADANG, POLICIES, policy_of, stated_of
from madang.core.policy import Policy
from madang.wire.policy import PolicyError, PolicyFile, read_policy, toml_of

CHANGED = replace(
    MADANG,
    name="ours",
    patience_ms=1_500,
    classes=(
        ClassRow(("spot",), (), ("test", "qa"), priority=3, preemptible="always"),
        ClassRow(category=("data",), head_start_ms=0, time_limit_ms=90_000, retries_max=2),
    ),
)


@pytest.mark.parametrize("policy", [*POLICIES.values(), CHANGED], ids=lambda policy: policy.name)
def test_a_policy_written_as_toml_is_read_back_as_it_was(policy):
    text = toml_of(PolicyFile.model_validate(stated_of(policy)))

    assert policy_of(read_policy(text).stated()) == policy


def test_what_a_file_leaves_out_is_as_in_its_base():
    assert policy_of(read_policy("").stated()) == MADANG
    assert policy_of(read_policy('base = "fifo"').stated()) == POLICIES["fifo"]
    assert policy_of(read_policy('patience = "6h"').stated()) == replace(
        MADANG, patience_ms=6 * 3_600_000
    )


def test_every_field_of_a_policy_can_be_written():
    stated = set(stated_of(CHANGED))
    known = {field.alias or name for name, field in PolicyFile.model_fields.items()}

    assert stated <= known
    assert len(stated) == len(fields(Policy)) + 1  # and its base


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patiense = '2h'", "patiense: there is no such key; there are: .*patience"),
        ("patience = '3 weeks'", "patience: '3 weeks' is not a duration; write 90s"),
        ("misfit = 'wait'", "misfit: Input should be 'stop', 'hold', 'skip' or 'reserve'"),
        ("order = ['level', 'level']", "order names a key twice"),
        ("[[class]]\npurpose = 'qa'", "class 1: the row states nothing"),
        ("[[class]]\npriority = 1\n[[class]]\npriority = 2000", "class 2, priority: .*1000"),
        ("[[class]]\nprovisioning = 'free'\npriority = 1", "class 1, provisioning 1: .*'spot'"),
        ("patience", "it is not TOML"),
        ("#" * (1 << 20) + "#", "at most 1048576 bytes"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_allowed(text, said):
    with pytest.raises(PolicyError, match=said):
        read_policy(text)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(PolicyError) as told:
        read_policy("patience = -1\nlevel_factor = 1\nx = 3")

    assert len(str(told.value).splitlines()) == 3
