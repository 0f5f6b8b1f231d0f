"""A job's request, written and read again, is the same request."""

import pytest

from madang.wire.jobs import JobRequest, duration_ms, duration_text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (1, "1ms"),
        (1_500, "1500ms"),
        (90_000, "90s"),
        (120_000, "2m"),
        (7_200_000, "2h"),
        (86_400_000, "1d"),
        (86_400_001, "86400001ms"),
    ],
)
def test_a_duration_is_written_as_it_can_be_read(ms, text):
    assert duration_text(ms) == text
    assert duration_ms(text) == ms


@pytest.mark.parametrize("exclude_defaults", [True, False])
def test_a_stored_request_is_the_one_that_was_sent(exclude_defaults):
    sent = JobRequest(command=["true"], time="2h", grace="1500ms", gpus=0.25, env={"A": "é"})

    stored = sent.model_dump_json(exclude_defaults=exclude_defaults)

    assert JobRequest.model_validate_json(stored) == sent


@pytest.mark.parametrize("field", ["project", "profile", "image", "memo", "forked_from"])
def test_no_text_holds_a_nul_that_a_database_would_choke_on(field):
    with pytest.raises(ValueError, match="NUL"):
        JobRequest.model_validate({"command": ["true"], field: "a\0b"})
