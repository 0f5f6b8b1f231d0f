"""run, try, fork: from words (and a job file) to a JobRequest, and what became of it.

What is checked here is only what the daemon cannot know (files, copied variables); sizes, names and
durations are judged in one place, by the daemon.
"""

from __future__ import annotations

import os
import sys

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

# What lets the job find the interpreter and the packages that its owner has at hand.
KEPT_ENV = ("PATH", "VIRTUAL_ENV", "PYTHONPATH")
KEPT_ENV_PREFIX = "CONDA_"
FILE_BYTES_MAX = 1 << 20
NAME_CHARS_MAX = 48
# Programs that run another: the job is better called by what they run.
_RUNNERS = ("python", "bash", "sh", "zsh", "torchrun", "accelerate", "deepspeed", "uv", "env")
_RUNNER_WORDS = ("run", "launch", "-m")
_MEMORY_UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def run_verb(given: Given, desk: Desk) -> int:
    """Submit a job; print its id; with --wait, follow it to its end."""
    request = _request(given)
    if not given.flag("no_code") and not request.get("code"):
        request["code"] = _upload(given.text("dir") or request_dir(given), desk)
    return _submitted(request, given, desk)


def try_verb(given: Given, desk: Desk) -> int:
    """Say what would happen."""
    trial = desk.client.try_job(_request(given))
    lines = [trial["text"]]
    for at, each in enumerate(trial.get("try") or ()):
        lines.append(f"  {'try' if at == 0 else 'or ':<5} {each}")
    desk.answer(trial, "\n".join(lines))
    return 4 if trial["code"] == "never" else 0


def fork_verb(given: Given, desk: Desk) -> int:
    """Submit a job again with changes; its ancestry is kept."""
    origin = desk.job(given.text("job"))
    request = dict(desk.client.request(origin["id"]))
    request.update(_given_fields(given))
    if variables := _variables(given.texts("env")):
        request["env"] = {**request.get("env", {}), **variables}
    for assignment in given.texts("set"):
        _assign(request, assignment)
    if given.command:
        request["command"] = given.command
    if given.text("dir"):
        request["code"] = _upload(given.text("dir"), desk)
    request["forked_from"] = origin["id"]
    request["from_checkpoint"] = given.flag("from_checkpoint")
    return _submitted(request, given, desk)


def _submitted(request: Document, given: Given, desk: Desk) -> int:
    job = desk.client.submit(request)
    if given.flag("wait"):
        from madang.cli.follow import followed

        return followed(job, desk)
    desk.answer(job, job["id"])
    return 0


# -- the request ------------------------------------------------------------------------------


def _request(given: Given) -> Document:
    request = job_file(given.text("file")) if given.text("file") else {}
    request.update(_given_fields(given))
    if given.command:
        request["command"] = given.command
    if not request.get("command"):
        raise UsageError(
            "nothing to run: no command was given",
            code="usage",
            allowed="a command after the options, or a job file with `command:`",
            tries=["madang run -- python train.py", "madang run -f job.yaml"],
        )
    kept = {} if request.get("image") else _kept_env()
    file_env = request.get("env") or {}
    if isinstance(file_env, dict):  # otherwise the daemon says what is wrong with it
        request["env"] = {**kept, **file_env, **_variables(given.texts("env"))}
    if not request.get("name") and isinstance(request["command"], list):
        request["name"] = name_of(request["command"])
    return request


def _given_fields(given: Given) -> Document:
    """The JobRequest fields that options set."""
    fields: Document = {}
    for option in given.verb.options:
        value = given.values.get(option.key)
        if not option.field or value is None or value is False or value == []:
            continue
        if option.value and option.field in fields:
            raise UsageError(
                f"{option.long} contradicts {fields[option.field]}",
                code="usage",
                allowed="one of --reserved, --on-demand, --spot",
            )
        fields[option.field] = option.value or value
    if "memory_mib" in fields:
        fields["memory_mib"] = memory_mib(fields["memory_mib"])
    return fields


def memory_mib(text: str) -> int:
    """MiB of `4096`, `512M`, `16G`, `16GiB`.

    Raises:
        UsageError: not a size.
    """
    bare = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = bare[-1:] if bare[-1:] in _MEMORY_UNITS else ""
    try:
        size = float(bare.removesuffix(unit)) * _MEMORY_UNITS.get(unit, 1)
        return int(size)
    except (ValueError, OverflowError):
        raise UsageError(
            "--memory is not a size", code="usage", given=text, allowed="4096 (MiB), 512M, 16G"
        ) from None


def _kept_env() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_ENV or name.startswith(KEPT_ENV_PREFIX)
    }


def _variables(assignments: list[str]) -> dict[str, str]:
    """`K=V`, or `K` for a copy of this process's own."""
    variables = {}
    for assignment in assignments:
        name, is_set, value = assignment.partition("=")
        if not is_set:
            if name not in os.environ:
                raise UsageError(
                    f"--env {name}: there is no such variable here to copy",
                    code="usage",
                    given=name,
                    tries=[f"--env {name}=VALUE"],
                )
            value = os.environ[name]
        variables[name] = value
    return variables


def name_of(command: list[str]) -> str:
    """What to call a job: the script's or module's name, or the program's."""
    words = [str(word) for word in command]
    chosen = words[0] if words else "job"
    if os.path.basename(chosen).rstrip("0123456789.") in _RUNNERS and "-c" not in words[:3]:
        for word in words[1:]:
            if word.startswith("-") or word in _RUNNER_WORDS:
                continue
            if os.path.basename(word).rstrip("0123456789.") not in _RUNNERS:
                chosen = word
                break
    stem = os.path.basename(chosen.rstrip("/"))
    stem, dot, ending = stem.rpartition(".") if "." in stem else (stem, "", "")
    if dot and ending not in ("py", "sh", "ipynb"):
        stem = ending if chosen in words[2:3] and words[1] == "-m" else f"{stem}-{ending}"
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem.lower())
    while "--" in kept:
        kept = kept.replace("--", "-")
    return kept[:NAME_CHARS_MAX].strip("-") or "job"


def job_file(path: str) -> Document:
    """A job file as it stands: YAML, or JSON by its name.

    Raises:
        UsageError: not there, too large, or not a mapping.
    """
    try:
        if path == "-":
            text = sys.stdin.read(FILE_BYTES_MAX + 1)
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            code="usage",
            given=path,
        ) from None
    if len(text) > FILE_BYTES_MAX:
        raise UsageError(f"{path} is longer than a job file may be", code="usage", allowed="1 MiB")
    found = _loaded(path, text)
    if not isinstance(found, dict):
        raise UsageError(
            f"{path} does not hold one job: a mapping of fields",
            code="usage",
            given=type(found).__name__,
            tries=["command: [python, train.py]", "madang schema job    says every field"],
        )
    return found


def _loaded(path: str, text: str) -> object:
    if path.endswith(".json"):
        import json

        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"{path} is not JSON: {error}", code="usage", given=path) from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            f"{path} is not YAML: {' '.join(str(error).split())}", code="usage", given=path
        ) from None


def _assign(request: Document, assignment: str) -> None:
    """`env.LR=0.1`, `gpus=2`: a field by name, its value as YAML would read it."""
    path, is_set, text = assignment.partition("=")
    if not is_set or not path:
        raise UsageError(
            f"--set {assignment}: no value", code="usage", allowed="FIELD=VALUE, env.NAME=VALUE"
        )
    field, _, name = path.partition(".")
    if name and field == "env":
        request.setdefault("env", {})[name] = text
    elif name:
        raise UsageError(
            f"--set {path}: only env has fields of its own",
            code="usage",
            given=assignment,
            allowed="FIELD=VALUE, env.NAME=VALUE",
        )
    else:
        import yaml

        try:
            request[field] = yaml.safe_load(text)
        except yaml.YAMLError:
            request[field] = text


# -- the code ---------------------------------------------------------------------------------


def request_dir(given: Given) -> str:
    """What to pack when nothing is said: the job file's directory, else the current one."""
    path = given.text("file")
    return os.path.dirname(os.path.abspath(path)) if path and path != "-" else "."


def _upload(directory: str, desk: Desk) -> str:
    from madang.client.code import pack

    with pack(directory) as packed:
        for path, reason in packed.gathered.skipped[:5]:
            desk.note(f"note: {path} is not packed: {reason}")
        return desk.client.upload(packed)
