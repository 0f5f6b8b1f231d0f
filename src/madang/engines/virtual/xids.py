"""What a virtual device says when it falls ill: one of the Xids that large fleets see most.

Shares after the failures that are public: Llama 3 (Meta 2024, table 5), Delta's A100 and H100 nodes
(Cui et al., "Story of Two GPUs", SC'25). The lines are those of NVIDIA's driver.
"""

from dataclasses import dataclass

from madang.engines.base import Signal
from madang.engines.virtual.chance import chance
from madang.engines.virtual.model import Mishap

# Where the GPUs of an HGX board with eight sit on the PCI bus; further ones come after them.
_BUSES = (0x18, 0x2A, 0x3A, 0x5D, 0x9A, 0xAB, 0xBA, 0xDB)

RESET, REBOOT, DRAIN_AND_RESET = 1, 2, 4  # nvmlDeviceGpuRecoveryAction_t
LINK_DOWN = 1  # the code of an mlx5 signal: its port lost the link


@dataclass(frozen=True, slots=True)
class Xid:
    """`silent`: the device's sensors say nothing any more. `ecc`, `rows`: what it counts."""

    code: int
    share: float
    text: str
    action: int = RESET
    silent: bool = False
    ecc: int = 0
    rows: int = 0


_NOBODY = "pid='<unknown>', name=<unknown>, "
XIDS = (
    Xid(79, 0.24, f"{_NOBODY}GPU has fallen off the bus.", REBOOT, silent=True),
    Xid(119, 0.16, "pid=2119, name=python, Timeout after 6s of waiting for RPC response from GPU "
        "GSP! Expected function 76 (GSP_RM_CONTROL) (0x2080a7d7 0x4).", REBOOT),
    Xid(74, 0.16, f"{_NOBODY}NVLink: fatal error detected on link 5(0x0, 0x0, 0x10000, 0x0, 0x0, "
        "0x0, 0x0)"),
    Xid(94, 0.14, "pid=2119, name=python, Contained: SM (0x1). RST: No, D-RST: Yes",
        DRAIN_AND_RESET, ecc=1),
    Xid(95, 0.10, f"{_NOBODY}Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No", REBOOT, ecc=1),
    Xid(48, 0.10, f"{_NOBODY}An uncorrectable double bit error (DBE) has been detected on GPU in "
        "the framebuffer at partition 2, subpartition 1.", ecc=1, rows=1),
    Xid(64, 0.10, f"{_NOBODY}Row remapper: failed to remap a row, reset gpu to activate.", ecc=1,
        rows=1),
)  # fmt: skip
BY_CODE = {xid.code: xid for xid in XIDS}


def xid_of(seed: int, node: str, gpu: int, since_ms: int) -> Xid:
    """What struck this device then."""
    draw = chance(seed, node, "xid", gpu, since_ms)
    for xid in XIDS:
        draw -= xid.share
        if draw < 0:
            return xid
    return XIDS[-1]


def address(gpu: int) -> str:
    """Where the driver says that a device is: `0000:3a:00`."""
    bus = _BUSES[gpu] if gpu < len(_BUSES) else 0xDB + gpu
    return f"{bus >> 8:04x}:{bus & 0xFF:02x}:00"


def signal_of(seed: int, mishap: Mishap) -> Signal:
    """The kernel's line."""
    if mishap.gpu < 0:
        text = "mlx5_core 0000:1a:00.0 ibp26s0: Link down"
        return Signal(mishap.at_ms, "mlx5", LINK_DOWN, "port", "mlx5_0/1", text)
    xid = xid_of(seed, mishap.node, mishap.gpu, mishap.at_ms)
    text = f"NVRM: Xid (PCI:{address(mishap.gpu)}): {xid.code}, {xid.text}"
    return Signal(mishap.at_ms, "xid", xid.code, "gpu", str(mishap.gpu), text)
