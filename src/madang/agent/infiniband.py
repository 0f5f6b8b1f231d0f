"""Ports of InfiniBand and RoCE by sysfs, and who sits at which PCI address.

`port_rcv_data` and `port_xmit_data` count words of four bytes. Counters that a port does not have
are missing. One that went back was reset, by `perfquery -R` or a driver that was loaded again; one
of 32 bits that stands at its end counts no more, and is missing from then on.

Sources: Linux Documentation/ABI/stable/sysfs-class-infiniband, InfiniBand Architecture
Specification 16.1.3.5 (PortCounters: saturating), NVIDIA "Understanding mlx5 ethtool counters" and
"InfiniBand/RoCE hw_counters".
"""

import os
from pathlib import Path

from madang.agent._base import Counters, Reading, Row, columns_of
from madang.telemetry.frames import Subject

ROOT = Path("/sys/class/infiniband")
WORD_BYTES = 4
END_32 = 0xFFFFFFFF
PORTS_MAX = 256  # of one node; a card with virtual functions may have many

# metric: (folder, file, factor), or several files that are added up
COUNTERS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "port_rx_bytes": (("counters", "port_rcv_data", WORD_BYTES),),
    "port_tx_bytes": (("counters", "port_xmit_data", WORD_BYTES),),
    "port_rx_packets": (("counters", "port_rcv_packets", 1),),
    "port_tx_packets": (("counters", "port_xmit_packets", 1),),
    "port_symbol_errors": (("counters", "symbol_error", 1),),
    "port_link_downed": (("counters", "link_downed", 1),),
    "port_rcv_errors": (("counters", "port_rcv_errors", 1),),
    "port_xmit_discards": (("counters", "port_xmit_discards", 1),),
    "port_xmit_wait": (("counters", "port_xmit_wait", 1),),
    "port_out_of_sequence": (("hw_counters", "out_of_sequence", 1),),
    "port_retransmits": (
        ("hw_counters", "packet_seq_err", 1),
        ("hw_counters", "local_ack_timeout_err", 1),
        ("hw_counters", "roce_adp_retrans", 1),
    ),
    "port_congestion": (
        ("hw_counters", "np_cnp_sent", 1),
        ("hw_counters", "rp_cnp_handled", 1),
        ("hw_counters", "np_ecn_marked_roce_packets", 1),
    ),
}
_ACTIVE = "4: ACTIVE"


class InfiniBand:
    """`root`: where sysfs lists the devices."""

    name = "infiniband"

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._counters = Counters()

    def read(self, now_ms: int) -> Reading:
        self._counters.begin()
        rows: dict[str, Row] = {}
        for device in _listed(self._root):
            ports = self._root / device / "ports"
            for port in _listed(ports):
                if len(rows) < PORTS_MAX:
                    rows[f"{device}/{port}"] = self._row(f"{device}/{port}", ports / port)
        return Reading(columns_of(Subject.PORT, rows))

    def _row(self, key: str, port: Path) -> Row:
        row: dict[str, float | None] = {}
        for metric, files in COUNTERS.items():
            known = [
                self._counters.grown((key, name), _stands_at(port / folder / name, factor))
                for folder, name, factor in files
            ]
            told = [value for value in known if value == value]  # noqa: PLR0124 - NaN
            row[metric] = sum(told) if told else None
        state = _text(port / "state")
        row["port_link_up"] = None if state is None else float(state.startswith(_ACTIVE))
        return row

    def port_at(self, pci: str) -> str | None:
        """The key of the first port of the device at `0000:5e:00.0`."""
        for device in _listed(self._root):
            try:
                at = os.path.realpath(self._root / device / "device", strict=True)
            except OSError:
                continue
            if os.path.basename(at) == pci:
                ports = _listed(self._root / device / "ports")
                return f"{device}/{ports[0]}" if ports else None
        return None

    def close(self) -> None:
        """Nothing is held."""


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(fd, 256).decode("ascii", "replace").strip()
    except OSError:  # EINVAL: the port does not have this counter
        return None
    finally:
        os.close(fd)


def _stands_at(path: Path, factor: int) -> float | None:
    text = _text(path)
    if text is None or not text.isdecimal():
        return None
    count = int(text)
    return None if count == END_32 else float(count * factor)
