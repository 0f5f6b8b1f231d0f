import hashlib
import io
import os
import random
import tarfile

import pytest
import zstandard

from madang.client import Client, CodeError, pack
from madang.client import code as code_module
from madang.client.code import gather


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def project(tmp_path):
    top = tmp_path / "project"
    (top / "pkg").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "train.py").write_text("print('hello')\n")
    (top / "pkg" / "__init__.py").write_text("")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o777)
    return top


def put(top, files: dict[str, str]):
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def packed_bytes(top) -> bytes:
    with pack(str(top)) as packed, packed.open() as file:
        content = file.read()
    assert hashlib.sha256(content).hexdigest() == packed.digest
    return content


def digest(top) -> str:
    with pack(str(top)) as packed:
        return packed.digest


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return {member.name: member for member in tar.getmembers()}


def names(top) -> list[str]:
    return [entry.path for entry in gather(str(top)).entries]


def test_a_snapshot_holds_files_directories_and_the_executable_bit(project):
    found = members(packed_bytes(project))

    assert sorted(found) == ["empty", "pkg", "pkg/__init__.py", "run.sh", "train.py"]
    assert found["run.sh"].mode == 0o755
    assert found["train.py"].mode == 0o644
    assert found["empty"].isdir()
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in found.values()} == {(0, 0, "", 946684800)}


def test_the_same_files_give_the_same_bytes_whatever_their_times_and_order(project, tmp_path):
    other = tmp_path / "elsewhere"
    for name in ("run.sh", "pkg/__init__.py", "train.py"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((project / name).read_bytes())
        os.utime(other / name, (1, 1))
    (other / "empty").mkdir()
    (other / "run.sh").chmod(0o755)

    assert packed_bytes(project) == packed_bytes(other)


def test_large_contents_survive_the_frame(project):
    content = random.Random(1).randbytes(1_000_003)
    (project / "big.bin").write_bytes(content)

    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed_bytes(project))).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        unpacked = tar.extractfile("big.bin")

        assert unpacked is not None
        assert unpacked.read() == content


@pytest.mark.parametrize("size", [0, 1, 131_072 * 2 - 1024, 131_072, 131_073, 300_000])
def test_any_size_is_a_valid_frame(tmp_path, size):
    top = tmp_path / "sized"
    top.mkdir()
    (top / "f").write_bytes(b"x" * size)

    assert members(packed_bytes(top))["f"].size == size


def test_what_never_travels_does_not(project):
    put(
        project,
        {
            ".git/config": "",
            "pkg/__pycache__/a.pyc": "",
            ".venv/bin/python": "",
            "web/node_modules/x/y.js": "",
            "web/app.js": "",
        },
    )

    assert names(project) == [
        "empty",
        "pkg",
        "pkg/__init__.py",
        "run.sh",
        "train.py",
        "web",
        "web/app.js",
    ]


def test_madangignore_stands_in_for_gitignore(project):
    put(project, {".gitignore": "train.py\n", "data.bin": "x"})
    assert "train.py" not in names(project)
    put(project, {".madangignore": "*.bin\n"})

    found = names(project)

    assert "train.py" in found
    assert "data.bin" not in found


def test_links_inside_are_kept_and_links_out_are_told(project, tmp_path):
    (tmp_path / "secret").write_text("s")
    os.symlink("train.py", project / "inside")
    os.symlink(project / "pkg", project / "absolute")
    os.symlink("nowhere", project / "dangling")
    os.symlink("../secret", project / "outside")
    os.symlink("pkg/../../secret", project / "sly")
    os.symlink("/etc/passwd", project / "pkg" / "passwd")
    os.symlink("outside", project / "by_way_of")

    gathered = gather(str(project))
    links = {entry.path: entry.link for entry in gathered.entries if entry.kind == "l"}

    assert links == {"inside": "train.py", "absolute": "pkg", "dangling": "nowhere"}
    assert sorted(path for path, _ in gathered.skipped) == [
        "by_way_of",
        "outside",
        "pkg/passwd",
        "sly",
    ]


def test_what_is_neither_file_nor_link_is_told(project):
    os.mkfifo(project / "pipe")

    assert gather(str(project)).skipped == [("pipe", "not a file, link or directory")]


def test_a_directory_that_is_too_large_names_its_largest_paths(project):
    put(project, {"data/deep/huge.bin": "x" * 5000, "data/small": "x", "other.bin": "x" * 3000})

    with pytest.raises(CodeError) as caught:
        pack(str(project), bytes_max=4000)

    assert caught.value.code == "code_too_large"
    assert "data/deep/huge.bin 5,000 bytes, other.bin 3,000 bytes" in caught.value.given
    assert ".madangignore" in caught.value.tries[0]


def test_too_many_files_name_where_they_are(project, monkeypatch):
    monkeypatch.setattr(code_module, "FILES_MAX", 10)
    put(project, {f"many/{n}": "" for n in range(20)})

    with pytest.raises(CodeError, match=r"many \(\d+ or more\)"):
        pack(str(project))


@pytest.mark.parametrize("named", ["~", "/"])
def test_a_home_directory_is_not_a_project(named):
    with pytest.raises(CodeError, match="is not a project"):
        pack(os.path.expanduser(named))


def test_what_is_no_directory_is_said_to_be_none(project):
    with pytest.raises(CodeError, match="is not a directory"):
        pack(str(project / "train.py"))


# -- what was packed before ---------------------------------------------------------------------


def age(top, seconds: int = 10):
    """Let the note be as if it had been written so much later than the files."""
    notes = list((top.parent / "cache" / "madang" / "code").iterdir())
    for note in notes:
        text = note.read_text()
        began = int(text.rpartition(": ")[2].rstrip("}"))
        note.write_text(text.replace(str(began), str(began + seconds * 1_000_000_000)))


def test_an_unchanged_directory_is_not_read_again(project, monkeypatch):
    first = digest(project)
    age(project)
    monkeypatch.setattr(code_module, "_written", None)

    assert digest(project) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "train.py").write_text("print('world')\n"),
        lambda top: (top / "train.py").chmod(0o755),
        lambda top: (top / "new").write_text(""),
        lambda top: (top / "train.py").unlink(),
        lambda top: (top / "empty").rmdir(),
        lambda top: os.symlink("train.py", top / "link"),
        lambda top: (top / ".gitignore").write_text("run.sh"),
    ],
)
def test_any_change_gives_another_digest(project, change):
    first = digest(project)
    age(project)
    change(project)

    assert digest(project) != first


def test_a_change_that_restores_its_time_is_seen(project):
    path = project / "train.py"
    before = path.stat()
    first = digest(project)
    age(project)
    path.write_text("print('jello')\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert digest(project) != first


def test_files_just_written_are_not_trusted_to_stay(project):
    """Within a timestamp's resolution a file can change again and look the same."""
    digest(project)
    gathered = gather(str(project))
    found = code_module._noted(
        code_module._note_path(gathered.root), code_module._fingerprint(gathered), gathered
    )

    assert found == ""


def test_a_file_that_grows_while_it_is_packed_is_an_error(project, monkeypatch):
    gathered = gather(str(project))
    (project / "train.py").write_text("longer than it was before\n")

    with pytest.raises(CodeError, match="changed while it was packed"):
        code_module._written(gathered)


def test_a_file_that_becomes_a_link_is_not_followed(project):
    gathered = gather(str(project))
    (project / "train.py").unlink()
    os.symlink("/etc/passwd", project / "train.py")

    with pytest.raises(CodeError):
        code_module._written(gathered)


# -- uploading ----------------------------------------------------------------------------------


def test_unchanged_code_is_uploaded_once(double, project):
    with Client() as client:
        first = client.upload_dir(str(project))
        second = client.upload_dir(str(project))

    assert first == second
    verbs = [method for method, path, _, _ in double.requests if path.startswith("/v1/code/")]
    assert verbs == ["HEAD", "PUT", "HEAD"]
    assert hashlib.sha256(double.codes[first]).hexdigest() == first


def test_an_upload_that_breaks_is_sent_again_from_its_start(double, project):
    (project / "big").write_bytes(b"x" * 1_000_000)
    double.faults.extend(["", "drop"])

    with Client() as client:
        digest = client.upload_dir(str(project))

    assert digest in double.codes
