"""Who waits and what projects may hold."""

from tools.dashboards.panels import CLUSTER, OF_PROJECT, OURS, PROJECT, Dashboard, Panel

PAGE = Dashboard(
    "madang-queue",
    "Madang: queue and quotas",
    "Who waits, for how long, who runs, and what projects may hold.",
    (CLUSTER, PROJECT),
    (
        (
            "Queue",
            (
                Panel(
                    "Jobs by phase",
                    ((f"sum by (phase) (madang_jobs{{{OF_PROJECT}}})", "{{phase}}"),),
                    stacked=True,
                ),
                Panel(
                    "Waiting, by project",
                    (
                        (
                            f'sum by (project) (madang_jobs{{{OF_PROJECT},phase="waiting"}})',
                            "{{project}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Waiting, by provisioning",
                    (
                        (
                            f'sum by (provisioning) (madang_jobs{{{OF_PROJECT},phase="waiting"}})',
                            "{{provisioning}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Who has waited longest",
                    (
                        (
                            f"max by (project) (madang_queue_oldest_wait_seconds{{{OF_PROJECT}}})",
                            "{{project}}",
                        ),
                    ),
                    "s",
                ),
            ),
        ),
        (
            "Quotas",
            (
                Panel(
                    "Held, by project",
                    (
                        (
                            f"sum by (project) (madang_project_held_gpus{{{OF_PROJECT}}})",
                            "{{project}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Held, by provisioning",
                    (
                        (
                            f"sum by (provisioning) (madang_project_held_gpus{{{OF_PROJECT}}})",
                            "{{provisioning}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Mean of an hour, by project",
                    ((f"project:madang_gpu_held:mean1h{{{OF_PROJECT}}}", "{{project}}"),),
                    stacked=True,
                ),
                Panel(
                    "How busy, by project",
                    ((f"project:madang_gpu_util_percent:mean{{{OF_PROJECT}}}", "{{project}}"),),
                    "percent",
                    most=100,
                ),
                Panel(
                    "Limits and guarantees",
                    (
                        (
                            f"madang_quota_gpus{{{OURS}}}",
                            "{{owner}} {{group}} {{provisioning}} {{kind}}",
                        ),
                    ),
                    kind="bargauge",
                ),
                Panel(
                    "Jobs that hold the most",
                    (
                        (
                            f"topk(15, job:madang_gpu_held:count{{{OF_PROJECT}}})",
                            "{{job}} ({{project}})",
                        ),
                    ),
                    kind="bargauge",
                ),
            ),
        ),
    ),
)
