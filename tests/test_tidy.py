"""The tracked files are tidy, and each check of tools/tidy.py finds what it is there to find."""

from pathlib import Path

import pytest

from tools import tidy

TOP = Path(__file__).parent.parent
MARKER = "FIX" + "ME"
HOST = "https://py" + "pi.org/simple"


def test_the_tracked_files_are_tidy():
    if not (TOP / ".git").exists():
        pytest.skip("no git checkout: what is tracked is not known")

    findings = list(tidy.all_findings(tidy.tracked_files(TOP)))

    assert not findings, tidy.formatted(findings)


def function(lines: int) -> str:
    return '"""A module."""\n\n\ndef long_one():\n' + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("path", "text", "finding"),
    [
        ("a.py", "x = 1\n" * 601, "a.py:1: 601 lines"),
        ("a.py", "#" * 101, "a.py:1: 101 columns"),
        ("a.sql", "\n" + "-" * 101, "a.sql:2: 101 columns"),
        ("a.py", f"# {MARKER}: later", f"a.py:1: {MARKER}"),
        ("a.md", "# A\n\nSee `/ho" + "me/ada/x`.", "a.md:3: /ho" + "me/a…"),
        ("constraints.txt", f"--index-url {HOST}", "constraints.txt:1: a registry's address"),
        (
            "web/package-lock.json",
            f'"resolved": "{HOST}"',
            "web/package-lock.json:1: py" + "pi.org",
        ),
        ("a.md", "A page without a title", "a.md:1: no title"),
        ("a.md", "# A\n\n# B\n", "a.md:3: a second title"),
        ("a.py", '"""Why: docs/' + 'lost.md."""\n', "a.py:1: there is no docs/" + "lost.md"),
        ("src/madang/a.py", "x = 1\n", "src/madang/a.py:1: no docstring"),
        ("src/madang/a.py", function(61), "src/madang/a.py:4: long_one() has 61 lines"),
        ("tests/test_a.py", function(81), "tests/test_a.py:4: long_one() has 81 lines"),
    ],
)
def test_an_untidy_file_is_found_with_its_line(path: str, text: str, finding: str):
    findings = list(tidy.all_findings({path: text}))

    assert any(found.startswith(finding) for found in findings), tidy.formatted(findings)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.py", "x = 1\n" * 600),
        ("a.py", "#" * 100),
        ("a.md", "# A\n\n```\n# not a title\n```\n"),
        ("a.md", "# A\n\n" + "long prose " * 50),
        ("tests/test_a.py", function(80)),
        ("a.py", "# the fram" + "ework/x and ./wo" + "rk/x are no machine's paths"),
    ],
)
def test_a_tidy_file_is_left_alone(path: str, text: str):
    assert list(tidy.all_findings({path: text})) == []


@pytest.mark.parametrize(
    ("users", "is_unused"),
    [
        ({}, True),
        ({"src/madang/b.py": '"""B."""\nfrom madang import a\n'}, False),
        ({"src/madang/b.py": '"""B."""\nimport madang.a\n'}, False),
        ({"src/madang/b.py": '"""B."""\nfrom madang.a import x\n'}, False),
        ({"src/madang/b.py": '"""B."""\nARGS = ["-m", "madang.a"]\n'}, False),
        ({"src/madang/b.py": '"""B."""\nCODE = """\nfrom madang import a\na.go()\n"""\n'}, False),
        ({"src/madang/b.py": '"""B, unlike madang.a, is good."""\n'}, True),
        ({"tests/test_a.py": "import madang.a\n"}, True),
        ({"pyproject.toml": 'madang = "madang.a:main"\n'}, False),
        ({"src/madang/a.py": '"""A."""\nif __name__ == "__main__":\n    pass\n'}, False),
    ],
)
def test_a_module_that_the_package_never_reaches_is_found(users: dict[str, str], is_unused: bool):
    findings = list(tidy.all_findings({"src/madang/a.py": '"""A."""\n', **users}))

    unused = [found for found in findings if "nothing imports madang.a:" in found]
    assert bool(unused) == is_unused, tidy.formatted(findings)
