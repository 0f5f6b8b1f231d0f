r"""Which paths an ignore file leaves out: gitignore's rules, as `git check-ignore` applies them.

A pattern is matched against bytes, as git does (`?` is one byte). The last matching pattern of the
nearest ignore file decides; nothing below an ignored directory is looked at, so it cannot be
re-included. `tests/client/test_ignore.py` compares with git itself.

    name      any file or directory of that name, at any depth      a/b, /a   from this directory
    name/     directories only                                      !name     include again
    *  ?      not a slash         **/  /**  /**/   any depth         [a-z]  [!a]  [[:digit:]]
"""

from __future__ import annotations

import re

_SPECIAL = frozenset(b"*?[\\")
_POSIX = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": b" \\t",
    b"cntrl": b"\\x00-\\x1f\\x7f",
    b"digit": b"0-9",
    b"graph": b"\\x21-\\x7e",
    b"lower": b"a-z",
    b"print": b"\\x20-\\x7e",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b" \\t\\n\\r\\f\\v",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}


class _Never(Exception):
    """The pattern is malformed: git lets it match nothing."""


class Rule:
    """One line of an ignore file."""

    __slots__ = ("_literal", "_pattern", "_regex", "_suffix", "anchored", "dirs_only", "negated")

    def __init__(self, pattern: bytes) -> None:
        self.negated = pattern.startswith(b"!")
        if self.negated:
            pattern = pattern[1:]
        self.dirs_only = pattern.endswith(b"/")
        if self.dirs_only:
            pattern = pattern[:-1]
        self.anchored = b"/" in pattern
        if pattern.startswith(b"/"):
            pattern = pattern[1:]
        self._pattern = pattern
        self._literal = _SPECIAL.isdisjoint(pattern)
        self._suffix = b""
        if not self.anchored and pattern[:1] == b"*" and _SPECIAL.isdisjoint(pattern[1:]):
            self._suffix = pattern[1:]
        self._regex: re.Pattern[bytes] | None = None

    def matches(self, path: bytes, name: bytes, is_dir: bool) -> bool:
        """`path` is relative to the ignore file's directory; `name` is its last part."""
        if self.dirs_only and not is_dir:
            return False
        subject = path if self.anchored else name
        if self._literal:
            return subject == self._pattern
        if self._suffix:
            return subject.endswith(self._suffix)
        if self._regex is None:  # compiled late: most patterns of most files are literals
            self._regex = _compiled(self._pattern)
        return self._regex.fullmatch(subject) is not None


def parse(text: bytes) -> list[Rule]:
    """The rules of an ignore file, in order."""
    if text.startswith(b"\xef\xbb\xbf"):
        text = text[3:]
    rules = []
    for raw in text.split(b"\n"):
        line = raw[:-1] if raw.endswith(b"\r") else raw
        if line.startswith(b"#"):
            continue
        line = _without_trailing_spaces(line)
        if line.strip(b"/") and line not in (b"!", b"!/"):
            rules.append(Rule(line))
    return rules


def _without_trailing_spaces(line: bytes) -> bytes:
    end = len(line)
    while end and line[end - 1 : end] == b" ":
        end -= 1
    slashes = len(line[:end]) - len(line[:end].rstrip(b"\\"))
    if slashes % 2 and end < len(line):
        end += 1  # an escaped space stays
    return line[:end]


def decide(rules: list[Rule], path: bytes, is_dir: bool) -> bool | None:
    """True: ignored; False: included again; None: these rules say nothing."""
    name = path.rpartition(b"/")[2]
    for rule in reversed(rules):
        if rule.matches(path, name, is_dir):
            return not rule.negated
    return None


def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    try:
        return re.compile(_regex(pattern), re.DOTALL)
    except _Never:
        return re.compile(b"(?!)")


def _regex(pattern: bytes) -> bytes:
    out = []
    i = 0
    while i < len(pattern):
        char = pattern[i : i + 1]
        if char == b"*":
            i, part = _stars(pattern, i)
            out.append(part)
        elif char == b"?":
            out.append(b"[^/]")
            i += 1
        elif char == b"[":
            i, part = _bracket(pattern, i + 1)
            out.append(part)
        elif char == b"\\":
            if i + 1 >= len(pattern):
                raise _Never
            out.append(re.escape(pattern[i + 1 : i + 2]))
            i += 2
        else:
            out.append(re.escape(char))
            i += 1
    return b"".join(out)


def _stars(pattern: bytes, start: int) -> tuple[int, bytes]:
    end = start
    while pattern[end : end + 1] == b"*":
        end += 1
    # git compares a pattern's literal beginning first and matches the rest as a pattern of its own:
    # in `foo**/bar` the stars stand at a start, too.
    at_start = pattern[start - 1 : start] in (b"", b"/") or _SPECIAL.isdisjoint(pattern[:start])
    after = pattern[end : end + 1]
    if pattern[end : end + 2] == b"\\/":
        after = b""  # an escaped slash is a slash, but then not also no depth at all
    if end - start < 2 or not at_start or after not in (b"", b"/"):
        return end, b"[^/]*"
    if after == b"/":
        return end + 1, b"(?:.*/)?"  # `**/`: any depth, also none
    return end, b".*"  # `/**`: everything inside


def _bracket(pattern: bytes, i: int) -> tuple[int, bytes]:
    """The class that begins after `[` at `i`: (where it ends, its regex)."""
    negated = pattern[i : i + 1] in (b"!", b"^")
    i += negated
    items: list[bytes] = []
    first = True
    while first or pattern[i : i + 1] != b"]":
        first = False
        if i >= len(pattern):
            raise _Never
        if pattern[i : i + 2] == b"[:" and (close := pattern.find(b":]", i)) >= 0:
            if pattern[i + 2 : close] not in _POSIX:
                raise _Never
            items.append(_POSIX[pattern[i + 2 : close]])
            i = close + 2
            continue
        i, low = _class_byte(pattern, i)
        if pattern[i : i + 1] == b"-" and pattern[i + 1 : i + 2] not in (b"]", b""):
            i, high = _class_byte(pattern, i + 1)
            if low <= high:
                items.append(b"\\x%02x-\\x%02x" % (low, high))
        items.append(b"\\x%02x" % low)  # git matches it also where the range is empty
    body = b"".join(items)
    if negated:
        return i + 1, b"[^/" + body + b"]"
    return i + 1, (b"(?!/)[" + body + b"]" if body else b"(?!)")


def _class_byte(pattern: bytes, i: int) -> tuple[int, int]:
    if pattern[i : i + 1] == b"\\":
        i += 1
    if i >= len(pattern):
        raise _Never
    return i + 1, pattern[i]
