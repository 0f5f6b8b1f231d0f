"""The reader of the kernel's log: Xids and words of network cards as signals, each once.

What is said again and again within one interval is one signal with its count, so that a storm of a
thousand lines stays readable; beyond SIGNALS_PER_READ_MAX different ones the rest is counted.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from madang.agent._base import Reading
from madang.agent.kernel_log import TEXT_CHARS_MAX, Spoken, spoken
from madang.agent.kernel_source import KMSG, Cursor, Kmsg, LogFile, Source, at_ms, boot_ms
from madang.telemetry.frames import Signal, Subject

_log = logging.getLogger(__name__)

SIGNALS_PER_READ_MAX = 150  # below what the daemon takes of one node in a minute
OPEN_AGAIN_MS = 60_000

Locate = Callable[[str], str | None]


def nowhere(pci: str) -> str | None:
    """Of a node whose devices nobody knows."""
    return None


class KernelLog:
    """`gpu_at`, `port_at`: whose PCI address that is, as a key of our columns; None if unknown.

    A signal of a device that is not known is of the node; its text names the address anyway.
    """

    name = "kernel log"

    def __init__(
        self,
        path: Path = KMSG,
        cursor: Path | None = None,
        gpu_at: Locate = nowhere,
        port_at: Locate = nowhere,
    ) -> None:
        self._path, self._cursor = path, Cursor(cursor)
        self.gpu_at, self.port_at = gpu_at, port_at
        self._source: Source | None = None
        self._open_ms = 0

    def read(self, now_ms: int) -> Reading:
        """What was said since the last call. What the call before gave counts as safe now."""
        source = self._opened(now_ms)
        if source is None:
            return Reading()
        source.commit()
        try:
            block = source.read()
        except OSError as error:
            _log.warning("the kernel log %s cannot be read: %s", self._path, error.strerror)
            self.close()
            self._open_ms = now_ms + OPEN_AGAIN_MS
            return Reading()
        return Reading(signals=self._signals(block, now_ms))

    @property
    def is_open(self) -> bool:
        """Somebody listens to the kernel."""
        return self._source is not None

    def _opened(self, now_ms: int) -> Source | None:
        if self._source is None and now_ms >= self._open_ms:
            try:
                is_file = self._path.is_file()
                reads = LogFile if is_file else Kmsg
                self._source = reads(self._cursor, self._path)
            except OSError as error:
                if not self._open_ms:
                    _log.warning(
                        "no kernel log: %s: %s (no Xids will be seen; run as root, with "
                        "CAP_SYSLOG, or name a file with --kernel-log)",
                        self._path,
                        error.strerror,
                    )
                self._open_ms = now_ms + OPEN_AGAIN_MS
        return self._source

    def _signals(self, block: bytes, now_ms: int) -> tuple[Signal, ...]:
        booted_ms = boot_ms(now_ms)
        first: dict[tuple[str, int, str, str], tuple[Spoken, int]] = {}
        times: dict[tuple[str, int, str, str], int] = {}
        for one in spoken(block):
            key = (one.kind, one.code, one.pci, one.nvlink.unit if one.nvlink else "")
            times[key] = times.get(key, 0) + 1
            if key not in first:
                first[key] = (one, at_ms(one.stamp, now_ms, booted_ms))
        kept = list(first.items())[:SIGNALS_PER_READ_MAX]
        if len(first) > len(kept):
            _log.warning("%d signals of the kernel log are too many", len(first) - len(kept))
        return tuple(self._signal(one, at, times[key]) for key, (one, at) in kept)

    def _signal(self, one: Spoken, said_ms: int, times: int) -> Signal:
        locate = self.gpu_at if one.kind == "xid" else self.port_at
        key = locate(one.pci) if one.kind != "sxid" else None
        subject = Subject.NODE
        if key is not None:
            subject = Subject.GPU if one.kind == "xid" else Subject.PORT
        again = f" ({times} times)" if times > 1 else ""
        text = one.text[: TEXT_CHARS_MAX - len(again)] + again
        return Signal(said_ms, one.kind, one.code, subject, key or "", text)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None
