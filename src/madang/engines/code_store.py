"""Code snapshots by the sha256 of their bytes: what a job was submitted with is what it runs.

`<root>/ab/<sha256>.tar` holds a tar under gzip or zstandard, told apart by its first bytes: the
client knows only the standard library, and packs gzip. A file is there whole and verified, or not
at all. Safe for many threads and processes.
"""

import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard
from pathspec import GitIgnoreSpec

SNAPSHOT_BYTES_MAX = 1 << 30  # packed; larger inputs belong on storage, not into a code snapshot
ENTRIES_MAX = 200_000
IGNORE_FILES = (".gitignore", ".madangignore")  # the later one has the last word
GZIP_MAGIC = b"\x1f\x8b"
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
        return self._root / digest[:2] / f"{digest}.tar"

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
            CodeError: it is not a packed tar.
            OSError: the disk.
        """
        if self._hash.hexdigest() != digest:
            raise BadDigest(digest, self._hash.hexdigest())
        if not self._head.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
            raise CodeError("a code snapshot is a tar packed by gzip or zstandard; this is neither")
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


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """The tar inside a snapshot, as a stream.

    Raises:
        CodeError: neither gzip nor zstandard.
    """
    head = file.read(4)
    file.seek(0)
    if head.startswith(GZIP_MAGIC):
        return io.BufferedReader(gzip.GzipFile(fileobj=file, mode="rb"), 1 << 17)
    if head == ZSTD_MAGIC:
        packed = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(cast(io.RawIOBase, packed), 1 << 17)
    raise CodeError("neither gzip nor zstandard")


# -- packing ------------------------------------------------------------------------------------


def pack(directory: Path, target: IO[bytes]) -> str:
    """Write a snapshot of a working directory; returns its digest.

    The same files give the same bytes: names sorted, times and owners left out. Left out are `.git`
    and what .gitignore and .madangignore files (in any directory, git's rules) say.

    Raises:
        CodeError: too many files, or too large.
        OSError: a file cannot be read.
    """
    counted = _Digesting(target)
    compressor = zstandard.ZstdCompressor(level=3)
    with (
        compressor.stream_writer(cast(IO[bytes], counted), closefd=False) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for count, path in enumerate(files(directory)):
            if count >= ENTRIES_MAX:
                raise CodeError(
                    f"{directory} has more than {ENTRIES_MAX} files; "
                    "leave some out with .madangignore"
                )
            _add(tar, directory, path)
    return counted.digest.hexdigest()


def files(directory: Path) -> Iterator[str]:
    """Relative paths of what belongs to a snapshot: files, links and directories, sorted."""
    yield from _walk(directory, "", ())


_Rules = tuple[tuple[str, GitIgnoreSpec], ...]


def _walk(root: Path, below: str, rules: _Rules) -> Iterator[str]:
    own = _rules_in(root / below)
    if own is not None:
        rules = (*rules, (below, own))
    for entry in sorted(os.scandir(root / below), key=lambda entry: entry.name):
        if entry.name == ".git":
            continue
        path = f"{below}{entry.name}"
        is_directory = entry.is_dir(follow_symlinks=False)
        if _is_ignored(f"{path}/" if is_directory else path, rules):
            continue
        if is_directory:
            yield path
            yield from _walk(root, f"{path}/", rules)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield path  # sockets, pipes and devices are no code


def _rules_in(directory: Path) -> GitIgnoreSpec | None:
    lines: list[str] = []
    for name in IGNORE_FILES:
        path = directory / name
        if path.is_file():
            lines += path.read_text(errors="replace").splitlines()
    return GitIgnoreSpec.from_lines(lines) if lines else None


def _is_ignored(path: str, rules: _Rules) -> bool:
    """The deepest file that says anything about the path decides, as in gitignore(5)."""
    for base, spec in reversed(rules):
        said = spec.check_file(path[len(base) :]).include
        if said is not None:
            return said
    return False


def _add(tar: tarfile.TarFile, directory: Path, path: str) -> None:
    full = directory / path
    entry = tarfile.TarInfo(path)
    if full.is_symlink():
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(full)
    elif full.is_dir():
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    else:
        with full.open("rb") as file:
            status = os.fstat(file.fileno())
            entry.size = status.st_size
            entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
            tar.addfile(entry, file)
        return
    tar.addfile(entry)


class _Digesting:
    """Counts and digests what passes to `target`."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._count = 0
        self.digest = hashlib.sha256()

    def write(self, piece: bytes) -> int:
        self._count += len(piece)
        if self._count > SNAPSHOT_BYTES_MAX:
            raise CodeError(_too_large(SNAPSHOT_BYTES_MAX))
        self.digest.update(piece)
        return self._target.write(piece)

    def flush(self) -> None:
        self._target.flush()
