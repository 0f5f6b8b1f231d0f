"""What a virtual member writes: its log and its reports, as they stand at a moment.

Nothing is stored. Both are told from the member's times and the fleet's seed, so they only ever
grow, read the same after a restart, and cost nothing while nobody reads.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from madang.engines.virtual.chance import chance, normal
from madang.engines.virtual.model import Member, Stay

WARMUP_SHARE = 0.03


def log_of(stay: Stay, member: Member, seed: int, now_ms: int) -> bytes:
    """The member's log up to now."""
    return b"".join(line.encode() + b"\n" for line in _log_lines(stay, member, seed, now_ms))


def reports_of(stay: Stay, member: Member, seed: int, now_ms: int) -> bytes:
    """What the member has reported up to now: NDJSON. Rank 0 speaks for the gang."""
    if member.rank:
        return b""
    lines = []
    for step, at_ms in _steps(stay, member, now_ms):
        values = {"t_ms": at_ms, "step": step, **curve(seed, stay, step)}
        lines.append(json.dumps(values, separators=(",", ":")) + "\n")
    return "".join(lines).encode()


def curve(seed: int, stay: Stay, step: int) -> dict[str, float]:
    """Loss, learning rate and speed at a step: a power law with noise, a warm-up and a decay.

    The same for every attempt of a job, which therefore seems to go on from its checkpoint.
    """
    job, steps = stay.launch.allocation.job, max(stay.script.steps, 1)
    share = step / steps
    first = 2.0 + 9.0 * chance(seed, job, "first")
    floor = first * (0.12 + 0.25 * chance(seed, job, "floor"))
    power = 0.4 + 0.6 * chance(seed, job, "power")
    loss = floor + (first - floor) * (1 + 40 * share) ** -power
    loss *= 1 + 0.015 * normal(seed, job, step, "noise")
    rate = min(share / WARMUP_SHARE, 1.0) * (1 - 0.9 * share)
    per_second = steps * 1000 / max(stay.script.run_ms, 1)
    return {
        "loss": round(loss, 5),
        "learning_rate": round(3e-4 * rate, 8),
        "steps_per_s": round(per_second * (1 + 0.03 * normal(seed, job, step, "speed")), 4),
    }


def _steps(stay: Stay, member: Member, now_ms: int) -> Iterator[tuple[int, int]]:
    """(step, real ms) of each report that was made by now; step s of n ends at s/n of the run."""
    if not member.starts:
        return
    until_ms = now_ms if member.exit is None else member.ended_ms
    run_ms, steps = stay.script.run_ms, stay.script.steps
    for step in range(stay.resumed_step + 1, steps + 1):
        at_ms = member.started_ms + int((run_ms * step / steps - stay.done_ms) / stay.speed)
        if at_ms > until_ms:
            return
        yield step, at_ms


def _log_lines(stay: Stay, member: Member, seed: int, now_ms: int) -> Iterator[str]:
    command = " ".join(stay.launch.command)
    if stay.script.error and member.exit is not None:
        yield f"{_clock(member.ended_ms)} cannot start: {stay.script.error}"
    if not member.starts:
        return
    gpus = ",".join(map(str, member.gpus)) or "none"
    world = len(stay.members)
    begun = _clock(member.started_ms)
    yield f"{begun} virtual member {member.rank} of {world}: {member.node}, GPUs {gpus}"
    yield f"{begun} $ {command}"
    steps = stay.script.steps
    every = stay.script.save_every
    told_stop = False
    for step, at_ms in _steps(stay, member, now_ms):
        if member.stop_ms and at_ms > member.stop_ms and not told_stop:
            told_stop = True
            yield f"{_clock(member.stop_ms)} SIGTERM: a stop is coming"
        values = curve(seed, stay, step)
        yield (
            f"{_clock(at_ms)} step {step}/{steps} loss {values['loss']:.4f} "
            f"lr {values['learning_rate']:.2e} {values['steps_per_s']:.3g} steps/s"
        )
        if every and step % every == 0 and member.rank == 0:
            yield f"{_clock(at_ms)} checkpoint written at step {step}"
    if member.stop_ms and not told_stop:
        yield f"{_clock(member.stop_ms)} SIGTERM: a stop is coming"
    if member.exit is not None:
        yield f"{_clock(member.ended_ms)} {_farewell(member)}"


def _farewell(member: Member) -> str:
    assert member.exit is not None
    if member.exit.lost:
        return "-- the node went away --"
    if member.exit.signal == 6:
        return "NCCL watchdog: device fell ill, aborting"
    if member.exit.signal:
        return f"ended by signal {member.exit.signal}"
    return f"exited with {member.exit.code}"


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
