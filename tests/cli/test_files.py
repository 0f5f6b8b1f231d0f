"""Files that people hand to a verb: what is wrong with one is said in words, everywhere alike."""

import io
import sys

import pytest

from madang.cli.files import text_of
from madang.cli.parse import UsageError
from madang.cli.rules import rules_file
from madang.cli.submit import job_file
from madang.cli.tenancy import policy_file
from madang.cli.topology import _topology as topology_file

READERS = [text_of, rules_file, policy_file, job_file, topology_file]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
        (b"#" * (8 << 20), "is too long"),
    ],
    ids=["absent", "bytes", "long"],
)
def test_a_file_that_is_none_is_refused_in_words(tmp_path, read, content, says):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UsageError) as refused:
        read(str(path))

    assert refused.value.message == f"{path} {says}"


def test_what_is_piped_in_is_read_where_the_verb_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("given"))

    assert text_of("-", stdin=True) == "given"
    with pytest.raises(UsageError):
        text_of("-")


@pytest.mark.parametrize(("text", "fits"), [("한글", True), ("한글.", False)])
def test_a_bound_is_of_bytes(tmp_path, text, fits):
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")

    if fits:
        assert text_of(str(path), 6) == text
    else:
        with pytest.raises(UsageError, match="too long"):
            text_of(str(path), 6)
