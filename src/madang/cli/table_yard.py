"""The part of the table of verbs that is for who runs the yard: machines, shares, access."""

from __future__ import annotations

from madang.cli.words import Argument, Option, Verb

TENANCY = "madang.cli.tenancy"
RESERVE = "madang.cli.reserve"
NETWORK = "madang.cli.topology"
TREE_FILE = Argument("FILE", "a topology in YAML, or HyperNodes", complete="file")
OWNER = Argument("OWNER", "project:NAME or workspace:NAME")
WHERE = (
    Option("--group", "of one machine group (all)"),
    Option(
        "--provisioning",
        "of one provisioning (all)",
        choices=("reserved", "on_demand", "spot"),
    ),
)
ZONES = "madang.cli.zones"
NODE = Argument("NODE", "a node's id", many=True, complete="node")

MACHINES = (
    Verb(
        "cordon",
        "madang.cli.change",
        "Let nodes keep what they have and take no more",
        group="Machines",
        arguments=(NODE,),
    ),
    Verb(
        "uncordon",
        "madang.cli.change",
        "Let nodes take work again",
        group="Machines",
        arguments=(NODE,),
    ),
    Verb(
        "node rm",
        "madang.cli.change",
        "Take lost nodes that hold nothing off the lists",
        group="Machines",
        arguments=(NODE,),
    ),
    Verb(
        "make-room",
        "madang.cli.room",
        "Move jobs so that there is room for a large one; keep it",
        group="Machines",
        arguments=(Argument("SIZE", "8x8: 8 nodes with 8 GPUs; none: what is kept", default=""),),
        options=(
            Option("--profile", "machine profile (GPU model)"),
            Option("--within", "network level that holds all of it: block, leaf, …"),
            Option("-p --project", "whose job it is for (anybody's)", complete="project"),
            Option("--for", "how long it is kept (4h)", meta="TIME"),
            Option("--name", "what it is called (room-1)"),
            Option("--drop", "give this one up", meta="NAME"),
            Option("--dry-run", "only say who would move, and what it costs", kind="flag"),
        ),
        note="Who moves checkpoints, and goes on elsewhere at once. The room goes to the first\n"
        "job that asks for all of it.",
    ),
    Verb("topology show", NETWORK, "The network tree, and what is free", group="Machines"),
    *(
        Verb(f"topology {word}", NETWORK, words, group="Machines", arguments=(TREE_FILE,))
        for word, words in (
            ("check", "What would be wrong or odd with a tree here"),
            ("set", "Declare the network tree"),
        )
    ),
    Verb("topology rm", NETWORK, "Let nodes say where they lie", group="Machines"),
)

SHARES = (
    Verb("workspace ls", TENANCY, "Workspaces and their projects", group="Who may have what"),
    Verb(
        "workspace set",
        TENANCY,
        "Make a workspace",
        group="Who may have what",
        arguments=(Argument("WORKSPACE", "its name"),),
    ),
    Verb("project ls", "madang.cli.watch", "Projects, quota and use", group="Who may have what"),
    Verb(
        "project set",
        "madang.cli.change",
        "Make a project or change its quota",
        group="Who may have what",
        arguments=(Argument("PROJECT", "its name", complete="project"),),
        options=(
            Option("--quota", "GPUs it may hold at once, or none", meta="GPUS|none"),
            Option("--workspace", "who pays for it"),
        ),
    ),
    Verb("quota ls", TENANCY, "Guarantees, limits and use", group="Who may have what"),
    Verb(
        "quota set",
        TENANCY,
        "Make or change a guarantee, a limit, a weight, cells",
        group="Who may have what",
        arguments=(OWNER,),
        options=(
            *WHERE,
            Option("--guaranteed", "GPUs it can always have back", kind="number", meta="GPUS"),
            Option("--limit", "GPUs it holds at most, or none", meta="GPUS|none"),
            Option("--weight", "its part of what others leave idle (1)", kind="int"),
            Option("--cells", "whole cells promised to reserved work", meta="LEVEL=N,…|none"),
        ),
    ),
    Verb(
        "quota show",
        TENANCY,
        "An owner's quotas, and how its promised cells stand",
        group="Who may have what",
        arguments=(OWNER,),
    ),
    Verb(
        "quota rm",
        TENANCY,
        "Take a quota away",
        group="Who may have what",
        arguments=(OWNER,),
        options=WHERE,
    ),
    Verb("zone ls", ZONES, "Zones, whom they take, what is free", group="Who may have what"),
    Verb(
        "zone set",
        ZONES,
        "Make or change a zone",
        group="Who may have what",
        arguments=(Argument("ZONE", "its name, as nodes say it; `public`: of those who do not"),),
        options=(
            Option("--owners", "whose jobs it takes: project:a,workspace:b; or everyone"),
            Option("--sizes", "GPUs of the jobs it takes: 1-8, 16- or any", meta="FROM-TO"),
        ),
    ),
    Verb(
        "zone rm",
        ZONES,
        "Let a zone take everyone",
        group="Who may have what",
        arguments=(Argument("ZONE", "its name"),),
    ),
    Verb("reserve ls", RESERVE, "Calendar reservations", group="Who may have what"),
    Verb(
        "reserve add",
        RESERVE,
        "Keep GPUs for a project in a window",
        group="Who may have what",
        arguments=(Argument("NAME", "its name; an existing one is changed"),),
        options=(
            Option("--project", "who it is kept for (default)", complete="project"),
            Option("--gpus", "whole GPUs of each member (1)", kind="int"),
            Option("--members", "how many such members (1)", kind="int"),
            Option("--profile", "GPU model (any)"),
            Option("--begin", "now, +2h, or 2026-11-22T02:00 in local time", meta="WHEN"),
            Option("--for", "how long: 90m, 6h, 2d", meta="TIME"),
            Option("--end", "when it ends, as --begin; instead of --for", meta="WHEN"),
        ),
        note="What cannot be kept is refused, with what would work.",
    ),
    Verb(
        "reserve rm",
        RESERVE,
        "Take a reservation away; its jobs go on as ordinary ones",
        group="Who may have what",
        arguments=(Argument("NAME", "as `madang reserve ls` shows it"),),
    ),
    Verb(
        "budget ls",
        "madang.cli.budgets",
        "Who may be down at once, and who is",
        group="Who may have what",
    ),
    Verb(
        "budget set",
        "madang.cli.budgets",
        "Make or change a disruption budget",
        group="Who may have what",
        arguments=(Argument("BUDGET", "its name; jobs name it with --budget"),),
        options=(
            Option("--down-max", "members that may be down at once", kind="int", meta="MEMBERS"),
            Option("--project", "whose jobs may count under it (default)", complete="project"),
        ),
    ),
    Verb(
        "budget rm",
        "madang.cli.budgets",
        "Take a disruption budget away",
        group="Who may have what",
        arguments=(Argument("BUDGET", "its name"),),
    ),
    Verb(
        "policy show",
        TENANCY,
        "The policy in force, as TOML",
        group="Who may have what",
        options=(Option("--classes", "what it says of each class", kind="flag"),),
    ),
    Verb(
        "policy check",
        TENANCY,
        "Whether a file is a policy; asks no daemon",
        group="Who may have what",
        arguments=(Argument("FILE", "a policy in TOML", complete="file"),),
    ),
    Verb(
        "policy set",
        TENANCY,
        "Put a policy in force, now and for every start",
        group="Who may have what",
        arguments=(Argument("FILE", "a policy in TOML", complete="file"),),
    ),
)

RULES = "madang.cli.rules"
RULE = Argument("RULE", "as `madang rules ls` shows it")
RULES_FILE = Argument("FILE", "rules in TOML", complete="file")
VIOLATIONS = (
    Verb("rules ls", RULES, "Violation rules, and how many jobs break each", group="Rules"),
    Verb(
        "rules show", RULES, "A rule as TOML, and who breaks it", group="Rules", arguments=(RULE,)
    ),
    Verb(
        "rules check",
        RULES,
        "Whether a file is rules; asks no daemon",
        group="Rules",
        arguments=(RULES_FILE,),
    ),
    Verb(
        "rules preview",
        RULES,
        "Which past runs the rules of a file would have flagged",
        group="Rules",
        arguments=(RULES_FILE,),
        options=(Option("--since", "runs of the last 7d (default), 12h, 30d", meta="TIME"),),
    ),
    Verb(
        "rules set",
        RULES,
        "Put the rules of a file in force; others stay",
        group="Rules",
        arguments=(RULES_FILE,),
    ),
    Verb(
        "rules add",
        RULES,
        "Make or change one rule; members: for their own jobs",
        group="Rules",
        arguments=(Argument("RULE", "its name; an existing one is changed"),),
        options=(
            Option("--metric", "what is measured (gpu_util_percent); report_NAME", meta="METRIC"),
            Option("--quantile", "which one", choices=("p5", "p25", "p50", "p95", "p99")),
            Option("--value", "instead, over a window", choices=("mean", "min", "max", "sum")),
            Option("--window", "the last so long, at most 1h (since the start)", meta="TIME"),
            Option("--below", "broken while it is less", kind="number"),
            Option("--above", "broken while it is more", kind="number"),
            Option("--for", "how long it must hold", meta="TIME"),
            Option("--after", "how long a job runs before it counts", meta="TIME"),
            Option("--severity", "how grave (warning)", choices=("info", "warning", "critical")),
            Option("--text", "what to tell people"),
            Option("--category", "of these categories", meta="WORD[,WORD]"),
            Option("-p --project", "of these projects", meta="NAME[,NAME]", complete="project"),
            Option("--job", "of these jobs, by id or name", meta="JOB[,JOB]", complete="job"),
            Option("--group", "of these machine groups", meta="NAME[,NAME]"),
        ),
    ),
    Verb(
        "rules off", RULES, "Keep a rule and judge nobody by it", group="Rules", arguments=(RULE,)
    ),
    Verb("rules on", RULES, "Judge by a rule again", group="Rules", arguments=(RULE,)),
    Verb(
        "rules rm",
        RULES,
        "Take a rule away; a shipped one is as shipped again",
        group="Rules",
        arguments=(RULE,),
    ),
)

ACCESS = (
    Verb(
        "token add",
        "madang.cli.change",
        "Make a token; it is shown once",
        group="Access",
        arguments=(Argument("NAME", "whose it is, or what for; its jobs have this owner"),),
        options=(
            Option(
                "--role",
                "what it may do (member)",
                choices=("owner", "member", "viewer", "agent"),
            ),
        ),
        note=(
            "An owner may do everything; a member sees all, submits, and acts on its own jobs;\n"
            "a viewer sees all; an agent only sends telemetry."
        ),
    ),
    Verb("token ls", "madang.cli.watch", "Tokens, without their secrets", group="Access"),
    Verb(
        "token rm",
        "madang.cli.change",
        "Revoke a token, and the browsers of that name",
        group="Access",
        arguments=(Argument("NAME", "as `madang token ls` shows it"),),
    ),
)
