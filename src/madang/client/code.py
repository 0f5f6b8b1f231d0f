"""A working directory as one file: the code a job was submitted with is the code it runs.

Promises: the same files give the same bytes, and so the same digest, on any machine (names sorted,
one fixed time, no owners; only the executable bit is kept). `.madangignore`, else `.gitignore`, is
honoured; .git, __pycache__, .venv and node_modules never travel. A link is kept if it stays inside
the directory. Sizes are bounded, and what is too large is named.

The file is a .tar.zst. Python's own library cannot compress zstd before 3.14, but a zstd frame may
hold its blocks as they are, and that is what is written: valid, deterministic, quick.

A directory that did not change is not read again: a note beside the user's cache remembers the
digest for the sizes, times and inodes that were packed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time

from madang.client.errors import CodeError

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import BinaryIO

    from madang.client.ignore import Rule

BYTES_MAX = 256 << 20  # more than that is data, and data does not belong into a code snapshot
FILES_MAX = 50_000
ALWAYS_IGNORED = frozenset((".git", "__pycache__", ".venv", "node_modules"))
FIXED_TIME_S = 946_684_800  # 2000-01-01: zip-based tools refuse times before 1980
TRUST_AGE_NS = 2_000_000_000  # a file this young may still change within its own timestamp
BLOCK_BYTES = 1 << 17  # zstd's largest
LARGEST_SHOWN = 5
NOTE_VERSION = 1


class Entry:
    """One file ("f"), link ("l") or directory ("d") that will be packed."""

    __slots__ = ("kind", "link", "path", "stat")

    def __init__(self, path: str, kind: str, found: os.stat_result, link: str = "") -> None:
        self.path = path  # relative, with slashes
        self.kind = kind
        self.stat = found
        self.link = link


class Gathered:
    """What a directory's snapshot will hold: `entries` in order, and what was `skipped` and why."""

    __slots__ = ("bytes", "entries", "root", "skipped")

    def __init__(self, root: str) -> None:
        self.root = root
        self.entries: list[Entry] = []
        self.skipped: list[tuple[str, str]] = []
        self.bytes = 0


class Packed:
    """A snapshot's digest; its file exists once it is opened. Use as a context manager."""

    def __init__(self, gathered: Gathered, digest: str) -> None:
        self.digest = digest
        self.gathered = gathered
        self._file: BinaryIO | None = None

    def __enter__(self) -> Packed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def open(self) -> BinaryIO:
        """The snapshot's file, at its start.

        Raises:
            CodeError: the directory changed since its digest was made.
        """
        if self._file is None:
            file, digest = _written(self.gathered)
            if digest != self.digest:
                file.close()
                raise _changed(self.gathered.root)
            self._file = file
        self._file.seek(0)
        return os.fdopen(os.dup(self._file.fileno()), "rb")


def pack(directory: str = ".", *, bytes_max: int = BYTES_MAX) -> Packed:
    """A snapshot of a directory.

    Raises:
        CodeError: not a directory, a home directory, too large, unreadable, or changing meanwhile.
    """
    began_ns = time.time_ns()
    gathered = gather(directory, bytes_max=bytes_max)
    print_ = _fingerprint(gathered)
    note = _note_path(gathered.root)
    digest = _noted(note, print_, gathered)
    if digest:
        return Packed(gathered, digest)
    file, digest = _written(gathered)
    packed = Packed(gathered, digest)
    packed._file = file
    _write_note(note, print_, digest, began_ns)
    return packed


# -- what belongs in ------------------------------------------------------------------------------


def gather(directory: str, *, bytes_max: int = BYTES_MAX) -> Gathered:
    """Walk a directory and say what belongs into its snapshot, in the order of names.

    Raises:
        CodeError: see `pack`.
    """
    root = os.path.realpath(directory)
    if not os.path.isdir(root):
        raise CodeError(f"{directory} is not a directory", code="no_directory", given=directory)
    if root in (os.path.realpath(os.path.expanduser("~")), os.sep):
        raise CodeError(
            f"{root} is not a project: a job's code is the directory it is submitted from",
            code="not_a_project",
            given=root,
            tries=[
                "cd into the project first, or name it with --dir DIR",
                "--no-code submits without any files",
            ],
        )
    gathered = Gathered(root)
    ignore_name = ".madangignore"
    if not os.path.isfile(os.path.join(root, ignore_name)):
        ignore_name = ".gitignore"
    chain = _rules_above(root) if ignore_name == ".gitignore" else []
    _Walk(gathered, ignore_name).into("", chain)
    gathered.entries.sort(key=lambda each: os.fsencode(each.path))
    if gathered.bytes > bytes_max:
        raise _too_large(gathered, bytes_max)
    return gathered


class _Walk:
    """A walk in progress. A chain is [(rules, prefix)]: the paths its rules see start there."""

    def __init__(self, gathered: Gathered, ignore_name: str) -> None:
        self.gathered = gathered
        self.ignore_name = ignore_name

    def into(self, relative: str, chain: list[tuple[list[Rule], bytes]]) -> None:
        full = os.path.join(self.gathered.root, relative) if relative else self.gathered.root
        try:
            with os.scandir(full) as found:
                listed = sorted(found, key=lambda each: os.fsencode(each.name))
        except OSError as error:
            raise _unreadable(full, error) from error
        if any(each.name == self.ignore_name for each in listed):
            rules = _rules_of(os.path.join(full, self.ignore_name))
            chain = [*chain, (rules, b"")] if rules else chain
        for each in listed:
            if each.name not in ALWAYS_IGNORED:
                self._one(each, f"{relative}/{each.name}" if relative else each.name, chain)

    def _one(
        self, found: os.DirEntry[str], path: str, chain: list[tuple[list[Rule], bytes]]
    ) -> None:
        is_dir = found.is_dir(follow_symlinks=False)
        if chain and _is_ignored(os.fsencode(found.name), is_dir, chain):
            return
        seen = found.stat(follow_symlinks=False)
        if is_dir:
            self._add(Entry(path, "d", seen))
            name = os.fsencode(found.name)
            self.into(path, [(rules, prefix + name + b"/") for rules, prefix in chain])
        elif stat.S_ISLNK(seen.st_mode):
            self._add_link(path, seen)
        elif stat.S_ISREG(seen.st_mode):
            self.gathered.bytes += seen.st_size
            self._add(Entry(path, "f", seen))
        else:
            self.gathered.skipped.append((path, "not a file, link or directory"))

    def _add(self, entry: Entry) -> None:
        if len(self.gathered.entries) >= FILES_MAX:
            raise _too_many(self.gathered)
        self.gathered.entries.append(entry)

    def _add_link(self, path: str, seen: os.stat_result) -> None:
        root = self.gathered.root
        full = os.path.join(root, path)
        target = os.readlink(full)
        parent = os.path.realpath(os.path.dirname(full))
        # Normalised by name: a dangling link inside is kept, one that leads out is not.
        lands = os.path.normpath(os.path.join(parent, target))
        really = os.path.realpath(full)
        for place in (lands, really):
            if place != root and not place.startswith(root + os.sep):
                self.gathered.skipped.append((path, f"a link that leads out, to {target}"))
                return
        if os.path.isabs(target):
            target = os.path.relpath(lands, parent)
        self._add(Entry(path, "l", seen, target))


def _is_ignored(name: bytes, is_dir: bool, chain: list[tuple[list[Rule], bytes]]) -> bool:
    from madang.client.ignore import decide

    for rules, prefix in reversed(chain):
        decision = decide(rules, prefix + name, is_dir)
        if decision is not None:
            return decision
    return False


def _rules_of(path: str) -> list[Rule]:
    from madang.client.ignore import parse

    try:
        with open(path, "rb") as file:
            return parse(file.read())
    except IsADirectoryError:
        return []
    except OSError as error:
        raise _unreadable(path, error) from error


def _rules_above(root: str) -> list[tuple[list[Rule], bytes]]:
    """What the git checkout around `root` ignores: its exclude file and the .gitignore above."""
    above = []
    top = root
    while not os.path.exists(os.path.join(top, ".git")):
        parent = os.path.dirname(top)
        if parent == top:
            return []  # not in a checkout
        top = parent
        above.append(top)
    chain = []
    for file, home in [
        (os.path.join(top, ".git", "info", "exclude"), top),
        *[(os.path.join(each, ".gitignore"), each) for each in reversed(above)],
    ]:
        if os.path.isfile(file) and (rules := _rules_of(file)):
            prefix = b"" if home == root else os.fsencode(os.path.relpath(root, home)) + b"/"
            chain.append((rules, prefix))
    return chain


# -- errors ---------------------------------------------------------------------------------------


def _unreadable(path: str, error: OSError) -> CodeError:
    return CodeError(
        f"{path} cannot be read: {error.strerror}",
        code="unreadable",
        given=path,
        tries=["leave it out by a line in .madangignore"],
    )


def _changed(root: str) -> CodeError:
    return CodeError(
        f"{root} changed while it was packed",
        code="code_changes",
        given=root,
        tries=["again when nothing writes there", "leave what is written out by .madangignore"],
    )


def _too_many(gathered: Gathered) -> CodeError:
    counts: dict[str, int] = {}
    for entry in gathered.entries:
        top = entry.path.partition("/")[0]
        counts[top] = counts.get(top, 0) + 1
    most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:LARGEST_SHOWN]
    return CodeError(
        f"more than {FILES_MAX} files in {gathered.root}",
        code="code_too_many",
        given=", ".join(f"{path} ({count} or more)" for path, count in most),
        allowed=f"{FILES_MAX} files",
        tries=["leave out what is not code by a line in .madangignore", "--dir DIR, --no-code"],
    )


def _too_large(gathered: Gathered, bytes_max: int) -> CodeError:
    shown = ", ".join(f"{path} {_mib(size)}" for path, size in largest(gathered))
    return CodeError(
        f"the working directory holds {_mib(gathered.bytes)}: {gathered.root}",
        code="code_too_large",
        given=f"largest: {shown}",
        allowed=f"{_mib(bytes_max)} of code; data belongs where all nodes can read it",
        tries=["leave out what is not code by a line in .madangignore", "--dir DIR, --no-code"],
    )


def largest(gathered: Gathered) -> list[tuple[str, int]]:
    """The paths worth ignoring first, largest first: a directory, or what fills it alone."""
    sizes: dict[str, int] = {}
    for entry in gathered.entries:
        if entry.kind != "f":
            continue
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth]) + "/"
            sizes[folder] = sizes.get(folder, 0) + entry.stat.st_size
        sizes[entry.path] = entry.stat.st_size
    ordered = sorted(sizes.items(), key=lambda each: (-each[1], each[0]))
    shown: list[tuple[str, int]] = []
    for path, size in ordered:
        # A folder is replaced by the one thing in it that makes up most of it.
        filler = [i for i, (p, s) in enumerate(shown) if path.startswith(p) and size * 5 > s * 4]
        if filler:
            shown[filler[0]] = (path, size)
        elif not any(p.endswith("/") and path.startswith(p) for p, _ in shown):
            shown.append((path, size))
        if len(shown) > LARGEST_SHOWN:
            break
    return shown[:LARGEST_SHOWN]


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB" if size >= 100_000 else f"{size:,} bytes"


# -- the file -------------------------------------------------------------------------------------


def _written(gathered: Gathered) -> tuple[BinaryIO, str]:
    """(an unnamed temporary file with the snapshot, its digest)."""
    import tempfile  # late: code that did not change is not written, and this costs as much as all

    file = tempfile.TemporaryFile(prefix="madang-code-")  # noqa: SIM115 — the caller closes it
    try:
        return file, _write(gathered, _Frame(file))
    except BaseException:
        file.close()
        raise


def _write(gathered: Gathered, frame: _Frame) -> str:
    import tarfile

    tar = tarfile.TarFile(
        fileobj=frame,  # type: ignore[arg-type]  # tarfile only writes to it, and asks where it is
        mode="w",
        format=tarfile.PAX_FORMAT,
    )
    for entry in gathered.entries:
        member = tarfile.TarInfo(entry.path)
        member.mtime = FIXED_TIME_S
        if entry.kind == "d":
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        elif entry.kind == "l":
            member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, entry.link
            tar.addfile(member)
        else:
            member.mode = 0o755 if entry.stat.st_mode & 0o111 else 0o644
            member.size = entry.stat.st_size
            _add_file(tar, member, gathered.root)
    tar.close()
    return frame.finish()


def _add_file(tar: tarfile.TarFile, member: tarfile.TarInfo, root: str) -> None:
    path = os.path.join(root, member.name)
    try:
        # O_NOFOLLOW: what was a file when it was listed must not have become a link to elsewhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _changed(root) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    with os.fdopen(descriptor, "rb") as source:
        if os.fstat(descriptor).st_size != member.size:
            raise _changed(root)
        try:
            tar.addfile(member, source)
        except OSError as error:
            if error.errno is None:  # tarfile's own "unexpected end of data"
                raise _changed(root) from error
            raise


class _Frame:
    """A zstd frame (RFC 8878) of raw blocks, written to a file and digested as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._tar_bytes = 0
        # Magic number; no content size, no checksum; a window of 128 KiB: (17 - 10) << 3.
        self._put(b"\x28\xb5\x2f\xfd\x00\x38")

    def _put(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._file.write(piece)

    def tell(self) -> int:
        """How much of the tar has been written; tarfile asks before it begins."""
        return self._tar_bytes

    def write(self, piece: bytes) -> int:
        self._tar_bytes += len(piece)
        self._buffer += piece
        while len(self._buffer) > BLOCK_BYTES:
            self._block(bytes(self._buffer[:BLOCK_BYTES]), last=False)
            del self._buffer[:BLOCK_BYTES]
        return len(piece)

    def _block(self, block: bytes, *, last: bool) -> None:
        self._put((len(block) << 3 | last).to_bytes(3, "little"))  # type 0: raw
        self._put(block)

    def finish(self) -> str:
        """Write the last block; returns the digest of the whole file."""
        self._block(bytes(self._buffer), last=True)
        self._buffer.clear()
        self._file.flush()
        return self._digest.hexdigest()


# -- the note -------------------------------------------------------------------------------------


def _fingerprint(gathered: Gathered) -> str:
    """Changes whenever anything packed may have changed."""
    digest = hashlib.sha256()
    for line in _lines(gathered):
        digest.update(line)
    return digest.hexdigest()


def _lines(gathered: Gathered) -> Iterator[bytes]:
    yield b"%d\n" % NOTE_VERSION
    for entry in gathered.entries:
        seen = entry.stat
        times = (0, 0) if entry.kind == "d" else (seen.st_mtime_ns, seen.st_ctime_ns)
        size = 0 if entry.kind == "d" else seen.st_size
        line = (entry.path, entry.kind, entry.link, seen.st_mode, size, seen.st_ino, *times)
        yield repr(line).encode("utf-8", "surrogateescape") + b"\n"


def _note_path(root: str) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    return os.path.join(base, "madang", "code", name + ".json")


def _noted(note: str, print_: str, gathered: Gathered) -> str:
    """The digest packed before from exactly these files; "" if there is doubt.

    A file changed so shortly before it was packed that it could change again within the resolution
    of its timestamps is not trusted (git's "racy" entries).
    """
    try:
        with open(note, encoding="utf-8") as file:
            found = json.load(file)
        if found["print"] != print_ or len(found["digest"]) != 64:
            return ""
        trusted_ns = int(found["began_ns"]) - TRUST_AGE_NS
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if any(e.stat.st_ctime_ns >= trusted_ns for e in gathered.entries if e.kind != "d"):
        return ""
    return str(found["digest"])


def _write_note(note: str, print_: str, digest: str, began_ns: int) -> None:
    text = json.dumps({"print": print_, "digest": digest, "began_ns": began_ns})
    partial = f"{note}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, note)
    except OSError:
        pass  # Without a note the next run packs again: slower, never wrong.
