import pytest

from tests.client.double import TOKEN, Double


@pytest.fixture
def double(tmp_path, monkeypatch):
    """A small daemon, and an environment that points to it and nothing else."""
    for name in ("MADANG_STATE", "MADANG_REPORT_FILE", "MADANG_STOP_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("madang.client.api.PAUSE_S", 0.0)
    with Double().serving() as found:
        monkeypatch.setenv("MADANG_URL", found.url)
        monkeypatch.setenv("MADANG_TOKEN", TOKEN)
        yield found


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project directory to be in."""
    top = tmp_path / "project"
    top.mkdir()
    (top / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(top)
    return top
