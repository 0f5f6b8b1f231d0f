import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import madang
from madang.client import inside


class Scalar:
    """What NumPy's and PyTorch's scalars have in common."""

    def __init__(self, value):
        self.value = value

    def item(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.fixture
def report_file(tmp_path, monkeypatch):
    path = tmp_path / "reports.ndjson"
    monkeypatch.setenv("MADANG_REPORT_FILE", str(path))
    monkeypatch.setattr(inside, "_warned", set())
    yield path
    for descriptor in inside._files.values():
        os.close(descriptor)
    inside._files.clear()


def report_steps(count: int, **values):
    for step in range(count):
        madang.report(step=step, **values)


def lines(path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (0.5, 0.5),
        (True, True),
        (None, None),
        ("warm-up", "warm-up"),
        ("정확도", "정확도"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (Scalar(0.25), 0.25),
        (Scalar(float("nan")), "NaN"),
        (10**30, 10**30),
    ],
)
def test_a_value_is_reported_as(report_file, value, expected):
    madang.report(step=3, value=value)

    (line,) = lines(report_file)
    assert line["step"] == 3
    assert line["value"] == expected
    assert line["t_ms"] > 1_600_000_000_000


@pytest.mark.parametrize("value", [object(), [1, 2], Scalar(ValueError("2 elements")), Scalar([1])])
def test_what_is_no_number_is_left_out_with_one_warning(report_file, value):
    with pytest.warns(RuntimeWarning, match="bad is not a number") as caught:
        report_steps(3, bad=value, good=1)

    assert len(caught) == 1
    assert [(line["step"], line["good"]) for line in lines(report_file)] == [(0, 1), (1, 1), (2, 1)]


def test_numpy_scalars_are_numbers(report_file):
    numpy = pytest.importorskip("numpy")

    madang.report(step=numpy.int64(7), loss=numpy.float32(0.5), last=numpy.array([2.0])[0])

    (line,) = lines(report_file)
    assert (line["step"], line["loss"], line["last"]) == (7, 0.5, 2.0)


def test_madangs_own_names_cannot_be_overwritten(report_file):
    with pytest.warns(RuntimeWarning, match="t_ms"):
        madang.report(t_ms=1, loss=2)

    (line,) = lines(report_file)
    assert line["t_ms"] > 1


def test_outside_a_job_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.delenv("MADANG_REPORT_FILE", raising=False)
    monkeypatch.chdir(tmp_path)

    madang.report(step=1, loss=2)

    assert list(tmp_path.iterdir()) == []


def test_reports_among_other_output_are_marked(tmp_path):
    """A container has one way out: what is a report there begins with RS (RFC 7464)."""
    text = "import madang; print('a'); madang.report(step=1); madang.report(step=2)"
    ran = subprocess.run(
        [sys.executable, "-u", "-c", text],
        env=_env("/dev/stdout"),
        capture_output=True,
        check=True,
    )

    first, *marked = ran.stdout.splitlines()
    assert first == b"a"
    assert [one[:1] for one in marked] == [b"\x1e", b"\x1e"]
    assert [json.loads(one[1:])["step"] for one in marked] == [1, 2]


def test_a_file_that_cannot_be_written_is_warned_of_once_and_training_goes_on(
    report_file, monkeypatch, tmp_path
):
    monkeypatch.setenv("MADANG_REPORT_FILE", str(tmp_path / "no" / "such" / "dir" / "f"))

    with pytest.warns(RuntimeWarning, match="training goes on") as caught:
        report_steps(2, loss=1)

    assert len(caught) == 1


def test_a_program_that_makes_warnings_errors_goes_on_too(report_file, monkeypatch, capsys):
    monkeypatch.setenv("MADANG_REPORT_FILE", "/proc/nope")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        madang.report(loss=1)

    assert "training goes on" in capsys.readouterr().err


def test_a_line_torn_by_a_full_disk_is_closed_by_the_next(report_file, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: write(fd, line[:5]))
    with pytest.warns(RuntimeWarning):
        madang.report(step=1, loss=1)
    monkeypatch.setattr(os, "write", write)
    madang.report(step=2, loss=2)

    torn, whole = report_file.read_text().splitlines()
    assert len(torn) == 5
    assert json.loads(whole)["step"] == 2


def test_a_huge_report_is_refused_with_a_warning(report_file):
    with pytest.warns(RuntimeWarning, match="65536 are allowed"):
        madang.report(**{f"metric_{n}": "x" * 1000 for n in range(100)})

    assert not report_file.exists()


def test_threads_and_forks_write_whole_lines(report_file):
    def many(rank: int) -> None:
        for step in range(200):
            madang.report(step=step, rank=rank, text="x" * 500)

    threads = [threading.Thread(target=many, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = (
        "import os, sys, madang\n"
        "madang.report(step=0, rank=9)\n"
        "child = os.fork()\n"
        "for step in range(200): madang.report(step=step, rank=10 if child else 11, t='y'*500)\n"
        "os._exit(0) if not child else os.waitpid(child, 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_env(report_file))

    found = lines(report_file)
    counts = {rank: sum(line["rank"] == rank for line in found) for rank in (0, 1, 2, 3, 10, 11)}
    assert counts == dict.fromkeys((0, 1, 2, 3, 10, 11), 200)


def _env(report_file) -> dict[str, str]:
    source = str(Path(madang.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": source, "MADANG_REPORT_FILE": str(report_file)}


def test_checkpoint_dir_is_the_jobs_or_one_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MADANG_CHECKPOINT_DIR", raising=False)
    assert madang.checkpoint_dir() == Path("checkpoints")
    assert (tmp_path / "checkpoints").is_dir()

    monkeypatch.setenv("MADANG_CHECKPOINT_DIR", str(tmp_path / "kept" / "deep"))
    assert madang.checkpoint_dir() == tmp_path / "kept" / "deep"
    assert (tmp_path / "kept" / "deep").is_dir()


@pytest.fixture
def fresh_stop(monkeypatch):
    monkeypatch.setattr(inside, "_stop_seen", False)
    monkeypatch.setattr(inside, "_stop_watched", False)
    monkeypatch.delenv("MADANG_STOP_FILE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_should_stop_sees_the_stop_file(fresh_stop, monkeypatch, tmp_path):
    monkeypatch.setenv("MADANG_STOP_FILE", str(tmp_path / "stop"))
    assert not madang.should_stop()

    (tmp_path / "stop").write_text("{}")

    assert madang.should_stop()


def test_should_stop_catches_sigterm(fresh_stop):
    assert not madang.should_stop()

    os.kill(os.getpid(), signal.SIGTERM)

    assert madang.should_stop()


def test_a_programs_own_handler_is_left_alone(fresh_stop):
    seen = []
    signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))

    assert not madang.should_stop()
    os.kill(os.getpid(), signal.SIGTERM)

    assert seen == [signal.SIGTERM]
    assert not madang.should_stop()


def test_a_first_call_in_another_thread_leaves_it_to_the_main_thread(fresh_stop):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(madang.should_stop()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    answers.append(madang.should_stop())

    assert answers == [False, False]
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_reporting_imports_no_network(report_file):
    code = "import sys, madang; madang.report(loss=1); sys.exit('socket' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True, env=_env(report_file))


def test_the_sdk_is_written_for_python_3_9():
    """Every file of it parses as 3.9 would."""
    import ast

    folder = Path(madang.__file__).parent
    for path in [folder / "__init__.py", *sorted((folder / "client").glob("*.py"))]:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_the_sdk_works_on_the_oldest_python_here(tmp_path):
    """With a Python 3.9 or 3.10 beside this one, the whole of it loads and reports."""
    found = [path for name in ("python3.9", "python3.10") if (path := _which(name))]
    if not found:
        pytest.skip("no older Python here: put python3.9 on PATH")
    code = (
        "import madang, madang.client.api, madang.client.code, madang.client.stream\n"
        "madang.report(step=1, loss=float('nan')); madang.should_stop()\n"
        "print(len(madang.client.code.pack('.').digest))\n"
    )
    env = _env(tmp_path / "r") | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    out = subprocess.run(
        [found[0], "-c", code], env=env, cwd=tmp_path, check=True, capture_output=True
    )

    assert out.stdout == b"64\n"


def _which(name: str) -> str:
    import shutil

    path = shutil.which(name) or ""
    # A shim of a version manager is found, but does not run.
    tried = [path, "-c", ""]
    runs = path and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return path if runs else ""


# -- warning ---------------------------------------------------------------------------------------


def test_warning_is_the_last_word_and_nothing_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.delenv("MADANG_WARNING_FILE", raising=False)
    assert madang.warning() == ""

    monkeypatch.setenv("MADANG_WARNING_FILE", str(tmp_path / "warning"))
    assert madang.warning() == ""

    (tmp_path / "warning").write_text("its GPUs have been idle for 2 h")
    assert madang.warning() == "its GPUs have been idle for 2 h"


def test_checkpoint_saved_leaves_a_whole_mark_and_nothing_outside_a_job(monkeypatch, tmp_path):
    monkeypatch.delenv("MADANG_CHECKPOINT_DIR", raising=False)
    madang.checkpoint_saved(1)
    monkeypatch.setenv("MADANG_CHECKPOINT_DIR", str(tmp_path))
    madang.checkpoint_saved(2)
    madang.checkpoint_saved(3)

    assert os.listdir(tmp_path) == [inside.SAVED_MARK]
    assert json.loads((tmp_path / inside.SAVED_MARK).read_text())["step"] == 3


def test_checkpoint_saved_warns_once_where_it_cannot_write(monkeypatch, tmp_path):
    monkeypatch.setenv("MADANG_CHECKPOINT_DIR", str(tmp_path / "gone"))

    with pytest.warns(RuntimeWarning, match="cannot be written"):
        madang.checkpoint_saved()
