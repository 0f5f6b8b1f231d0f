"""One machine: its devices, itself, its ports."""

from tools.dashboards.panels import CLUSTER, NODE, ON_NODE, Dashboard, Panel, rate

PAGE = Dashboard(
    "madang-node",
    "Madang: node",
    "One machine: its devices, itself, its ports, and who is on it.",
    (CLUSTER, NODE),
    (
        (
            "Devices",
            (
                Panel(
                    "How busy",
                    ((f"madang_gpu_util_percent{{{ON_NODE}}}", "GPU {{gpu}}"),),
                    "percent",
                    most=100,
                ),
                Panel(
                    "Tensor cores",
                    ((f"madang_gpu_tensor_active_percent{{{ON_NODE}}}", "GPU {{gpu}}"),),
                    "percent",
                    most=100,
                ),
                Panel(
                    "Memory in use",
                    ((f"madang_gpu_memory_used_mib{{{ON_NODE}}}", "GPU {{gpu}}"),),
                    "mbytes",
                ),
                Panel("Power", ((f"madang_gpu_power_w{{{ON_NODE}}}", "GPU {{gpu}}"),), "watt"),
                Panel(
                    "Temperature",
                    (
                        (f"madang_gpu_temperature_c{{{ON_NODE}}}", "GPU {{gpu}}"),
                        (f"madang_gpu_memory_temperature_c{{{ON_NODE}}}", "GPU {{gpu}} memory"),
                    ),
                    "celsius",
                    least=None,
                ),
                Panel(
                    "Clock of the multiprocessors",
                    ((f"madang_gpu_sm_clock_mhz{{{ON_NODE}}}", "GPU {{gpu}}"),),
                    "rotmhz",
                ),
                Panel(
                    "NVLink, received and sent",
                    (
                        (
                            rate("madang_gpu_nvlink_rx_bytes_total", ON_NODE),
                            "GPU {{gpu}} in",
                        ),
                        (
                            "-" + rate("madang_gpu_nvlink_tx_bytes_total", ON_NODE),
                            "GPU {{gpu}} out",
                        ),
                    ),
                    "Bps",
                    least=None,
                ),
                Panel(
                    "PCIe, received and sent",
                    (
                        (
                            rate("madang_gpu_pcie_rx_bytes_total", ON_NODE),
                            "GPU {{gpu}} in",
                        ),
                        (
                            "-" + rate("madang_gpu_pcie_tx_bytes_total", ON_NODE),
                            "GPU {{gpu}} out",
                        ),
                    ),
                    "Bps",
                    least=None,
                ),
                Panel(
                    "Errors in an hour",
                    (
                        (
                            f"increase(madang_gpu_ecc_uncorrected_total{{{ON_NODE}}}[1h])",
                            "GPU {{gpu}} memory, not corrected",
                        ),
                        (
                            f"increase(madang_gpu_ecc_corrected_total{{{ON_NODE}}}[1h])",
                            "GPU {{gpu}} memory, corrected",
                        ),
                        (
                            f"increase(madang_gpu_nvlink_errors_total{{{ON_NODE}}}[1h])",
                            "GPU {{gpu}} NVLink",
                        ),
                        (
                            f"increase(madang_gpu_pcie_replays_total{{{ON_NODE}}}[1h])",
                            "GPU {{gpu}} PCIe",
                        ),
                    ),
                ),
                Panel(
                    "Why clocks are held down (NVML's bits)",
                    ((f"madang_gpu_throttle_mask{{{ON_NODE}}}", "GPU {{gpu}}"),),
                ),
                Panel(
                    "Who is here",
                    (
                        (
                            f"count by (job, project) (madang_gpu_held{{{ON_NODE}}})",
                            "{{job}} ({{project}})",
                        ),
                    ),
                    stacked=True,
                    wide=24,
                ),
            ),
        ),
        (
            "The machine",
            (
                Panel(
                    "CPU, memory, disk",
                    (
                        (f"madang_node_cpu_percent{{{ON_NODE}}}", "CPU"),
                        (f"madang_node_memory_used_percent{{{ON_NODE}}}", "memory"),
                        (f"madang_node_disk_used_percent{{{ON_NODE}}}", "fullest disk"),
                    ),
                    "percent",
                    most=100,
                ),
                Panel("Load", ((f"madang_node_load{{{ON_NODE}}}", "tasks"),)),
                Panel(
                    "Disks, read and written",
                    (
                        (
                            rate("madang_node_disk_read_bytes_total", ON_NODE),
                            "read",
                        ),
                        (
                            "-" + rate("madang_node_disk_write_bytes_total", ON_NODE),
                            "written",
                        ),
                    ),
                    "Bps",
                    least=None,
                ),
                Panel(
                    "Ports, received and sent",
                    (
                        (
                            rate("madang_port_rx_bytes_total", ON_NODE),
                            "{{port}} in",
                        ),
                        (
                            "-" + rate("madang_port_tx_bytes_total", ON_NODE),
                            "{{port}} out",
                        ),
                    ),
                    "Bps",
                    least=None,
                ),
                Panel(
                    "What is wrong with ports, in an hour",
                    tuple(
                        (
                            f"increase(madang_port_{one}_total{{{ON_NODE}}}[1h])",
                            f"{{{{port}}}} {one}",
                        )
                        for one in (
                            "symbol_errors",
                            "rcv_errors",
                            "link_downed",
                            "xmit_discards",
                            "out_of_sequence",
                            "retransmits",
                        )
                    ),
                ),
                Panel(
                    "Waiting for credits",
                    (
                        (
                            rate("madang_port_xmit_wait_total", ON_NODE),
                            "{{port}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
