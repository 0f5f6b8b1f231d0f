"""What the replays read: gzip CSV files of others, taken at their word about nothing.

A file that cannot be used raises TraceError, which says what was found, what is expected and what
to do.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROWS_MAX = 2_000_000  # of any file: a mistaken file must not fill the memory


class TraceError(ValueError):
    """A file or option that cannot be used: what was found, what is expected, what to do."""


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of a gzip CSV file with a header.

    Raises:
        TraceError: it cannot be read, lacks one of the columns, or is too long.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            reader = csv.DictReader(text)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}")
            for number, row in enumerate(reader):
                if number >= ROWS_MAX:
                    raise TraceError(f"{path} has more than {ROWS_MAX} lines")
                yield row
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as wrong:
        raise TraceError(f"{path} cannot be read as gzip CSV: {wrong}") from wrong


def write_text(path: Path, text: str) -> None:
    """Write a file that was asked for.

    Raises:
        TraceError: it cannot be written there.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as wrong:
        raise TraceError(f"{path} cannot be written: {wrong}") from wrong
