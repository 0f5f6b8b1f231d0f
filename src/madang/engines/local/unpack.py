"""Unpack a code snapshot into a directory, and nothing outside of it.

Whoever submits jobs may run code here anyway, under this user; what must not happen is that an
archive writes over files of the state directory before any job runs. So: relative names without
`..`; regular files, directories and links only; no writing through a link; links that stay inside;
bounds on entries, on bytes and on headers. Tar's own metadata (owner, setuid) is not taken over.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import zstandard

import madang
from madang.engines.code_store import ENTRIES_MAX, CodeError, unpacked

UNPACKED_BYTES_MAX = 16 << 30
HEADER_BYTES_MAX = 1 << 20  # a long name needs 4 KiB; tarfile reads a header into memory
APART_BYTES = 4 << 20  # above this, unpacking would keep the daemon's other threads waiting
APART_S = 1800


@dataclass(frozen=True, slots=True)
class Bounds:
    bytes_max: int = UNPACKED_BYTES_MAX
    entries_max: int = ENTRIES_MAX


def unpack(archive: Path, target: Path) -> None:
    """Make `target` from a snapshot; it is there whole or not at all.

    Raises:
        CodeError: what is wrong with the archive.
        OSError: the disk.
    """
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    try:
        if archive.stat().st_size > APART_BYTES:
            _extract_apart(archive, fresh)
        else:
            extract(archive, fresh)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def extract(archive: Path, target: Path, bounds: Bounds = Bounds()) -> None:
    """Fill an empty directory. Raises as `unpack`."""
    try:
        with archive.open("rb") as file, unpacked(file) as stream:
            _extract_stream(stream, target, bounds)
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise CodeError(f"the snapshot is damaged: {error}") from error


def _extract_apart(archive: Path, target: Path) -> None:
    source = str(Path(madang.__file__).parent.parent)
    path = os.pathsep.join([source, *filter(None, sys.path)])
    argv = [sys.executable, "-m", "madang.engines.local.unpack", str(archive), str(target)]
    try:
        done = subprocess.run(
            argv,
            env={"PATH": os.defpath, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=APART_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CodeError(f"unpacking took longer than {APART_S} s") from error
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip() or f"exit {done.returncode}"
        raise CodeError(text.splitlines()[-1])


class _Header(tarfile.TarInfo):
    """Refuses a header that claims to be huge before tarfile reads it into memory."""

    _LONG = (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in cls._LONG and header.size > HEADER_BYTES_MAX:
            raise CodeError(f"a header of {header.size} bytes; at most {HEADER_BYTES_MAX}")
        return header


def _extract_stream(stream: IO[bytes], target: Path, bounds: Bounds) -> None:
    count = total = 0
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        for entry in tar:
            count += 1
            total += max(0, entry.size)
            if count > bounds.entries_max:
                raise CodeError(f"more than {bounds.entries_max} entries")
            if total > bounds.bytes_max:
                raise CodeError(f"more than {bounds.bytes_max} bytes unpacked")
            _extract_one(tar, entry, target)


def _extract_one(tar: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    parts = _inside(entry.name)
    if not parts:
        return  # the directory itself, as in `tar c .`
    path = _parent_of(target, parts, entry.name)
    if path.is_symlink() or (path.exists() and not (path.is_dir() and entry.isdir())):
        raise CodeError(f"{entry.name!r} comes twice")
    if entry.isdir():
        path.mkdir(exist_ok=True)
    elif entry.issym():
        _check_link(parts, entry)
        path.symlink_to(entry.linkname)
    elif entry.islnk():
        linked = _inside(entry.linkname)
        source = _parent_of(target, linked, entry.linkname) if linked else target
        if source.is_symlink() or not source.is_file():
            raise CodeError(f"{entry.name!r} is a hard link to {entry.linkname!r}, not a file here")
        path.hardlink_to(source)
    elif entry.isreg() and not entry.issparse():
        content = tar.extractfile(entry)
        assert content is not None, f"a regular file without content: {entry.name!r}"
        mode = 0o700 if entry.mode & 0o100 else 0o600
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode | 0o044)
        with content, open(fd, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    else:
        raise CodeError(f"{entry.name!r} is neither a file, a directory nor a link")


def _inside(name: str) -> list[str]:
    """The parts of a relative path."""
    if name.startswith("/") or "\0" in name:
        raise CodeError(f"{name[:200]!r} is not a relative path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CodeError(f"{name[:200]!r} leads outside")
    return parts


def _parent_of(target: Path, parts: list[str], name: str) -> Path:
    """The path, its parents made; no parent may be a link."""
    path = target
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise CodeError(f"{name[:200]!r} goes through something that is no directory")
        path.mkdir(exist_ok=True)
    return path / parts[-1]


def _check_link(parts: list[str], entry: tarfile.TarInfo) -> None:
    """`..` only at the front, and no more of them than there are real directories above.

    The directories above a link are never links themselves, so this is exact: whatever the link
    then passes through is inside, or is a link that was checked the same way.
    """
    words = [word for word in entry.linkname.split("/") if word not in ("", ".")]
    ups = 0
    while ups < len(words) and words[ups] == "..":
        ups += 1
    if entry.linkname.startswith("/") or ups >= len(parts) or ".." in words[ups:]:
        raise CodeError(f"the link {entry.name[:200]!r} to {entry.linkname[:200]!r} leads outside")


if __name__ == "__main__":
    try:
        extract(Path(sys.argv[1]), Path(sys.argv[2]))
    except (CodeError, OSError) as error:
        sys.exit(str(error))
