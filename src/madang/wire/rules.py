"""Violation rules as people write them: in a file of `madang rules set`, in PUT /v1/rules/NAME.

    [[rule]]
    name = "low-use-p25"
    metric = "gpu_util_percent"   # GET /v1/metrics/names; or report_NAME
    quantile = "p25"              # since the start; over the last `window` where there is one
    below = 20
    for = "10m"                   # how long it must hold
    after = "1h"                  # how long a job runs before the rule is about it
    severity = "warning"
    text = "Look at its input."
    scope = {category = ["training"], project = "vision"}

Keys that are unknown are errors; what a name may be and mean is docs/rules.md.
"""

import math
import tomllib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from madang.wire.jobs import NAME_PATTERN, DurationMs, duration_text
from madang.wire.policy import Categories

RULES_BYTES_MAX = 1 << 20
RULES_FILE_MAX = 1_000
METRIC_PATTERN = r"^[a-z][a-z0-9_]{0,99}$"
HOLD_MS_MAX = 86_400_000

Quantile = Literal["p5", "p25", "p50", "p95", "p99"]
Severity = Literal["info", "warning", "critical"]


def _listed(value: Any) -> Any:
    """One word is a list of one."""
    return [value] if isinstance(value, str) else value


Word = Annotated[str, Field(min_length=1, max_length=128)]
Words = Annotated[list[Word], BeforeValidator(_listed), Field(max_length=100)]
Span = Annotated[DurationMs, Field(le=HOLD_MS_MAX)]


class ScopeFile(BaseModel):
    """Which jobs a rule is about; what is empty says nothing."""

    model_config = ConfigDict(extra="forbid", title="RuleScope")

    category: Categories = Field(default_factory=list)
    project: Words = Field(default_factory=list)
    job: Words = Field(default_factory=list, description="Ids (digits-42), or names (digits).")
    group: Words = Field(default_factory=list, description="Machine groups.")
    owner: str = Field("", max_length=128, description="Only this owner's jobs.")
    spares_idle_ok: bool = Field(False, description="Jobs with idle_ok are left alone.")


class RuleFile(BaseModel):
    """One rule without its name."""

    model_config = ConfigDict(extra="forbid", title="Rule", populate_by_name=True)

    metric: str = Field(
        pattern=METRIC_PATTERN,
        description="A metric of GET /v1/metrics/names, or report_NAME.",
        examples=["gpu_util_percent"],
    )
    quantile: Quantile | None = Field(None, description="Since the start, or over `window`.")
    value: Literal["mean", "min", "max", "sum"] | None = Field(
        None, description="Instead of a quantile, over `window`: of all values of all its GPUs."
    )
    window: Span | None = Field(
        None, ge=1_000, description="The last so long, at most 1h; left out: since the start."
    )
    above: float | None = Field(None, description="Broken while the value is greater.")
    below: float | None = Field(None, description="Broken while the value is less.")
    hold: Span = Field(
        0, alias="for", description="So long on end, until it is broken, and until it is kept."
    )
    after: Span = Field(0, description="A job that has run for less is left alone.")
    severity: Severity = "warning"
    text: str = Field("", max_length=500, description="For people: what it means, what to do.")
    scope: ScopeFile = Field(default_factory=ScopeFile)
    enabled: bool = Field(True, description="A rule that is off is kept, and judges nobody.")

    @model_validator(mode="after")
    def _is_whole(self) -> "RuleFile":
        if (self.quantile is None) == (self.value is None):
            raise ValueError("a rule has a quantile (p5, p25, p50, p95, p99) or a value, not both")
        if (self.above is None) == (self.below is None):
            raise ValueError("a rule has a threshold: above or below, not both")
        if not math.isfinite(self.threshold):
            raise ValueError("a threshold is a finite number")
        if self.value is not None and self.window is None:
            raise ValueError(f'value = "{self.value}" needs a window, as window = "10m"')
        return self

    @property
    def threshold(self) -> float:
        found = self.below if self.above is None else self.above
        return 0.0 if found is None else found

    def stated(self, name: str, by: str = "") -> dict[str, Any]:
        """The arguments of a `core.rules.Rule`."""
        scope = self.scope
        return {
            "id": name,
            "metric": self.metric,
            "how": self.quantile or self.value,
            "window_ms": self.window or 0,
            "is_above": self.above is not None,
            "threshold": repr(self.threshold).removesuffix(".0"),
            "hold_ms": self.hold,
            "after_ms": self.after,
            "severity": self.severity,
            "text": self.text,
            "categories": tuple(dict.fromkeys(scope.category)),
            "projects": tuple(dict.fromkeys(scope.project)),
            "jobs": tuple(dict.fromkeys(scope.job)),
            "groups": tuple(dict.fromkeys(scope.group)),
            "owner": scope.owner,
            "spares_idle_ok": scope.spares_idle_ok,
            "is_on": self.enabled,
            "by": by,
        }


class NamedRuleFile(RuleFile):
    """One rule of a file."""

    model_config = ConfigDict(extra="forbid", title="NamedRule", populate_by_name=True)

    name: str = Field(pattern=NAME_PATTERN)


class RulesFile(BaseModel):
    """A file of rules."""

    model_config = ConfigDict(extra="forbid", title="Madang rules")

    rule: list[NamedRuleFile] = Field(min_length=1, max_length=RULES_FILE_MAX)

    @model_validator(mode="after")
    def _no_name_twice(self) -> "RulesFile":
        names = [one.name for one in self.rule]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules have the name {twice[0]}")
        return self


class RulesError(ValueError):
    """What is wrong with a file of rules, a line each."""


def read_rules(text: str) -> list[NamedRuleFile]:
    """The rules of a TOML file.

    Raises:
        RulesError: it is none; says where and what is allowed.
    """
    if len(text.encode()) > RULES_BYTES_MAX:
        raise RulesError(f"it is larger than {RULES_BYTES_MAX >> 20} MiB")
    try:
        return RulesFile.model_validate(tomllib.loads(text)).rule
    except tomllib.TOMLDecodeError as wrong:
        raise RulesError(f"it is not TOML: {wrong}") from wrong
    except ValidationError as wrong:
        raise RulesError("\n".join(_finding(one, text) for one in wrong.errors())) from wrong


def _finding(error: Any, text: str) -> str:
    """`rule 2 (low-use): quantile: Input should be 'p5', …`"""
    words, place = str(error["msg"]).removeprefix("Value error, "), list(error["loc"])
    if error["type"] == "extra_forbidden":
        words = f"there is no such key; there are {', '.join(_keys_at(place))}"
    if error["type"] == "missing" and place == ["rule"]:
        words = "there is no [[rule]]"
    if len(place) > 1 and place[0] == "rule" and isinstance(place[1], int):
        given = tomllib.loads(text)["rule"][place[1]]
        name = given.get("name", "") if isinstance(given, dict) else ""
        of = f" ({name})" if isinstance(name, str) and name else ""
        place = [f"rule {place[1] + 1}{of}", *place[2:]]
    return ": ".join([*map(str, place), words])


def _keys_at(place: list[Any]) -> list[str]:
    model: type[BaseModel] = ScopeFile if "scope" in place else NamedRuleFile
    if len(place) < 3:
        model = RulesFile
    return sorted(field.alias or name for name, field in model.model_fields.items())


def toml_of(name: str, rule: RuleFile) -> str:
    """The rule as its file would have it."""
    import json

    stated = rule.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    stated.pop("name", None)
    scope = stated.pop("scope", {})
    lines = ["[[rule]]", f"name = {json.dumps(name)}"]
    lines += [f"{key} = {_toml_value(value)}" for key, value in stated.items()]
    if scope:
        inside = ", ".join(f"{key} = {_toml_value(value)}" for key, value in scope.items())
        lines.append(f"scope = {{{inside}}}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's, but for what JSON leaves as it is."""
    import json

    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class RuleView(RuleFile):
    """A rule in force, and how many break it."""

    model_config = ConfigDict(title="RuleView", populate_by_name=True)

    name: str
    by: str = Field(description="Who set it; empty: it is shipped.")
    is_shipped: bool = Field(description="One of this name is shipped; without yours it is back.")
    broken: int = Field(description="Jobs that break it now.")
    toml: str


class RuleListView(BaseModel):
    """All rules, by name."""

    rules: list[RuleView]


class ViolationView(BaseModel):
    """A running job that breaks a rule."""

    rule: str
    severity: Severity
    job: str
    allocation: str
    project: str
    owner: str
    gpus: int = Field(description="Devices that the job holds.")
    since_ms: int = Field(description="When the rule was broken.")
    metric: str
    how: str = Field(description="p5 to p99, mean, min, max or sum.")
    window_ms: int = Field(description="Over so long; 0: since the start.")
    is_above: bool
    threshold: float
    value: float = Field(description="What was measured then.")
    text: str = Field(description="What was measured, in words.")
    advice: str = Field(description="The rule's own text.")


class ViolationListView(BaseModel):
    """Gravest first, then those that hold most GPUs, then the oldest."""

    violations: list[ViolationView]
    count: int = Field(description="Of all, also of those that are left off.")


class BrokenView(BaseModel):
    """A rule that a job breaks, as the job shows it."""

    rule: str
    severity: Severity
    since_ms: int
    text: str


class PreviewRequest(BaseModel):
    """A rule to try on runs that there were."""

    model_config = ConfigDict(extra="forbid", title="RulePreview")

    rule: RuleFile
    since: Annotated[DurationMs, Field(ge=60_000, le=400 * 86_400_000)] = Field(
        7 * 86_400_000, description="Runs that ran within so long before now.", examples=["7d"]
    )


class FlaggedView(BaseModel):
    """A run that the rule would have flagged."""

    allocation: str
    job: str
    project: str
    gpus: int
    from_ms: int = Field(description="From when; to the minute.")
    flagged_ms: int = Field(description="For how long in all; to the minute.")
    is_live: bool
    at_end: float | None = Field(
        description="The quantile since the start as it was at the end, or is now: exact for whole "
        "percents; null: the rule has none, or nothing was kept."
    )


class PreviewView(BaseModel):
    """What a rule would have done."""

    looked_at: int = Field(description="Runs in its scope of which enough is known.")
    flagged: list[FlaggedView] = Field(description="Longest flagged first; at most 500.")
    flagged_count: int
    unknown: int = Field(description="Runs in its scope of which nothing was kept.")
    left_off: int = Field(description="Runs that there was no time to look at: the oldest.")
    notices: list[str] = Field(description="What this cannot know.")


assert duration_text(HOLD_MS_MAX) == "1d", "a rule's times are at most a day"
