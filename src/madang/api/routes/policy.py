"""The policy: the rules of the yard, whole."""

from itertools import product

from fastapi import APIRouter
from starlette.responses import Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.core.classes import class_of
from madang.core.events import PolicySet
from madang.core.model import Category, Provisioning, Purpose
from madang.core.policies import policy_of, stated_of
from madang.core.policy import Policy
from madang.wire import policy as wire


class Policies:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._yard = desk.yard

    async def show_policy(self) -> Response:
        """The policy in force: whole, as TOML, and what its table says of each class."""
        return answer(policy_view((await self._desk.rows.read(self._yard.snapshot)).policy))

    async def set_policy(self, body: wire.PolicyFile) -> Response:
        """Put a policy in force from the next turn on, and for every start to come.

        What is left out is as in its `base`. Jobs that were submitted keep the class they got.
        """
        policy = policy_of(body.stated())
        await self._yard.ask(PolicySet(policy))
        await self._desk.rows.read(self._yard.keep_policy, wire.toml_of(body))
        return answer(policy_view(policy))


def policy_view(policy: Policy) -> wire.PolicyView:
    """A policy as it is shown."""
    file = wire.PolicyFile.model_validate(stated_of(policy))
    classes = []
    for axes in product(Provisioning, Category, Purpose):
        found = class_of(policy.classes, *axes)
        classes.append(
            wire.ClassView(
                provisioning=axes[0],
                category=axes[1],
                purpose=axes[2],
                priority=found.priority,
                preemptible=found.preemptible,
                head_start=f"{found.head_start_ms}ms",
                run_min=f"{found.run_ms_min}ms",
                grace=f"{found.grace_ms}ms",
                retries=found.retries_max,
                time=f"{found.time_limit_ms}ms",
            )
        )
    return wire.PolicyView(name=policy.name, policy=file, toml=wire.toml_of(file), classes=classes)


def policy_router(desk: Desk) -> APIRouter:
    """The table of the policy."""
    of = Policies(desk)
    return router_of(
        "tenancy",
        [
            Route("GET", "/v1/policy", of.show_policy, wire.PolicyView),
            Route("PUT", "/v1/policy", of.set_policy, wire.PolicyView, 200, (422, 503)),
        ],
    )
