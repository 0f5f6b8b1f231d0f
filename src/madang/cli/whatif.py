"""sim what-if: this yard's own journal, replayed under another policy."""

from __future__ import annotations

import os
import time

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.cli.report import writable, write

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SINCE = "7d"
PAGE = 5_000


def sim_what_if_verb(given: Given, desk: Desk) -> int:
    """Replay the journal twice and print the difference."""
    named = given.text("policy")
    if not named:
        raise UsageError(
            "madang sim what-if needs --policy",
            code="usage",
            allowed="a policy file, or a name: madang, default, easy, …",
            tries=["madang sim what-if --help"],
        )
    window = _window(given)
    path = writable(given, "plot")
    from madang.sim import journals, whatif

    policy = _policy(named)
    journal = _journal(given, desk)
    try:
        result = whatif.run(journal, window, policy, oracle=given.flag("oracle"), plot=bool(path))
    except whatif.NothingToReplay as nothing:
        raise UsageError(str(nothing), code="usage", given=given.text("since") or SINCE) from None
    except journals.NoJournal as none:
        raise UsageError(str(none), code="usage") from None
    if path:
        write(path, result.pop("page"))
    desk.answer(result, "" if desk.is_json else whatif.lines(result))
    return 0


def _window(given: Given) -> tuple[int, int]:
    """Raises:
    UsageError: the words name no window.
    """
    from madang.wire.reports import moment_ms

    now_ms = int(time.time() * 1000)
    try:
        since_ms = moment_ms(given.text("since") or SINCE, now_ms)
        until_ms = moment_ms(given.text("until"), now_ms)
    except ValueError as wrong:
        raise UsageError(str(wrong), code="usage") from None
    if since_ms >= until_ms:
        raise UsageError("the window would end before it begins", code="usage")
    return since_ms, until_ms


def _policy(named: str) -> Any:
    """A policy by name, or that of a file.

    Raises:
        UsageError: neither.
    """
    from madang.sim.whatif import NAMED, policy_of_file

    if named in NAMED:
        return NAMED[named]
    if not os.path.isfile(named):
        raise UsageError(
            "--policy is neither a policy's name nor a file",
            code="usage",
            given=named,
            allowed=f"a TOML file (madang policy show), or one of {', '.join(NAMED)}",
        )
    from madang.cli.tenancy import policy_file

    return policy_of_file(policy_file(named).stated(), os.path.basename(named))


# -- where the journal is ------------------------------------------------------------------------


def _journal(given: Given, desk: Desk) -> Iterator[tuple[int, Any]]:
    """(at_ms, event) from a database, the records under --state, or the daemon."""
    from madang.sim import journals

    url = given.text("ledger")
    if not url and given.text("state") and not given.text("url"):
        url = journals.url_of_state(given.text("state"))
    return journals.of_ledger(url) if url else journals.of_lines(_lines(desk))


def _lines(desk: Desk) -> Iterator[tuple[int, int, str]]:
    """The journal's lines, page by page."""
    from madang.sim.journals import check_whole

    page = desk.client.journal(0, PAGE)
    check_whole(page["first_seq"])
    while page["lines"]:
        yield from page["lines"]
        page = desk.client.journal(page["lines"][-1][0], PAGE)
