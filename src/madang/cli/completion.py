"""Shell completion: small shell functions that ask `madang _complete WORDS…` what may come next.

What is offered comes from the command table; job ids, nodes and projects come from the daemon, if
one answers at once. Nothing is ever printed on an error: a shell's line must stay clean.
"""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.parse import Given
from madang.cli.table import BY_NAME, FAMILIES
from madang.cli.words import Argument, Option, Verb
from madang.client.errors import MadangError

DAEMON_S = 1.0
OFFERED_MAX = 200

_BASH = """_madang() {
    local IFS=$'\\n' words
    words=$(madang _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case "$words" in
        :file) COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")); compopt -o filenames ;;
        :dir) COMPREPLY=($(compgen -d -- "${COMP_WORDS[COMP_CWORD]}")); compopt -o filenames ;;
        *) COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}")) ;;
    esac
}
complete -F _madang madang
"""
_ZSH = """#compdef madang
_madang() {
    local -a offered
    offered=("${(@f)$(madang _complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    case "$offered[1]" in
        :file) _files ;;
        :dir) _files -/ ;;
        *) compadd -- $offered ;;
    esac
}
compdef _madang madang
"""
_FISH = """function __madang_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l offered (madang _complete $words[2..-1] 2>/dev/null)
    switch "$offered[1]"
        case :file
            __fish_complete_path (commandline -ct)
        case :dir
            __fish_complete_directories (commandline -ct)
        case '*'
            printf '%s\\n' $offered
    end
end
complete -c madang -f -a '(__madang_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion_verb(given: Given, desk: Desk) -> int:
    """Print the shell's function."""
    shell = given.text("shell")
    desk.answer({"shell": shell, "script": SCRIPTS[shell]}, SCRIPTS[shell])
    return 0


def _complete_verb(given: Given, _desk: Desk) -> int:
    """Print what may come next, a word a line."""
    for word in offered(given.texts("word")):
        print(word)
    return 0


def offered(words: list[str]) -> list[str]:
    """What may stand in the place of the last word (which may be empty or half typed)."""
    *before, last = words or [""]
    if not before:
        return _starting(last, sorted({name.partition(" ")[0] for name in BY_NAME}))
    if before[0] in FAMILIES:
        if len(before) == 1:
            members = [n.partition(" ")[2] for n in BY_NAME if n.startswith(before[0] + " ")]
            return _starting(last, members)
        name, before = " ".join(before[:2]), before[2:]
    else:
        name, before = before[0], before[1:]
    verb = BY_NAME.get(name)
    if verb is None or "--" in before:
        return [":file"]
    return _of_verb(verb, before, last)


def _of_verb(verb: Verb, before: list[str], last: str) -> list[str]:
    options = {n: option for option in verb.options for n in option.names}
    plain = 0  # positional words before the last one
    expects: Option | None = None
    for word in before:
        if expects is not None:
            expects = None
        elif word.startswith("-"):
            option = options.get(word.partition("=")[0])
            expects = option if option and option.kind != "flag" and "=" not in word else None
        else:
            plain += 1
    if expects is not None:
        return _values(expects, last)
    if last.startswith("-"):
        return _starting(last, [option.long for option in verb.options])
    if verb.command == "inline":
        return [":file"]
    if plain < len(verb.arguments):
        return _values(verb.arguments[plain], last)
    if verb.arguments and verb.arguments[-1].many:
        return _values(verb.arguments[-1], last)
    return []


def _values(wanted: Option | Argument, last: str) -> list[str]:
    if wanted.choices:
        return _starting(last, list(wanted.choices))
    if wanted.complete in ("file", "dir"):
        return [f":{wanted.complete}"]
    return _starting(last, _asked(wanted.complete))


def _asked(kind: str) -> list[str]:
    """Names that only the daemon knows; none if it does not answer soon."""
    from madang.client.api import Client

    try:
        with Client(retries=0, timeout_s=DAEMON_S) as client:
            match kind:
                case "job":
                    live = client.jobs(phase="live", limit=OFFERED_MAX)["jobs"]
                    ended = client.jobs(phase="ended", limit=20)["jobs"]
                    return [job["id"] for job in [*live, *ended]]
                case "node":
                    return [node["id"] for node in client.nodes()[:OFFERED_MAX]]
                case "project":
                    return [project["id"] for project in client.projects()[:OFFERED_MAX]]
                case _:
                    return []
    except MadangError:
        return []


def _starting(last: str, words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(last)]
