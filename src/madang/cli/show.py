"""How things look in a terminal: tables, times, sizes, states, errors.

Promises: columns stay aligned with Korean and other wide characters; on a terminal a table fits its
width; into a pipe nothing is cut and no colour is sent; NO_COLOR is respected; no control character
of a job's name or memo reaches the terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any, TextIO

    from madang.client.errors import MadangError

# phase → (glyph, ANSI colour). The word is always there too: colour is never the only sign.
PHASES = {
    "waiting": ("○", "33"),
    "starting": ("◔", "36"),
    "running": ("●", "36"),
    "stopping": ("◑", "35"),
    "succeeded": ("✓", "32"),
    "failed": ("✗", "31"),
    "stopped": ("■", "90"),
    "ready": ("●", "32"),
    "cordoned": ("◌", "33"),
    "lost": ("✗", "31"),
}
DIM, BOLD, RED = "90", "1", "31"
CELL_MIN = 6  # a column that must shrink keeps this much
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def has_colour(stream: TextIO | None = None) -> bool:
    """True iff colours may be sent there."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def coloured(text: str, code: str, stream: TextIO | None = None) -> str:
    """The text in a colour where colours are shown."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour(stream) else text


def clean(value: object) -> str:
    """One line of text without control characters: nobody's job name may drive a terminal."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else (" " if c in "\n\t" else "�") for c in text)


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    columns = 0
    for char in text:
        if combining(char) or char in "\u200b\u200d\ufe0f":
            continue
        columns += 2 if east_asian_width(char) in "WF" else 1
    return columns


def cut(text: str, columns: int) -> str:
    """The text in at most so many columns; what is cut ends in an ellipsis."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…"


def terminal_columns() -> int:
    """The width of the terminal; 0 into a pipe: nothing is cut there."""
    if not sys.stdout.isatty():
        return 0
    import shutil

    return shutil.get_terminal_size().columns


# -- values in words --------------------------------------------------------------------------


def duration(ms: float) -> str:
    """`350 ms`, `14 s`, `2 h 14 m`, `3 d 4 h`."""
    if ms < 1_000:
        return f"{max(int(ms), 0)} ms"
    seconds = int(ms) // 1_000
    for at, (unit, size) in enumerate(_UNITS):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            if at + 1 == len(_UNITS):
                return f"{count} {unit}"
            smaller, small_size = _UNITS[at + 1]
            more = rest // small_size
            return f"{count} {unit} {more} {smaller}" if more else f"{count} {unit}"
    return "0 s"


def moment(ms: int, now_ms: int) -> str:
    """A time of day with how long ago; "–" for 0."""
    if not ms:
        return "–"
    import time

    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))
    away = duration(abs(now_ms - ms))
    return f"{stamp} ({away} ago)" if ms <= now_ms else f"{stamp} (in {away})"


def gpus(count: float | None) -> str:
    """`2`, `0.25`."""
    return "–" if count is None else f"{count:g}"


def mib(size: float | None) -> str:
    """`512 MiB`, `78.0 GiB`."""
    if size is None:
        return "–"
    return f"{size / 1024:.1f} GiB" if size >= 1024 else f"{size:.0f} MiB"


def phase(name: str) -> str:
    """A state with its glyph, in its colour."""
    glyph, code = PHASES.get(name, ("·", "0"))
    if not _shows_glyphs():
        glyph = "*"
    return coloured(f"{glyph} {clean(name)}", code)


def _shows_glyphs() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16")


# -- tables -----------------------------------------------------------------------------------


class Column:
    """A column: numbers stand right; at most one may shrink and takes what is left."""

    __slots__ = ("shrinks", "stands_right", "title")

    def __init__(self, title: str, *, right: bool = False, shrinks: bool = False) -> None:
        self.title = title
        self.stands_right = right
        self.shrinks = shrinks


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their titles. Cells may hold colours; they must hold no line breaks."""
    plain = [[_bare(cell) for cell in row] for row in rows]
    widths = [
        max([width(column.title), *(width(row[at]) for row in plain)])
        for at, column in enumerate(columns)
    ]
    limit = terminal_columns()
    over = sum(widths) + 2 * (len(widths) - 1) - limit
    cut_to = {}
    if limit and over > 0:
        for at, column in enumerate(columns):
            if column.shrinks:
                widths[at] = cut_to[at] = max(widths[at] - over, CELL_MIN)
    lines = [_line(columns, widths, [column.title for column in columns], head=True)]
    for row, bare in zip(rows, plain, strict=True):
        cells = [
            cut(bare[at], cut_to[at]) if at in cut_to and width(bare[at]) > cut_to[at] else cell
            for at, cell in enumerate(row)
        ]
        lines.append(_line(columns, widths, cells))
    return "\n".join(lines)


def _line(
    columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], *, head: bool = False
) -> str:
    parts = []
    for column, columns_wide, cell in zip(columns, widths, cells, strict=True):
        gap = " " * (columns_wide - width(_bare(cell)))
        parts.append(gap + cell if column.stands_right else cell + gap)
    line = "  ".join(parts).rstrip()
    return coloured(line, DIM) if head else line


def _bare(cell: str) -> str:
    """The cell without our own colours."""
    if "\x1b" not in cell:
        return cell
    out, rest = "", cell
    while rest:
        plain, escape, rest = rest.partition("\x1b[")
        out += plain
        if escape:
            rest = rest.partition("m")[2]
    return out


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, one pair a line."""
    wide = max((width(name) for name, _ in rows), default=0)
    return "\n".join(f"{coloured(name, DIM)}{' ' * (wide - width(name))}  {v}" for name, v in rows)


# -- errors -----------------------------------------------------------------------------------


def error_text(error: MadangError) -> str:
    """What went wrong, what was given, what is allowed, what to do."""
    lines = [f"{coloured('error:', RED, sys.stderr)} {clean(error.message)}"]
    found: Sequence[Mapping[str, Any]] = getattr(error, "errors", ())
    for each in found:
        words = f"{each.get('where') or 'the body'}: {each.get('problem', '')}"
        if words != error.message:  # a single mistake is the message already
            lines.append(f"  {clean(words)}")
        if each.get("given") not in (None, "", error.given):
            lines.append(f"    given    {cut(clean(each['given']), 200)}")
        if each.get("allowed"):
            lines.append(f"    allowed  {clean(each['allowed'])}")
    if error.given:
        lines.append(f"  given    {clean(error.given)}")
    if error.allowed:
        lines.append(f"  allowed  {clean(error.allowed)}")
    for at, words in enumerate(error.tries):
        lines.append(f"  {'try' if at == 0 else 'or ':<7}  {clean(words)}")
    return "\n".join(lines) + "\n"
