"""argv → a verb and its values, by argparse from the table; and what to say when it does not parse.

A usage error is a MadangError with exit code 2: what was given, what is allowed, what to type.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from madang.cli.table import BY_NAME, COMPLETE, FAMILIES
from madang.cli.words import COMMON, Argument, Option, Verb
from madang.client.errors import MadangError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any


class UsageError(MadangError):
    """The words do not make a command."""


class HelpAsked(Exception):
    """Someone wants to read: the text is the argument."""


class Given:
    """The values of a verb's arguments and options, and its command."""

    def __init__(self, verb: Verb, values: dict[str, Any], command: list[str]) -> None:
        self.verb = verb
        self.values = values
        self.command = command

    def text(self, key: str) -> str:
        """A text, "" if not given."""
        return str(self.values.get(key) or "")

    def texts(self, key: str) -> list[str]:
        """All values of a repeatable option or of the last argument."""
        return list(self.values.get(key) or ())

    def flag(self, key: str) -> bool:
        """True iff the flag was given."""
        return bool(self.values.get(key))

    def number(self, key: str) -> float | None:
        """A number, None if not given."""
        return self.values.get(key)

    def count(self, key: str) -> int | None:
        """A whole number, None if not given."""
        return self.values.get(key)


def parsed(argv: Sequence[str]) -> Given:
    """What the words mean.

    Raises:
        UsageError: they mean nothing.
        HelpAsked: they ask for help.
    """
    words = list(argv)
    moved = _common_first(words)
    if not words or words[0] in ("-h", "--help", "help"):
        raise HelpAsked(_help_text(words[1:]))
    if words[0] == "--version":
        words[0] = "version"
    verb, rest = _verb(words)
    rest = [*moved, *rest]
    command: list[str] = []
    if verb.command:
        rest, command = _split_command(verb, rest)
    parser = _parser(verb)
    try:
        namespace, unknown = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise _bad_value(verb, error) from None
    if unknown:
        raise _unknown(verb, unknown[0])
    return Given(verb, vars(namespace), command)


def _common_first(words: list[str]) -> list[str]:
    """Take options for all verbs off the front: `madang --json ls` is `madang ls --json`."""
    moved = []
    options = {name: option for option in COMMON for name in option.names}
    while words and (option := options.get(words[0].partition("=")[0])):
        moved.append(words.pop(0))
        if option.kind != "flag" and "=" not in moved[-1] and words:
            moved.append(words.pop(0))
    return moved


def _verb(words: list[str]) -> tuple[Verb, list[str]]:
    if words[0] == COMPLETE.name:
        return COMPLETE, ["--", *words[1:]]
    if words[0] in FAMILIES:
        members = [name.partition(" ")[2] for name in BY_NAME if name.startswith(words[0] + " ")]
        if len(words) > 1 and words[1] in ("-h", "--help"):
            raise HelpAsked(_help_text(words[:1]))
        if len(words) == 1 or words[1] not in members:
            given = " ".join(words[:2])
            raise UsageError(
                f"{words[0]} what?" if len(words) == 1 else f"there is no command {given!r}",
                code="usage",
                given=f"madang {given}",
                allowed=", ".join(f"madang {words[0]} {member}" for member in members),
            )
        return BY_NAME[f"{words[0]} {words[1]}"], words[2:]
    if words[0] in BY_NAME:
        return BY_NAME[words[0]], words[1:]
    if words[0].startswith("-"):
        raise UsageError(
            f"there is no option {words[0]}",
            code="usage",
            given=words[0],
            tries=["madang --help"],
        )
    raise UsageError(
        f"there is no command {words[0]!r}",
        code="usage",
        given=f"madang {words[0]}",
        tries=[*_nearest(words[0], [*BY_NAME, *FAMILIES], "madang "), "madang --help"],
    )


def _split_command(verb: Verb, words: list[str]) -> tuple[list[str], list[str]]:
    """(the verb's own words, the command): at `--`, or inline at the first plain word."""
    takes_value = {n for o in verb.options if o.kind != "flag" for n in o.names}
    i = 0
    while i < len(words):
        word = words[i]
        if word == "--":
            return words[:i], words[i + 1 :]
        if not word.startswith("-") or word == "-":
            if verb.command == "inline":
                return words[:i], words[i:]
        elif word in takes_value:
            i += 1
        i += 1
    return words, []


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """argparse's own words for what is missing."""
        raise UsageError(message, code="usage", tries=[f"{self.prog} --help"])

    def print_help(self, file: Any = None) -> None:
        raise HelpAsked(self.format_help())


def _parser(verb: Verb) -> _Parser:
    parser = _Parser(
        prog=f"madang {verb.name}",
        description=verb.summary + ".",
        epilog=verb.note or None,
        formatter_class=_Formatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    if verb.command:
        parser.usage = _usage(verb)
    for argument in verb.arguments:
        _add_argument(parser, argument)
    for option in verb.options:
        _add_option(parser, option)
    return parser


def _Formatter(prog: str) -> argparse.HelpFormatter:
    width = 100
    if sys.stdout.isatty():
        import shutil

        width = min(shutil.get_terminal_size().columns, 100)
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=width)


def _usage(verb: Verb) -> str:
    words = [f"madang {verb.name}", *(argument.name for argument in verb.arguments), "[OPTIONS]"]
    dashes = "[--] " if verb.command == "inline" else "-- "
    words.append(f"{dashes}COMMAND …" if verb.name in ("run", "try") else f"[{dashes}COMMAND …]")
    return " ".join(words)


def _add_argument(parser: _Parser, argument: Argument) -> None:
    nargs: str | None = None
    if argument.many:
        nargs = "+" if argument.default is None else "*"
    elif argument.default is not None:
        nargs = "?"
    parser.add_argument(
        argument.key,
        metavar=argument.name,
        help=argument.help,
        nargs=nargs,
        default=argument.default,
        choices=argument.choices or None,
    )


def _add_option(parser: _Parser, option: Option) -> None:
    text = option.help.replace("%", "%%")
    if option.kind == "flag":
        parser.add_argument(*option.names, dest=option.key, help=text, action="store_true")
        return
    parser.add_argument(
        *option.names,
        dest=option.key,
        help=text,
        metavar=None if option.choices else option.meta,
        choices=option.choices or None,
        type={"int": int, "number": float}.get(option.kind, str),
        action="append" if option.kind == "many" else "store",
    )


def _bad_value(verb: Verb, error: argparse.ArgumentError) -> UsageError:
    named = error.argument_name or ""
    for option in verb.options:
        if option.long in named.split("/"):
            allowed = ", ".join(option.choices) if option.choices else ""
            if option.kind in ("int", "number"):
                allowed = "a whole number" if option.kind == "int" else "a number"
            return UsageError(
                f"{option.long}: {error.message}",
                code="usage",
                allowed=allowed,
                tries=[f"madang {verb.name} --help"],
            )
    message = f"{named.upper()}: {error.message}" if named else error.message
    return UsageError(message, code="usage", tries=[f"madang {verb.name} --help"])


def _unknown(verb: Verb, word: str) -> UsageError:
    if not word.startswith("-"):
        return UsageError(
            f"one word too many for madang {verb.name}",
            code="usage",
            given=word,
            tries=[f"madang {verb.name} --help"],
        )
    name = word.partition("=")[0]
    known = [n for option in verb.options for n in option.names if n.startswith("--")]
    return UsageError(
        f"madang {verb.name} has no option {name}",
        code="usage",
        given=word,
        tries=[*_nearest(name, known, ""), f"madang {verb.name} --help"],
    )


def _nearest(word: str, known: list[str], before: str) -> list[str]:
    from difflib import get_close_matches

    return [before + match for match in get_close_matches(word, known, n=2, cutoff=0.6)]


def _help_text(words: Sequence[str]) -> str:
    if not words:
        from madang.cli.help import top_text

        return top_text()
    name = " ".join(words[:2]) if words[0] in FAMILIES and len(words) > 1 else words[0]
    if name in FAMILIES:
        return "".join(
            _parser(verb).format_usage() for verb in BY_NAME.values() if verb.name.startswith(name)
        )
    verb, _ = _verb(list(words))
    return _parser(verb).format_help()
