"""How fast the kernel log is read: python -m benchmarks.kernel_log.

An ordinary log (64 MiB of lines as nodes write them, one Xid in ten thousand) and two that are not:
one whose every line is of a network card, one whose every line is an Xid.
"""

import random
import sys
import time

from madang.agent.kernel_log import spoken

MIB = 1 << 20
ORDINARY = (
    "6,{n},{us},-;usb 1-1.4: new high-speed USB device number 7 using xhci_hcd",
    '5,{n},{us},-;audit: type=1400 audit(1732176000.123:84): apparmor="STATUS" operation="load"',
    "6,{n},{us},-;docker0: port 3(veth5f0d2a1) entered forwarding state",
    "4,{n},{us},-;nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context",
    "6,{n},{us},-;EXT4-fs (nvme1n1): mounted filesystem with ordered data mode. Quota mode: none.",
    "6,{n},{us},-;eth0: renamed from veth8b1c2d3",
    "3,{n},{us},-;Out of memory: Killed process 4021337 (python) total-vm:812345678kB",
    "6,{n},{us},-;IPv6: ADDRCONF(NETDEV_CHANGE): veth5f0d2a1: link becomes ready",
)
XID = "4,{n},{us},-;NVRM: Xid (PCI:0000:3b:00): 79, pid=2119, name=python, GPU has fallen off."
MLX5 = "6,{n},{us},-;mlx5_core 0000:5e:00.0: Port module event: module 0, Cable plugged"


def made(forms: tuple[str, ...], every: int, size: int) -> bytes:
    """A log of at least `size` bytes; with `every`, one line in so many is an Xid."""
    chance = random.Random(5)
    lines, total, number = [], 0, 0
    while total < size:
        number += 1
        form = XID if every and number % every == 0 else chance.choice(forms)
        lines.append(form.format(n=number, us=number * 1_733))
        total += len(lines[-1]) + 1
    return "\n".join(lines).encode() + b"\n"


def main() -> int:
    """Print MB/s of CPU time, and how many lines spoke."""
    logs = {
        "ordinary": made(ORDINARY, 10_000, 64 * MIB),
        "every line mlx5": made((MLX5,), 0, 8 * MIB),
        "every line an Xid": made((XID,), 0, 8 * MIB),
    }
    for name, log in logs.items():
        began = time.process_time()
        found = sum(
            1 for begin in range(0, len(log), MIB) for _ in spoken(log[begin : begin + MIB])
        )
        took_s = time.process_time() - began
        print(f"{name:<18} {len(log) / 1e6 / took_s:8.0f} MB/s   {found:,} lines spoke")
    return 0


if __name__ == "__main__":
    sys.exit(main())
