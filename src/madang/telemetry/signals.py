"""What happened once: Xids, messages of network cards, clocks; each with whose job it met."""

from dataclasses import dataclass

from madang.telemetry.frames import Subject


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """A signal, where it was heard, and who held the device then ("" if nobody)."""

    node: str
    at_ms: int
    kind: str
    code: int
    subject: Subject
    key: str
    text: str
    job: str = ""
    allocation: str = ""
