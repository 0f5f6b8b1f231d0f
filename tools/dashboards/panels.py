"""What a dashboard is made of, before Grafana's own form; and the words that all of them share."""

from dataclasses import dataclass

OURS = 'cluster=~"$cluster"'


@dataclass(frozen=True, slots=True)
class Panel:
    """`asks` are (expression, legend). `kind` is timeseries, stat, heatmap, table or bargauge."""

    title: str
    asks: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    text: str = ""
    stacked: bool = False
    least: float | None = 0
    most: float | None = None
    wide: int = 12
    warn: float | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard."""

    name: str
    query: str
    label: str
    many: bool = True


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page; `rows` are (title, panels)."""

    uid: str
    title: str
    text: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


CLUSTER = Variable("cluster", "label_values(madang_build_info, cluster)", "Cluster")
GROUP = Variable("group", f"label_values(madang_gpus{{{OURS}}}, group)", "Machine group")
NODE = Variable("node", f"label_values(madang_node_cpu_percent{{{OURS}}}, node)", "Node", False)
JOB = Variable("job", f"label_values(madang_gpu_held{{{OURS}}}, job)", "Job", False)
PROJECT = Variable("project", f"label_values(madang_gpu_held{{{OURS}}}, project)", "Project")

IN_GROUP = f'{OURS},group=~"$group"'
ON_NODE = f'{OURS},node="$node"'
OF_JOB = f'{OURS},job="$job"'
OF_PROJECT = f'{OURS},project=~"$project"'
HELD = f"madang_gpu_held{{{OF_JOB}}}"


def stat(title: str, expression: str, unit: str = "short", warn: float | None = None) -> Panel:
    return Panel(title, ((expression, ""),), unit, "stat", wide=4, warn=warn)


def of_job(metric: str) -> str:
    """A sensor's values on the devices that the job holds, with the job's labels."""
    return f"{HELD} * on (cluster, node, gpu) group_left () {metric}"


def rate(name: str, of: str) -> str:
    """What a total grows by in a second; `of` are the labels."""
    return f"rate({name}{{{of}}}[$__rate_interval])"
