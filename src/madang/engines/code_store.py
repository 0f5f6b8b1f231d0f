"""Code snapshots by the sha256 of their bytes: what a job was submitted with is what it runs.

`<root>/ab/<sha256>.tar.zst`; a file is there whole and verified, or not at all. The client packs
(`madang.client.code`), the engines unpack (`local/unpack.py`). Safe for many threads and processes.
"""

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

SNAPSHOT_BYTES_MAX = 1 << 30  # packed; larger inputs belong on storage, not into a code snapshot
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_DIGEST = re.compile(r"[0-9a-f]{64}")


class CodeError(ValueError):
    """The snapshot cannot be taken; says what was given and what is allowed."""


class BadDigest(CodeError):
    """The bytes are not those that were announced; `found` is their digest."""

    def __init__(self, announced: str, found: str) -> None:
        super().__init__(
            f"the bytes have the digest {found}, announced was {announced}: "
            "the upload was cut short or changed on the way; send it again"
        )
        self.found = found


class CodeStore:
    """See the module's docstring."""

    def __init__(self, root: Path, *, bytes_max: int = SNAPSHOT_BYTES_MAX) -> None:
        self._root = root
        self._bytes_max = bytes_max

    def path(self, digest: str) -> Path:
        """Where this snapshot is, or would be.

        Raises:
            CodeError: not a digest.
        """
        if not _DIGEST.fullmatch(digest):
            raise CodeError(f"{digest[:80]!r} is not a sha256 digest: 64 lower-case hex digits")
        return self._root / digest[:2] / f"{digest}.tar.zst"

    def has(self, digest: str) -> bool:
        """Whether it is here, whole."""
        return self.path(digest).is_file()

    @contextmanager
    def writer(self) -> Iterator["Writer"]:
        """An upload: `write` its pieces, then `put`. Left without `put`, nothing remains of it.

        Raises:
            OSError: the disk.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self._root, prefix=".new-")
        try:
            with open(fd, "wb") as file:
                yield Writer(self, file, Path(name), self._bytes_max)
        finally:
            Path(name).unlink(missing_ok=True)  # `put` has moved it away

    def put(self, digest: str, pieces: Iterable[bytes]) -> Path:
        """Store a snapshot, and say where. Raises as `Writer`."""
        with self.writer() as writer:
            for piece in pieces:
                writer.write(piece)
            return writer.put(digest)

    def remove(self, digest: str) -> None:
        """Forget it; nothing happens if it is not there."""
        self.path(digest).unlink(missing_ok=True)


class Writer:
    """Takes the bytes of one snapshot."""

    def __init__(self, store: CodeStore, file: IO[bytes], path: Path, bytes_max: int) -> None:
        self._store = store
        self._file = file
        self._path = path
        self._bytes_max = bytes_max
        self._count = 0
        self._hash = hashlib.sha256()
        self._head = b""

    def write(self, piece: bytes) -> None:
        """Take some more.

        Raises:
            CodeError: as soon as it is too much.
            OSError: the disk.
        """
        self._count += len(piece)
        if self._count > self._bytes_max:
            raise CodeError(_too_large(self._bytes_max))
        if len(self._head) < len(ZSTD_MAGIC):
            self._head = (self._head + piece)[: len(ZSTD_MAGIC)]
        self._hash.update(piece)
        self._file.write(piece)

    def put(self, digest: str) -> Path:
        """Keep what was written under this digest, durably; the last thing to do with a writer.

        Raises:
            BadDigest: it has another one.
            CodeError: it is not packed by zstandard.
            OSError: the disk.
        """
        if self._hash.hexdigest() != digest:
            raise BadDigest(digest, self._hash.hexdigest())
        if self._head != ZSTD_MAGIC:
            raise CodeError("a code snapshot is a tar packed by zstandard (.tar.zst); this is not")
        target = self._store.path(digest)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # a job that refers to it is about to be acknowledged
        finally:
            os.close(directory)
        return target


def _too_large(bytes_max: int) -> str:
    return (
        f"a code snapshot may have {bytes_max} bytes packed; this one has more. "
        "Leave large files out with .madangignore"
    )


def tar_inside(file: IO[bytes]) -> IO[bytes]:
    """The tar inside a snapshot, as a stream that reads forward only."""
    packed = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return io.BufferedReader(cast(io.RawIOBase, packed), 1 << 17)
