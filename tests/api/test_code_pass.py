"""A member's pass opens its own code snapshot, and nothing else."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from madang.api import ApiSettings
from madang.api.gate import Gate
from madang.api.identity import digest_of
from madang.wire.access import Role

CODE = hashlib.sha256(b"code").hexdigest()
PASS = "pass-" + "x" * 43
NOBODY: Any = SimpleNamespace()  # a pass is looked at without asking who is known


async def unreached(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the gate alone is asked")


def gate(**rest):
    def may_fetch(code, given):
        return (code, given) == (CODE, digest_of(PASS))

    settings = replace(ApiSettings(), may_fetch=may_fetch, **rest)
    return Gate(app=unreached, settings=settings, identities=NOBODY)


def scope(path=f"/v1/code/{CODE}", method="GET"):
    return {"type": "http", "path": path, "method": method}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_it_opens_the_snapshot_to_be_read(method):
    who = gate()._of_pass(scope(method=method), PASS)

    assert (who.role, who.via) == (Role.VIEWER, "token")


@pytest.mark.parametrize(
    ("where", "secret"),
    [
        (scope(method="PUT"), PASS),
        (scope(path="/v1/code/" + "0" * 64), PASS),
        (scope(path=f"/v1/code/{CODE}/"), PASS),
        (scope(path="/v1/jobs"), PASS),
        (scope(), PASS + "y"),
        (scope(), "x" * 48),
        (scope(), ""),
        ({"type": "websocket", "path": f"/v1/code/{CODE}"}, PASS),
    ],
)
def test_it_opens_nothing_else(where, secret):
    assert gate()._of_pass(where, secret) is None


def test_without_members_elsewhere_no_pass_opens_anything():
    closed = Gate(app=unreached, settings=ApiSettings(), identities=NOBODY)

    assert closed._of_pass(scope(), PASS) is None


def test_a_pass_is_refused_by_a_daemon_that_knows_no_such_member(served):
    with served.stranger(authorization=f"Bearer {PASS}") as stranger:
        answer = stranger.get(f"/v1/code/{CODE}")

    assert answer.status_code == 401
