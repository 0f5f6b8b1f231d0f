"""A node with eight GPUs that are not there, for trying `madang agent` without any.

It serves the page of a dcgm-exporter on the loopback and writes a kernel log, after a script that
repeats every two minutes: work, a checkpoint, a GPU that grows hot and slow, an Xid, and the end.

    python examples/agent/scripted_node.py &
    madang agent --once --print --dcgm http://127.0.0.1:9400/metrics --kernel-log kern.log
    madang agent --node scripted-1 --dcgm http://127.0.0.1:9400/metrics --kernel-log kern.log

Standard library only. Ctrl-C ends it.
"""

import argparse
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GPUS = 8
PERIOD_S = 120
CHECKPOINT_S = (40, 55)  # of the period
HOT_S = (70, 120)
XID_S = 100
SLOW_GPU = 5
BUSES = ("18", "2a", "3a", "5d", "9a", "ab", "ba", "db")


def fields(gpu: int, at_s: float) -> dict[str, float]:
    """What this GPU shows `at_s` into the script, by DCGM's names and in its units."""
    saving = CHECKPOINT_S[0] <= at_s < CHECKPOINT_S[1]
    hot = gpu == SLOW_GPU and HOT_S[0] <= at_s < HOT_S[1]
    busy = 0.05 if saving else 0.95 + 0.03 * math.sin(at_s + gpu)
    busy *= 0.7 if hot else 1.0
    return {
        "DCGM_FI_DEV_GPU_UTIL": round(100 * busy),
        "DCGM_FI_PROF_SM_ACTIVE": 0.85 * busy,
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.5 * busy,
        "DCGM_FI_PROF_DRAM_ACTIVE": 0.45 * busy,
        "DCGM_FI_DEV_FB_USED": 61_000,
        "DCGM_FI_DEV_FB_FREE": 20_559,
        "DCGM_FI_DEV_POWER_USAGE": 80 + 580 * busy,
        "DCGM_FI_DEV_POWER_MGMT_LIMIT": 700,
        "DCGM_FI_DEV_GPU_TEMP": round(35 + 30 * busy + (22 if hot else 0)),
        "DCGM_FI_DEV_SM_CLOCK": 1_290 if hot else 1_755,
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 0x60 if hot else 0,
        "DCGM_FI_PROF_NVLINK_TX_BYTES": 90e9 * busy,
        "DCGM_FI_PROF_NVLINK_RX_BYTES": 90e9 * busy,
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": gpu,
    }


def page(now_s: float) -> str:
    """The exporter's page."""
    lines = []
    shown = [fields(gpu, now_s % PERIOD_S) for gpu in range(GPUS)]
    for name in shown[0]:
        lines.append(f"# TYPE {name} gauge")
        for gpu, values in enumerate(shown):
            labels = f'gpu="{gpu}",UUID="GPU-{gpu}",pci_bus_id="00000000:{BUSES[gpu]}:00.0"'
            lines.append(f'{name}{{{labels},Hostname="scripted"}} {values[name]:.6g}')
    return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    """GET /metrics."""

    def do_GET(self) -> None:
        """Answer with the page of now."""
        body = page(time.monotonic()).encode()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def write_xids(path: Path, leaving: threading.Event) -> None:
    """One Xid a period, as the driver writes it."""
    while not leaving.wait((XID_S - time.monotonic()) % PERIOD_S + 0.01):
        with open(path, "a") as log:
            log.write(
                f"[{time.monotonic():13.6f}] NVRM: Xid (PCI:0000:{BUSES[SLOW_GPU]}:00): 94, "
                "pid=2119, name=python, Contained: SM (0x1). RST: No, D-RST: No\n"
            )


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="a node with GPUs that are not there")
    parser.add_argument("--port", type=int, default=9400)
    parser.add_argument("--kernel-log", type=Path, default=Path("kern.log"))
    given = parser.parse_args()
    given.kernel_log.touch()
    leaving = threading.Event()
    threading.Thread(target=write_xids, args=(given.kernel_log, leaving), daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/metrics and {given.kernel_log}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        leaving.set()


if __name__ == "__main__":
    main()
