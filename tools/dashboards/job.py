"""One job: its devices, its members, what it reports."""

from tools.dashboards.panels import CLUSTER, HELD, JOB, OF_JOB, Dashboard, Panel, of_job, rate, stat

PAGE = Dashboard(
    "madang-job",
    "Madang: job",
    "One job: how it uses what it holds, and what it reports itself.",
    (CLUSTER, JOB),
    (
        (
            "Now",
            (
                stat("GPUs", f"count({HELD})"),
                stat("Busy", f"avg(job:madang_gpu_util_percent:mean{{{OF_JOB}}})", "percent"),
                stat("p25", f"avg(job:madang_gpu_util_percent:p25{{{OF_JOB}}})", "percent"),
                stat("Power", f"sum(job:madang_gpu_power_w:sum{{{OF_JOB}}})", "watt"),
                stat("Nodes", f"count(count by (node) ({HELD}))"),
                stat("Members", f"count(madang_member_cpu_percent{{{OF_JOB}}})"),
            ),
        ),
        (
            "Devices",
            (
                Panel(
                    "How busy: mean, p25 and most of its devices",
                    tuple(
                        (f"job:madang_gpu_util_percent:{one}{{{OF_JOB}}}", one)
                        for one in ("mean", "p25", "max")
                    ),
                    "percent",
                    most=100,
                ),
                Panel(
                    "The ten least busy devices",
                    (
                        (
                            f"bottomk(10, {of_job('madang_gpu_util_percent')})",
                            "{{node}} GPU {{gpu}}",
                        ),
                    ),
                    "percent",
                    most=100,
                ),
                Panel(
                    "Memory in use",
                    ((f"job:madang_gpu_memory_used_mib:mean{{{OF_JOB}}}", "mean of its devices"),),
                    "mbytes",
                ),
                Panel(
                    "Power",
                    ((f"job:madang_gpu_power_w:sum{{{OF_JOB}}}", "all its devices"),),
                    "watt",
                ),
                Panel(
                    "NVLink of all its devices",
                    (
                        (
                            "sum("
                            + of_job("rate(madang_gpu_nvlink_rx_bytes_total[$__rate_interval])")
                            + ")",
                            "in",
                        ),
                        (
                            "sum("
                            + of_job("rate(madang_gpu_nvlink_tx_bytes_total[$__rate_interval])")
                            + ")",
                            "out",
                        ),
                    ),
                    "Bps",
                ),
                Panel(
                    "Hottest devices",
                    ((f"topk(5, {of_job('madang_gpu_temperature_c')})", "{{node}} GPU {{gpu}}"),),
                    "celsius",
                    least=None,
                ),
            ),
        ),
        (
            "Members",
            (
                Panel(
                    "What it reports",
                    ((f'madang_report{{{OF_JOB},rank="0"}}', "{{report}}"),),
                    least=None,
                    wide=24,
                ),
                Panel(
                    "CPU of its members (100 a core)",
                    ((f"topk(16, madang_member_cpu_percent{{{OF_JOB}}})", "rank {{rank}}"),),
                    "percent",
                ),
                Panel(
                    "Memory of its members",
                    ((f"topk(16, madang_member_memory_mib{{{OF_JOB}}})", "rank {{rank}}"),),
                    "mbytes",
                ),
                Panel(
                    "Read and written by its members",
                    (
                        (
                            f"sum({rate('madang_member_read_bytes_total', OF_JOB)})",
                            "read",
                        ),
                        (
                            f"-sum({rate('madang_member_write_bytes_total', OF_JOB)})",
                            "written",
                        ),
                    ),
                    "Bps",
                    least=None,
                ),
                Panel(
                    "Processes",
                    ((f"sum(madang_member_processes{{{OF_JOB}}})", "processes"),),
                ),
            ),
        ),
    ),
)
