"""Answers that do not end by themselves: server-sent events, and a log that is still written.

Both are taken up again where they broke, so that a restarted daemon is only a pause.
"""

from __future__ import annotations

import json
import time

from madang.client.errors import Unreachable
from madang.client.transport import TransportError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from madang.client.api import Client
    from madang.client.transport import Response

    Document = dict[str, Any]

HEARTBEAT_S = 15.0  # the daemon's promise on /v1/events
SILENCE_S = 3 * HEARTBEAT_S  # then the connection counts as broken
BREAKS_MAX = 10  # in a row, with growing pauses: about 40 s without a daemon
PAUSE_S_MAX = 5.0
EVENT_BYTES_MAX = 8 << 20
LOG_SILENCE_S = 3_600.0  # a member may say nothing for long
LOG_PAGE_BYTES = 1 << 20


class EventStream:
    """`Client.events`; see there."""

    def __init__(
        self, client: Client, after: int | None, until_s: float | None, heartbeats: bool
    ) -> None:
        self._client = client
        self._last = "" if after is None else str(after)
        self._until_s = until_s
        self._heartbeats = heartbeats

    def events(self) -> Iterator[Document]:
        breaks = 0
        while True:
            left_s = self._left_s()
            if left_s <= 0:
                return
            try:
                for event in self._connected(min(SILENCE_S, left_s)):
                    breaks = 0
                    yield event
            except (TransportError, Unreachable):
                if self._left_s() <= 0:
                    return
                breaks += 1
                if breaks > BREAKS_MAX:
                    raise
            time.sleep(max(min(0.1 * 2**breaks, PAUSE_S_MAX, self._left_s()), 0.0))

    def _left_s(self) -> float:
        return float("inf") if self._until_s is None else self._until_s - time.monotonic()

    def _connected(self, timeout_s: float) -> Iterator[Document]:
        headers = {"Accept": "text/event-stream"}
        if self._last:
            headers["Last-Event-ID"] = self._last
        response = self._client.exchange("GET", "/v1/events", b"", headers, timeout_s=timeout_s)
        try:
            for block in _blocks(response):
                event = self._event(block)
                if event is not None:
                    yield event
                if self._left_s() <= 0:
                    return
        finally:
            response.close()

    def _event(self, lines: list[str]) -> Document | None:
        kind, texts, said = "message", [], False
        for line in lines:
            name, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if not name and not self._last and value.startswith("after "):
                self._last = value[6:].strip()  # where the stream begins: a resume starts there
            elif name == "id":
                self._last = value
            elif name == "event":
                kind = value
            elif name == "data":
                texts.append(value)
                said = True
        if not said:
            beat = {"id": self._last, "type": "heartbeat", "value": None}
            return beat if self._heartbeats else None
        text = "\n".join(texts)
        try:
            found = json.loads(text)
        except ValueError:
            found = text
        return {
            "id": int(self._last) if self._last.isdigit() else self._last,
            "type": kind,
            "value": found,
        }


def _blocks(response: Response) -> Iterator[list[str]]:
    """Lines up to each blank one."""
    rest = b""
    for piece in response.pieces():
        rest += piece
        if len(rest) > EVENT_BYTES_MAX:
            raise TransportError(f"an event is longer than {EVENT_BYTES_MAX} bytes", sent=True)
        rest = rest.replace(b"\r\n", b"\n")
        while b"\n\n" in rest:
            block, _, rest = rest.partition(b"\n\n")
            lines = block.decode("utf-8", "replace").split("\n")
            yield [line for line in lines if line]


def log_pieces(
    client: Client, path: str, query: Mapping[str, Any], follow: bool
) -> Iterator[bytes]:
    """`Client.logs`; see there. First what there is, page by page, then what is still written."""
    from madang.client.writing import with_query

    said = dict(query)
    if follow and said.get("attempt") is None:
        # Offsets are of one attempt: a retry must not be read at its predecessor's offset.
        newest = client.job(path.split("/")[3]).get("attempt") or None
        said["attempt"] = newest
    offset = 0
    while True:
        response = client.exchange("GET", with_query(path, {**said, "limit": LOG_PAGE_BYTES}))
        if response.body:
            yield response.body
        start = said.pop("tail", None)
        after = int(response.headers.get("madang-offset") or offset + len(response.body))
        is_end = not response.body or start is not None or after <= offset
        offset = after
        said["offset"] = offset
        if is_end:
            break
    if follow:
        yield from _followed(client, path, said, offset)


def _followed(client: Client, path: str, query: dict[str, Any], offset: int) -> Iterator[bytes]:
    from madang.client.writing import with_query

    breaks = 0
    while True:
        try:
            asked = with_query(path, {**query, "offset": offset, "follow": True})
            response = client.exchange("GET", asked, timeout_s=LOG_SILENCE_S)
            for piece in response.pieces():
                breaks = 0
                offset += len(piece)
                yield piece
            return
        except (TransportError, Unreachable):
            breaks += 1
            if breaks > BREAKS_MAX:
                raise
            time.sleep(min(0.1 * 2**breaks, PAUSE_S_MAX))
