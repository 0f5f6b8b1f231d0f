"""`madang --help`: every verb in one line, by group, from the table alone."""

from madang.cli.table import VERBS

_HEAD = """Madang: one shared yard of GPUs.

usage: madang COMMAND [OPTIONS]

  madang up --detach                  start it on this machine
  madang run -- python train.py       submit a job
  madang logs -f JOB                  follow what it writes
"""
_FOOT = """
madang COMMAND --help says more. Exit codes: 0 good · 1 the job failed · 2 usage · 3 not found
4 rejected · 5 daemon not reachable · 6 refused (token, role)
"""


def top_text() -> str:
    """The whole help text."""
    width = max(len(verb.name) for verb in VERBS) + 2
    parts = [_HEAD]
    group = ""
    for verb in VERBS:
        if verb.group != group:
            group = verb.group
            parts.append(f"\n{group}\n")
        parts.append(f"  {verb.name:<{width}}{verb.summary}\n")
    parts.append(_FOOT)
    return "".join(parts)
