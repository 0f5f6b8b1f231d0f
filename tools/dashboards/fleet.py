"""The fleet at one glance: how many devices, who has them, how busy and how well they are."""

from tools.dashboards.panels import CLUSTER, GROUP, IN_GROUP, OURS, Dashboard, Panel, stat

PAGE = Dashboard(
    "madang-fleet",
    "Madang: fleet",
    "How many GPUs there are, who has them, how busy and how well they are.",
    (CLUSTER, GROUP),
    (
        (
            "Now",
            (
                stat("GPUs", f'sum(madang_gpus{{{IN_GROUP},state="total"}})'),
                stat("Free", f'sum(madang_gpus{{{IN_GROUP},state="free"}})'),
                stat(
                    "Unhealthy or lost",
                    f'sum(madang_gpus{{{IN_GROUP},state=~"unhealthy|lost"}})',
                    warn=1,
                ),
                stat(
                    "Busy",
                    f"avg(group:madang_gpu_util_percent:mean{{{IN_GROUP}}})",
                    "percent",
                ),
                stat("Power", f"sum(group:madang_gpu_power_w:sum{{{IN_GROUP}}})", "watt"),
                stat(
                    "Held and idle",
                    f"sum(group:madang_gpu_held_idle:count{{{IN_GROUP}}}) or vector(0)",
                    warn=1,
                ),
            ),
        ),
        (
            "Use",
            (
                Panel(
                    "Devices by state",
                    tuple(
                        (f'sum by (state) (madang_gpus{{{IN_GROUP},state="{state}"}})', state)
                        for state in ("total", "free", "unhealthy", "lost")
                    ),
                ),
                Panel(
                    "How busy: quantiles over devices",
                    tuple(
                        (f"avg(group:madang_gpu_util_percent:{one}{{{IN_GROUP}}})", one)
                        for one in ("p05", "p50", "p95", "mean")
                    ),
                    "percent",
                    most=100,
                ),
                Panel(
                    "How busy, by machine group",
                    ((f"group:madang_gpu_util_percent:mean{{{IN_GROUP}}}", "{{group}}"),),
                    "percent",
                    most=100,
                ),
                Panel(
                    "Held and below 5 %",
                    ((f"group:madang_gpu_held_idle:count{{{IN_GROUP}}}", "{{group}}"),),
                    stacked=True,
                ),
                Panel(
                    "Held, by project",
                    ((f"sum by (project) (madang_project_held_gpus{{{OURS}}})", "{{project}}"),),
                    stacked=True,
                ),
                Panel(
                    "Device memory in use",
                    ((f"group:madang_gpu_memory_used_mib:sum{{{IN_GROUP}}}", "{{group}}"),),
                    "mbytes",
                    stacked=True,
                ),
            ),
        ),
        (
            "Health",
            (
                Panel(
                    "Hottest device of each group",
                    ((f"group:madang_gpu_temperature_c:max{{{IN_GROUP}}}", "{{group}}"),),
                    "celsius",
                    least=None,
                ),
                Panel(
                    "Power",
                    ((f"group:madang_gpu_power_w:sum{{{IN_GROUP}}}", "{{group}}"),),
                    "watt",
                    stacked=True,
                ),
                Panel(
                    "Memory errors that ECC corrected, a day, the ten worst nodes",
                    (
                        (
                            f"topk(10, node:madang_gpu_ecc_corrected:increase1d{{{OURS}}})",
                            "{{node}}",
                        ),
                    ),
                ),
                Panel(
                    "Nodes by state",
                    ((f"sum by (state) (madang_nodes{{{OURS}}})", "{{state}}"),),
                    stacked=True,
                ),
            ),
        ),
    ),
)
