"""The client: the command line's verbs as methods.

Answers are the API's own documents as plain dicts, so that a newer daemon's fields are there too.
What can safely be sent twice is retried when the connection breaks or the daemon is busy, with
growing pauses and a bound; a submission carries an Idempotency-Key, so that a retried one never
makes a second job. Safe to share between threads.
"""

from __future__ import annotations

import json
import os
import time

from madang.client.errors import MadangError, WaitTimeout, error_of
from madang.client.places import address_and_token
from madang.client.transport import (
    Address,
    Connection,
    Response,
    TransportError,
    unreachable,
)
from madang.client.writing import encoded, quoted, with_query
from madang.client.yard import YardVerbs

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from madang.client.code import Packed
    from madang.client.transport import Body

    Document = dict[str, Any]
    JobId = str | int

ENDED = ("succeeded", "failed", "stopped")
RETRIES = 4
PAUSE_S = 0.1  # doubled each time
PAUSE_S_MAX = 5.0
TIMEOUT_S = 60.0
BUSY = (429, 502, 503, 504)


class Client(YardVerbs):
    """Talks to one daemon. Use as a context manager, or call `close`.

    Raises (every method):
        Unreachable: no daemon answers.
        ApiError: it answers with a problem; NotFound, Rejected and Refused are kinds of it.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        url, token = address_and_token(url, token, os.environ)
        self._address = Address(url)
        self._token = token
        self._timeout_s = timeout_s
        self._retries = retries
        self._idle: list[Connection] = []  # append and pop are atomic
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The daemon's address."""
        return self._address.url

    @property
    def token(self) -> str:
        """What it is asked with; "" = none."""
        return self._token

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    # -- jobs ---------------------------------------------------------------------------------

    def submit(
        self, request: Mapping[str, Any] | None = None, *, key: str | None = None, **fields: Any
    ) -> Document:
        """Submit a job; the answer comes after it is durable.

        `request` and `fields` together are a JobRequest (`client.job_schema()`), e.g.
        `submit(command=["python", "train.py"], gpus=2)`. The same `key` never makes a second job.
        """
        body = encoded({**(request or {}), **fields})
        return self._document(
            "POST", "/v1/jobs", body, headers={"Idempotency-Key": key or os.urandom(16).hex()}
        )

    def submit_many(
        self, requests: Sequence[Mapping[str, Any]], *, key: str | None = None
    ) -> list[Document]:
        """Submit up to 1,000 jobs in one commit; each answer is a job, or a problem with `status`.

        Each is judged by itself. The same `key` never makes a second job of the same place.
        """
        body = encoded({"jobs": [dict(each) for each in requests]})
        headers = {"Idempotency-Key": key or os.urandom(16).hex()}
        answer = self._document("POST", "/v1/jobs:batch", body, headers)
        return list(answer["jobs"])

    def try_job(self, request: Mapping[str, Any] | None = None, **fields: Any) -> Document:
        """What would happen to a job if it were submitted now; nothing is submitted."""
        return self._document("POST", "/v1/try", encoded({**(request or {}), **fields}))

    def jobs(self, **filters: Any) -> Document:
        """One page: {"jobs": newest first, "next": n or None}.

        Filters: phase (`running,waiting`, `live`, `ended`), project, owner, name, limit, before.
        """
        return self._document("GET", with_query("/v1/jobs", filters))

    def job(self, job: JobId) -> Document:
        """One job, with what it waits for."""
        return self._document("GET", f"/v1/jobs/{quoted(job)}")

    def stop(self, job: JobId, grace: str = "") -> Document:
        """Ask a job to end; of an ended job nothing changes."""
        body = encoded({"grace": grace} if grace else {})
        return self._document("POST", f"/v1/jobs/{quoted(job)}/stop", body)

    def requeue(self, job: JobId, grace: str = "") -> Document:
        """Take a running job off its GPUs and let it wait again."""
        body = encoded({"grace": grace} if grace else {})
        return self._document("POST", f"/v1/jobs/{quoted(job)}/requeue", body, retry=False)

    def set_memo(self, job: JobId, memo: str) -> Document:
        """Write a note on a job."""
        return self._document("PUT", f"/v1/jobs/{quoted(job)}/memo", encoded({"memo": memo}))

    def request(self, job: JobId) -> Document:
        """The JobRequest as it was submitted."""
        return self._document("GET", f"/v1/jobs/{quoted(job)}/request")

    def why(self, job: JobId) -> Document:
        """Why a job waits, with numbers; of an ended job, how it ended."""
        return self._document("GET", f"/v1/jobs/{quoted(job)}/why")

    def job_events(self, job: JobId, after: int = 0, limit: int | None = None) -> list[Document]:
        """What happened to a job, oldest first."""
        path = with_query(f"/v1/jobs/{quoted(job)}/events", {"after": after, "limit": limit})
        return list(self._document("GET", path)["events"])

    def reports(
        self, job: JobId, member: int = 0, attempt: int | None = None, offset: int = 0
    ) -> Document:
        """What a member reported from byte `offset` on: {"offset": next, "reports": [...]}."""
        query = {"member": member, "attempt": attempt, "offset": offset}
        return self._document("GET", with_query(f"/v1/jobs/{quoted(job)}/reports", query))

    def wait(self, job: JobId, timeout_s: float | None = None) -> Document:
        """The job as soon as it has ended.

        Raises:
            WaitTimeout: it has not within `timeout_s`.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        for found in self.changes(job, until_s=until_s):
            if found["phase"] in ENDED:
                return found
        raise WaitTimeout(
            f"{job} has not ended within {timeout_s:g} s", code="timeout", given=f"{timeout_s:g} s"
        )

    def changes(self, job: JobId, *, until_s: float | None = None) -> Iterator[Document]:
        """The job now, and again whenever it changed, until it has ended (or `until_s`, monotonic).

        Events only wake it; what is yielded is always asked for anew, so none can be missed.
        """
        found = self.job(job)
        yield found
        if found["phase"] in ENDED:
            return
        for event in self.events(until_s=until_s, heartbeats=True):
            if event["type"] != "heartbeat" and _job_of(event) not in (None, found["id"]):
                continue
            newest = self.job(job)
            if newest != found:
                found = newest
                yield found
            if found["phase"] in ENDED:
                return

    # -- events and logs ----------------------------------------------------------------------

    def events(
        self,
        after: int | None = None,
        *,
        until_s: float | None = None,
        heartbeats: bool = False,
    ) -> Iterator[Document]:
        """State changes as they are committed: {"id": journal sequence, "type", "value"}.

        Without `after`, from now on. A broken connection is taken up again after the last event
        seen. With `heartbeats` also {"type": "heartbeat"}: each comment of the stream, the first
        when it stands.
        """
        from madang.client.stream import EventStream

        return EventStream(self, after, until_s, heartbeats).events()

    def logs(
        self,
        job: JobId,
        *,
        member: int = 0,
        attempt: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> Iterator[bytes]:
        """A member's output as it was written, in pieces. With `follow`, until the member ends."""
        from madang.client.stream import log_pieces

        query = {"member": member, "attempt": attempt, "tail": tail}
        return log_pieces(self, f"/v1/jobs/{quoted(job)}/log", query, follow)

    # -- code ---------------------------------------------------------------------------------

    def has_code(self, digest: str) -> bool:
        """True iff the daemon holds the snapshot."""
        try:
            self.exchange("HEAD", f"/v1/code/{quoted(digest)}")
        except MadangError as error:
            if getattr(error, "status", 0) == 404:
                return False
            raise
        return True

    def upload(self, packed: Packed) -> str:
        """Upload a snapshot unless the daemon holds it; returns its digest."""
        if self.has_code(packed.digest):
            return packed.digest
        path = f"/v1/code/{packed.digest}"
        with packed.open() as file:
            headers = {
                "Content-Type": "application/zstd",
                "Content-Length": str(os.fstat(file.fileno()).st_size),
            }
            self.exchange("PUT", path, file, headers)
        return packed.digest

    def upload_dir(self, directory: str = ".") -> str:
        """Pack a working directory and upload it; returns the digest for `code=`."""
        from madang.client.code import pack

        with pack(directory) as packed:
            return self.upload(packed)

    def code(self, digest: str) -> bytes:
        """A snapshot: a .tar.zst."""
        return self.exchange("GET", f"/v1/code/{quoted(digest)}").body

    # -- how it is asked ----------------------------------------------------------------------

    def _document(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        retry: bool = True,
    ) -> Document:
        said = {"Content-Type": "application/json", **(headers or {})} if body else headers
        response = self.exchange(method, path, body, said, retry=retry)
        try:
            found = json.loads(response.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise MadangError(
                f"{self.url}{path} answered something that is not a JSON object",
                code="bad_answer",
                tries=["is this address really Madang's? see: madang status"],
            )
        return found

    def exchange(
        self,
        method: str,
        path: str,
        body: Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        retry: bool = True,
        timeout_s: float = 0.0,
    ) -> Response:
        """A response below 400 with its whole `body`; with `timeout_s`, a stream still to be read.

        With `retry` False a request is sent again only if it cannot have run: the connection was
        not made, or the daemon said that it is busy.
        """
        left = self._retries
        while True:
            try:
                response = self._once(method, path, body, headers, timeout_s)
            except TransportError as error:
                if left == 0 or (error.sent and not retry):
                    raise unreachable(self._address, error) from error
                self._pause(self._retries - left, 0.0)
            else:
                if response.status < 400:
                    return response
                if response.status not in BUSY or left == 0:
                    raise error_of(response.status, _problem(response))
                self._pause(self._retries - left, _seconds(response.headers.get("retry-after")))
            left -= 1
            if not isinstance(body, bytes):
                body.seek(0)

    def _once(
        self,
        method: str,
        path: str,
        body: Body,
        headers: Mapping[str, str] | None,
        timeout_s: float,
    ) -> Response:
        sent = dict(headers or {})
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        if timeout_s:
            connection = Connection(self._address, timeout_s)
        else:
            connection = self._connection()
        response = connection.request(method, path, sent, body)
        if not timeout_s or response.status >= 400:
            response.body = response.read()
        return response

    def _connection(self) -> Connection:
        if self._pid != os.getpid():  # a fork must not share a connection with its parent
            self._idle, self._pid = [], os.getpid()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return Connection(self._address, self._timeout_s, self._idle)

    def _pause(self, tried: int, asked_s: float) -> None:
        spread = 0.5 + os.urandom(1)[0] / 255  # so that many clients do not come back as one
        pause_s = max(PAUSE_S * 2**tried * spread, asked_s)
        time.sleep(min(pause_s, PAUSE_S_MAX))


def _job_of(event: Document) -> str | None:
    """The id of the job that an event is about; None: of no job, or nobody can say."""
    about = event["value"].get("job") if isinstance(event["value"], dict) else None
    return about.get("id") if isinstance(about, dict) else about


def _problem(response: Response) -> Document:
    try:
        found = json.loads(response.body)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _seconds(text: str | None) -> float:
    try:
        return max(float(text or 0), 0.0)
    except ValueError:  # an HTTP date: our own pause will do
        return 0.0
