"""The rows of the command line's table for the simulator; see table.py."""

from __future__ import annotations

from madang.cli.words import Option, Verb

PLOT = Option("--plot", "write the curves there: one HTML file", meta="FILE", complete="file")

SIMULATE = (
    Verb(
        "sim pack",
        "madang.cli.sim",
        "Replay pods onto nodes; how full it gets",
        group="Simulate",
        options=(
            Option("--nodes", "gzip CSV: cpu_milli, memory_mib, gpu, model", complete="file"),
            Option("--pods", "gzip CSV: cpu_milli, memory_mib, num_gpu, …", complete="file"),
            Option("--arrivals", "gzip CSV of published orders: seed, order", complete="file"),
            Option("--seed", "of the order, and of random (42)", kind="int"),
            Option(
                "--policy",
                "who chooses the node (madang)",
                choices=(
                    "random",
                    "best-fit",
                    "dot-product",
                    "most-allocated",
                    "packing",
                    "fgd",
                    "madang",
                ),
            ),
            PLOT,
        ),
        note="No daemon is needed. --nodes and --pods are required.",
    ),
    Verb(
        "sim replay",
        "madang.cli.sim",
        "Replay a queueing trace; how long jobs wait",
        group="Simulate",
        options=(
            Option("--trace", "gzip CSV: job, vc, submit, duration, gpus", complete="file"),
            Option("--nodes", "equal nodes, for example 78x8", meta="NODESxGPUS"),
            Option(
                "--policy",
                "whose turn it is (madang)",
                choices=(
                    "fifo",
                    "fifo-skip",
                    "sjf",
                    "ssf",
                    "srtf",
                    "tiresias",
                    "easy",
                    "conservative",
                    "madang",
                ),
            ),
            Option("--oracle", "tell the policy true durations", kind="flag"),
            Option("--predict", "plan by the run times learned so far from the trace", kind="flag"),
            Option(
                "--eta",
                "ask every N-th job that waits when it starts; report the error",
                kind="int",
                meta="N",
            ),
            PLOT,
        ),
        note="No daemon is needed. --trace and --nodes are required.",
    ),
    Verb(
        "sim what-if",
        "madang.cli.whatif",
        "Replay this yard's own journal under another policy",
        group="Simulate",
        options=(
            Option("--policy", "a policy file, or a name (madang, easy, …)", complete="file"),
            Option("--since", "7d before now (default), 2026-11-01, 2026-11-01T08:00", meta="WHEN"),
            Option("--until", "its end, as --since (the newest event)", meta="WHEN"),
            Option("--ledger", "a database to read instead of asking a daemon", meta="URL"),
            Option("--oracle", "tell the policy true durations", kind="flag"),
            PLOT,
        ),
        note=(
            "--policy is required. The journal comes from --ledger, from the records under\n"
            "--state, or from the daemon. Nothing is changed anywhere."
        ),
    ),
)
