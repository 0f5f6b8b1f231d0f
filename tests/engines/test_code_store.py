"""The code store keeps exactly what was announced; unpacking writes nothing outside."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from madang.engines.code_store import BadDigest, CodeError, CodeStore
from madang.engines.local import unpack as unpacking
from madang.engines.local.unpack import Bounds, extract, unpack

ZERO = hashlib.sha256().hexdigest()
Entry = tuple[str, bytes, str]  # name, type, content or link


def packed(*entries: Entry, mode: int = 0o644) -> bytes:
    """A .tar.zst of these entries, however wicked."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, mode
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                entry.linkname = text
                tar.addfile(entry)
            else:
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
    return zstandard.compress(raw.getvalue())


def digest_of(snapshot: bytes) -> str:
    return hashlib.sha256(snapshot).hexdigest()


def stored(store: CodeStore, snapshot: bytes) -> str:
    digest = digest_of(snapshot)
    store.put(digest, [snapshot[:7], snapshot[7:]])
    return digest


# -- the store ----------------------------------------------------------------------------------


def test_what_was_put_is_there_and_can_be_removed(tmp_path: Path):
    store = CodeStore(tmp_path)
    snapshot = packed(("a", tarfile.REGTYPE, "1"))
    digest = stored(store, snapshot)

    assert store.has(digest)
    assert store.path(digest) == tmp_path / digest[:2] / f"{digest}.tar.zst"
    assert store.path(digest).read_bytes() == snapshot
    store.remove(digest)
    store.remove(digest)
    assert not store.has(digest)


def test_other_bytes_than_announced_are_refused_and_leave_nothing(tmp_path: Path):
    store = CodeStore(tmp_path)
    snapshot = packed(("a", tarfile.REGTYPE, "1"))
    with pytest.raises(BadDigest) as refusal:
        store.put(digest_of(snapshot), [snapshot, b"more"])

    assert refusal.value.found == digest_of(snapshot + b"more")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_too_much_is_refused_as_soon_as_it_is_too_much(tmp_path: Path):
    store = CodeStore(tmp_path, bytes_max=10)
    with store.writer() as writer:
        writer.write(b"x" * 10)
        with pytest.raises(CodeError, match="10 bytes packed"):
            writer.write(b"x")

    assert list(tmp_path.iterdir()) == []


def test_what_is_no_zstandard_is_refused(tmp_path: Path):
    with pytest.raises(CodeError, match="zstandard"):
        CodeStore(tmp_path).put(digest_of(b"plain"), [b"plain"])


@pytest.mark.parametrize("digest", ["", "abc", ZERO.upper(), f"../{ZERO}", ZERO + "0", ZERO + "\n"])
def test_only_a_digest_becomes_a_path(tmp_path: Path, digest: str):
    with pytest.raises(CodeError, match="64 lower-case hex digits"):
        CodeStore(tmp_path).path(digest)


# -- unpacking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("apart_bytes", [0, 1 << 20])
def test_a_snapshot_comes_out_as_it_went_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart_bytes: int
):
    monkeypatch.setattr(unpacking, "APART_BYTES", apart_bytes)  # in a process of its own, and not
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(
        packed(
            (".", tarfile.DIRTYPE, ""),
            ("./src/run.py", tarfile.REGTYPE, "print(1)"),
            ("src/lib", tarfile.DIRTYPE, ""),
            ("src/lib/again.py", tarfile.LNKTYPE, "src/run.py"),
            ("latest", tarfile.SYMTYPE, "src/lib/../run.py"),
            ("src/up", tarfile.SYMTYPE, "../latest"),
            ("dangling", tarfile.SYMTYPE, "not/here"),
            mode=0o4755,
        )
    )
    work = tmp_path / "work"
    unpack(archive, work)

    assert (work / "src/up").read_text() == "print(1)"
    assert (work / "src/lib/again.py").read_text() == "print(1)"
    assert (work / "src/run.py").stat().st_mode & 0o7777 == 0o755
    assert (work / "dangling").is_symlink()


WICKED: list[tuple[str, list[Entry]]] = [
    ("not a relative path", [("/etc/evil", tarfile.REGTYPE, "x")]),
    ("leads outside", [("../evil", tarfile.REGTYPE, "x")]),
    ("leads outside", [("a/../../evil", tarfile.REGTYPE, "x")]),
    ("leads outside", [("a", tarfile.SYMTYPE, "/etc")]),
    ("leads outside", [("a", tarfile.SYMTYPE, "..")]),
    ("leads outside", [("a/b", tarfile.SYMTYPE, "../../x")]),
    (
        "leads outside",  # each looks harmless by name
        [
            ("a/b/c/d", tarfile.REGTYPE, "x"),
            ("deep", tarfile.SYMTYPE, "a/b/c"),
            ("x/out", tarfile.SYMTYPE, "../deep/../../../.."),
        ],
    ),
    ("goes through a file", [("a", tarfile.REGTYPE, "x"), ("a/b", tarfile.REGTYPE, "x")]),
    ("comes twice", [("a", tarfile.SYMTYPE, "b"), ("a/b", tarfile.REGTYPE, "x")]),
    ("comes twice", [("a", tarfile.SYMTYPE, "b"), ("a", tarfile.REGTYPE, "x")]),
    ("comes twice", [("a", tarfile.REGTYPE, "b"), ("a", tarfile.REGTYPE, "x")]),
    ("no file here", [("a", tarfile.LNKTYPE, "etc/passwd")]),
    ("not a relative path", [("a", tarfile.LNKTYPE, "/etc/passwd")]),
    ("neither a file", [("a", tarfile.CHRTYPE, "")]),
    ("neither a file", [("a", tarfile.FIFOTYPE, "")]),
    ("more than 3 entries", [(f"f{n}", tarfile.REGTYPE, "") for n in range(4)]),
    ("more than 1000 bytes", [("a", tarfile.REGTYPE, "x" * 1001)]),
]


@pytest.mark.parametrize(("why", "entries"), WICKED)
def test_a_wicked_snapshot_is_refused_and_nothing_is_written_outside(
    tmp_path: Path, why: str, entries: list[Entry]
):
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(packed(*entries))
    target = tmp_path / "deep" / "er" / "work"
    target.mkdir(parents=True)
    with pytest.raises(CodeError, match=why):
        extract(archive, target, Bounds(bytes_max=1000, entries_max=3))

    outside = {path for path in tmp_path.rglob("*") if target not in path.parents}
    assert outside == {archive, target, target.parent, target.parent.parent}


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(zstandard.compress(header.tobuf(tarfile.GNU_FORMAT)))
    target = tmp_path / "work"
    target.mkdir()

    with pytest.raises(CodeError, match="a header of"):
        extract(archive, target)


@pytest.mark.parametrize("apart_bytes", [0, 1 << 20])
@pytest.mark.parametrize("cut", [20, 200])
def test_a_snapshot_that_is_damaged_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, apart_bytes: int
):
    monkeypatch.setattr(unpacking, "APART_BYTES", apart_bytes)
    archive = tmp_path / "a.tar.zst"
    whole = packed(("a", tarfile.REGTYPE, os.urandom(3000).hex()))
    archive.write_bytes(whole[:cut])
    with pytest.raises(CodeError):
        unpack(archive, tmp_path / "work")

    assert list(tmp_path.iterdir()) == [archive]
