"""Every verb, argument and option of the command line, once.

The parser, `--help`, shell completion and the test of docs/cli.md are all made from this table, and
`madang run` is parsed by the same code as the rest. It holds plain values only: reading it costs
under a millisecond, and a verb's own module is imported when the verb runs.
"""

from __future__ import annotations

from madang.cli.table_sim import SIMULATE
from madang.cli.words import Argument, Option, Verb

TENANCY = "madang.cli.tenancy"
RESERVE = "madang.cli.reserve"
ZONES = "madang.cli.zones"
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

JOB = Argument("JOB", "id (digits-42), number (42), or name: its newest job", complete="job")
NODE = Argument("NODE", "a node's id", complete="node")
FOLLOW = Option("-f --follow", "go on until the end, or Ctrl-C", kind="flag")
MEMBER = Option("--member", "a rank", meta="N")
SINCE = Option("--since", "30d before now (default), 2026-11-01, 2026-11-01T08:00", meta="WHEN")

REQUEST = (
    Option("-g --gpus", "GPUs per member; 0.25 is a quarter of one", kind="number", field="gpus"),
    Option("-m --members", "equal workers; all start or none", kind="int", field="members"),
    Option("--members-min", "elastic: start with so few", kind="int", field="members_min"),
    Option("--profile", "machine profile (GPU model), or several: H100,A100", field="profile"),
    Option("--exclusive", "its nodes run nothing else", kind="flag", field="exclusive"),
    Option("--zone", "zone to run in", field="zone"),
    Option("--within", "one domain of this level holds all members: block", field="within"),
    Option("--within-soft", "--within is only a wish", kind="flag", field="within_soft"),
    Option("--switches", "at most so many leaf switches", kind="int", field="switches"),
    Option("--max-wait", "how long to wait for so few switches", field="switches_wait"),
    Option("--spread", "over so many nodes at least", kind="int", field="spread_nodes"),
    Option("--cpus", "CPUs per member", kind="number", field="cpus"),
    Option("--memory", "memory per member: 4096 (MiB), 16G", meta="SIZE", field="memory_mib"),
    Option("-p --project", "who is charged", field="project", complete="project"),
    Option("--name", "what the job is called", field="name"),
    Option("--reserved", "on the project's reserved share", field="provisioning", value="reserved"),
    Option("--on-demand", "when there is room (default)", field="provisioning", value="on_demand"),
    Option("--spot", "may be taken back any time", field="provisioning", value="spot"),
    Option(
        "--category",
        "what kind of work",
        field="category",
        choices=("serving", "training", "data", "interactive"),
    ),
    Option(
        "--purpose", "what it is for", field="purpose", choices=("service", "qa", "produce", "test")
    ),
    Option("-e --env", "a variable; without =VALUE, a copy of yours", kind="many", meta="K[=V]"),
    Option("-t --time", "time limit: 90s, 30m, 2h, 1d12h", field="time"),
    Option("--grace", "between SIGTERM and SIGKILL (30s)", field="grace"),
    Option("--retries", "new attempts after a failure", kind="int", field="retries"),
    Option("--checkpoints", "it resumes from checkpoints", kind="flag", field="checkpoints"),
    Option("--estimate", "how long it will run", field="estimate"),
    Option("--nice", "among your jobs: higher goes later", kind="int", field="nice"),
    Option("--reservation", "calendar reservation to run in", field="reservation"),
    Option("--budget", "disruption budget it counts under", field="budget"),
    Option("--idle-ok", "never reclaim it for idle GPUs", kind="flag", field="idle_ok"),
    Option("--image", "container image", field="image"),
    Option("--memo", "a note for people", field="memo"),
)
FILE = Option("-f --file", "a job file, YAML or JSON; options override it", complete="file")
CODE = (
    Option("-C --dir", "working directory to pack (default: this one)", complete="dir"),
    Option("--no-code", "submit without any files", kind="flag"),
)

VERBS = (
    # -- jobs
    Verb(
        "run",
        "madang.cli.submit",
        "Submit a job; prints its id",
        group="Jobs",
        options=(
            FILE,
            *REQUEST,
            *CODE,
            Option("-w --wait", "follow its output and end as it ends", kind="flag"),
        ),
        command="inline",
        note=(
            "The working directory travels along (.madangignore or .gitignore is honoured); PATH,\n"
            "VIRTUAL_ENV, CONDA_* and PYTHONPATH too, so that the job finds the same interpreter.\n"
            "With --wait the exit code is the member's own if there is one member, else 0 or 1."
        ),
    ),
    Verb(
        "try",
        "madang.cli.submit",
        "Say what would happen to a job, without submitting it",
        group="Jobs",
        options=(FILE, *REQUEST),
        command="inline",
    ),
    Verb(
        "fork",
        "madang.cli.submit",
        "Submit a job again, with changes",
        group="Jobs",
        arguments=(JOB,),
        options=(
            *REQUEST,
            Option("--set", "any field: env.LR=0.1, gpus=2", kind="many", meta="FIELD=VALUE"),
            Option("--from-checkpoint", "start from a copy of its checkpoints", kind="flag"),
            Option("-C --dir", "pack this directory instead of keeping its code", complete="dir"),
            Option("-w --wait", "follow its output and end as it ends", kind="flag"),
        ),
        command="after",
    ),
    Verb(
        "stop",
        "madang.cli.change",
        "End jobs: SIGTERM, grace, SIGKILL",
        group="Jobs",
        arguments=(Argument("JOB", JOB.help, many=True, complete="job"),),
        options=(
            Option("--grace", "another grace: 0s, 5m"),
            Option("-w --wait", "until they have ended", kind="flag"),
        ),
    ),
    Verb(
        "requeue",
        "madang.cli.change",
        "Take a running job off its GPUs and let it wait again",
        group="Jobs",
        arguments=(JOB,),
        options=(Option("--grace", "another grace: 0s, 5m"),),
    ),
    Verb(
        "memo",
        "madang.cli.change",
        "Read or write a job's note",
        group="Jobs",
        arguments=(JOB, Argument("TEXT", "the note; none: show it", default="", many=True)),
        options=(Option("--clear", "remove the note", kind="flag"),),
    ),
    Verb(
        "exec",
        "madang.cli.exec",
        "A shell or command beside a running member",
        group="Jobs",
        arguments=(JOB,),
        options=(MEMBER,),
        command="after",
        note="Without a command, a shell. Exits as the command does.",
    ),
    Verb(
        "pull",
        "madang.cli.pull",
        "Get a job's code back",
        group="Jobs",
        arguments=(JOB, Argument("DIR", "where to (default: ./JOB)", default="", complete="dir")),
    ),
    # -- seeing
    Verb(
        "ls",
        "madang.cli.watch",
        "List jobs: the live ones and the latest that ended",
        group="See",
        options=(
            Option("-a --all", "ended ones too, newest first", kind="flag"),
            Option("--phase", "waiting, running, live, ended, …", meta="PHASE[,PHASE]"),
            Option("-p --project", "of one project", complete="project"),
            Option("--owner", "of one owner"),
            Option("--name", "of one name"),
            Option("-n --limit", "how many (100)", kind="int"),
        ),
    ),
    Verb("show", "madang.cli.watch", "One job in full", group="See", arguments=(JOB,)),
    Verb(
        "logs",
        "madang.cli.logs",
        "What a job's members wrote",
        group="See",
        arguments=(JOB,),
        options=(
            FOLLOW,
            Option("-m --member", "a rank, or all (default: 0)", meta="N|all"),
            Option("-n --tail", "only the last lines", kind="int", meta="LINES"),
            Option("--attempt", "an earlier attempt", kind="int", meta="N"),
        ),
    ),
    Verb("why", "madang.cli.watch", "Why a job waits, with numbers", group="See", arguments=(JOB,)),
    Verb(
        "events",
        "madang.cli.events",
        "What happened to a job, or to everything (-f)",
        group="See",
        arguments=(Argument("JOB", JOB.help, default="", complete="job"),),
        options=(FOLLOW, Option("--after", "only later than this event", kind="int", meta="SEQ")),
    ),
    Verb("nodes", "madang.cli.watch", "Machines and who holds their GPUs", group="See"),
    Verb(
        "top",
        "madang.cli.top",
        "What machines and members use now",
        group="See",
        options=(
            Option("--once", "one picture, then end", kind="flag"),
            Option("-n --interval", "seconds between pictures (2)", kind="number", meta="S"),
        ),
    ),
    Verb("status", "madang.cli.watch", "The whole cluster in a few lines", group="See"),
    Verb(
        "report",
        "madang.cli.report",
        "GPU·hours, waits, preemptions and waste of a window",
        group="See",
        options=(
            SINCE,
            Option("--until", "its end, as --since (now)", meta="WHEN"),
            Option(
                "--by",
                "project (default), model, size, workspace, zone, provisioning, category, "
                "purpose, owner, day",
                meta="WHAT[,WHAT]",
            ),
            Option("--idle", "what was held and not used, and what was taken", kind="flag"),
            Option("--csv", "one line a group, for a spreadsheet", kind="flag"),
            Option("--html", "write a page with plots there", meta="FILE", complete="file"),
        ),
    ),
    Verb(
        "advise pool",
        "madang.cli.report",
        "What pooling private zones would free, by past demand",
        group="See",
        options=(
            SINCE,
            Option("--wait", "the waiting-time target (10m)", meta="TIME"),
            Option("--share", "percent of the jobs that must keep it (95)", kind="int", meta="PCT"),
        ),
    ),
    # -- machines and projects
    Verb(
        "cordon",
        "madang.cli.change",
        "Let nodes keep what they have and take no more",
        group="Run the yard",
        arguments=(Argument("NODE", NODE.help, many=True, complete="node"),),
    ),
    Verb(
        "uncordon",
        "madang.cli.change",
        "Let nodes take work again",
        group="Run the yard",
        arguments=(Argument("NODE", NODE.help, many=True, complete="node"),),
    ),
    Verb(
        "node rm",
        "madang.cli.change",
        "Take lost nodes that hold nothing off the lists",
        group="Run the yard",
        arguments=(Argument("NODE", NODE.help, many=True, complete="node"),),
    ),
    Verb(
        "make-room",
        "madang.cli.room",
        "Move jobs so that there is room for a large one; keep it",
        group="Run the yard",
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
    Verb("project ls", "madang.cli.watch", "Projects, quota and use", group="Run the yard"),
    Verb(
        "project set",
        "madang.cli.change",
        "Make a project or change its quota",
        group="Run the yard",
        arguments=(Argument("PROJECT", "its name", complete="project"),),
        options=(
            Option("--quota", "GPUs it may hold at once, or none", meta="GPUS|none"),
            Option("--workspace", "who pays for it"),
        ),
    ),
    Verb("workspace ls", TENANCY, "Workspaces and their projects", group="Run the yard"),
    Verb(
        "workspace set",
        TENANCY,
        "Make a workspace",
        group="Run the yard",
        arguments=(Argument("WORKSPACE", "its name"),),
    ),
    Verb("profiles", ZONES, "The GPUs there are to ask for", group="See"),
    Verb("zone ls", ZONES, "Zones, whom they take, what is free", group="Run the yard"),
    Verb(
        "zone set",
        ZONES,
        "Make or change a zone",
        group="Run the yard",
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
        group="Run the yard",
        arguments=(Argument("ZONE", "its name"),),
    ),
    Verb("reserve ls", RESERVE, "Calendar reservations", group="Run the yard"),
    Verb(
        "reserve add",
        RESERVE,
        "Keep GPUs for a project in a window",
        group="Run the yard",
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
        group="Run the yard",
        arguments=(Argument("NAME", "as `madang reserve ls` shows it"),),
    ),
    Verb("quota ls", TENANCY, "Guarantees, limits and use", group="Run the yard"),
    Verb(
        "quota set",
        TENANCY,
        "Make or change a guarantee, a limit, a weight, cells",
        group="Run the yard",
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
        group="Run the yard",
        arguments=(OWNER,),
    ),
    Verb(
        "quota rm",
        TENANCY,
        "Take a quota away",
        group="Run the yard",
        arguments=(OWNER,),
        options=WHERE,
    ),
    Verb(
        "budget ls",
        "madang.cli.budgets",
        "Who may be down at once, and who is",
        group="Run the yard",
    ),
    Verb(
        "budget set",
        "madang.cli.budgets",
        "Make or change a disruption budget",
        group="Run the yard",
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
        group="Run the yard",
        arguments=(Argument("BUDGET", "its name"),),
    ),
    Verb(
        "policy show",
        TENANCY,
        "The policy in force, as TOML",
        group="Run the yard",
        options=(Option("--classes", "what it says of each class", kind="flag"),),
    ),
    Verb(
        "policy check",
        TENANCY,
        "Whether a file is a policy; asks no daemon",
        group="Run the yard",
        arguments=(Argument("FILE", "a policy in TOML", complete="file"),),
    ),
    Verb(
        "policy set",
        TENANCY,
        "Put a policy in force, now and for every start",
        group="Run the yard",
        arguments=(Argument("FILE", "a policy in TOML", complete="file"),),
    ),
    Verb("topology show", NETWORK, "The network tree, and what is free", group="Run the yard"),
    *(
        Verb(f"topology {word}", NETWORK, words, group="Run the yard", arguments=(TREE_FILE,))
        for word, words in (
            ("check", "What would be wrong or odd with a tree here"),
            ("set", "Declare the network tree"),
        )
    ),
    Verb("topology rm", NETWORK, "Let nodes say where they lie", group="Run the yard"),
    Verb(
        "token new",
        "madang.cli.change",
        "Make a token; it is shown once",
        group="Run the yard",
        arguments=(Argument("NAME", "what it is for"),),
    ),
    Verb("token ls", "madang.cli.watch", "Tokens, without their secrets", group="Run the yard"),
    Verb(
        "token rm",
        "madang.cli.change",
        "Revoke a token",
        group="Run the yard",
        arguments=(Argument("NAME", "its name"),),
    ),
    # -- the daemon
    Verb(
        "up",
        "madang.cli.updown",
        "Start Madang on this machine",
        group="Daemon",
        options=(
            Option("--port", "0 takes a free one (7070)", kind="int"),
            Option("--host", "where to listen (127.0.0.1)"),
            Option("--devices", "CPU slots instead of GPUs", kind="int", meta="N"),
            Option("--fleet", "a simulated fleet instead of this machine", complete="file"),
            Option("--policy", "rules of the yard, in TOML", meta="FILE", complete="file"),
            Option("--topology", "the network tree, in YAML", meta="FILE", complete="file"),
            Option("--telemetry-out", "where metrics go, in TOML", meta="FILE", complete="file"),
            Option("--database", "postgresql+psycopg://… instead of SQLite", meta="URL"),
            Option("-d --detach", "in the background; returns when it is ready", kind="flag"),
        ),
    ),
    Verb(
        "down",
        "madang.cli.updown",
        "Stop the daemon; running jobs go on",
        group="Daemon",
    ),
    Verb("web", "madang.cli.updown", "A fresh link to the web page", group="Daemon"),
    Verb(
        "agent",
        "madang.cli.agent",
        "Read this node's sensors, and push them to a daemon",
        group="Daemon",
        options=(
            Option("--token-file", "a file that holds the token", meta="FILE", complete="file"),
            Option("--node", "what the daemon calls this node (its host name)"),
            Option("--interval", "from one frame to the next (10s)", meta="TIME"),
            Option("--dcgm", "read GPUs from this page of a dcgm-exporter", meta="URL"),
            Option("--kernel-log", "where Xids are (/dev/kmsg)", meta="FILE", complete="file"),
            Option("--buffer", "keep what waits there", meta="DIR", complete="dir"),
            Option("--buffer-max", "its bound (256MiB)", meta="SIZE"),
            Option("--once", "one frame, then end", kind="flag"),
            Option("--print", "show what is read, and push nothing", kind="flag"),
        ),
        note="Runs until SIGTERM. The token comes from --token-file, MADANG_TOKEN, or this\n"
        "machine's own daemon. Without --buffer, 16 MiB of memory keep what waits.",
    ),
    *SIMULATE,
    # -- other
    Verb(
        "schema",
        "madang.cli.other",
        "JSON Schema of a file one writes",
        group="Other",
        arguments=(Argument("KIND", "which one", choices=("job",)),),
    ),
    Verb(
        "completion",
        "madang.cli.completion",
        "Shell completion: source <(madang completion bash)",
        group="Other",
        arguments=(Argument("SHELL", "which shell", choices=("bash", "zsh", "fish")),),
    ),
    Verb(
        "version", "madang.cli.other", "Versions of this program and of the daemon", group="Other"
    ),
)

# Asked by the shell functions of `madang completion`; not for people.
COMPLETE = Verb(
    "_complete",
    "madang.cli.completion",
    "Words that may come next",
    group="",
    arguments=(Argument("WORD", "the words so far", default="", many=True),),
)

BY_NAME = {verb.name: verb for verb in VERBS}
FAMILIES = {name.partition(" ")[0] for name in BY_NAME if " " in name}
