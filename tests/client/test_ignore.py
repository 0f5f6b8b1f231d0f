"""The matcher against git itself, for a table and for random patterns."""

import os
import random
import shutil
import subprocess

import pytest

from madang.client import ignore
from madang.client.code import gather

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is absent")

FILES = [
    "a",
    "b",
    "build/x",
    "build/keep/y",
    "src/build/x",
    "src/a",
    "src/a.pyc",
    "src/deep/er/a",
    "src/deep/er/b.log",
    "docs/a.txt",
    "docs/notes.txt",
    "docs/api/a.txt",
    "foo/bar/baz",
    "foo/x/bar",
    "foo/bar2",
    "name with space",
    "trailing ",
    "#hash",
    "!bang",
    "back\\slash",
    "[x]",
    "x",
    "가나/다.txt",
    "가나/abc",
    "A",
    "a.b.c",
    ".hidden",
    "cap/UPPER",
    "num/5",
    "num/55",
    "sub-dir/a]b",
    "dash/a-b",
]
TABLE = [
    "a",
    "/a",
    "a/",
    "build/",
    "/build",
    "build/*",
    "build",
    "*.pyc",
    "*.txt\n!notes.txt",
    "docs/*.txt",
    "docs/**/a.txt",
    "**/a.txt",
    "**/build/x",
    "foo/**",
    "foo/**/bar",
    "foo/**/",
    "/**",
    "**",
    "**/",
    "f**/bar",
    "foo**bar",
    "foo**/bar",
    "f?**/bar",
    "*f**/bar",
    "foo/**bar",
    "foo/x**/bar",
    "/*\n!/src",
    "/*\n!/src\n/src/*\n!/src/deep",
    "build\n!build/keep/y",
    "build/*\n!build/keep",
    "build/**\n!build/keep/\n!build/keep/y",
    "src/",
    "src/deep/er",
    "src/*/er",
    "src/*/*/a",
    "deep/er",
    "/er",
    "?",
    "??",
    "[ab]",
    "[!ab]",
    "[^ab]",
    "[a-c]",
    "[c-a]",
    "[b-a]",
    "/**\\/x",
    "[[:digit:]]",
    "[[:upper:]]*",
    "[[:nonsense:]]",
    "num/[0-9]",
    "[]x]",
    "a[]]b",
    "[]-a]*",
    "a[a-]b",
    "[",
    "[a",
    "a\\",
    "\\a",
    "\\[x\\]",
    "[x]",
    "\\#hash",
    "#hash",
    "\\!bang",
    "!bang",
    "back\\\\slash",
    "trailing",
    "trailing ",
    "trailing\\ ",
    "name with space",
    "name\\ with\\ space",
    "가나",
    "가나/?.txt",
    "가나/???.txt",
    "*가*",
    "*",
    "*/",
    "*\n!*/\n!*.txt",
    ".*",
    "*.*",
    "*a*b*",
    "a\r\nb\r\n",
    "\ufeffa",
    "",
    "/",
    "//",
    "!",
    "foo/bar/",
    "foo/bar/baz/",
    "./a",
    "src//a",
    "foo/*/",
    "!a\na",
    "a\n!a",
    "a\n!a\na",
    "[a-z]*/b?r",
    "foo/b[a/]r",
    "foo[/]bar",
    "[--0]",
    "[\\]x]",
    "[a-\\c]",
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A git checkout with FILES; git sees no configuration but its own defaults."""
    top = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    git(top, "init", "-q")
    (top / ".git" / "info" / "exclude").write_text("")
    return top


def git(top, *words, given: bytes = b"") -> bytes:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    env |= {"HOME": str(top), "XDG_CONFIG_HOME": str(top)}
    run = subprocess.run(
        ["git", *words], cwd=top, env=env, input=given, capture_output=True, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout


def ignored_by_git(top) -> set[bytes]:
    paths = b"\0".join(name.encode() for name in FILES)
    found = git(top, "check-ignore", "--no-index", "--stdin", "-z", given=paths)
    return set(found.split(b"\0")) - {b""}


def ignored_by_us(text: bytes) -> set[bytes]:
    rules = ignore.parse(text)
    return {name.encode() for name in FILES if is_ignored(rules, name.encode())}


def is_ignored(rules, path: bytes) -> bool:
    """From the top down: what lies in an ignored directory is ignored."""
    parts = path.split(b"/")
    for depth in range(1, len(parts) + 1):
        is_dir = depth < len(parts)
        if ignore.decide(rules, b"/".join(parts[:depth]), is_dir):
            return True
    return False


@pytest.mark.parametrize("text", TABLE)
def test_the_same_paths_are_ignored_as_by_git(checkout, text):
    (checkout / ".gitignore").write_bytes(text.encode())

    assert ignored_by_us(text.encode()) == ignored_by_git(checkout)


@pytest.mark.parametrize("seed", range(200))
def test_random_patterns_are_read_as_git_reads_them(checkout, seed):
    chance = random.Random(seed)
    pieces = ["a", "b", "x", "foo", "bar", "src", "build", "*", "**", "/", "/", "?", "[ab]", "[!a]"]
    pieces += [".", "\\", "!", " ", "[", "]", "-", "#", "가"]
    lines = ["".join(chance.choices(pieces, k=chance.randint(1, 6))) for _ in range(4)]
    text = "\n".join(lines)
    (checkout / ".gitignore").write_bytes(text.encode())

    assert ignored_by_us(text.encode()) == ignored_by_git(checkout), text


def test_a_walk_finds_what_git_lists(checkout):
    """Nested files, an exclude file, and a packed directory below the checkout's top."""
    (checkout / ".gitignore").write_text("*.txt\n/build\n")
    (checkout / "docs" / ".gitignore").write_text("!notes.txt\n/api\n")
    (checkout / "foo" / ".gitignore").write_text("bar/\n")
    (checkout / ".git" / "info" / "exclude").write_text("*.pyc\n")

    for below in ("", "docs", "foo", "src"):
        listed = git(checkout / below, "ls-files", "-o", "--exclude-standard", "-z").split(b"\0")
        walked = gather(str(checkout / below))
        files = [os.fsencode(entry.path) for entry in walked.entries if entry.kind != "d"]

        assert sorted(files) == sorted(set(listed) - {b""}), below
