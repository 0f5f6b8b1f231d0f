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
