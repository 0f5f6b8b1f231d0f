"""Tokens with which a member of one allocation fetches its code snapshot, and nothing else.

A token is the allocation's id with a MAC over it and the snapshot's digest, so that making it twice
makes the same one, in any replica. It is good while the allocation lives. The key is this yard's,
made once and kept in the ledger beside the tokens' digests; it is no digest of anything that could
be sent.
"""

import hmac
import secrets
from hashlib import sha256

from madang.core.model import AllocationState
from madang.ledger import Ledger, LedgerError

PREFIX = "code."
KEY_NAME = "key:code"  # no user has a colon in the name
KEY_ROLE = "key"  # no caller has it
KEY_BYTES = 32
TOKEN_CHARS_MAX = 512


class CodeTokens:
    """May be used from any thread; it reads the ledger, and once writes to it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kept = b""

    def issue(self, allocation: str, digest: str) -> str:
        """The token of an allocation for the snapshot with this digest.

        Raises:
            LedgerError: there is no key yet, and none can be kept.
        """
        return f"{PREFIX}{allocation}.{self._mac(allocation, digest)}"

    def opens(self, token: str, digest: str) -> bool:
        """True iff the token is for this snapshot and its allocation lives.

        Raises:
            LedgerError: it cannot be looked up.
        """
        if not token.startswith(PREFIX) or len(token) > TOKEN_CHARS_MAX:
            return False
        allocation, _, mac = token.removeprefix(PREFIX).rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(allocation, digest).encode()):
            return False
        found = self._ledger.allocation(allocation)
        return found is not None and found.state is not AllocationState.RELEASED

    def _mac(self, allocation: str, digest: str) -> str:
        return hmac.new(self._key(), f"{allocation}/{digest}".encode(), sha256).hexdigest()

    def _key(self) -> bytes:
        if not self._kept:
            self._kept = self._read() or self._make()
        return self._kept

    def _read(self) -> bytes:
        kept = next((one for one in self._ledger.tokens() if one.name == KEY_NAME), None)
        return bytes.fromhex(kept.digest) if kept is not None else b""

    def _make(self) -> bytes:
        try:
            self._ledger.add_token(KEY_NAME, secrets.token_hex(KEY_BYTES), 0, KEY_ROLE)
        except LedgerError:
            pass  # another replica was faster: its key it is
        if not (kept := self._read()):
            raise LedgerError("the key for code snapshots cannot be kept")
        return kept
