"""Code snapshots: streamed to disk, kept only if they are what they say."""

import hashlib
import io
import os
import socket
import tarfile
import time
import tracemalloc

import pytest
import zstandard

from tests.api.serving import TOKEN


def packed(content: bytes) -> tuple[str, bytes]:
    """(digest, bytes) of a snapshot with one file."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as writer:
        entry = tarfile.TarInfo("train.py")
        entry.size = len(content)
        writer.addfile(entry, io.BytesIO(content))
    body = zstandard.compress(tar.getvalue(), 1)
    return hashlib.sha256(body).hexdigest(), body


def test_a_snapshot_goes_up_once_and_comes_down_the_same(served):
    digest, body = packed(b"print('hello')")
    path = f"/v1/code/{digest}"

    before = served.client.head(path)
    first = served.client.put(path, content=body)
    second = served.client.put(path, content=body)
    there = served.client.head(path)
    back = served.client.get(path)

    assert before.status_code == 404
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == {"digest": digest, "size_bytes": len(body)}
    assert there.status_code == 200
    assert there.headers["content-length"] == str(len(body))
    assert back.content == body
    assert back.headers["content-type"] == "application/zstd"
    assert "immutable" in back.headers["cache-control"]


@pytest.mark.parametrize("body", [b"", b"other bytes", packed(b"x")[1]])
def test_other_bytes_than_announced_leave_nothing_behind(served, body):
    digest, _ = packed(b"announced")

    answer = served.client.put(f"/v1/code/{digest}", content=body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "wrong_code"
    assert served.client.head(f"/v1/code/{digest}").status_code == 404
    assert unfinished(served) == []


def test_what_is_no_tar_is_refused(served):
    body = b"these bytes are honest, but no tar"
    digest = hashlib.sha256(body).hexdigest()

    answer = served.client.put(f"/v1/code/{digest}", content=body)

    assert answer.status_code == 422
    assert "tar" in answer.json()["detail"]


def test_an_upload_that_breaks_off_leaves_nothing_behind(served):
    digest, body = packed(os.urandom(3_000_000))

    def broken():
        yield body[: len(body) // 2]
        raise OSError("the cable")

    with pytest.raises(OSError, match="the cable"):
        served.client.put(f"/v1/code/{digest}", content=broken())

    assert served.client.get("/v1/health").status_code == 200
    assert served.client.head(f"/v1/code/{digest}").status_code == 404
    until = time.monotonic() + 10  # the server may learn of it after the test
    while unfinished(served) and time.monotonic() < until:
        time.sleep(0.01)
    assert unfinished(served) == []


def test_more_than_a_gib_is_refused_by_its_length(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as wire:
        wire.sendall(
            f"PUT /v1/code/{'a' * 64} HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {TOKEN}\r\ncontent-length: {(1 << 30) + 1}\r\n\r\n".encode()
        )
        answer = wire.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_large_upload_is_not_gathered_in_memory(served):
    digest, body = packed(os.urandom(60_000_000))

    tracemalloc.start()
    answer = served.client.put(
        f"/v1/code/{digest}", content=(body[at : at + 65_536] for at in range(0, len(body), 65_536))
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.status_code == 201
    assert peak < 16 << 20


def unfinished(served) -> list[str]:
    """What the store holds that is not a whole snapshot."""
    root = served.yard.code.path("a" * 64).parent.parent
    return [file.name for file in root.rglob(".new-*")]
