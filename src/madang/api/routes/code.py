"""Code snapshots: uploaded once by digest, fetched by engines' hosts and by `madang pull`."""

import os
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from madang.api.desk import Desk, Route, answer, router_of
from madang.api.problems import Problem
from madang.api.yard import CodeWriter
from madang.wire import views as wire

ZSTD = "application/zstd"
CHUNK_BYTES = 1 << 20  # gathered before a thread is asked to write it
FOREVER = "private, max-age=31536000, immutable"  # what a digest names never changes
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="sha256, in hex.")]


class Code:
    """Handlers; see the table below."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._store = desk.yard.code

    async def get_code(self, digest: Digest) -> Response:
        """A code snapshot: a tar packed by zstandard."""
        if not await self._desk.files.read(self._store.has, digest):
            raise Problem(
                404,
                "no_such_code",
                "no code snapshot has this digest",
                given=digest,
                tries=["upload it: PUT to the same path"],
            )
        headers = {"cache-control": FOREVER, "etag": f'"{digest}"'}
        return FileResponse(self._store.path(digest), 200, headers, ZSTD)

    async def put_code(self, request: Request, digest: Digest) -> Response:
        """Upload a code snapshot: a .tar.zst of at most 1 GiB whose sha256 is in the path.

        Sent again, it is not stored again, and the answer is 200.
        """
        if await self._desk.files.read(self._store.has, digest):
            return answer(await self._view(digest), 200)
        try:
            async with self._desk.files.entered(self._store.writer()) as writer:
                await self._receive(request, writer)
                await self._desk.files.read(writer.put, digest)
        except ClientDisconnect:
            raise Problem(400, "bad_request", "the upload broke off") from None
        except ValueError as error:
            raise Problem(
                422,
                "wrong_code",
                str(error),
                given=digest,
                allowed="the bytes that the digest in the path names: a .tar.zst",
            ) from None
        except OSError as error:
            raise Problem(
                507,
                "no_space",
                f"the snapshot could not be stored: {error.strerror}",
                tries=["make room on the disk of the state directory"],
            ) from error
        return answer(await self._view(digest), 201)

    async def _receive(self, request: Request, writer: CodeWriter) -> None:
        gathered = bytearray()
        async for chunk in request.stream():
            gathered += chunk
            if len(gathered) >= CHUNK_BYTES:
                await self._desk.files.read(writer.write, bytes(gathered))
                gathered.clear()
        await self._desk.files.read(writer.write, bytes(gathered))

    async def _view(self, digest: str) -> wire.CodeView:
        path = self._store.path(digest)
        size = (await self._desk.files.read(os.stat, path)).st_size
        return wire.CodeView(digest=digest, size_bytes=size)


def code_router(desk: Desk) -> APIRouter:
    """The table of what one can do with code snapshots."""
    code = Code(desk)
    one = "/v1/code/{digest}"
    return router_of(
        "code",
        [
            Route("GET", one, code.get_code, None, 200, (404, 422), ZSTD),
            Route("HEAD", one, code.get_code, None, 200, (404, 422), ZSTD),
            Route("PUT", one, code.put_code, wire.CodeView, 201, (507,), also=200),
        ],
    )
