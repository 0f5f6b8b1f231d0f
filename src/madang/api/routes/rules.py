"""Violation rules: those in force, who breaks them, and what another one would have done."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of, who
from madang.api.identity import Identity, now_ms
from madang.api.nouns import missing
from madang.api.problems import Problem
from madang.api.rule_views import rule_view, rule_views, violation_list
from madang.core.events import RuleSet, SettingDropped
from madang.core.rules import RULES_MAX, RULES_OWN_MAX, SHIPPED, Rule, rules_of
from madang.core.snapshot import Snapshot
from madang.telemetry.rules.flaws import flaw_of
from madang.telemetry.rules.judge import Run
from madang.telemetry.rules.preview import FLAGGED_MAX, Asked, Flagged, Keys, preview
from madang.telemetry.stays import Stay
from madang.wire import rules as wire
from madang.wire.access import Role
from madang.wire.jobs import NAME_PATTERN

Name = Annotated[str, Path(pattern=NAME_PATTERN)]
LS = "see what there is: `madang rules ls`, GET /v1/rules"


class Rules:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def list_rules(self) -> Response:
        """All rules, shipped and set, and how many jobs break each now."""
        snapshot = await self._desk.rows.read(self._yard.snapshot)
        return answer(wire.RuleListView(rules=rule_views(snapshot)))

    async def list_violations(self) -> Response:
        """Who breaks which rule now: gravest first, then who holds most GPUs."""
        snapshot = await self._desk.rows.read(self._yard.snapshot)
        return answer(await self._desk.rows.read(violation_list, snapshot))

    async def set_rule(self, request: Request, id: Name, body: wire.RuleFile) -> Response:
        """Make or change a rule; whoever breaks the one before is judged anew.

        Members set rules for their own jobs: `scope.owner` is their name, said or not.
        """
        caller = who(request)
        rule = await self._desk.rows.read(self._judged, caller, id, body)
        await self._yard.ask(RuleSet(rule))
        kept = (await self._desk.rows.read(self._yard.snapshot)).settings.rules.get(id)
        if kept != rule:
            raise Problem(
                409,
                "conflict",
                f"rule {id} is not in force: somebody changed it at the same moment",
                given=id,
                tries=[LS],
            )
        return answer(rule_view(rule, 0))

    def _judged(self, caller: Identity, name: str, body: wire.RuleFile) -> Rule:
        snapshot = self._yard.snapshot()
        rule = sound(name, body, caller.name)
        known = snapshot.settings.rules
        if caller.role is not Role.OWNER:
            rule = _own(snapshot, caller, name, rule)
        if name not in known and len(known) >= RULES_MAX:
            raise Problem(
                409, "conflict", "there are too many rules", given=name, allowed=RULES_MAX
            )
        for project in rule.projects:
            if project not in snapshot.projects:
                raise missing(
                    f"project {project} does not exist",
                    project,
                    snapshot.projects,
                    "see what there is: `madang project ls`, GET /v1/projects",
                )
        return rule

    async def drop_rule(self, request: Request, id: Name) -> Response:
        """Take a rule away; one that is shipped is as it was shipped again.

        To be rid of a shipped one, set it with `enabled = false`.
        """
        caller = who(request)
        snapshot = await self._desk.rows.read(self._yard.snapshot)
        kept = snapshot.settings.rules
        if id not in kept and id in SHIPPED:
            raise Problem(
                409,
                "conflict",
                f"rule {id} is shipped, and cannot be taken away",
                given=id,
                tries=["turn it off: set it with enabled = false", f"madang rules off {id}"],
            )
        if id not in kept:
            raise missing(f"there is no rule {id}", id, rules_of(kept), LS)
        if caller.role is not Role.OWNER and kept[id].by != caller.name:
            raise _others(caller, id, kept[id].by, "take it away")
        await self._yard.ask(SettingDropped("rules", id, caller.name))
        return await self.list_rules()

    async def preview_rule(self, body: wire.PreviewRequest) -> Response:
        """What a rule would have done: how many runs it would have flagged, which, from when.

        Nothing is set. It takes some seconds of reading; one is answered at a time.
        """
        return answer(await self._desk.books.read(self._preview, body))

    def _preview(self, body: wire.PreviewRequest) -> wire.PreviewView:
        rule = sound("preview", body.rule, "")
        at_ms = now_ms()
        asked = Asked(rule, at_ms - body.since, at_ms, self._run_of, self._members_of)
        found = preview(self._yard.telemetry, asked)
        return wire.PreviewView(
            looked_at=found.looked_at,
            flagged=[_flagged_view(one) for one in found.flagged[:FLAGGED_MAX]],
            flagged_count=len(found.flagged),
            unknown=found.unknown,
            left_off=found.left_off,
            notices=found.notices,
        )

    def _run_of(self, stay: Stay) -> Run:
        held = stay.held
        record = self._yard.ledger.job(held.job)
        owner, idle_ok = (record.owner, record.job.idle_ok) if record is not None else ("", False)
        return Run(
            held.allocation, held.job, held.project, held.category, held.group, owner, idle_ok
        )

    def _members_of(self, allocation: str) -> Keys:
        found = self._yard.ledger.allocation(allocation)
        if found is None:
            return ()
        return tuple((seat.node, f"{allocation}/{rank}") for rank, seat in enumerate(found.seats))


def sound(name: str, body: wire.RuleFile, by: str) -> Rule:
    """The rule of a request.

    Raises:
        Problem: 422, nobody measures that.
    """
    rule = Rule(**body.stated(name, by))
    if flaw := flaw_of(rule):
        raise Problem(422, "invalid", f"the rule cannot be: {flaw}", given=rule.metric)
    return rule


def _own(snapshot: Snapshot, caller: Identity, name: str, rule: Rule) -> Rule:
    """A member's rule: about its own jobs.

    Raises:
        Problem: 403, it is about others', or somebody else's; 409, too many.
    """
    from dataclasses import replace

    known = rules_of(snapshot.settings.rules).get(name)
    if known is not None and known.by != caller.name:
        raise _others(caller, name, known.by, "change it")
    if rule.owner not in ("", caller.name):
        raise Problem(
            403,
            "forbidden",
            f"{caller.name}, {caller.role.said} of this yard, sets rules for its own jobs only",
            given=rule.owner,
            allowed=[caller.name],
            tries=["leave scope.owner out"],
        )
    own = [one for one in snapshot.settings.rules.values() if one.by == caller.name]
    if known is None and len(own) >= RULES_OWN_MAX:
        raise Problem(
            409,
            "conflict",
            f"{caller.name} has {len(own)} rules already",
            given=name,
            allowed=RULES_OWN_MAX,
            tries=["take one away: `madang rules rm NAME`"],
        )
    return replace(rule, owner=caller.name)


def _others(caller: Identity, name: str, by: str, doing: str) -> Problem:
    whose = f"{by}'s" if by else "shipped"
    return Problem(
        403,
        "forbidden",
        f"rule {name} is {whose}; {caller.name}, {caller.role.said} of this yard, cannot {doing}",
        given=caller.name,
        allowed=[*([by] if by else []), "owners of this yard"],
        tries=["give yours another name"],
    )


def _flagged_view(one: Flagged) -> wire.FlaggedView:
    held = one.stay.held
    return wire.FlaggedView(
        allocation=held.allocation,
        job=held.job,
        project=held.project,
        gpus=len(one.stay.devices),
        from_ms=one.from_ms,
        flagged_ms=one.flagged_ms,
        is_live=one.is_live,
        at_end=None if one.at_end != one.at_end else one.at_end,
    )


def rules_router(desk: Desk) -> APIRouter:
    """The table of rules."""
    of = Rules(desk)
    one = "/v1/rules/{id}"
    refusals = (403, 404, 409, 422, 503)
    return router_of(
        "rules",
        [
            Route("GET", "/v1/rules", of.list_rules, wire.RuleListView),
            Route("PUT", one, of.set_rule, wire.RuleView, 200, refusals),
            Route("DELETE", one, of.drop_rule, wire.RuleListView, 200, refusals),
            Route("POST", "/v1/rules:preview", of.preview_rule, wire.PreviewView, 200, (422, 503)),
            Route("GET", "/v1/violations", of.list_violations, wire.ViolationListView),
        ],
    )
