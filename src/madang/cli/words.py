"""What a row of the command line's table is made of: options, arguments, verbs. See table.py."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Sequence


class Option:
    """One option. `kind`: flag, text, int, number, many (repeatable text).

    `field` is the JobRequest's field that it sets; `value` is what a flag sets it to. `complete`
    names what a shell offers for its value: file, dir, project, node, or one of `choices`.
    """

    __slots__ = ("choices", "complete", "field", "help", "kind", "meta", "names", "value")

    def __init__(
        self,
        names: str,
        help: str,
        *,
        kind: str = "text",
        meta: str = "",
        field: str = "",
        value: str = "",
        choices: Sequence[str] = (),
        complete: str = "",
    ) -> None:
        self.names = names.split()
        self.help = help
        self.kind = "flag" if value else kind
        self.meta = meta or self.long.lstrip("-").upper().replace("-", "_")
        self.field = field
        self.value = value
        self.choices = tuple(choices)
        self.complete = complete

    @property
    def long(self) -> str:
        """The name that people read: the longest."""
        return max(self.names, key=len)

    @property
    def key(self) -> str:
        """Its name in the parsed values."""
        return self.long.lstrip("-").replace("-", "_")


class Argument:
    """One positional argument; optional if `default` is given. `many`: all that are left."""

    __slots__ = ("choices", "complete", "default", "help", "many", "name")

    def __init__(
        self,
        name: str,
        help: str,
        *,
        default: str | None = None,
        many: bool = False,
        choices: Sequence[str] = (),
        complete: str = "",
    ) -> None:
        self.name = name
        self.help = help
        self.default = default
        self.many = many
        self.choices = tuple(choices)
        self.complete = complete

    @property
    def key(self) -> str:
        """Its name in the parsed values."""
        return self.name.lower()


class Verb:
    """One verb. `home` is the module with its function, named like the verb.

    `command`: "" takes none; "after" takes one after `--`; "inline" also without the dashes.
    """

    __slots__ = ("arguments", "command", "group", "home", "name", "note", "options", "summary")

    def __init__(
        self,
        name: str,
        home: str,
        summary: str,
        *,
        group: str,
        arguments: Sequence[Argument] = (),
        options: Sequence[Option] = (),
        command: str = "",
        note: str = "",
    ) -> None:
        self.name = name
        self.home = home
        self.summary = summary
        self.group = group
        self.arguments = tuple(arguments)
        self.options = (*options, *COMMON)
        self.command = command
        self.note = note

    @property
    def function(self) -> str:
        """The name of its function in `home`."""
        return self.name.replace(" ", "_").replace("-", "_") + "_verb"


COMMON = (
    Option("--json", "one JSON document on standard output", kind="flag"),
    Option("--url", "the daemon's address (else MADANG_URL, else the one on this machine)"),
    Option("--state", "state directory (else MADANG_STATE)", meta="DIR", complete="dir"),
)
