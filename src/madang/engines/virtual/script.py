"""What a member of the virtual fleet will do, read from its command and environment.

`MADANG_VIRTUAL_SECONDS` is how long it runs, else `sleep N` does as it says, else a seeded
log-normal decides. `MADANG_VIRTUAL_EXIT` is its exit code (negative: the signal that ends it),
`MADANG_VIRTUAL_STEPS` how often it reports, `MADANG_VIRTUAL_DEFY=1` makes it deaf to SIGTERM.
`MADANG_VIRTUAL_SAVES` is how many checkpoints it saves in a whole run, at most one a report (5);
with `MADANG_VIRTUAL_RESUME=1` its next attempt goes on from the last.
`MADANG_VIRTUAL_TEMPER` is how it uses its devices (sensors.py), else chance decides.
A leading `env K=V …` in the command counts as environment.
"""

import re
from dataclasses import dataclass

from madang.core.model import Exit
from madang.engines.base import Launch
from madang.engines.virtual.chance import chance, log_normal
from madang.engines.virtual.fleet import Fleet

SECONDS, EXIT, STEPS, SAVES, RESUME, DEFY, TEMPER = (
    f"MADANG_VIRTUAL_{name}"
    for name in ("SECONDS", "EXIT", "STEPS", "SAVES", "RESUME", "DEFY", "TEMPER")
)
SAVES_USUAL = 5
TEMPERS = (
    ("steady", 0.62),
    ("bubbly", 0.16),
    ("checkpointing", 0.12),
    ("idle", 0.06),
    ("faulty", 0.04),
)
RUN_MS_MAX = 10 * 365 * 86_400_000
STEPS_MAX = 2_000
WELL = Exit(0)
CANNOT_START = Exit(127)
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Script:
    """The future of each member of one allocation. `run_ms` is virtual time from its own start.

    `temper` is how it uses its devices.
    `crashes` is the rank that ends by itself at `crash_ms` with 1, or -1. `error` says why it
    cannot even start, or is empty.
    """

    run_ms: int
    exit: Exit = WELL
    steps: int = 100
    defies: bool = False
    crashes: int = -1
    crash_ms: int = 0
    error: str = ""
    temper: str = TEMPERS[0][0]
    saves: int = SAVES_USUAL
    resumes: bool = False

    @property
    def save_every(self) -> int:
        """Reports from one checkpoint to the next, 0 if none is ever saved."""
        return max(1, self.steps // self.saves) if self.saves and self.steps else 0


def script_of(fleet: Fleet, launch: Launch) -> Script:
    """Read the script of a launch. A wrong setting gives a script that cannot start."""
    env, command = dict(launch.env), list(launch.command)
    if command and command[0] == "env":
        command.pop(0)
        while command and _ASSIGNMENT.match(command[0]):
            name, _, value = command.pop(0).partition("=")
            env[name] = value
    try:
        run_ms = _run_ms(fleet, launch.allocation.job, env, command)
        end = _exit(env, command)
        steps = _whole(env, STEPS, min(max(run_ms // 2_000, 10), 500))
        saves = _whole(env, SAVES, SAVES_USUAL)
        temper = _temper(env, fleet.seed, launch.allocation.job)
    except ValueError as wrong:
        return Script(0, CANNOT_START, 0, error=str(wrong))
    if not 0 <= steps <= STEPS_MAX:
        return Script(0, CANNOT_START, 0, error=f"{STEPS}={steps}: from 0 to {STEPS_MAX}")
    if not 0 <= saves <= STEPS_MAX:
        return Script(0, CANNOT_START, 0, error=f"{SAVES}={saves}: from 0 to {STEPS_MAX}")
    crashes, crash_ms = -1, 0
    names = (launch.allocation.id, "crash")
    if EXIT not in env and chance(fleet.seed, *names) < fleet.faults.crash_share:
        crashes = int(chance(fleet.seed, *names, "rank") * len(launch.allocation.seats))
        crash_ms = int(chance(fleet.seed, *names, "when") * run_ms)
    defies, resumes = (env.get(name, "") not in ("", "0") for name in (DEFY, RESUME))
    return Script(
        run_ms,
        end,
        steps,
        defies,
        crashes,
        crash_ms,
        temper=temper,
        saves=saves,
        resumes=resumes,
    )


def _temper(env: dict[str, str], seed: int, job: str) -> str:
    if TEMPER not in env:
        return temper_of(seed, job)
    known = [temper for temper, _ in TEMPERS]
    if env[TEMPER] not in known:
        raise ValueError(f"{TEMPER}={env[TEMPER]!r}: one of {', '.join(known)}")
    return env[TEMPER]


def temper_of(seed: int, job: str) -> str:
    """The temper of a job that does not say: chance decides, by its name."""
    draw = chance(seed, job, "temper")
    for temper, share in TEMPERS:
        draw -= share
        if draw < 0:
            return temper
    return TEMPERS[-1][0]


def _run_ms(fleet: Fleet, job: str, env: dict[str, str], command: list[str]) -> int:
    if SECONDS in env:
        return _seconds_ms(SECONDS, env[SECONDS])
    program = command[0].rsplit("/", 1)[-1] if command else ""
    if program in ("true", "false"):
        return 0
    if program == "sleep" and len(command) > 1:
        return sum(_seconds_ms("sleep", part) for part in command[1:])
    return log_normal(fleet.times.run_ms, fleet.times.run_sigma, fleet.seed, job, "run")


def _seconds_ms(what: str, text: str) -> int:
    number = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smhd]?)", text.strip())
    if number is None:
        raise ValueError(f"{what} {text!r} is not a time: write seconds, or 30s, 5m, 2h, 1d")
    run_ms = int(float(number[1]) * _UNIT_S[number[2]] * 1000)
    if run_ms > RUN_MS_MAX:
        raise ValueError(f"{what} {text!r} is longer than ten years")
    return run_ms


def _exit(env: dict[str, str], command: list[str]) -> Exit:
    program = command[0].rsplit("/", 1)[-1] if command else ""
    code = _whole(env, EXIT, int(program == "false"))
    if not -64 <= code <= 255:
        raise ValueError(f"{EXIT}={code}: a code from 0 to 255, or minus a signal")
    return Exit(code) if code >= 0 else Exit(0, signal=-code)


def _whole(env: dict[str, str], name: str, default: int) -> int:
    if name not in env:
        return default
    try:
        return int(env[name])
    except ValueError:
        raise ValueError(f"{name}={env[name]!r} is not a whole number") from None
