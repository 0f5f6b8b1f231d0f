"""The daemon: turns, sensors coming in, samples going out."""

from tools.dashboards.panels import CLUSTER, OURS, Dashboard, Panel, rate

TURNS_RATE = rate("madang_turn_duration_seconds_bucket", OURS)
AND_OURS = "and on (instance) madang_build_info"  # others have a process, too


def grown(name: str) -> str:
    """What a total of the daemon's grew by between two points."""
    return f"increase({name}{{{OURS}}}[$__rate_interval])"


PAGE = Dashboard(
    "madang-itself",
    "Madang: itself",
    "The daemon: turns, journal, sensors coming in, samples going out.",
    (CLUSTER,),
    (
        (
            "Turns",
            (
                Panel(
                    "How long a turn takes",
                    tuple(
                        (
                            f"histogram_quantile({q}, sum by (le) ({TURNS_RATE}))",
                            f"p{round(q * 100)}",
                        )
                        for q in (0.5, 0.95, 0.99)
                    ),
                    "s",
                ),
                Panel(
                    "Turns and events a second",
                    (
                        (
                            rate("madang_turn_duration_seconds_count", OURS),
                            "turns",
                        ),
                        (
                            rate("madang_journal_events_total", OURS),
                            "events",
                        ),
                    ),
                    "ops",
                ),
                Panel("Requests that wait", ((f"madang_inbox_requests{{{OURS}}}", "inbox"),)),
                Panel(
                    "Time in turns",
                    (
                        (
                            rate("madang_turn_duration_seconds_sum", OURS),
                            "share of a second",
                        ),
                    ),
                    "percentunit",
                ),
            ),
        ),
        (
            "Sensors",
            (
                Panel(
                    "Frames and samples a second",
                    (
                        (rate("madang_frames_taken_total", OURS), "frames"),
                        (
                            rate("madang_samples_taken_total", OURS),
                            "samples",
                        ),
                    ),
                    "ops",
                ),
                Panel(
                    "Refused, marked, dropped",
                    (
                        (
                            grown("madang_frames_refused_total"),
                            "frames refused",
                        ),
                        (
                            grown("madang_frame_marks_total"),
                            "marks",
                        ),
                        (
                            grown("madang_agent_frames_dropped_total"),
                            "frames dropped by agents",
                        ),
                    ),
                ),
                Panel(
                    "Nodes that report",
                    ((f"madang_reporting_nodes{{{OURS}}}", "{{state}}"),),
                    stacked=True,
                ),
                Panel(
                    "Age of the newest complete tick",
                    ((f"time() - madang_tick_timestamp_seconds{{{OURS}}}", "age"),),
                    "s",
                ),
                Panel(
                    "Scrapes",
                    (
                        (f"madang_scrape_seconds{{{OURS}}}", "seconds to write /metrics"),
                        (f"madang_metrics_left_out{{{OURS}}}", "{{subject}} left out"),
                    ),
                ),
            ),
        ),
        (
            "Remote write",
            (
                Panel(
                    "Samples a second, by what becomes of them",
                    (
                        (
                            rate("madang_out_samples_total", OURS),
                            "{{destination}} {{result}}",
                        ),
                        (
                            rate("madang_out_samples_queued_total", OURS),
                            "queued",
                        ),
                    ),
                    "ops",
                ),
                Panel(
                    "Not delivered yet",
                    (
                        (f"madang_out_lag_bytes{{{OURS}}}", "{{destination}}"),
                        (f"madang_out_queue_bytes{{{OURS}}}", "queue on disk"),
                        (f"madang_out_queue_limit_bytes{{{OURS}}}", "its bound"),
                    ),
                    "bytes",
                ),
                Panel(
                    "Age of what was delivered last",
                    (
                        (
                            f"time() - madang_out_delivered_timestamp_seconds{{{OURS}}}",
                            "{{destination}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Requests and tries again",
                    (
                        (
                            rate("madang_out_requests_total", OURS),
                            "{{destination}}",
                        ),
                        (
                            rate("madang_out_retries_total", OURS),
                            "{{destination}} again",
                        ),
                    ),
                    "ops",
                ),
                Panel(
                    "Takes what is sent",
                    ((f"madang_out_up{{{OURS}}}", "{{destination}}"),),
                    most=1,
                ),
                Panel(
                    "Bytes a second on the wire",
                    (
                        (
                            rate("madang_out_sent_bytes_total", OURS),
                            "{{destination}}",
                        ),
                    ),
                    "Bps",
                ),
                Panel(
                    "Lost to a full disk",
                    (
                        (
                            grown("madang_out_samples_unwritten_total"),
                            "samples",
                        ),
                    ),
                ),
            ),
        ),
        (
            "Process",
            (
                Panel(
                    "CPU",
                    (
                        (
                            f"rate(process_cpu_seconds_total[$__rate_interval]) {AND_OURS}",
                            "cores",
                        ),
                    ),
                ),
                Panel(
                    "Memory",
                    (
                        (
                            f"process_resident_memory_bytes {AND_OURS}",
                            "resident",
                        ),
                    ),
                    "bytes",
                ),
                Panel(
                    "Open files and threads",
                    (
                        (f"process_open_fds {AND_OURS}", "open files"),
                        (f"process_threads {AND_OURS}", "threads"),
                    ),
                ),
            ),
        ),
    ),
)
