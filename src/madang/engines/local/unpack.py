"""Unpack a code snapshot into a directory, and nothing outside of it.

Whoever submits jobs may run code here anyway, under this user; what must not happen is that an
archive writes over files of the state directory before any job runs. So: relative names without
`..`; regular files, directories and links only; symbolic links last, so that nothing is written
through one, and only those that stay inside; bounds on entries, on bytes and on headers. Owners,
times and special modes are not taken over.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import zstandard

import madang
from madang.engines.code_store import CodeError, tar_inside

UNPACKED_BYTES_MAX = 16 << 30
ENTRIES_MAX = 200_000
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
        with archive.open("rb") as file, tar_inside(file) as stream:
            _extract_stream(stream, target, bounds)
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
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
    links: dict[Path, str] = {}
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        for entry in tar:
            count += 1
            total += max(0, entry.size)
            if count > bounds.entries_max:
                raise CodeError(f"more than {bounds.entries_max} entries")
            if total > bounds.bytes_max:
                raise CodeError(f"more than {bounds.bytes_max} bytes unpacked")
            parts = _inside(entry.name)
            if not parts:
                continue  # the directory itself, as in `tar c .`
            path = _with_parents(target, parts)
            if path in links or (path.exists() and not (path.is_dir() and entry.isdir())):
                raise CodeError(f"{entry.name[:200]!r} comes twice")
            if entry.issym():
                links[path] = entry.linkname
            else:
                _extract_one(tar, entry, path, target)
    _make_links(links, target)


def _extract_one(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path, target: Path) -> None:
    if entry.isdir():
        path.mkdir(exist_ok=True)
    elif entry.islnk():
        source = target.joinpath(*_inside(entry.linkname))
        if not source.is_file():
            raise CodeError(f"{entry.name[:200]!r} links to {entry.linkname[:200]!r}: no file here")
        path.hardlink_to(source)
    elif entry.isreg() and not entry.issparse():
        content = tar.extractfile(entry)
        assert content is not None, f"a regular file without content: {entry.name!r}"
        mode = 0o755 if entry.mode & 0o100 else 0o644
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with content, open(fd, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    else:
        raise CodeError(f"{entry.name[:200]!r} is neither a file, a directory nor a link")


def _inside(name: str) -> list[str]:
    """The parts of a relative path."""
    if name.startswith("/") or "\0" in name:
        raise CodeError(f"{name[:200]!r} is not a relative path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CodeError(f"{name[:200]!r} leads outside")
    return parts


def _with_parents(target: Path, parts: list[str]) -> Path:
    """The path, its parents made. There are no symbolic links yet that could lead elsewhere."""
    path = target
    for part in parts[:-1]:
        path = path / part
        try:
            path.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise CodeError(f"{'/'.join(parts)[:200]!r} goes through a file") from error
    return path / parts[-1]


def _make_links(links: dict[Path, str], target: Path) -> None:
    """Make all of them, then see where each really leads: only together do they show it."""
    for path, to in links.items():
        if path.exists():
            raise CodeError(f"{path.name!r} comes twice")
        path.symlink_to(to)
    top = os.path.realpath(target)
    for path, to in links.items():
        if os.path.commonpath((top, os.path.realpath(path))) != top:
            raise CodeError(f"the link {path.name!r} to {to[:200]!r} leads outside")


if __name__ == "__main__":
    try:
        extract(Path(sys.argv[1]), Path(sys.argv[2]))
    except (CodeError, OSError) as error:
        sys.exit(str(error))
