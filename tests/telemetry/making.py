"""Frames for tests: of one node, with few columns, at times that a test chooses."""

from collections.abc import Mapping, Sequence

import numpy as np

from madang.telemetry.frames import Column, Frame, Signal, Subject

BEGIN_MS = 1_795_276_800_000  # a day's first ms, and a tick's
TICK_MS = 10_000


def frame(
    seq: int,
    values: Mapping[str, Sequence[float]] | None = None,
    *,
    node: str = "n1",
    at_ms: int | None = None,
    **more: object,
) -> Frame:
    """A frame of `seq` ticks after BEGIN_MS; the values are of GPUs 0, 1, …"""
    said = {"gpu_util_percent": [50.0]} if values is None else values
    columns = [column(metric, of) for metric, of in said.items()]
    at = BEGIN_MS + seq * TICK_MS if at_ms is None else at_ms
    whole = {"boot": 7, "interval_ms": TICK_MS, "columns": tuple(columns), **more}
    return Frame(node=node, seq=seq, at_ms=at, **whole)  # type: ignore[arg-type]


def column(
    metric: str,
    values: Sequence[float],
    subject: Subject = Subject.GPU,
    keys: Sequence[str] | None = None,
) -> Column:
    names = tuple(keys) if keys is not None else tuple(str(at) for at in range(len(values)))
    return Column(metric, subject, names, np.array(values, np.float32))


def xid(at_ms: int, code: int = 79, key: str = "0") -> Signal:
    return Signal(at_ms, "xid", code, Subject.GPU, key, "GPU has fallen off the bus.")
