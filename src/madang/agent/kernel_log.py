"""What GPUs and network cards say in the kernel's log: a parser, pure and quick.

It looks for a few words in a whole block and reads only the lines that hold one, so that an
ordinary log costs a search and no more (docs/benchmarks/agent.md). It never raises, whatever it is
given. Lines may be raw records of /dev/kmsg, those of dmesg, of syslog, or of `journalctl -k`.

An Xid comes in four forms, all of which name the code behind the device:

    NVRM: Xid (0000:03:00): 14, Channel 00000001                      drivers before 2013 or so
    NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.
    NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has …  since driver 440 or so
    NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 …)

and, with MIG, `(PCI:0000:01:00 GPU-I:05)`. The last form is that of NVLink 5 (144 to 150): unit,
severity, XC (cross-containment), injected, link, then the words intrinfo and error status; the
sub-code is in the bits 20 to 25 of intrinfo. NVSwitches say SXid in the same way.

Sources: NVIDIA "Xid Errors" (Viewing Xid Messages; Analyzing Xid Errors with the Xid Catalog),
NVIDIA "GPU Memory Error Management" (MIG), NVIDIA/open-gpu-kernel-modules (error containment),
leptonai/gpud (accelerator/nvidia/xid, infiniband), DataDog's agent (gpu driver events),
NVIDIA/NVSentinel (syslog health monitor, NIC health monitor), node-problem-detector; of mlx5 also
Linux drivers/net/ethernet/mellanox/mlx5/core (health.c, events.c, cmd.c, en_main.c), PCI AER.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

TEXT_CHARS_MAX = 500  # of a signal
LINE_BYTES_MAX = 4_096  # what is longer is cut: no driver says so much in one line
_MARKS = (b"Xid (", b"mlx5_core ", b"(mlx5_core)")


class Mlx5(IntEnum):
    """The codes of our signals of kind `mlx5`."""

    LINK_DOWN = 1
    LINK_UP = 2
    HEALTH = 3
    FIRMWARE_FATAL = 4
    AER = 5
    COMMAND_TIMEOUT = 6
    POWER = 7
    TEMPERATURE = 8
    MODULE = 9
    TX_TIMEOUT = 10
    RECOVERED = 11


@dataclass(frozen=True, slots=True)
class NvLink5:
    """The rest of an Xid from 144 to 150. `link` is -1 if it is of none."""

    unit: str
    is_fatal: bool
    containment: int
    link: int
    intrinfo: int
    error_status: int

    @property
    def subcode(self) -> int:
        return self.intrinfo >> 20 & 0x3F


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line that says something. `kind`: xid, sxid or mlx5. `pci` is like `0000:3b:00`, with
    the function (`.0`) for mlx5. `instance` is the MIG GPU instance, -1 for none; `pid` 0 for none.
    `stamp`: what the line says of its time."""

    kind: str
    code: int
    pci: str
    text: str
    stamp: "Stamp"
    pid: int = 0
    name: str = ""
    instance: int = -1
    nvlink: NvLink5 | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a line says that it was written: ms since 1970, or µs since boot; -1: not said."""

    wall_ms: int = -1
    boot_us: int = -1
    seq: int = -1  # the record's number in /dev/kmsg


_XID = re.compile(
    rb"\b(S?)Xid \((?:PCI:)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(?:\.[0-7])?"
    rb"(?: GPU-I:([0-9A-Fa-f]{1,4}))?[^)]{0,64}\): ?(\d{1,6})(?!\d)(.*)"
)
_PID = re.compile(rb", pid='?(\d{1,10}|<unknown>)'?")
_NAME = re.compile(rb", name=([^,]{1,64})")
_NVLINK5 = re.compile(
    rb", ?([A-Z][A-Z0-9_]{2,31})\s+(Nonfatal|Non-fatal|Fatal)\s+XC ?(\d{1,2}) i ?\d{1,2}\s+"
    rb"Link (-?\d{1,3}) [(\[](0x[0-9a-fA-F]{8})(?:[ ,]+(0x[0-9a-fA-F]{8}))?"
)
_MLX5_AT = re.compile(rb"mlx5_core ([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])")
# In small letters, the more telling first: a line may hold the words of several.
_MLX5 = (
    (Mlx5.RECOVERED, rb"health recovery succe|recovery succeeded|device recovered"),
    (Mlx5.FIRMWARE_FATAL, rb"firmware internal error|fw fatal|fatal error|unrecoverable"),
    (
        Mlx5.HEALTH,
        rb"health (?:compromised|issue|poll failed|recovery flow aborted)|in (?:error|fatal) state",
    ),
    (Mlx5.AER, rb"\baer\b|pci_err_detected|pcie bus error|pci error"),
    (Mlx5.COMMAND_TIMEOUT, rb"will cause a leak of a command resource|no done completion"),
    (Mlx5.POWER, rb"insufficient power"),
    (Mlx5.TEMPERATURE, rb"high temperature|over.?temperature"),
    (Mlx5.MODULE, rb"cable (?:error|unplugged)"),
    (Mlx5.TX_TIMEOUT, rb"tx timeout|netdev watchdog"),
    (Mlx5.LINK_DOWN, rb"\blink (?:is )?down\b"),
    (Mlx5.LINK_UP, rb"\blink (?:is )?up\b"),
)
_MLX5_ANY = re.compile(b"|".join(words for _, words in _MLX5))
_MLX5_WORDS = tuple((code, re.compile(words)) for code, words in _MLX5)
_KMSG = re.compile(rb"(?:\A|\n)?\d{1,5},(\d{1,19}),(\d{1,19}),[^;\n]{1,40};")
_ISO = re.compile(
    rb"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)(?=[ \t])"
)
_UPTIME = re.compile(rb"\[\s{0,6}(\d{1,10})\.(\d{6})\]")


def spoken(block: bytes) -> Iterator[Spoken]:
    """What the lines of a block say, in their order. O(bytes); never raises."""
    for line in _lines(block):
        found = read_line(line)
        if found is not None:
            yield found


def _lines(block: bytes) -> list[bytes]:
    """The lines that hold one of our words, each once."""
    begins: dict[int, bytes] = {}
    for mark in _MARKS:
        at = block.find(mark)
        while at >= 0:
            begin = block.rfind(b"\n", 0, at) + 1
            end = block.find(b"\n", at)
            end = len(block) if end < 0 else end
            begins[begin] = block[begin : min(end, begin + LINE_BYTES_MAX)]
            at = block.find(mark, end)
    return [begins[begin] for begin in sorted(begins)]


def read_line(line: bytes) -> Spoken | None:
    """What one line says; None if it says nothing that we know."""
    xid = _XID.search(line)
    if xid is not None:
        return _xid(line, xid)
    small = line.lower()
    if b"mlx5_core" not in small or not _MLX5_ANY.search(small):
        return None
    code = next(code for code, words in _MLX5_WORDS if words.search(small))
    at = _MLX5_AT.search(line)
    pci = at[1].decode().lower() if at else ""
    begin = at.start() if at else _message_at(line)
    return Spoken("mlx5", int(code), pci, _text(line[begin:]), _stamp(line))


def _xid(line: bytes, xid: "re.Match[bytes]") -> Spoken:
    is_switch, pci, instance, code, rest = xid.groups()
    pid, name, link = _PID.match(rest), _NAME.search(rest), _NVLINK5.search(rest)
    begin = line.rfind(b"NVRM:", 0, xid.start())
    return Spoken(
        "sxid" if is_switch else "xid",
        int(code),
        short_address(pci.decode()),
        _text(line[max(begin, 0) if begin >= 0 else xid.start() :]),
        _stamp(line),
        pid=int(pid[1]) if pid and pid[1].isdigit() else 0,
        name=_text(name[1]) if name and name[1] != b"<unknown>" else "",
        instance=int(instance, 16) if instance else -1,
        nvlink=_nvlink5(link) if link else None,
    )


def _nvlink5(found: "re.Match[bytes]") -> NvLink5:
    unit, severity, containment, link, intrinfo, status = found.groups()
    return NvLink5(
        unit.decode(),
        severity == b"Fatal",
        int(containment),
        int(link),
        int(intrinfo, 16),
        int(status, 16) if status else 0,
    )


def short_address(pci: str) -> str:
    """`00000000:3B:00.0`, as NVML writes it, to `0000:3b:00`, as the driver logs it."""
    domain, _, rest = pci.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest.partition('.')[0]}"


def _stamp(line: bytes) -> Stamp:
    kmsg = _KMSG.match(line)
    if kmsg:
        return Stamp(boot_us=int(kmsg[2]), seq=int(kmsg[1]))
    iso = _ISO.search(line, 0, 80)
    if iso:
        return Stamp(wall_ms=_iso_ms(iso))
    uptime = _UPTIME.search(line, 0, 200)
    if uptime:
        return Stamp(boot_us=int(uptime[1]) * 1_000_000 + int(uptime[2]))
    return Stamp()


def _iso_ms(iso: "re.Match[bytes]") -> int:
    day, part, zone = (one.decode() if one else "" for one in iso.groups())
    try:
        at = datetime.fromisoformat(f"{day}{'+00:00' if zone == 'Z' else zone}")
        return round(at.timestamp()) * 1000 + int(f"{part:0<3}"[:3] or 0)
    except (ValueError, OverflowError):
        return -1


def _message_at(line: bytes) -> int:
    """Where the message begins behind a record's head."""
    kmsg = _KMSG.match(line)
    return kmsg.end() if kmsg else 0


def _text(part: bytes) -> str:
    """Printable, of one line, not too long."""
    text = part.decode("utf-8", "replace")[:TEXT_CHARS_MAX]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text.strip()
