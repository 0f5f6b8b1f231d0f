"""From the file to what the daemon does: where it is found, that it is kept, what is said of it."""

from pathlib import Path

import pytest

from madang.daemon.state_dir import StateDirError, open_state_dir
from madang.daemon.telemetry_out import OUT_FILE, read_settings
from madang.telemetry.out.settings import OutSettings, Scrape

GIVEN = """
[queue]
size_max = "64MiB"
[labels]
cluster = "lab"
[scrape]
gpus_max = 100
[history]
url = "http://vm:8428"
[[destination]]
name = "archive"
url = "http://vm:8428/api/v1/write"
metrics = ["madang_gpu_*", "node_load"]
resolution = "1m"
headers = { X-Scope-OrgID = "yard" }
token_file = "/etc/madang/token"
"""


def test_without_a_file_nothing_is_sent(tmp_path: Path) -> None:
    assert read_settings("", open_state_dir(tmp_path / "state")) == OutSettings()


def test_a_file_means_what_it_says_and_is_kept_for_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "out.toml").write_text(GIVEN)
    state_dir = open_state_dir(tmp_path / "state")

    given = read_settings(str(tmp_path / "out.toml"), state_dir)
    (tmp_path / "out.toml").unlink()
    kept = read_settings("", state_dir)

    assert kept == given
    assert (state_dir.path / OUT_FILE).stat().st_mode & 0o777 == 0o600
    (one,) = given.destinations
    assert (one.name, one.minutes, one.access.token_file) == (
        "archive",
        True,
        Path("/etc/madang/token"),
    )
    assert one.access.headers == (("X-Scope-OrgID", "yard"),)
    assert one.selection.takes("gpu_power_w", "gpu"), "canonical, or as one knows it outside"
    assert not one.selection.takes("node_cpu_percent", "node")
    assert given.scrape == Scrape(gpus_max=100)
    assert given.queue_bytes_max == 64 << 20
    assert given.history is not None
    assert given.history.labels == given.labels == (("cluster", "lab"),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[[destination]]\nname = 'hot'", "destination 1, url: Field required"),
        (b"[", "not TOML"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_wrong_file_is_told_with_its_name_and_is_not_kept(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "out.toml").write_bytes(content)
    state_dir = open_state_dir(tmp_path / "state")

    with pytest.raises(StateDirError) as wrong:
        read_settings(str(tmp_path / "out.toml"), state_dir)

    assert said in str(wrong.value)
    assert "out.toml" in str(wrong.value)
    assert not (state_dir.path / OUT_FILE).exists()
