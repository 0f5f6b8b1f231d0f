"""sim pack, sim replay: the core driven by traces. No daemon is asked."""

from __future__ import annotations

import os

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from pathlib import Path

    from madang.sim.replay import Knows
    from madang.sim.traces import TraceError

SEED, POLICY = 42, "madang"


def sim_pack_verb(given: Given, desk: Desk) -> int:
    """Replay the packing protocol of FGD."""
    nodes, pods = _required(given, "nodes"), _required(given, "pods")
    from madang.sim import pack
    from madang.sim.traces import TraceError

    seed = given.count("seed")
    try:
        result = pack.run(
            nodes,
            pods,
            given.text("arrivals") or None,
            SEED if seed is None else seed,
            given.text("policy") or POLICY,
            _plot(given),
        )
    except TraceError as wrong:
        raise _usage(given, wrong) from None
    desk.answer(result, pack.table(result))
    return 0


def sim_replay_verb(given: Given, desk: Desk) -> int:
    """Replay a queueing trace."""
    trace, nodes = _required(given, "trace"), _required(given, "nodes")
    from madang.sim import replay
    from madang.sim.traces import TraceError

    try:
        result = replay.run(
            trace,
            nodes,
            given.text("policy") or POLICY,
            knows=_known(given),
            eta_every=given.count("eta") or 0,
            plot=_plot(given),
        )
    except TraceError as wrong:
        raise _usage(given, wrong) from None
    desk.answer(result, replay.table(result))
    return 0


def _known(given: Given) -> Knows | None:
    """What the policy is told of durations."""
    from madang.sim.replay import Knows

    if given.flag("oracle") and given.flag("predict"):
        raise UsageError(
            "--oracle tells true durations, --predict guesses them: one of the two",
            code="usage",
            tries=["madang sim replay --help"],
        )
    if given.flag("oracle"):
        return Knows.DURATIONS
    return Knows.PAST if given.flag("predict") else None


def _required(given: Given, key: str) -> str:
    text = given.text(key)
    if not text:
        raise UsageError(
            f"madang {given.verb.name} needs --{key}",
            code="usage",
            tries=[f"madang {given.verb.name} --help"],
        )
    return text


def _plot(given: Given) -> Path | None:
    """Where the page goes. Said before the replay, which may take a minute, if it cannot go there.

    Raises:
        UsageError: there is no such directory, or it is one.
    """
    from pathlib import Path

    text = given.text("plot")
    if not text:
        return None
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(
            "--plot: cannot write there",
            code="usage",
            given=text,
            allowed="a file in a directory that exists and may be written to",
        )
    return path


def _usage(given: Given, wrong: TraceError) -> UsageError:
    return UsageError(str(wrong), code="usage", tries=[f"madang {given.verb.name} --help"])
