"""What every verb works at: the client, and one way to speak.

Standard output carries the answer (with --json exactly one document), standard error everything
said beside it.
"""

from __future__ import annotations

import os
import sys

from madang.cli.parse import Given
from madang.client.errors import NotFound

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    from madang.client.api import Client

RETRIES = 2  # a person or a script waits: say soon that nobody answers


class Desk:
    """One command's client and output. A context manager: it closes the client."""

    def __init__(self, given: Given) -> None:
        self.is_json = given.flag("json")
        self._url = given.text("url")
        self._client: Client | None = None
        if state := given.text("state"):
            os.environ["MADANG_STATE"] = os.path.abspath(state)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> Client:
        """The daemon's client, made when first needed.

        Raises:
            Unreachable: nothing says where a daemon is.
        """
        if self._client is None:
            from madang.client.api import Client

            self._client = Client(self._url or None, retries=RETRIES)
        return self._client

    def job(self, named: str) -> dict[str, Any]:
        """The job of an id, a number, or a name (its newest).

        Raises:
            NotFound: there is none.
        """
        try:
            return self.client.job(named)
        except NotFound as error:
            found = [] if named.isdigit() else self.client.jobs(name=named, limit=1)["jobs"]
            if not found:
                if not error.tries:
                    error.tries = ("madang ls --all",)
                raise
            return self.client.job(found[0]["id"])

    def answer(self, document: Any, text: str = "") -> None:
        """Print a document for programs, or its text for people."""
        if self.is_json:
            import json

            print(json.dumps(document, ensure_ascii=False))
        elif text:
            print(text.rstrip("\n"))

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        print(text, file=sys.stderr)
