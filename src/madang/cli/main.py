"""The `madang` command: words in, an exit code out.

Imports stay late: docs/decisions/cli-start-time.md.

Exit codes: 0 good; 1 the job failed (`run --wait` of one member: its own code); 2 usage;
3 not found; 4 rejected; 5 daemon not reachable or not able; 6 refused. 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from madang.cli.parse import Given, HelpAsked, UsageError, parsed
from madang.client.errors import (
    ApiError,
    CodeError,
    Invalid,
    MadangError,
    NotFound,
    Refused,
    Unreachable,
)

USAGE, NOT_FOUND, REJECTED, NO_DAEMON, REFUSED, INTERRUPTED, PIPE_CLOSED = 2, 3, 4, 5, 6, 130, 141


def main() -> None:
    """The entry point of the installed command."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _silence()
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        return _run(argv)
    except HelpAsked as text:
        sys.stdout.write(str(text))
        return 0
    except BrokenPipeError:
        return _silence()
    except KeyboardInterrupt:
        return INTERRUPTED


def _silence() -> int:
    """The reader of our output went away (`| head`): end without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _run(argv: Sequence[str]) -> int:
    as_json = "--json" in (argv[: list(argv).index("--")] if "--" in argv else argv)
    try:
        given = parsed(argv)
        as_json = given.flag("json")
        return _call(given)
    except MadangError as error:
        print_error(error, as_json)
        return exit_code(error)


def _call(given: Given) -> int:
    import importlib

    from madang.cli.desk import Desk

    verb = importlib.import_module(given.verb.home)
    with Desk(given) as desk:
        return int(getattr(verb, given.verb.function)(given, desk))


def exit_code(error: MadangError) -> int:
    """Which code a script sees."""
    match error:
        case UsageError() | CodeError() | Invalid():
            return USAGE
        case NotFound():
            return NOT_FOUND
        case Refused():
            return REFUSED
        case Unreachable():
            return NO_DAEMON
        case ApiError():
            return NO_DAEMON if error.status >= 500 else REJECTED
        case _:
            return 1


def print_error(error: MadangError, as_json: bool) -> None:
    """Tell a person on standard error, and with --json a program on standard output."""
    from madang.cli.show import error_text

    if as_json:
        import json

        print(json.dumps({"problem": error.problem()}, ensure_ascii=False))
    sys.stderr.write(error_text(error))
