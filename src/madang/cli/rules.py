"""rules ls, show, check, set, add, rm, off, on, preview: violation rules, and who breaks them."""

from __future__ import annotations

from madang.cli.desk import Desk
from madang.cli.kept import Kept
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, coloured, duration, gpus, moment, pairs, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    from madang.wire.rules import NamedRuleFile

    Document = dict[str, Any]

RULES_BYTES_MAX = 1 << 20
RUNS_SHOWN = 20
MARKS = {"critical": ("‼", "31"), "warning": ("!", "33"), "info": ("·", "36")}


def marked(severity: str) -> str:
    """The severity's mark: a sign, and a colour where there are any."""
    sign, colour = MARKS.get(severity, ("!", "33"))
    return coloured(sign, colour)


def broken_cell(job: Document) -> str:
    """`‼ idle-held +1`: the gravest rule that a job breaks, and how many more."""
    broken = job.get("broken") or []
    if not broken:
        return ""
    more = f" +{len(broken) - 1}" if len(broken) > 1 else ""
    return f"{marked(broken[0]['severity'])} {clean(broken[0]['rule'])}{more}"


def broken_lines(job: Document, now_ms: int) -> list[str]:
    """Each rule that a job breaks, and what was measured."""
    return [
        f"{marked(one['severity'])} {clean(one['rule'])}: {clean(one['text'])} "
        f"(since {moment(one['since_ms'], now_ms)})"
        for one in job.get("broken") or []
    ]


def _condition(rule: Document) -> str:
    how = rule["quantile"] or rule["value"]
    over = f" over {rule['window']}" if rule["window"] else " since the start"
    side, limit = ("below", rule["below"]) if rule["above"] is None else ("above", rule["above"])
    held = f" for {rule['for']}" if rule["for"] not in ("0ms", "0s") else ""
    return f"{how} of {rule['metric']}{over} {side} {limit:g}{held}"


def _row(rule: Document) -> list[str]:
    state = "" if rule["enabled"] else "off"
    return [
        clean(rule["name"]),
        clean(rule["severity"]),
        state or str(rule["broken"]),
        clean(rule["by"] or "shipped"),
        clean(_condition(rule)),
    ]


RULES = Kept(
    "rules",
    [
        Column("RULE"),
        Column("SEVERITY"),
        Column("BREAK IT", right=True),
        Column("BY"),
        Column("BROKEN WHILE", shrinks=True),
    ],
    _row,
    "no rules: madang rules set FILE",
)


def rules_ls_verb(_given: Given, desk: Desk) -> int:
    """Rules, and how many jobs break each."""
    return RULES.listed(desk)


def rules_show_verb(given: Given, desk: Desk) -> int:
    """A rule as TOML, and who breaks it."""
    import time

    rule = _rule(desk, given.text("rule"))
    now_ms = time.time_ns() // 1_000_000
    found = desk.client.violations()["violations"]
    breaking = [one for one in found if one["rule"] == rule["name"]]
    lines = [clean(line) for line in rule["toml"].splitlines()]
    lines += [""] if breaking else []
    lines += [
        f"{marked(one['severity'])} {clean(one['job'])} ({one['gpus']} GPUs): {clean(one['text'])} "
        f"(since {moment(one['since_ms'], now_ms)})"
        for one in breaking
    ]
    desk.answer({**rule, "violations": breaking}, "\n".join(lines))
    return 0


def _rule(desk: Desk, name: str) -> Document:
    rules = desk.client.rules()
    for rule in rules:
        if rule["name"] == name:
            return dict(rule)
    raise UsageError(
        f"there is no rule {clean(name)}",
        code="not_found",
        given=name,
        allowed=", ".join(rule["name"] for rule in rules[:20]),
        tries=["madang rules ls"],
    )


def rules_check_verb(given: Given, desk: Desk) -> int:
    """Whether a file is rules. No daemon is asked."""
    from madang.daemon.rules import flaws

    path = given.text("file")
    rules = rules_file(path)
    wrong = flaws([one.stated(one.name) for one in rules])
    if wrong:
        raise UsageError(
            f"{path} is not rules:\n" + "\n".join(wrong), code="usage", tries=["docs/rules.md"]
        )
    names = ", ".join(one.name for one in rules)
    document = {"ok": True, "rules": [one.name for one in rules]}
    desk.answer(document, f"{clean(path)} is {len(rules)} rules: {clean(names)}")
    return 0


def rules_set_verb(given: Given, desk: Desk) -> int:
    """Put the rules of a file in force; others stay."""
    made = [desk.client.set_rule(one.name, _body(one)) for one in rules_file(given.text("file"))]
    return _shown(desk, made)


def _shown(desk: Desk, made: list[Document]) -> int:
    desk.answer({"rules": made}, RULES.text(made))
    return 0


def _body(rule: NamedRuleFile) -> Document:
    stated = rule.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    stated.pop("name")
    return stated


def rules_file(path: str) -> list[NamedRuleFile]:
    """The rules of a file.

    Raises:
        UsageError: it cannot be read, or is none: each finding on a line.
    """
    from madang.wire.rules import RulesError, read_rules

    try:
        with open(path, encoding="utf-8") as file:
            return read_rules(file.read(RULES_BYTES_MAX + 1))
    except (OSError, UnicodeDecodeError) as failure:
        why = getattr(failure, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {why}", code="usage", given=path) from None
    except RulesError as wrong:
        raise UsageError(
            f"{path} is not rules:\n{wrong}",
            code="usage",
            tries=["madang rules show low-use-p25 shows how one is written"],
        ) from None


def rules_add_verb(given: Given, desk: Desk) -> int:
    """Make or change one rule, from options."""
    body: Document = {"metric": given.text("metric") or "gpu_util_percent"}
    for key in ("quantile", "value", "window", "for", "after", "severity", "text"):
        if given.text(key):
            body[key] = given.text(key)
    for key in ("above", "below"):
        number = given.number(key)
        if number is not None:
            body[key] = number
    scope = {
        key: [word.strip() for word in given.text(key).split(",")]
        for key in ("category", "project", "job", "group")
        if given.text(key)
    }
    if scope:
        body["scope"] = scope
    return _shown(desk, [desk.client.set_rule(given.text("rule"), body)])


def rules_rm_verb(given: Given, desk: Desk) -> int:
    """Take a rule away."""
    name = given.text("rule")
    left = desk.client.drop_rule(name)
    is_back = any(one["name"] == name for one in left["rules"])
    words = "is as it was shipped again" if is_back else "is gone"
    desk.answer(left, f"rule {clean(name)} {words}")
    return 0


def rules_off_verb(given: Given, desk: Desk) -> int:
    """Keep a rule, and let it judge nobody."""
    return _switched(given, desk, enabled=False)


def rules_on_verb(given: Given, desk: Desk) -> int:
    """Let a rule judge again."""
    return _switched(given, desk, enabled=True)


def _switched(given: Given, desk: Desk, *, enabled: bool) -> int:
    rule = _rule(desk, given.text("rule"))
    seen = ("name", "by", "is_shipped", "broken", "toml")
    body = {key: value for key, value in rule.items() if key not in seen and value is not None}
    return _shown(desk, [desk.client.set_rule(rule["name"], {**body, "enabled": enabled})])


def rules_preview_verb(given: Given, desk: Desk) -> int:
    """What the rules of a file would have done to past runs."""
    since = given.text("since") or "7d"
    answers: list[Document] = []
    lines: list[str] = []
    for one in rules_file(given.text("file")):
        found = desk.client.preview_rule(_body(one), since)
        answers.append({"name": one.name, **found})
        lines += _preview_lines(one.name, since, found)
    desk.answer({"previews": answers}, "\n".join(lines))
    return 0


def _preview_lines(name: str, since: str, found: Document) -> list[str]:
    import time

    now_ms = time.time_ns() // 1_000_000
    count, looked_at = found["flagged_count"], found["looked_at"]
    lines = [f"{clean(name)}: {count} of {looked_at} runs of the last {since} would be flagged"]
    rows = [
        [
            clean(one["allocation"]),
            clean(one["project"]),
            gpus(one["gpus"]),
            moment(one["from_ms"], now_ms),
            duration(one["flagged_ms"]),
            "–" if one["at_end"] is None else f"{one['at_end']:g}",
            "runs" if one["is_live"] else "",
        ]
        for one in found["flagged"][:RUNS_SHOWN]
    ]
    columns = [
        Column("RUN"),
        Column("PROJECT"),
        Column("GPUS", right=True),
        Column("FROM"),
        Column("FOR", right=True),
        Column("AT ITS END", right=True),
        Column(""),
    ]
    lines += [table(columns, rows)] if rows else []
    if count > RUNS_SHOWN:
        lines.append(f"… and {count - RUNS_SHOWN} more")
    told = [
        (f"{found['unknown']} runs", "nothing was kept of them") if found["unknown"] else None,
        (f"{found['left_off']} runs", "not looked at: no time") if found["left_off"] else None,
        *(("note", clean(notice)) for notice in found["notices"]),
    ]
    return [*lines, pairs([one for one in told if one is not None])]
