"""How busy jobs keep what they hold at one moment, from their tempers. Pure; letters: roster.py."""

from dataclasses import dataclass

import numpy as np

from madang.engines.virtual.roster import (
    BUBBLY,
    CHECKPOINTING,
    IDLE,
    Bools,
    Floats,
    Ground,
    Roster,
)

BUBBLE_PERIOD_MS, BUBBLE_SHARE = 9_000, 0.3
SAVE_PERIOD_MS, SAVE_MS = 240_000, 15_000
SLOW = 0.7  # what a faulty device gets done


@dataclass(frozen=True, slots=True)
class Loads:
    """Shares of one. Of devices (U,): how much of the time they are busy, of the tensor cores, of
    memory's bandwidth, of the links, of memory; `slow` ones. Of members (K,): `saving` ones."""

    busy: Floats
    tensor: Floats
    dram: Floats
    link: Floats
    memory: Floats
    slow: Bools
    saving: Bools
    member_busy: Floats  # (K,) mean of its devices


def loads_at(ground: Ground, roster: Roster, now_ms: int) -> Loads:
    """What all members do at `now_ms`."""
    ran_ms = (now_ms - roster.started_ms) * roster.speed
    does, saving = _doing(roster, ran_ms)
    member, unit = roster.member, roster.unit
    jitter = 0.02 * np.sin(2 * np.pi * (now_ms / 7_000 % 1.0 + roster.phase))
    lazy = roster.temper == IDLE
    own = does[member] * np.where(roster.slow, SLOW, 1.0)
    own = np.clip(own + jitter * np.where(lazy[member], 0.5, 1.0), 0.0, 1.0)
    units = len(ground.node_of)
    part = roster.share[member] * own

    def summed(weights: Floats) -> Floats:
        return np.bincount(unit, weights, minlength=units).astype(np.float64, copy=False)

    slow = np.zeros(units, np.bool_)
    slow[unit[roster.slow]] = True
    held = np.maximum(np.bincount(member, minlength=len(does)), 1)
    return Loads(
        busy=np.minimum(summed(part), 1.0),
        tensor=np.minimum(summed(part * roster.tensor[member]), 1.0),
        dram=np.minimum(summed(part * roster.dram[member]), 1.0),
        link=np.minimum(summed(part * roster.link[member]), 1.0),
        memory=np.minimum(summed(roster.share[member] * roster.memory[member]), 1.0),
        slow=slow,
        saving=saving,
        member_busy=np.bincount(member, own, minlength=len(does)) / held,
    )


def _doing(roster: Roster, ran_ms: Floats) -> tuple[Floats, Bools]:
    """(K,) how busy each member is, and whether it writes a checkpoint."""
    phase = ran_ms / BUBBLE_PERIOD_MS + 0.2 * roster.rank / np.maximum(roster.members, 1.0)
    bubble = np.where(phase % 1.0 < BUBBLE_SHARE, 0.55, 0.95)
    saving = (roster.temper == CHECKPOINTING) & (ran_ms % SAVE_PERIOD_MS < SAVE_MS)
    does = roster.base * np.where(roster.temper == BUBBLY, bubble, 1.0)
    does = np.where(saving, 0.06, does)
    return np.where(roster.temper == IDLE, 0.01, does), saving
