import io

import pytest

from madang.cli import show
from madang.cli.show import Column, clean, cut, duration, table, width
from madang.cli.submit import name_of


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (350, "350 ms"),
        (1_000, "1 s"),
        (59_999, "59 s"),
        (60_000, "1 m"),
        (61_000, "1 m 1 s"),
        (8_040_000, "2 h 14 m"),
        (7_200_000, "2 h"),
        (86_400_000 * 3 + 3_600_000 * 4, "3 d 4 h"),
        (86_400_000 * 400, "400 d"),
    ],
)
def test_a_duration_reads_as(ms, text):
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("마당", 4),
        ("a마", 3),
        ("é", 1),
        ("e\u0301", 1),
        ("ａ", 2),
        ("✓ ok", 4),
        ("👩\u200d💻", 4),
    ],
)
def test_a_text_takes_columns(text, columns):
    assert width(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 4, "abc…"),
        ("마당마당", 5, "마당…"),
        ("마당마당", 4, "마…"),
    ],
)
def test_a_text_is_cut_to_its_columns(text, columns, expected):
    assert cut(text, columns) == expected
    assert width(cut(text, columns)) <= columns


def test_columns_stay_aligned_with_wide_characters():
    text = table(
        [Column("NAME"), Column("GPUS", right=True), Column("WHY")],
        [["digits", "2", "x"], ["숫자", "0.25", "y"], ["ａb", "16", "z"]],
    )

    places = {
        width(line[: line.index(end)])
        for line, end in zip(text.splitlines()[1:], "xyz", strict=True)
    }
    assert len(places) == 1
    assert text.splitlines()[2] == "숫자    0.25  y"


def test_on_a_terminal_the_long_column_gives_way(monkeypatch):
    monkeypatch.setattr(show, "terminal_columns", lambda: 30)

    text = table([Column("ID"), Column("WHY", shrinks=True)], [["digits-1", "x" * 100]])

    assert max(width(line) for line in text.splitlines()) == 30
    assert text.endswith("…")


def test_into_a_pipe_nothing_is_cut():
    text = table([Column("ID"), Column("WHY", shrinks=True)], [["digits-1", "x" * 500]])

    assert "x" * 500 in text


def test_a_name_cannot_drive_the_terminal():
    assert clean("a\x1b[2Jb\nc\rd\x9b") == "a�[2Jb c�d�"


@pytest.mark.parametrize(
    ("environ", "is_terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_sent_where_they_are_wanted(monkeypatch, environ, is_terminal, expected):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    class Stream(io.StringIO):
        def isatty(self):
            return is_terminal

    assert show.has_colour(Stream()) is expected


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["true"], "true"),
        (["python", "train.py"], "train"),
        (["/usr/bin/python3.11", "-u", "src/Train_Big.py", "--lr"], "train-big"),
        (["python", "-m", "pkg.module"], "module"),
        (["torchrun", "--nproc=2", "run_it.py"], "run-it"),
        (["bash", "-c", "echo hello"], "bash"),
        (["bash", "go.sh"], "go"),
        (["uv", "run", "python", "a.py"], "a"),
        (["./학습.py"], "job"),
        (["nvidia-smi"], "nvidia-smi"),
        (["x" * 100], "x" * 48),
        (["--"], "job"),
        (["a.out"], "a-out"),
    ],
)
def test_a_job_is_called_by_what_it_runs(command, name):
    assert name_of(command) == name
