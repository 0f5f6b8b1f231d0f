"""Every verb, argument and option of the command line, once.

The parser, `--help`, shell completion and the test of docs/cli.md are all made from this table, and
`madang run` is parsed by the same code as the rest. It holds plain values only: reading it costs
under a millisecond, and a verb's own module is imported when the verb runs.
"""

from __future__ import annotations

from madang.cli.table_sim import SIMULATE
from madang.cli.table_yard import ACCESS, MACHINES, SHARES, VIOLATIONS, ZONES
from madang.cli.words import Argument, Option, Verb

JOB = Argument("JOB", "id (digits-42), number (42), or name: its newest job", complete="job")
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
    Option("--need", "a label of its nodes: rack=r1", kind="many", meta="LABEL", field="needs"),
    Option("--tolerate", "a taint of nodes", kind="many", meta="TAINT", field="tolerates"),
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

JOBS = (
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
)

SEEING = (
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
    Verb("profiles", ZONES, "The GPUs there are to ask for", group="See"),
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
)

DAEMON = (
    Verb(
        "up",
        "madang.cli.updown",
        "Start Madang on this machine",
        group="Daemon",
        options=(
            Option("--port", "0 takes a free one (7070)", kind="int"),
            Option("--host", "where to listen (127.0.0.1)"),
            Option("--name", "a host name by which it is reached", kind="many", meta="HOST[:PORT]"),
            Option("--behind-tls", "browsers come by https, through a proxy", kind="flag"),
            Option("--devices", "CPU slots instead of GPUs", kind="int", meta="N"),
            Option("--fleet", "a simulated fleet instead of this machine", complete="file"),
            Option(
                "--engine",
                "where jobs run (local)",
                choices=("local", "kubernetes"),
            ),
            Option("--kubeconfig", "how to reach the cluster", meta="FILE", complete="file"),
            Option("--in-cluster", "by this pod's own account", kind="flag"),
            Option("--namespace", "of the lease and of our own jobs' pods", meta="NS"),
            Option("--scheduler-name", "whose pods are ours to place (madang)", meta="NAME"),
            Option("--policy", "rules of the yard, in TOML", meta="FILE", complete="file"),
            Option("--topology", "the network tree, in YAML", meta="FILE", complete="file"),
            Option("--telemetry", "what of it is kept, in TOML", meta="FILE", complete="file"),
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
    Verb(
        "web",
        "madang.cli.updown",
        "A fresh link to the web page",
        group="Daemon",
        options=(
            Option("--user", "whom it logs in (you)", meta="NAME"),
            Option(
                "--role",
                "what they may do there (yours; for others member)",
                choices=("owner", "member", "viewer"),
            ),
        ),
        note="It opens one browser, once, within a minute. Links for others take an owner.",
    ),
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
            Option("--pod-resources", "kubelet's socket", meta="SOCKET", complete="file"),
            Option("--buffer", "keep what waits there", meta="DIR", complete="dir"),
            Option("--buffer-max", "its bound (256MiB)", meta="SIZE"),
            Option("--once", "one frame, then end", kind="flag"),
            Option("--print", "show what is read, and push nothing", kind="flag"),
        ),
        note="Runs until SIGTERM. The token comes from --token-file, MADANG_TOKEN, or this\n"
        "machine's own daemon. Without --buffer, 16 MiB of memory keep what waits.",
    ),
)

OTHER = (
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

# In the order of `madang --help` and docs/cli.md: what most people need comes first.
VERBS = (*JOBS, *SEEING, *VIOLATIONS, *MACHINES, *SHARES, *ACCESS, *DAEMON, *SIMULATE, *OTHER)

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
