"""Tokens for code snapshots, for an engine that is made before this process leads.

A standby has no ledger to make them by; it launches nothing either.
"""

from madang.api.code_tokens import CodeTokens
from madang.engines.base import EngineError, Launch
from madang.ledger import Ledger, LedgerError


class SnapshotTokens:
    """Gives out tokens for code snapshots; a standby has no ledger to make them by."""

    def __init__(self) -> None:
        self._tokens: CodeTokens | None = None

    def use(self, ledger: Ledger) -> None:
        """This process leads: from now on."""
        self._tokens = CodeTokens(ledger)

    def __call__(self, launch: Launch) -> str:
        """The token with which the members of a launch fetch its code.

        Raises:
            EngineError: it cannot be made now.
        """
        if self._tokens is None:
            raise EngineError("no code snapshots are given out by a standby")
        try:
            return self._tokens.issue(launch.allocation.id, launch.code)
        except LedgerError as failure:
            raise EngineError(f"no token for the code snapshot: {failure}") from failure
